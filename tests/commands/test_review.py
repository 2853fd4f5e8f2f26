"""`a2s review` as a process: who is let in, what is refused, what survives kill -9."""

from __future__ import annotations

import base64
import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from http_server import Server, serving
from processes import call
from review_labels import write_pair

from a2s.data.images import decode_mask
from a2s.labels.review import FILE_NAME, read_decisions

WIDTH, HEIGHT, COUNT = 120, 96, 12
FIRST = {"row": 0, "version": 0}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def server(pair: tuple[Path, Path]) -> Iterator[Server]:
    with serving("review", pair[0], "--data", pair[1], "--port", 0) as running:
        yield running


def bits(mask_HW: np.ndarray) -> str:
    return base64.b64encode(np.packbits(mask_HW).tobytes()).decode()


PATHS = (
    "/",
    "/page.js",
    "/api/summary",
    "/api/rows?query=1&first=0&count=1",
    "/thumb/0",
    "/nothing",
)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_answered_without_the_token(server: Server, path: str) -> None:
    for token in ("", "wrong", server.token[:-1], server.token + "x", "\xff"):
        answer = server.ask(path, X_A2S_Token=token)
        assert answer.code == 401
        assert server.token.encode() not in answer.body
        assert (
            server.ask(path, X_A2S_Token="", Cookie=f"a2s_review_{server.port}={token}").code == 401
        )
    assert server.ask(f"{path.partition('?')[0]}?token=wrong", X_A2S_Token="").code == 401
    assert server.ask("/api/undo", {"row": 0}, X_A2S_Token="").code == 401


def test_the_token_of_the_address_becomes_a_cookie(server: Server) -> None:
    answer = server.ask(f"/?token={server.token}", X_A2S_Token="")
    assert (answer.code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    page = server.ask("/", X_A2S_Token="", Cookie=cookie.partition(";")[0])
    assert page.code == 200
    assert server.token.encode() not in page.body


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_other_pages_and_other_names_are_refused(server: Server, headers: dict[str, str]) -> None:
    assert server.ask("/api/summary", **headers).code == 403
    assert server.ask("/api/decide", {"row": 0, "verdict": "rejected"}, **headers).code == 403


def test_answers_forbid_what_the_page_does_not_need(server: Server) -> None:
    for path in PATHS:
        headers = server.ask(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/page.html", "//etc/passwd"),
        *("/thumb/../../etc/passwd", "/thumb/-1", "/thumb/12", "/thumb/99999999999999999999"),
        *("/thumb/x", "/image/0%00", "/mask/1e3", "/page.css/..", "/app.py", "/page.html"),
    ],
)
def test_no_path_leads_out(server: Server, path: str) -> None:
    answer = server.ask(path)
    assert answer.code == 404
    assert b"root:" not in answer.body


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/api/decide", b"\xff", 400),
        ("/api/decide", b"[" * 100_000, 400),
        ("/api/decide", {}, 400),
        ("/api/decide", {"row": 0, "verdict": "accepted"}, 400),
        ("/api/decide", {**FIRST, "verdict": "perhaps"}, 400),
        ("/api/decide", {**FIRST, "row": -1, "verdict": "accepted"}, 404),
        ("/api/decide", {**FIRST, "row": 10**30, "verdict": "accepted"}, 404),
        ("/api/decide", {**FIRST, "verdict": "accepted", "key": "x"}, 400),
        ("/api/decide", {**FIRST, "verdict": "accepted", "version": 7}, 409),
        ("/api/decide", {**FIRST, "verdict": "accepted", "version": 10**30}, 409),
        ("/api/decide", {**FIRST, "verdict": "fixed"}, 422),
        ("/api/decide", {**FIRST, "verdict": "fixed", "mask_bits": "*"}, 422),
        ("/api/decide", {**FIRST, "verdict": "fixed", "mask_bits": "AAAA"}, 422),
        ("/api/decide", b'{"row": 0, "verdict": "' + b"a" * 40_000_000 + b'"}', 413),
        ("/api/undo", {"row": 0}, 400),
        ("/api/undo", FIRST, 422),
        ("/api/undo", {**FIRST, "version": 7}, 409),
        ("/api/snap", {"row": 0, "mask_bits": "AA", "stroke_bits": "AA", "adds": True}, 422),
    ],
)
def test_requests_that_make_no_sense_are_refused(server, pair, path, body, code: int) -> None:
    kind = {"Content_Type": "application/json"} if isinstance(body, bytes) else {}
    answer = server.ask(path, body, **kind)
    assert answer.code == code, answer.body
    assert "\n" not in answer.json["error"]
    assert not (pair[0] / FILE_NAME).exists() or not (pair[0] / FILE_NAME).read_bytes()


def test_queries_that_make_no_sense_are_refused(server: Server) -> None:
    for query in ("least_quality=2", "least_quality=nan", "flag=x", "sort=1", "text=" + "a" * 300):
        assert server.ask(f"/api/find?{query}").code == 400, query
    for query in ("query=1&first=-1&count=1", "query=1&first=0&count=501", "query=x"):
        assert server.ask(f"/api/rows?{query}").code == 400, query
    assert server.ask("/api/rows?query=999999&first=0&count=1").code == 410
    assert server.ask("/api/changes?since=x").code == 400
    assert server.ask("/api/decide", b"{}", Content_Type="text/plain").code == 415


def test_killed_at_any_time_what_it_confirmed_is_there_at_the_next_start(tmp_path: Path) -> None:
    labels, data = write_pair(tmp_path)
    mask_HW = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5
    confirmed: dict[int, str] = {}
    for kill_after in (3, 20):
        with serving("review", labels, "--data", data, "--port", 0) as running:
            query = running.ask("/api/find").json["query"]

            def decide(
                number: int,
                running: Server = running,
                most: int = kill_after // 3,
                query: int = query,
            ) -> None:
                at, fixes = number % COUNT, number % 3 == 0
                shown = running.ask(f"/api/rows?query={query}&first={at}&count=1").json["rows"]
                row, verdict = shown[0]["row"], "fixed" if fixes else "accepted"
                body = {"row": row, "version": shown[0]["version"], "verdict": verdict}
                body |= {"mask_bits": bits(mask_HW)} if fixes else {}
                answer = running.ask("/api/decide", body)
                assert answer.code == 200
                confirmed[row] = verdict
                if len(confirmed) >= most:
                    running.process.send_signal(signal.SIGKILL)

            with ThreadPoolExecutor(3) as pool:
                done = [pool.submit(decide, number) for number in range(kill_after)]
            failed = [one.exception() for one in done if one.exception()]
            assert all(isinstance(error, OSError) for error in failed), failed
        found = read_decisions(labels)
        keys = {row: f"dir/scene%20{row:03d}" for row in confirmed}
        assert {row: found[key].verdict for row, key in keys.items()}.keys() == confirmed.keys()
    with serving("review", labels, "--data", data, "--port", 0) as running:
        counts = running.ask("/api/summary").json["counts"]
        assert counts["accepted"] + counts["fixed"] == len(read_decisions(labels))
        for key, decision in read_decisions(labels).items():
            if decision.verdict == "fixed":
                assert decision.mask_png is not None
                assert ((decode_mask(decision.mask_png) > 0) == mask_HW).all(), key
        code, output, errors = running.interrupt()
        assert code == 0
        assert "accepted" in output
        assert "Traceback" not in errors


def test_no_two_starts_have_pictures_at_the_same_addresses(server: Server, pair) -> None:
    with serving("review", pair[0], "--data", pair[1], "--port", 0) as other:
        starts = {one.ask("/api/summary").json["start"] for one in (server, other)}
    assert len(starts) == 2


def test_a_port_in_use_and_wrong_folders_are_one_line(pair: tuple[Path, Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = call("review", pair[0], "--data", pair[1], "--port", port)
    assert done.code == 2
    assert "is in use; stop what listens there, or give another --port" in done.stderr
    for labels, data in ((pair[0], pair[0]), (pair[1], pair[0]), (pair[0], Path("/nowhere"))):
        done = call("review", labels, "--data", data, "--port", "0")
        assert done.code == 2
        assert len(done.stderr.splitlines()) == 1


def test_a_damaged_file_of_decisions_is_one_line(tmp_path: Path) -> None:
    labels, data = write_pair(tmp_path)
    line = {"key": "dir/scene%20001", "verdict": "fixed", "at": "2026-01-01T00:00:00+00:00"}
    (labels / FILE_NAME).write_text(json.dumps(line) + "\n")
    done = call("review", labels, "--data", data, "--port", "0")
    assert done.code == 2
    assert "has no mask" in done.stderr
