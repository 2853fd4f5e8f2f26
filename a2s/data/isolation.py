"""Decode images in other processes, so that a codec that crashes or hangs costs only its image.

In an `isolated()` block the functions of `images.py`, `masks.py` and `photograph.py` send their
bytes to a decoder: a process that runs `isolated_decoder.py`. There are as many as images are
decoded at the same time, and they are kept until the block ends. A message is a length, a JSON
header and raw bytes (a file or pixels).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

from a2s.storage import child_process

LIMIT_SEC = 300.0
"""Only a codec that hangs takes longer: the largest images allowed take some 10 s."""
_LENGTH = struct.Struct("<I")

Guard = Callable[[bytes], contextlib.AbstractContextManager[None]]


def unguarded(data: bytes) -> contextlib.AbstractContextManager[None]:
    """Nothing surrounds the decoding."""
    return contextlib.nullcontext()


guard: Guard = unguarded
"""What surrounds the decoding of some bytes in this process (`isolated_decoder.expendable`)."""

Header = dict[str, Any]


class DecoderDied(Exception):
    """The decoder ended while it decoded; `reason` and `detail` are those of a `BadImage`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def send(stream: IO[bytes], header: Mapping[str, object], payload: bytes | memoryview) -> None:
    """Write a message."""
    text = json.dumps({**header, "num_bytes": len(payload)}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Header, bytearray]:
    """Read a message.

    Raises:
        EOFError: the other side has ended.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    header: Header = json.loads(_exactly(stream, length))
    return header, _exactly(stream, header["num_bytes"])


def _exactly(stream: IO[bytes], num_bytes: int) -> bytearray:
    data = bytearray(num_bytes)
    if stream.readinto(data) < num_bytes:  # type: ignore[attr-defined]
        raise EOFError
    return data


class _Decoder:
    """A decoder process; one request at a time."""

    def __init__(self) -> None:
        self._child = child_process.start("a2s.data.isolated_decoder")
        self._is_ready = False

    def ask(self, header: Header, data: bytes) -> tuple[Header, bytearray]:
        """Send a request and return the reply.

        Raises:
            DecoderDied: while it decoded this image.
        """
        if not self._is_ready:
            try:
                receive(self._child.replies)
            except EOFError:
                if (code := self._child.process.wait()) == -signal.SIGKILL:
                    raise MemoryError("the decoder process was killed when it started") from None
                raise RuntimeError(f"the decoder process did not start (exit {code})") from None
            self._is_ready = True
        try:
            send(self._child.requests, {**header, "limit_sec": LIMIT_SEC}, data)
            return receive(self._child.replies)
        except (EOFError, BrokenPipeError):
            raise DecoderDied(*_cause_of_death(self._child.process.wait())) from None

    def died_idle(self) -> bool:
        """Whether something has ended it while it had nothing to decode."""
        return self._is_ready and self._child.process.poll() is not None

    def close(self) -> None:
        """End the process, also one that is decoding."""
        self._child.close()


def _cause_of_death(code: int) -> tuple[str, str]:
    if code == -signal.SIGALRM:
        return "timeout", f"not decoded after {LIMIT_SEC:g} s"
    if code == -signal.SIGKILL:
        return "memory", "the process was killed, as when memory runs out; try fewer workers"
    if code < 0:
        return "crashes", f"the codec ended its process with {signal.Signals(-code).name}"
    return "crashes", f"the codec ended its process with exit code {code}"


class _Decoders:
    """The decoders of this process: those that are idle, and how many blocks want them."""

    def __init__(self) -> None:
        self.blocks = 0
        self._lock = threading.Lock()
        self._idle: list[Future[_Decoder]] = []
        # A decoder dies with the thread that started it; this thread ends with the process.
        self._starter = ThreadPoolExecutor(1, "a2s-decoders")

    def enter(self) -> None:
        with self._lock:
            self.blocks += 1
            if not self._idle:
                # It starts while this process does other things before its first image.
                self._idle.append(self._starter.submit(_Decoder))

    def leave(self) -> None:
        with self._lock:
            self.blocks -= 1
            ended, self._idle = ([], self._idle) if self.blocks else (self._idle, [])
        for future in ended:
            if future.exception() is None:
                future.result().close()

    def ask(self, header: Header, data: bytes) -> tuple[Header, bytearray]:
        future = self._take()
        decoder = future.result()
        try:
            reply = decoder.ask(header, data)
        except BaseException:
            decoder.close()
            raise
        with self._lock:
            if is_kept := self.blocks > 0:
                self._idle.append(future)
        if not is_kept:
            decoder.close()
        return reply

    def _take(self) -> Future[_Decoder]:
        while True:
            with self._lock:
                future = self._idle.pop() if self._idle else self._starter.submit(_Decoder)
            if not (decoder := future.result()).died_idle():
                return future
            decoder.close()


_decoders = _Decoders()
_inherited: list[_Decoders] = []
_spent = threading.local()


def _forget() -> None:
    """A forked process starts its own decoders, and leaves those of its parent alone."""
    global _decoders
    _inherited.append(_decoders)
    _decoders = _Decoders()
    _decoders.blocks = _inherited[-1].blocks


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Decode in other processes inside the block, in all threads of this process."""
    decoders = _decoders
    decoders.enter()
    try:
        yield
    finally:
        decoders.leave()


def is_on() -> bool:
    """Whether an `isolated` block is active."""
    return _decoders.blocks > 0


def decoder_cpu_sec() -> float:
    """CPU seconds that decoders have worked for this thread."""
    seconds: float = getattr(_spent, "cpu_sec", 0.0)
    return seconds


def ask(function: str, data: bytes, limits: Mapping[str, int]) -> tuple[Header, bytearray]:
    """Call a function of `images.py` in a decoder; return its reply (`isolated_decoder.answer`).

    Raises:
        DecoderDied: the codec crashed, or took longer than `LIMIT_SEC`.
    """
    reply, payload = _decoders.ask({"function": function, "limits": dict(limits)}, data)
    _spent.cpu_sec = decoder_cpu_sec() + reply.pop("cpu_sec")
    if "bug" in reply:
        raise RuntimeError(f"in the decoder process:\n{reply['bug']}")
    if "memory" in reply:
        raise MemoryError(reply["memory"])
    return reply, payload
