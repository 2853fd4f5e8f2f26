"""What surrounds a training rank's work: signals, failures of other ranks, and its own."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from a2s.errors import A2SError, RankError
from a2s.parallel import ranks, stop

P = ParamSpec("P")
R = TypeVar("R")
MAX_CHARS = 300
"""Of a rank's own error, as the others hear it."""


def report_to_launcher(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator for a rank's main function.

    Reports the traceback of a bug to the launcher; destroys the process group on success.

    Raises:
        RankError: another rank has died, hangs or failed; on the rank that says so for all.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if not faulthandler.is_enabled():
            # A stream without descriptor, as in some notebooks, has none.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                faulthandler.enable()
        with stop.handled(ranks.before_exit, _tell_others) as request:
            try:
                result = function(*args, **kwargs)
                ranks.destroy_process_group()
                return result
            except A2SError as error:
                # The caller prints these as one line, without a traceback.
                if not (ranks.ends_jointly() or isinstance(error, RankError)):
                    _tell_others(str(error))
                raise
            except Exception as error:
                if is_collective_error(error):
                    _end_for_peer()
                _tell_others(f"{type(error).__name__}: {error}")
                ranks.record_bug(error)
                raise
            except (SystemExit, KeyboardInterrupt):
                if request.number and not request.is_agreed:
                    _tell_others(f"was ended by {request.name}")
                raise
            finally:
                ranks.close_watch()

    return wrapped


def is_collective_error(error: Exception) -> bool:
    """Whether a collective has failed, which may be another rank's fault."""
    words = ("gloo", "nccl", "connection", "socket", "broken pipe", "timed out", "unreachable")
    # torch.distributed.DistError is a RuntimeError too.
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _tell_others(why: str) -> None:
    if (watch := ranks.peers()) is not None:
        watch.fail(" ".join(why.split())[:MAX_CHARS])


def _end_for_peer() -> None:
    """End this rank if the failure of a collective is another rank's fault."""
    watch = ranks.peers()
    message = watch.explain() if watch is not None else None
    if watch is None or message is None:
        return None
    watch.leave()
    for finish in ranks.before_exit:
        finish()
    if watch.speaks:
        raise RankError(message) from None
    raise SystemExit(2) from None
