"""A process that decodes images for its parent, and dies with it (`isolation.py`)."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from a2s.data import images, masks, photograph
from a2s.data.isolation import Header, receive, send

PR_SET_PDEATHSIG = 1
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


OOM_SCORE = 250
"""In thousandths of the memory: how much smaller than its parent it may be when the kernel, out of
memory, ends it and not the parent."""
BYTES_PER_PIXEL = 24
"""More than any format needs: masks in WebP take 20, all others up to 16."""
ROOM_BYTES = 256 * 2**20


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


def answer(header: Header, data: bytes) -> tuple[Header, bytes | memoryview]:
    """Call what the header names; return the header and the bytes of the reply."""
    function, room = FUNCTIONS[header["function"]], 0
    try:
        with limited_memory(data) as room:
            result = function(data, **header["limits"])
    except images.BadImage as error:
        detail = error.detail
        if error.reason == "memory":
            detail = f"needs over {room / 2**30:.1f} GiB to decode, or that is not there"
        return {"reason": error.reason, "detail": detail}, b""
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


def _end_before_the_parent() -> None:
    """If the kernel must kill for lack of memory, one image is lost and not a whole command."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        file.write_text(str(min(1000, int(file.read_text()) + OOM_SCORE)))


def main() -> NoReturn:
    """Answer requests until the parent closes the pipe."""
    # Signals that end a whole job are for the parent; the image must not be blamed for them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # A codec that hangs notices neither the end of the parent nor of its time; the kernel does.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # The parent reports a crash; a file of this process's memory would help nobody.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    requests, replies = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    _end_before_the_parent()
    # What a codec prints must not come between the replies.
    os.dup2(2, 1)
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
