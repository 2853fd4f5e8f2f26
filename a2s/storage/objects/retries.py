"""Requests to an object store: which failures pass, how often and how long they are repeated."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from a2s.errors import ConfigError, StorageError

CONNECT_SEC = 10.0
STALL_SEC = 30.0
"""A request that brings no byte for this long is repeated."""
REQUEST_SEC = 120.0
"""And one that is not over by then: a part of 8 MiB at less than 70 kB/s."""
ATTEMPTS = 8
PATIENCE_SEC = 90.0
"""No request is repeated later than this after the first."""
FIRST_WAIT_SEC = 0.25
LONGEST_WAIT_SEC = 16.0

EXTRAS = {"s3": "a2s[s3]", "gs": "a2s[gcs]", "az": "a2s[azure]"}
_PASSING = (408, 409, 425, 429)
_PRECONDITION = 412
_NOT_IMPLEMENTED = 501
_IN_A_CIRCLE = "TooManyRedirects"
_BROKEN_OFF = {
    *("ConnectionError", "IncompleteRead", "ResponseParserError"),
    # Of botocore and aiohttp, which a2s need not import.
    *("HTTPClientError", "ClientPayloadError", "ClientConnectionError"),
}
"""Names of errors after which the same request may succeed."""
T = TypeVar("T")


class Conflict(StorageError):
    """An object is not what this process last saw: somebody else has written it."""


def retried(url: str, what: str, call: Callable[[], T]) -> T:
    """Call until it succeeds; `what` completes "cannot be".

    Raises:
        FileNotFoundError: there is no such object.
        Conflict: a condition of the request does not hold.
        ConfigError: the package for this kind of URL is not installed.
        StorageError: it failed for good, or too often.
    """
    began = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except ImportError as error:
            scheme = url.partition(":")[0]
            hint = f"pip install '{EXTRAS.get(scheme, 'fsspec')}'"
            raise ConfigError(f"{url}: {scheme}:// needs another package: {hint}") from error
        except (Conflict, ConfigError):
            raise
        except Exception as error:  # Each protocol has a library, and each library its own errors.
            if _is_missing(error):
                raise FileNotFoundError(errno.ENOENT, "no such object", url) from error
            if status_of(error) == _PRECONDITION or isinstance(error, FileExistsError):
                raise Conflict(f"{url}: somebody else has written it meanwhile") from error
            took_sec = time.monotonic() - began
            if _is_final(error) or attempt == ATTEMPTS or took_sec > PATIENCE_SEC:
                tries = f", {attempt} tries in {took_sec:.0f} s" if attempt > 1 else ""
                raise StorageError(f"{url}: cannot be {what} ({named(error)}{tries})") from error
            wait_sec = min(LONGEST_WAIT_SEC, FIRST_WAIT_SEC * 2 ** (attempt - 1))
            # Clients that failed together must not come back together.
            time.sleep(wait_sec * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")


class LateError(Exception):
    """The time that the caller has given is over."""


def named(error: BaseException) -> str:
    """One line about an error of any library."""
    kinds = _kinds(error)
    if _is_timeout(error):
        return "timed out"
    if _IN_A_CIRCLE in kinds:
        return "the server leads on in a circle"
    if "NonHttpUrlRedirectClientError" in kinds:
        return f"the server leads to {error}, which is no address of the web"
    if "ClientPayloadError" in kinds:
        return "the connection was cut"
    message = getattr(error, "message", None)
    if "ClientResponseError" in kinds:
        return f"{status_of(error)} {message}"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "Invalid bucket name" in text:
        return "no bucket can have this name"
    return " ".join(text.split()) + _other_region(error) or type(error).__name__


def why(error: BaseException) -> str:
    """What has led to an error of `retried`, in one line."""
    cause = error.__cause__ if isinstance(error, StorageError) else None
    return named(cause or error)


def _other_region(error: BaseException) -> str:
    """Where the bucket is, if a store of Amazon says that it is not where it was looked for."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict) and status_of(error) in (301, 307, 400):
            about = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            if region := about.get("x-amz-bucket-region"):
                return f"; the bucket is in the region {region}: set AWS_REGION to it"
    return ""


def _kinds(error: BaseException) -> set[str]:
    """Names of the classes of an error and its causes; a2s need not import their libraries."""
    return {kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__}


def _is_timeout(error: BaseException) -> bool:
    timeouts = (TimeoutError, asyncio.TimeoutError)
    return isinstance(error, timeouts) or "Timeout" in type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        # botocore keeps that of a client of HTTP in its own place.
        wrapped = getattr(cause, "kwargs", {}).get("error")
        cause = cause.__cause__ or (wrapped if isinstance(wrapped, BaseException) else None)


def status_of(error: BaseException) -> int | None:
    """HTTP status of an answer that a library made an error of; None if there was no answer."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return found if isinstance(found, int) else None
        for name in ("status", "code", "status_code"):
            if isinstance(found := getattr(cause, name, None), int):
                return found
    return None


def _is_missing(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) or status_of(error) == 404


def _is_final(error: BaseException) -> bool:
    """Whether the same request would fail again."""
    kinds, status = _kinds(error), status_of(error)
    if _IN_A_CIRCLE in kinds or status == _NOT_IMPLEMENTED:
        return True
    if not kinds.isdisjoint(_BROKEN_OFF):
        return False
    if status is not None:
        codes = {
            str(response.get("Error", {}).get("Code"))
            for cause in _causes(error)
            if isinstance(response := getattr(cause, "response", None), dict)
        }
        passes = not codes.isdisjoint({"RequestTimeout", "SlowDown", "IncompleteBody"})
        return 300 <= status < 500 and status not in _PASSING and not passes
    return not _is_timeout(error)
