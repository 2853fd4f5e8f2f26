"""`a2s shard --masks`: masks as people have them, and what becomes of those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from packing_run import fill, made, photo, shard
from PIL import Image

from a2s.data import images
from a2s.data.index import Index
from a2s.errors import DataError
from a2s.evaluation.pairs import find_truths
from a2s.storage.listing import Folder
from a2s.storage.status.shards import ShardsStatus

MASK = (photo(9)[..., 0] > 128).astype(np.uint8) * 255


def failures(out: Path) -> dict[str, str]:
    lines = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    return {line["key"]: line["reason"] for line in lines}


def write_masks(folder: Path, **masks: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, mask_HW in masks.items():
        Image.fromarray(mask_HW).save(folder / f"{name[1:]}.png")
    return folder


def test_masks_of_numbers_are_packed_as_plain_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = fill(tmp_path / "in", 2)
    masks = write_masks(tmp_path / "masks", _000=MASK // 255, _001=MASK)
    out = tmp_path / "out"
    assert shard(source, out, masks=masks) == 0
    for key in ("000", "001"):
        data = find_truths(out).locate(key).read()
        np.testing.assert_array_equal(images.decode_mask(data), MASK)
    said = "shard: masks read 1 as numbers of objects or classes"
    assert said in capsys.readouterr().out
    assert shard(source, out, masks=masks) == 0
    assert said in capsys.readouterr().out


def test_a_mask_of_nearly_the_size_is_resized_and_another_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = fill(tmp_path / "in", 3, side=100)
    mask_HW = (photo(9, side=100)[..., 0] > 128).astype(np.uint8) * 255
    near_HW, far_HW = mask_HW[:98, :104], mask_HW[:97]
    masks = write_masks(tmp_path / "masks", _000=mask_HW, _001=near_HW, _002=far_HW)
    out = tmp_path / "out"
    assert shard(source, out, masks=masks) == 3
    index = Index.load(out)
    assert index.keys.to_pylist() == ["000", "001", "002"]
    truths = find_truths(out)
    assert truths.keys == {"000", "001"}
    assert images.decode_mask(truths.locate("001").read()).shape == (100, 106)
    assert failures(out) == {"002": "mask_size"}
    printed = capsys.readouterr().out
    assert "1 masks resized to their images" in printed
    assert "1 of 3 masks left out (33.33%, limit 1.00%)" in printed
    assert shard(source, out, masks=masks, max_failure_rate=0.4) == 0


def test_a_damaged_mask_costs_no_image(tmp_path: Path) -> None:
    from a2s.commands.status import status_of

    source = fill(tmp_path / "in", 3)
    masks = write_masks(tmp_path / "masks", _000=MASK, _001=MASK)
    (masks / "001.png").write_bytes((masks / "001.png").read_bytes()[:60])
    (masks / "002.png").symlink_to(masks / "nowhere")
    out = tmp_path / "out"
    assert shard(source, out, masks=masks, max_failure_rate=0.6) == 3
    assert shard(source, out, masks=masks, max_failure_rate=0.7) == 0
    assert len(Index.load(out)) == 3
    assert failures(out) == {"001": "mask_truncated", "002": "mask_unreadable"}
    status = status_of(Folder.open(str(out)), now_sec=0)
    assert isinstance(status, ShardsStatus)
    assert status.num_failed == 0


@pytest.mark.parametrize(("value", "cause"), [(0, "salient pixel"), (255, "photographs")])
def test_masks_without_two_sides_end_with_the_likely_cause(
    value: int, cause: str, tmp_path: Path
) -> None:
    source = fill(tmp_path / "in", 1)
    masks = write_masks(tmp_path / "masks", _000=np.full_like(MASK, value))
    with pytest.raises(DataError, match=f"{masks}.*{cause}"):
        shard(source, tmp_path / "out", masks=masks)


def test_masks_that_all_have_another_size_end_the_command(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 1)
    masks = write_masks(tmp_path / "masks", _000=MASK[:5])
    with pytest.raises(DataError, match="not one of the 1 masks could be used"):
        shard(source, tmp_path / "out", masks=masks)


def test_without_masks_a_shard_says_nothing_of_them(tmp_path: Path) -> None:
    shard(fill(tmp_path / "in", 1), tmp_path / "out")
    manifest = json.loads(made(tmp_path / "out")["shard-000000.json"])
    assert "masks" not in manifest


def test_a_pattern_packs_masks_of_other_names(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 2)
    masks = write_masks(tmp_path / "masks", _000_mask=MASK, _001_mask=MASK)
    with pytest.raises(DataError, match=r"--mask-pattern '\{stem\}_mask.png' would pair"):
        shard(source, tmp_path / "out", masks=masks)
    # Nothing was written, so the corrected command may use the folder.
    assert shard(source, tmp_path / "out", masks=masks, mask_pattern="{stem}_mask.png") == 0
    assert find_truths(tmp_path / "out").keys == {"000", "001"}
