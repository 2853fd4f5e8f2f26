"""`a2s serve`: the maps of `predict` by HTTP, one-line errors for everything else."""

from __future__ import annotations

import io
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_server import Server, serving
from PIL import Image
from processes import call

from a2s.evaluation.service import MAX_BYTES, MAX_PIXELS


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("serve", "--port", 0) as running:
        yield running


@pytest.fixture(scope="module")
def photo(scenes: Any) -> bytes:
    return min(scenes.images.iterdir()).read_bytes()


@pytest.fixture(scope="module")
def predicted(scenes: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files that `a2s predict` writes of the same photograph."""
    out = tmp_path_factory.mktemp("predicted")
    image = min(scenes.images.iterdir())
    done = call("predict", image, "--out", out, "--cutout", "--overlay", "--workers", "0")
    assert done.code == 0, done.stderr
    (cutout,) = out.glob("*.cutout.png")
    stem = cutout.name.removesuffix(".cutout.png")
    names = {"mask": f"{stem}.png", "cutout": cutout.name, "overlay": f"{stem}.overlay.jpg"}
    return {kind: (out / name).read_bytes() for kind, name in names.items()}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("kind", "media"), [("mask", "png"), ("cutout", "png"), ("overlay", "jpeg")]
)
def test_it_answers_what_predict_writes(server, photo, predicted, kind: str, media: str) -> None:
    answer = server.ask(f"/predict?output={kind}", photo)
    assert (answer.code, answer.headers["content-type"]) == (200, f"image/{media}")
    assert (pixels(answer.body) == pixels(predicted[kind])).all()


def test_options_of_cutouts(server: Server, photo: bytes) -> None:
    jpeg = server.ask("/predict?output=cutout&format=jpg&background=%23ff8800", photo)
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert pixels(jpeg.body).shape[2] == 3
    whole = pixels(server.ask("/predict?output=cutout", photo).body)
    cropped = pixels(server.ask("/predict?output=cutout&crop=true", photo).body)
    assert cropped.shape[2] == 4
    assert cropped.size < whole.size


def form(field: str, data: bytes, *, name: str = "photo.jpg") -> tuple[bytes, dict[str, str]]:
    head = f'--edge\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + b"\r\n--edge--\r\n"
    return body, {"Content_Type": "multipart/form-data; boundary=edge"}


def test_a_form_works_too(server: Server, photo: bytes, predicted: dict[str, bytes]) -> None:
    body, headers = form("file", photo, name="../../x.jpg")
    answer = server.ask("/predict", body, **headers)
    assert (pixels(answer.body) == pixels(predicted["mask"])).all()


def bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("path", "body", "code", "says"),
    [
        ("/predict", b"", 422, "empty"),
        ("/predict", b"root:x:0:0", 415, "unsupported"),
        ("/predict", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported"),
        ("/predict", "truncated", 422, "truncated"),
        ("/predict", bomb(8_000), 413, f"over {MAX_PIXELS}"),
        ("/predict", bomb(60_000), 413, "pixel_bomb"),
        ("/predict", b"\xff" * (MAX_BYTES + 1), 413, "bytes"),
        ("/predict?output=depth", "photo", 400, "output"),
        ("/predict?output=mask&crop=true", "photo", 400, "are for output=cutout"),
        ("/predict?output=cutout&background=blau", "photo", 400, "give a colour"),
        ("/predict?output=cutout&format=jpg", "photo", 400, "transparency"),
        ("/predict?url=http://x", "photo", 400, "url"),
        ("/nothing", "photo", 404, "Not Found"),
        ("/health", "photo", 405, "Method"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else type(value).__name__,
)
def test_everything_else_is_one_line_of_json(server, photo, path, body, code, says) -> None:
    body = {"photo": photo, "truncated": photo[: len(photo) // 2]}.get(body, body)
    if body == b"":
        answer = server.ask(path, method="POST")
    else:
        answer = server.ask(path, body, Content_Type="application/octet-stream")
    assert answer.code == code, answer.body
    assert says in answer.json["error"]
    assert "\n" not in answer.json["error"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"xx", "multipart/form-data"),
        (b"xx", "multipart/form-data; boundary=a"),
        (form("other", b"data")[0], "multipart/form-data; boundary=edge"),
        (b"--edge\r\n" * 1000, "multipart/form-data; boundary=edge"),
    ],
)
def test_forms_that_are_none_are_refused(server: Server, body: bytes, kind: str) -> None:
    answer = server.ask("/predict", body, Content_Type=kind)
    assert answer.code == 400
    assert answer.json["error"]


def test_pages_elsewhere_are_refused(server: Server, photo: bytes) -> None:
    assert server.ask("/predict", photo, Host="evil.example").code == 403
    assert server.ask("/health", Host="localhost").code == 200


def test_requests_at_once_share_batches(server: Server, photo: bytes, predicted) -> None:
    before = server.ask("/health").json
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: server.ask("/predict", photo), range(12)))
    after = server.ask("/health").json
    assert {answer.code for answer in answers} == {200}
    assert {answer.body for answer in answers} == {answers[0].body}
    assert (pixels(answers[0].body) == pixels(predicted["mask"])).all()
    assert after["images"] - before["images"] == 12
    assert after["batches"] - before["batches"] < 12
    assert after["waiting"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_answers_in_flight_are_finished(photo: bytes, number: int) -> None:
    with serving("serve", "--port", 0) as running:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(running.ask("/predict", photo)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        while running.ask("/health").json["images"] + len(answers) == 0:
            time.sleep(0.01)
        code, _, errors = running.interrupt(number)
        for thread in threads:
            thread.join()
        assert [answer.code for answer in answers] == [200] * 4
        assert code == (0 if number == signal.SIGINT else 143)
        assert "Traceback" not in errors


def test_what_cannot_start_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wrong = [
            (("--port", taken.getsockname()[1]), "is in use"),
            (("--host", "192.0.2.1"), "is no address of this machine"),
            (("--host", "no such host"), "is no address of this machine"),
            (("--model", tmp_path / "none"), "none"),
            (("--port", "70000"), "port"),
        ]
        for arguments, says in wrong:
            done = call("serve", *arguments)
            assert done.code == 2
            assert says in done.stderr
