"""The contact sheet of a run: nothing old and nothing damaged passes for its pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import pack

from a2s.errors import DataError
from a2s.evaluation.pictures.contact_sheet import write_sheet


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.images, tmp_path_factory.mktemp("sheet") / "data")


def test_a_damaged_map_is_named(scenes, data: Path, tmp_path: Path) -> None:
    preds = shutil.copytree(scenes.masks, tmp_path / "preds")
    sheet: dict[str, Any] = {"data": data, "maps": None, "labels": None, "truth": None}
    assert write_sheet(tmp_path / "sheet.png", preds=preds, **sheet)
    file = sorted(preds.iterdir())[1]
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=r"cannot be read \(truncated.*; delete it, and") as caught:
        write_sheet(tmp_path / "sheet.png", preds=preds, **sheet)
    assert str(caught.value).startswith(f"{file}: ")


def test_without_pictures_no_old_sheet_stays(scenes, data: Path, tmp_path: Path) -> None:
    sheet: dict[str, Any] = {"data": data, "maps": None, "labels": None, "truth": None}
    assert write_sheet(tmp_path / "sheet.png", preds=scenes.masks, **sheet)
    assert (tmp_path / "sheet.png").exists()
    (tmp_path / "none").mkdir()
    assert not write_sheet(tmp_path / "sheet.png", preds=tmp_path / "none", **sheet)
    assert not (tmp_path / "sheet.png").exists()
