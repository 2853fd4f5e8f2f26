"""Decisions of a reviewer: appended, read back, undone; other files are refused."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from a2s.data.images import encode_png
from a2s.data.index import Index
from a2s.data.shards import ShardWriter
from a2s.errors import DataError, StorageError
from a2s.labels import review
from a2s.labels.review import Decision, append_decisions, read_decisions, undo_decisions

SIDE = 96


def mask(side: int = SIDE, value: int = 255) -> bytes:
    pixels = np.zeros((side, side), np.uint8)
    pixels[: side // 2] = value
    return encode_png(pixels)


def decided(key: str, verdict: str = "accepted", png: bytes | None = None) -> Decision:
    return Decision(key, verdict, png, review.now(), "review")  # type: ignore[arg-type]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    out = tmp_path / "labels"
    out.mkdir()
    columns = {"width": "int32", "height": "int32"}
    with ShardWriter(out, columns=columns, settings="test", num_shards=1) as writer:
        for number in range(8):
            writer.add(f"scene-{number}", {"png": mask()}, width=SIDE, height=SIDE)
    return out


@pytest.fixture
def keys(labels: Path) -> list[str]:
    return Index.load(labels).keys.to_pylist()


def test_the_last_decision_about_a_key_holds(labels: Path, keys: list[str]) -> None:
    assert read_decisions(labels) == {}
    first, last = decided(keys[0]), decided(keys[0], "fixed", mask())
    append_decisions(labels, [first, decided(keys[1], "rejected")])
    append_decisions(labels, [last])
    found = read_decisions(labels)
    assert set(found) == set(keys[:2])
    assert found[keys[0]] == last
    undo_decisions(labels, [keys[0], keys[1]])
    assert read_decisions(labels) == {keys[0]: first}
    undo_decisions(labels, [keys[0]])
    assert read_decisions(labels) == {}
    with pytest.raises(DataError, match="nothing to undo"):
        undo_decisions(labels, [keys[0]])


def test_a_torn_line_is_ignored_and_then_removed(labels: Path, keys: list[str]) -> None:
    append_decisions(labels, [decided(keys[0])])
    path = labels / review.FILE_NAME
    whole = path.read_bytes()
    for torn in (whole[:-1], b"{", b'{"key": "' + b"a" * 70_000):
        path.write_bytes(whole + torn)
        assert list(read_decisions(labels)) == [keys[0]]
        append_decisions(labels, [decided(keys[1], "rejected")])
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == keys[:2]
    path.write_bytes(whole[:10])
    assert read_decisions(labels) == {}
    append_decisions(labels, [decided(keys[1])])
    assert list(read_decisions(labels)) == [keys[1]]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"no JSON", "line 2 is no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1, 2]", "line 2 is no decision"),
        (b"\xff\xfe", "line 2 is no JSON"),
        ({"verdict": "accepted"}, "key: Field required"),
        ({"verdict": "perhaps"}, "verdict"),
        ({"at": "yesterday"}, "at: "),
        ({"at": "2026-01-01T00:00:00"}, "timezone"),
        ({"source": "cvat"}, "source"),
        ({"colour": 1}, "colour: Extra"),
        ({"key": "../../etc/passwd"}, "is no key of the labels"),
        ({"key": "\u202e"}, "is no key of the labels"),
        ({"verdict": "undone", "key": "other"}, "which has none"),
        ({"verdict": "fixed"}, "has no mask"),
        ({"mask": mask()}, "has a mask, and is not fixed"),
        ({"verdict": "fixed", "mask_png_base64": "*"}, "no base64"),
        ({"verdict": "fixed", "mask": b"GIF89a"}, "is no PNG"),
        ({"verdict": "fixed", "mask": mask(40)}, "40 x 40 pixels, not 96 x 96"),
        ({"verdict": "fixed", "mask": mask(value=254)}, "other values than 0 and 255"),
        ({"verdict": "fixed", "mask": mask()[:-30]}, "is damaged"),
        ({"verdict": "fixed", "mask": mask()[:25] + b"\x02" + mask()[26:]}, "mode L"),
        (
            {"verdict": "fixed", "mask": mask()[:16] + b"\x7f\xff\xff\xff" * 2 + mask()[24:]},
            "2147483647 x 2147483647 pixels",
        ),
    ],
)
def test_forged_lines_are_refused(labels: Path, keys: list[str], line, says: str) -> None:
    append_decisions(labels, [decided(keys[0])])
    if isinstance(line, dict):
        record = {"key": keys[0], "verdict": "accepted", "at": review.now(), **line}
        if "key: Field" in says:
            del record["key"]
        if png := record.pop("mask", None):
            record["mask_png_base64"] = base64.b64encode(png).decode()
        line = json.dumps(record).encode()
    with (labels / review.FILE_NAME).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DataError) as error:
        read_decisions(labels)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert review.FILE_NAME in str(error.value)


def test_an_endless_line_is_refused(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "MAX_LINE", 1000)
    (labels / review.FILE_NAME).write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match="line 1 is over 1,000 bytes"):
        read_decisions(labels)


def test_wrong_decisions_are_refused_and_store_nothing(labels: Path, keys: list[str]) -> None:
    wrong = [
        decided("nobody"),
        decided(keys[1], "fixed"),
        decided(keys[1], "fixed", mask(95)),
        decided(keys[1], "accepted", mask()),
    ]
    for one in wrong:
        with pytest.raises(DataError):
            append_decisions(labels, [decided(keys[0]), one])
    assert read_decisions(labels) == {}


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished shards"):
        read_decisions(tmp_path)


def test_writers_at_once_lose_nothing(labels: Path, keys: list[str]) -> None:
    def write(key: str) -> None:
        log = review.DecisionLog(labels)
        for verdict in ("accepted", "rejected") * 10:
            log.append([decided(key, verdict)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, keys[:4]))
    lines = (labels / review.FILE_NAME).read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == sorted(keys[:4] * 20)
    assert {one.verdict for one in read_decisions(labels).values()} == {"rejected"}


def test_a_log_follows_other_writers(labels: Path, keys: list[str]) -> None:
    log = review.DecisionLog(labels)
    assert log.refresh() == set()
    append_decisions(labels, [decided(keys[0])])
    assert log.refresh() == {keys[0]}
    assert log.refresh() == set()
    append_decisions(labels, [decided(keys[1])])
    log.append([decided(keys[2])])
    assert set(log.decisions) == set(keys[:3])
    (labels / review.FILE_NAME).unlink()
    assert log.refresh() == set(keys[:3])
    assert not log.decisions


def test_killed_writers_lose_no_decision_that_they_reported(labels: Path, keys: list[str]) -> None:
    code = (
        "import sys; from pathlib import Path; from a2s.labels import review\n"
        "log = review.DecisionLog(Path(sys.argv[1]))\n"
        "png = Path(sys.argv[2]).read_bytes()\n"
        "for number in range(10**6):\n"
        "    key = sys.argv[3 + number % 8]\n"
        "    log.append([review.Decision(key, 'fixed', png, review.now())])\n"
        "    print(number, flush=True)\n"
    )
    png = labels.parent / "mask.png"
    noise = np.random.default_rng(0).integers(0, 2, (SIDE, SIDE)).astype(np.uint8) * np.uint8(255)
    png.write_bytes(encode_png(noise))
    reported = 0
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(labels), str(png), *keys], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                reported += 1
                if int(line) >= 20:
                    os.kill(process.pid, signal.SIGKILL)
                    break
            reported += len(process.stdout.read().splitlines())
        assert len(read_decisions(labels)) == 8
    append_decisions(labels, [decided(keys[0])])
    lines = (labels / review.FILE_NAME).read_bytes().splitlines()
    assert reported <= len(lines) - 1 <= reported + 2
    assert all(json.loads(line)["key"] in keys for line in lines)


def test_a_folder_that_cannot_be_written_is_named(labels: Path, keys: list[str]) -> None:
    (labels / review.FILE_NAME).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="not a regular file"):
        append_decisions(labels, [decided(keys[0])])


def test_the_fingerprint_is_of_what_was_decided(labels: Path, keys: list[str]) -> None:
    one = {keys[0]: decided(keys[0], "fixed", mask())}
    later = {keys[0]: Decision(keys[0], "fixed", mask(), "2030-01-01T00:00:00+00:00", "coco")}
    assert review.fingerprint(one) == review.fingerprint(later)
    others = [{}, {keys[0]: decided(keys[0])}, {keys[1]: decided(keys[1], "fixed", mask())}]
    assert review.fingerprint(one) not in [review.fingerprint(other) for other in others]


def test_a_named_pipe_is_refused(labels: Path, keys: list[str]) -> None:
    os.mkfifo(labels / review.FILE_NAME)
    with pytest.raises(StorageError, match="not a regular file"):
        read_decisions(labels)
    with pytest.raises(StorageError, match="not a regular file"):
        append_decisions(labels, [decided(keys[0])])


def test_what_others_decide_meanwhile_is_seen(labels: Path, keys: list[str]) -> None:
    log = review.DecisionLog(labels)
    log.refresh()
    append_decisions(labels, [decided(keys[0], "rejected")])
    both = [decided(keys[0]), decided(keys[1])]
    assert log.append_if(both, lambda _, before: before is None) == [(both[1], None)]
    found = read_decisions(labels)
    assert [found[key].verdict for key in keys[:2]] == ["rejected", "accepted"]
    with pytest.raises(DataError, match="is no key of the labels"):
        log.append_if([decided("other")], lambda *_: True)
