"""A process that decodes images for its parent, and dies with it (`isolation.py`)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from a2s.data import images, isolation, masks, photograph
from a2s.data.isolation import LIMIT_SEC, Header, receive, send
from a2s.storage import child_process

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "probe": images.probe,
    "decode": images.decode,
    "decode_mask": images.decode_mask,
    "decode_map": masks.decode_map,
    "decode_truth": masks.decode_truth,
    "shrink": images.shrink,
    "decode_with_alpha": photograph.decode_with_alpha,
    "colour_profile": photograph.colour_profile,
}
BYTES_PER_PIXEL = 24
"""More than any format needs: masks in WebP take 20, all others up to 16."""
ROOM_BYTES = 256 * 2**20
_is_within = False


@contextlib.contextmanager
def limited_memory(data: bytes) -> Iterator[int]:
    """Limit what this process may allocate to what the image should need; yield that in bytes.

    A few bytes can make a codec allocate gigabytes that their header does not announce.
    """
    room = ROOM_BYTES + BYTES_PER_PIXEL * images.num_pixels(data)
    with open("/proc/self/statm", "rb") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY and hard <= used + room:
        yield room
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
    try:
        yield room
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


@contextlib.contextmanager
def within_limits(data: bytes) -> Iterator[None]:
    """Decode in this process, which may be lost: with a limit to its memory, and to the time.

    Raises:
        BadImage: what the block raises; if memory was short, it says how much was not enough.
    """
    global _is_within
    if _is_within:
        yield
        return
    room, _is_within = 0, True
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SEC)
    try:
        with limited_memory(data) as room:
            yield
    except images.BadImage as error:
        raise with_room(error, room) from None
    finally:
        _is_within = False
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def expendable() -> Iterator[None]:
    """Decode in this process, which has one thread and may be lost, within the same limits."""
    isolation.guard = within_limits
    try:
        yield
    finally:
        isolation.guard = isolation.unguarded


def with_room(error: images.BadImage, room: int) -> images.BadImage:
    """Say how many bytes were not enough, if memory was the reason."""
    if error.reason != "memory":
        return error
    detail = f"needs over {room / 2**30:.1f} GiB to decode, or that is not there"
    return images.BadImage(error.reason, detail)


def answer(header: Header, data: bytes) -> tuple[Header, bytes | memoryview]:
    """Call what the header names; return the header and the bytes of the reply."""
    function, room = FUNCTIONS[header["function"]], 0
    try:
        with limited_memory(data) as room:
            result = function(data, **header["limits"])
    except images.BadImage as error:
        error = with_room(error, room)
        return {"reason": error.reason, "detail": error.detail}, b""
    except MemoryError as error:
        return {"memory": str(error)}, b""
    except Exception:
        return {"bug": traceback.format_exc()}, b""
    if isinstance(result, images.ImageInfo):
        return {"info": dataclasses.asdict(result)}, b""
    content, note = result if isinstance(result, tuple) else (result, None)
    if isinstance(content, bytes):
        return {} if note is None else {"extension": note}, content
    reply = {"shape": content.shape} if note is None else {"shape": content.shape, "note": note}
    return reply, np.ascontiguousarray(content).data.cast("B")


def main() -> NoReturn:
    """Answer requests until the parent closes the pipe."""
    requests, replies = child_process.settle()
    try:
        send(replies, {}, b"")
        while True:
            header, data = receive(requests)
            signal.setitimer(signal.ITIMER_REAL, header["limit_sec"])
            began = time.process_time()
            reply, payload = answer(header, bytes(data))
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(replies, {**reply, "cpu_sec": time.process_time() - began}, payload)
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    main()
