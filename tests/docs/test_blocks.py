"""Code blocks of the README and of the tutorials run, one after the other, on drawn scenes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from code_blocks import Block, blocks_of, run_block
from documents import name_of
from repository import REPO

from a2s.data.synthetic import render_folder

DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs" / "tutorials").glob("*.md"))]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: photographs, some of them with masks, and a single one.

    The tutorials go on where the README ends, so what is done already is not done again.
    """
    folder = tmp_path_factory.mktemp("reader")
    render_folder(folder, num_train=4, num_test=2, side_px=96, seed=3)
    (folder / "train").rename(folder / "photos")
    shutil.copytree(folder / "test" / "images", folder / "more-photos")
    shutil.copy(min((folder / "photos").iterdir()), folder / "photo.jpg")
    return folder


@pytest.fixture
def folder(reader: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder as the current one."""
    monkeypatch.chdir(reader)
    return reader


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_blocks_run(document: Path, folder: Path) -> None:
    before = {*folder.rglob("*")}
    blocks = [block for block in blocks_of(document) if not block.why_not]
    assert blocks
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        run_block(block, names)
    assert len({*folder.rglob("*")} - before) > 5


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_block_is_found(document: Path) -> None:
    text = document.read_text("utf-8")
    assert len(blocks_of(document)) == len(re.findall(r"^ *```(?:sh|python)$", text, re.MULTILINE))
    for block in blocks_of(document):
        assert not block.why_not or len(block.why_not.split()) > 1


def test_a_block_that_fails_is_noticed(folder: Path) -> None:
    for body in ("a2s shard nothing-here/ --out data", "cat nothing-here"):
        with pytest.raises(Exception, match="nothing-here"):
            run_block(Block("sh", body, ""), {})
    with pytest.raises(ModuleNotFoundError):
        run_block(Block("python", "import nothing_here", ""), {})
