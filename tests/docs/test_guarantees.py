"""Every promise names a test that exists."""

from __future__ import annotations

import ast
import re

import pytest
from repository import REPO

ROW = re.compile(r"^\| (.+) \| `(tests/[\w/]+\.py)::(test_\w+)` \|$", re.MULTILINE)
TEXT = (REPO / "docs" / "guarantees.md").read_text("utf-8")
ROWS = ROW.findall(TEXT)


def test_every_row_is_a_sentence_and_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    rows = [line for line in rows if not line.startswith(("| promise", "|---"))]
    assert len(rows) == len(ROWS) >= 20
    for promise, _, _ in ROWS:
        assert re.fullmatch(r"[A-Z][^.]*(\.\w[^.]*)*\.", promise), promise


@pytest.mark.parametrize(("file", "test"), [(file, test) for _, file, test in ROWS])
def test_the_test_exists(file: str, test: str) -> None:
    tree = ast.parse((REPO / file).read_text("utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
