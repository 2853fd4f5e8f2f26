"""`a2s predict` of single images: named files, standard streams, URLs, beside the image."""

from __future__ import annotations

import http.server
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pictures import photograph, pixels_of, results
from PIL import Image
from processes import call

from a2s.commands import predict
from a2s.config.commands import PredictConfig
from a2s.data.images import decode
from a2s.errors import ConfigError, DataError
from a2s.evaluation.pictures import files
from a2s.models.rbd import rbd
from a2s.storage import remote


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with one photograph, where the commands run."""
    monkeypatch.chdir(tmp_path)
    photograph().save("my photo.jpg", quality=95)
    return tmp_path


def predicted(*arguments: object) -> int:
    return call("predict", "--model", "rbd", *arguments).code


def a2s(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "a2s", "predict", "--model", "rbd", *arguments]
    return subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)


def expected_map() -> np.ndarray:
    return np.rint(rbd(decode(Path("my photo.jpg").read_bytes())) * 255)


def test_without_out_the_picture_is_beside_the_image(here: Path) -> None:
    (here / "deep").mkdir()
    photograph(seed=3).save("deep/b.png")
    done = call("predict", "--model", "rbd", "my photo.jpg", "deep/b.png")
    assert done.stdout.splitlines() == [
        "predict: wrote my photo.mask.png",
        "predict: wrote deep/b.mask.png",
    ]
    np.testing.assert_array_equal(pixels_of(here / "my photo.mask.png"), expected_map())
    assert predicted("my photo.jpg", "--cutout", "--overlay") == 0
    assert results(here) == {
        *("my photo.jpg", "my photo.mask.png", "my photo.cutout.png", "my photo.overlay.jpg"),
        *("deep/b.png", "deep/b.mask.png"),
    }
    # No records of a job lie about.
    assert not any(path.name.startswith(".") for path in here.rglob("*"))


def test_results_beside_images_are_not_the_next_run_s_images(here: Path) -> None:
    photograph().save("a.png")
    assert predicted("a.png") == 0
    done = call("predict", "--model", "rbd", "a.mask.png", "a.png")
    assert done.code == 0
    assert "1 inputs are left out" in done.stderr
    assert results(here) == {"my photo.jpg", "a.png", "a.mask.png"}


@pytest.mark.parametrize("name", ["out.png", "deep/out.jpg", "out.jpeg", "out.webp"])
def test_a_named_file_holds_one_picture(here: Path, name: str) -> None:
    assert predicted("my photo.jpg", "-o", name) == 0
    with Image.open(name) as image:
        found = np.asarray(image.convert("L"), float)
        assert image.format == {"png": "PNG", "webp": "WEBP"}.get(name[-4:].lstrip("."), "JPEG")
    assert np.abs(found - expected_map()).mean() < 2
    # The same command again replaces what a2s wrote.
    assert predicted("my photo.jpg", "-o", name, "--background", "white") == 0
    with Image.open(name) as image:
        assert image.size == (64, 48)
        assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["my photo.jpg", "-o", "my photo.jpg"], "is an input"),
        (["my photo.jpg", "-o", "link.jpg"], "is an input"),
        (["my photo.jpg", "-o", "mine.png"], "mine.png exists, and a2s did not write it"),
        (["my photo.jpg", "-o", "nowhere.png"], "nowhere.png exists, and a2s did not write it"),
        (["my photo.jpg", "mine.png", "-o", "out.png"], "takes one picture of one image"),
        (["my photo.jpg", "-o", "out.png", "--cutout", "--overlay"], "takes one picture of one"),
        (["my photo.jpg", "-o", "out.jpg", "--cutout"], "jpg has no transparency"),
        (["my photo.jpg", "--cutout", "--format", "jpg"], "jpg has no transparency"),
        (
            ["my photo.jpg", "--cutout", "-o", "out.webp", "--format", "png"],
            "contradicts the name",
        ),
        (["my photo.jpg", "--format", "webp"], "format: is that of cut-outs; add cutout"),
        (["my photo.jpg", "-o", "out.tif"], "out.tif: pictures are written as .png"),
        (["my photo.jpg", "-o", "out.gif"], "out.gif: pictures are written as .png"),
        (["folder"], "folder may hold many images; give --out FOLDER"),
        (["folder", "-o", "out.png"], "folder may hold many images; give --out FOLDER"),
        (["images.tar.gz"], "images.tar.gz: no such file"),
        (["photo.heic"], "photo.heic: neither a folder, an image (.jpg, "),
        (["missing"], "missing: no such file or folder"),
        (["my photo.jpg", "missing.jpg"], "missing.jpg: no such file"),
        (["empty.jpg"], "empty.jpg: empty (the file holds no bytes)"),
        (["twin.jpg", "twin.png"], "would both become twin.mask.png"),
    ],
)
def test_what_is_refused_is_one_line_and_writes_nothing(
    here: Path, arguments: list[str], complaint: str
) -> None:
    Image.new("L", (4, 4)).save("mine.png")
    (here / "folder").mkdir()
    for name in ("empty.jpg", "photo.heic"):
        (here / name).touch()
    (here / "link.jpg").symlink_to("my photo.jpg")
    (here / "nowhere.png").symlink_to("gone")
    for name in ("twin.jpg", "twin.png"):
        photograph().save(name)
    before = {path.name: path.read_bytes() for path in here.glob("*.*") if path.exists()}
    done = call("predict", "--model", "rbd", *arguments)
    assert done.code == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in here.glob("*.*") if path.exists()} == before


def test_of_several_images_the_good_ones_are_written(here: Path) -> None:
    (here / "empty.jpg").touch()
    done = call("predict", "--model", "rbd", "my photo.jpg", "empty.jpg")
    assert done.code == 3
    assert "predict: empty.jpg: empty" in done.stderr
    assert "predict: 1 of 2 images (50.00%) failed" in done.stderr
    assert done.stdout == "predict: wrote my photo.mask.png\n"
    assert predicted("my photo.jpg", "empty.jpg", "--max-failure-rate", 0.5) == 0


def test_an_image_that_is_given_twice_is_predicted_once(here: Path) -> None:
    done = call("predict", "--model", "rbd", "my photo.jpg", "./my photo.jpg")
    assert (done.code, done.stdout) == (0, "predict: wrote my photo.mask.png\n")


@pytest.mark.parametrize("arguments", [["-", "-o", "-"], ["-"], ["-", "--out=-", "--quiet"]])
def test_standard_input_to_standard_output(here: Path, arguments: list[str]) -> None:
    done = a2s(*arguments, data=(here / "my photo.jpg").read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    with Image.open(io.BytesIO(done.stdout)) as image:
        np.testing.assert_array_equal(np.array(image), expected_map())
    # Not a byte follows the picture.
    assert done.stdout.endswith(b"IEND\xaeB`\x82")
    assert results(here) == {"my photo.jpg"}


def test_an_image_that_cannot_be_read_puts_nothing_on_standard_output(here: Path) -> None:
    done = a2s("-", "-o", "-", data=b"no image")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"a2s: predict: -: unsupported")


def test_standard_input_into_a_folder(here: Path) -> None:
    done = a2s("-", "--out", "preds", data=(here / "my photo.jpg").read_bytes())
    assert done.returncode == 0
    np.testing.assert_array_equal(pixels_of(here / "preds" / "stdin.png"), expected_map())


def test_a_terminal_is_no_place_for_bytes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(ConfigError, match="standard output is a terminal"):
        predict.run(PredictConfig(model="rbd", images=("my photo.jpg",), out=Path("-")))


@pytest.fixture
def server(here: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.startswith("/slow"):
                self.send_response(200)
                self.end_headers()
                while True:
                    try:
                        self.wfile.write(b"x")
                    except OSError:
                        return
                    stop.wait(0.05)
            self.path = self.path.split("?")[0]
            super().do_GET()

    stop = threading.Event()
    listener = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(here))
    )
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listener.server_address[1]}"
    stop.set()
    listener.shutdown()
    listener.server_close()
    thread.join()


def test_a_url_is_an_image(here: Path, server: str) -> None:
    assert predicted(f"{server}/my%20photo.jpg?size=full") == 0
    np.testing.assert_array_equal(pixels_of(here / "my photo.mask.png"), expected_map())
    for _ in range(2):
        done = call(
            "predict", "--model", "rbd", f"{server}/my%20photo.jpg", "--out", here / "preds"
        )
        assert done.code == 0
    assert "done already" in done.stdout
    np.testing.assert_array_equal(pixels_of(here / "preds" / "my photo.png"), expected_map())


def test_limits_of_urls(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("predict", "--model", "rbd", f"{server}/missing.jpg", "-o", "x.png")
    assert (done.code, len(done.stderr.splitlines())) == (2, 1)
    assert "missing.jpg: unreadable (cannot be opened" in done.stderr
    assert not os.path.exists("x.png")
    done = call("predict", "--model", "rbd", f"{server}/missing.jpg", "my photo.jpg")
    assert (done.code, done.stdout) == (3, "predict: wrote my photo.mask.png\n")
    with pytest.raises(DataError, match="more than 100 bytes"):
        remote.download(f"{server}/my%20photo.jpg", max_bytes=100, max_sec=60)
    monkeypatch.setattr(files, "MAX_SEC", 0.5)
    done = call("predict", "--model", "rbd", f"{server}/slow.jpg", "-o", "x.png")
    assert done.code == 2
    assert "timed out" in done.stderr.lower()
    done = call("predict", "--model", "rbd", "pipe:cat x.jpg", "-o", "x.png")
    assert (done.code, "could run a command" in done.stderr) == (2, True)
