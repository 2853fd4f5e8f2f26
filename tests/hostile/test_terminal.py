"""Names with control characters: shown, never sent to the terminal, and no markup in a page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hostile import mask, picture
from hypothesis import given
from hypothesis import strategies as st

from a2s.paper.tables.format import page
from a2s.storage.files import append_jsonl, write_json
from a2s.storage.parsing import json_line, printable

RED, TITLE = "\x1b[31mred", "\x9d0;title\x07"
NAME = f"{RED}{TITLE}\u202egpj"


def a2s(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "a2s", *map(str, arguments)], capture_output=True, timeout=60
    )


def assert_harmless(data: bytes) -> None:
    text = data.decode("utf-8")
    assert printable(text, keep_breaks=True) == text


def test_what_commands_print_and_list_is_harmless(tmp_path: Path) -> None:
    images = tmp_path / NAME
    images.mkdir()
    (images / f"bad{NAME}\n.jpg").write_bytes(b"x")
    (images / "fine.png").write_bytes(picture("PNG", side=64))
    out = tmp_path / f"out{NAME}"
    done = a2s("predict", images, "--model", "rbd", "--out", out, "--workers", 0)
    assert done.returncode == 3
    assert rb"\x1b[31mred" in done.stdout
    for data in (done.stdout, done.stderr, (out / "failures.jsonl").read_bytes()):
        assert_harmless(data)
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text("utf-8").splitlines())
    assert failure["path"] == str(images / f"bad{NAME}\n.jpg")
    status = a2s("status", out)
    assert_harmless(status.stdout)


def test_an_error_is_one_harmless_line(tmp_path: Path) -> None:
    done = a2s("shard", tmp_path / f"{NAME}\na2s: all is well", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert_harmless(done.stderr)
    assert len(done.stderr.splitlines()) == 1


def test_a_title_of_a_figure_is_no_formula(tmp_path: Path) -> None:
    masks = tmp_path / r"$\frac{<b>"
    masks.mkdir()
    (masks / "a.png").write_bytes(mask())
    out = tmp_path / "out"
    done = a2s("evaluate", "--pred", masks, "--truth", masks, "--out", out, "--workers", 0)
    assert done.returncode == 0, done.stderr
    for figure in out.glob("*.svg"):
        ElementTree.parse(figure)


def test_a_name_in_a_table_is_no_markup() -> None:
    text = page("runs", [["run"], ["---"], ["a|b\n<script>\x1b"]], [])
    assert text.splitlines()[-2] == r"| a\|b\x0a&lt;script>\x1b |"


@given(st.text(st.characters()))
def test_json_is_harmless_and_the_same_value(text: str) -> None:
    line = json_line(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(line) == {text: text}
    assert printable(line) == line
    assert line.splitlines() == [line]


@pytest.mark.parametrize("text", [NAME, "\udcff", "\u2028"])
def test_files_of_json_are_harmless(text: str, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {text: text})
    append_jsonl(tmp_path / "b.jsonl", {text: text})
    for name in ("a.json", "b.jsonl"):
        assert_harmless((tmp_path / name).read_bytes())
        assert json.loads((tmp_path / name).read_bytes()) == {text: text}
