"""The list of failures: its bytes, and paths that are not UTF-8."""

from __future__ import annotations

import json
import os
from pathlib import Path

from a2s.storage.failures import failure, write_failures


def test_lines_keep_their_order_and_what_they_say(tmp_path: Path) -> None:
    first = failure("b", "bäd.jpg", "damaged", "no header")
    write_failures(tmp_path, iter([first, failure("a", "a.jpg", "empty", "")]))
    lines = (tmp_path / "failures.jsonl").read_text("utf-8").splitlines()
    expected = '{"key": "b", "path": "bäd.jpg", "reason": "damaged", "detail": "no header"}'
    assert lines[0] == expected
    assert [json.loads(line)["key"] for line in lines] == ["b", "a"]
    write_failures(tmp_path, [first], sorted_ascii=True)
    line = '{"detail": "no header", "key": "b", "path": "b\\u00e4d.jpg", "reason": "damaged"}\n'
    assert (tmp_path / "failures.jsonl").read_text("ascii") == line
    write_failures(tmp_path, [])
    assert (tmp_path / "failures.jsonl").read_bytes() == b""


def test_a_path_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    path = os.fsdecode(b"photo-\xff.jpg")
    write_failures(tmp_path, [failure("", path, "bad_name", "not UTF-8")])
    assert json.loads((tmp_path / "failures.jsonl").read_text())["path"] == r"photo-\xff.jpg"
