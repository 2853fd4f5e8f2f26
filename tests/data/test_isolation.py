"""Decoders: the same results as without, and a codec that crashes or hangs takes only its image."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from crashing_codec import DEEDS, plant
from PIL import Image
from repository import REPO

from a2s.data import images, isolation
from a2s.data.images import BadImage
from a2s.data.isolation import isolated
from a2s.parallel import ray_session


def encoded(number: int, image_format: str = "PNG", mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    pixels_HW3 = rng.integers(0, 256, (20 + number, 31, 3), np.uint8)
    Image.fromarray(pixels_HW3).convert(mode).save(buffer, image_format)
    return buffer.getvalue()


@pytest.fixture(scope="module", autouse=True)
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("site")
        plant(folder, patch)
        yield folder


CALLS: list[Callable[[bytes], object]] = [
    images.probe,
    images.decode,
    images.decode_mask,
    lambda data: images.shrink(data, max_side=9),
    lambda data: images.decode(data, max_pixels=100),
]
DATA = [
    *(encoded(1, image_format) for image_format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")),
    *(encoded(2, "PNG", mode) for mode in ("L", "P", "RGBA", "1", "I;16")),
    *(b"", b"no image", encoded(3)[:200], encoded(3, "JPEG")[:300]),
]


def outcome(call: Callable[[bytes], object], data: bytes) -> object:
    try:
        result = call(data)
    except BadImage as error:
        return error.reason, error.detail
    if isinstance(result, np.ndarray):
        assert result.dtype == np.uint8
        result[..., :1] += 0  # it is writable
        return result.shape, result.tobytes()
    return result


def test_results_and_errors_are_the_same() -> None:
    plain = [outcome(call, data) for call in CALLS for data in DATA]
    with isolated():
        assert [outcome(call, data) for call in CALLS for data in DATA] == plain
    assert len({item for item in plain if isinstance(item, tuple) and item[0] == "pixel_bomb"}) > 1


@pytest.mark.parametrize(
    ("word", "reason", "detail"),
    [
        ("SEGV", "crashes", "SIGSEGV"),
        ("ABORT", "crashes", "SIGABRT"),
        ("EXIT", "crashes", "with exit code 3"),
        ("KILL", "memory", "as when memory runs out"),
        ("HANG", "timeout", "not decoded after 0.5 s"),
    ],
)
def test_what_kills_a_decoder_is_an_error_of_its_image(
    word: str, reason: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "LIMIT_SEC", 0.5)
    good, bad = encoded(1), encoded(1) + f"A2S-{word}".encode()
    assert bad[-8:] in DEEDS or bad[-9:] in DEEDS
    with isolated():
        before = images.decode(good)
        for call in (images.decode, images.probe):
            with pytest.raises(BadImage, match=detail) as caught:
                call(bad)
            assert caught.value.reason == reason
        assert (images.decode(good) == before).all()


def test_what_is_not_the_images_fault_is_not_blamed_on_it() -> None:
    good = encoded(1)
    with isolated():
        expected = images.decode(good)
        # A signal for the whole job, and what a codec prints.
        assert (images.decode(good + b"A2S-TERM") == expected).all()
        assert (images.decode(good + b"A2S-PRINT") == expected).all()
        # Somebody ends a decoder that waits.
        (number,) = decoders()
        os.kill(number, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while state(number) != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (images.decode(good) == expected).all()
        with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
            images.decode(good + b"A2S-BUG")
        assert (images.decode(good) == expected).all()


def state(number: int) -> str:
    return Path(f"/proc/{number}/stat").read_text().rsplit(") ", 1)[1][0]


def decoders(parent: int | None = None) -> list[int]:
    """Process ids of the decoders that a process has started."""
    found = []
    for number in ray_session.descendants({parent or os.getpid()}):
        command = Path(f"/proc/{number}/cmdline").read_bytes()
        if b"a2s.data.isolated_decoder" in command:
            found.append(number)
    return found


def test_threads_have_a_decoder_each_and_the_block_ends_them() -> None:
    data = [encoded(number) for number in range(30)]
    expected = [images.decode(one).tobytes() for one in data]
    assert not isolation.is_on()
    with isolated(), ThreadPoolExecutor(3) as threads:
        assert isolation.is_on()
        found = [result.tobytes() for result in threads.map(images.decode, data)]
        assert 1 <= len(decoders()) <= 3
        with isolated():
            pass
        assert decoders(), "the outer block still wants them"
    assert found == expected
    assert decoders() == []
    assert not isolation.is_on()


def test_an_exception_in_the_block_ends_its_decoders() -> None:
    def fail() -> None:
        with isolated():
            images.probe(encoded(1))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert decoders() == []


def test_a_decoder_that_cannot_start_is_no_fault_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with isolated(), pytest.raises(RuntimeError, match=r"did not start \(exit 7\)"):
        images.probe(encoded(1))


def start(script: str) -> subprocess.Popen[str]:
    path = f"{os.environ['PYTHONPATH']}:{REPO}"
    return subprocess.Popen(
        [sys.executable, "-c", f"from a2s.data import images, isolation\n{script}"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_parent_leaves_no_decoder_not_even_one_that_hangs(planted: Path) -> None:
    hangs, deadline = planted / "sitecustomize.py.hangs", time.monotonic() + 60
    hangs.unlink(missing_ok=True)
    parent = start("with isolation.isolated():\n    images.probe(b'A2S-HANG')")
    while not hangs.exists():
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.01)
    (number,) = decoders(parent.pid)
    parent.kill()
    parent.communicate()
    while Path(f"/proc/{number}").exists() and state(number) != "Z":
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.01)


FORKS = """
import os
data = [bytes.fromhex(text) for text in "%s".split()]
with isolation.isolated():
    sizes = [images.probe(one).height for one in data]
    forked = os.fork()
    same = all(images.probe(data[n %% 2]).height == sizes[n %% 2] for n in range(bool(forked), 100))
    if not forked:
        os._exit(not same)
    print(same, os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]))
"""


def test_a_forked_process_has_decoders_of_its_own() -> None:
    """The two decode at the same time, and get what they asked for."""
    process = start(FORKS % " ".join(encoded(number).hex() for number in (1, 2)))
    try:
        assert process.communicate(timeout=60)[0] == "True 0\n"
    finally:
        process.kill()


def test_an_expendable_process_decodes_itself_within_the_same_limits(planted: Path) -> None:
    """A bomb that needs gigabytes, a codec that hangs: as a decoder would say, or the end."""
    script = """
import sys
import test_isolation as given
from a2s.data import images, isolated_decoder
plain = [given.outcome(call, data) for call in given.CALLS for data in given.DATA]
with isolated_decoder.expendable():
    assert [given.outcome(call, data) for call in given.CALLS for data in given.DATA] == plain
    isolated_decoder.ROOM_BYTES = isolated_decoder.BYTES_PER_PIXEL = 0
    print(given.outcome(images.decode, given.large()))
    isolated_decoder.ROOM_BYTES = 2**28
    isolated_decoder.LIMIT_SEC = 0.2
    images.decode(given.encoded(1) + b"A2S-HANG")
"""
    here = [str(Path(__file__).parent), str(REPO / "tests" / "helpers")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(planted), *here])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGALRM, done.stderr
    assert "('memory', 'needs over 0.0 GiB to decode, or that is not there')" in done.stdout


def large() -> bytes:
    """An image of 48 million bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(buffer, "PNG")
    return buffer.getvalue()
