"""Table I and figures 1, 4, 5 and 8, on drawn scenes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from grid_cells import cells_of, is_empty, read_png, shows

from a2s.config.base import EncoderConfig
from a2s.config.training import Stage1Config
from a2s.data.images import decode, decode_mask, encode_png
from a2s.data.index import Index
from a2s.data.keys import encode_key
from a2s.errors import CheckpointError, DataError
from a2s.evaluation.pictures.cells import choose, coloured, grey, normalised, resized
from a2s.models.inference import InferenceModel
from a2s.models.saved import NetworkInput
from a2s.paper.figures import fig1_4_5, fig8, table1
from a2s.paper.figures.activator import Activator, trained, untrained
from a2s.paper.figures.thresholds import STRATEGIES, inter_class_variance, otsu, to_probability
from a2s.training.setup import start_stage1

UNTRAINED = {"encoder": "mobilenet_v2", "weights": "none", "image_size": 64}


@pytest.fixture
def truth(packed: Path, tmp_path: Path) -> Path:
    """Masks with another size than the images; the first is truncated, the last is missing."""
    folder = tmp_path / "truth"
    folder.mkdir()
    keys = sorted(Index.load(packed).keys.to_pylist())
    for number, key in enumerate(keys[:-1]):
        png = encode_png(np.full((48, 48), 10 * number, np.uint8))
        (folder / f"{key}.png").write_bytes(png if number else png[: len(png) // 2])
    return folder


def image_of(packed: Path, key: str) -> np.ndarray:
    index = Index.load(packed)
    return decode(index.read(int(index.rows_of([key])[0])))


def test_chosen_images_are_evenly_spaced_and_deterministic() -> None:
    keys = [f"{number:02d}" for number in range(10)]
    assert choose(reversed(keys), num_images=4) == ["00", "03", "06", "09"]
    assert choose(keys, num_images=20) == keys
    assert choose(keys, num_images=1) == ["00"]
    assert choose(keys, num_images=1, given=["07", "02"]) == ["07", "02"]
    with pytest.raises(DataError, match="no image with the key x; keys look like 00"):
        choose(keys, num_images=1, given=["02", "x"])


def test_untrained_network_equals_the_start_of_stage1(packed: Path) -> None:
    encoder = EncoderConfig(name="mobilenet_v2", weights="none")
    places = {"data": packed, "out": packed}
    config = Stage1Config(**places, encoder=encoder, image_size=64, seed=3)
    network, _, _ = start_stage1(config, None, device=torch.device("cpu"))
    image_HW3 = image_of(packed, Index.load(packed).key(0))
    ours = untrained(**UNTRAINED, seed=3)(image_HW3)
    stage1 = Activator(InferenceModel(network.eval()), NetworkInput(64))
    np.testing.assert_allclose(ours, stage1(image_HW3), rtol=1e-3, atol=1e-3)


def test_table_1(packed: Path, tmp_path: Path) -> None:
    activator = untrained(**UNTRAINED)
    given = {"data": packed, "made_from": {"seed": 0}}
    table = table1.write(tmp_path / "t", **given, activator=lambda: activator)
    index = Index.load(packed)
    thetas = [activator(decode(index.read(row))) for row in range(len(index))]
    for scaling, to_unit in (("min-max", normalised), ("sigmoid", to_probability)):
        values = [to_unit(theta_hw) for theta_hw in thetas]
        for name, strategy in STRATEGIES.items():
            expected = np.mean([inter_class_variance(v, strategy(v)) for v in values])
            assert table.variance[scaling][name] == pytest.approx(expected)
        assert table.variance[scaling]["Otsu"] == max(table.variance[scaling].values())
    assert all(seconds > 0 for seconds in table.time_per_image_sec.values())
    written = json.loads((tmp_path / "t" / "tab1.json").read_text())
    assert written["variance"] == table.variance
    assert (table.num_images, table.failed) == (8, ())

    def again() -> Activator:
        raise AssertionError("measured already")

    assert table1.write(tmp_path / "t", **given, activator=again) == table
    # A digit that has changed makes it measure again.
    file = tmp_path / "t" / "tab1.json"
    text = file.read_text()
    file.write_text(text.replace('"num_images": 8', '"num_images": 9'))
    with pytest.raises(AssertionError, match="measured already"):
        table1.write(tmp_path / "t", **given, activator=again)
    file.write_text(text)
    other = {**given, "made_from": {"seed": 1}}
    with pytest.raises(AssertionError, match="measured already"):
        table1.write(tmp_path / "t", **other, activator=again)


def test_table_1_names_unreadable_images(packed: Path, tmp_path: Path) -> None:
    broken = _copy_with_damage(packed, tmp_path / "data", row=2)
    table = table1.measure(broken, activator=untrained(**UNTRAINED))
    assert table.num_images == 7
    assert table.failed == (Index.load(packed).key(2),)


def _copy_with_damage(packed: Path, out: Path, *, row: int) -> Path:
    out.mkdir()
    for path in packed.glob("shard-*"):
        (out / path.name).write_bytes(path.read_bytes())
    index = Index.load(out)
    with open(index.shards[int(index.shard_N[row])].path, "r+b") as file:
        file.seek(int(index.offset_N[row]) + 30)
        file.write(b"\0" * 20)
    return out


def test_figure_1(packed: Path, stage1: Path, truth: Path, tmp_path: Path) -> None:
    keys = sorted(Index.load(packed).keys.to_pylist())
    chosen = [keys[0], keys[3], keys[-1]]
    drawn = fig1_4_5.fig1(tmp_path, data=packed, model=stage1, truth=truth, keys=chosen)
    assert drawn.path == tmp_path / "fig1.png"
    assert drawn.empty == (f"truth, {keys[0]}: truncated", f"truth, {keys[-1]}: missing")
    cells = cells_of(read_png(drawn.path), rows=3, titles=5, captions=True)
    activator = trained(stage1)
    for key, row in zip(chosen, cells, strict=True):
        image_HW3 = image_of(packed, key)
        size = image_HW3.shape[:2]
        theta_hw = activator(image_HW3)
        cue = activator.cue(theta_hw, height=size[0], width=size[1])
        assert shows(row[0], image_HW3)
        assert shows(row[1], coloured(theta_hw, size))
        assert shows(row[3], cue.picture_HW)
        frame = fig1_4_5.GREEN if cue.sign > 0 else fig1_4_5.RED
        above_HW = (resized(theta_hw, size) >= 0) * np.uint8(255)
        assert shows(row[2], above_HW, frame=frame)
        share = float((theta_hw >= 0).mean())
        assert (cue.sign > 0) == (share <= 0.5)
    assert is_empty(cells[0][4])
    assert is_empty(cells[2][4])
    assert shows(cells[1][4], np.full(image_of(packed, keys[3]).shape[:2], 30, np.uint8))


def test_figure_1_looks_for_inverted_maps() -> None:
    keys = [f"{number:02d}" for number in range(16)]
    assert fig1_4_5.choose_some_inverted(keys, [], num_images=4) == ["00", "05", "10", "15"]
    mixed = fig1_4_5.choose_some_inverted(keys, ["03", "04", "09"], num_images=4)
    assert mixed == ["00", "03", "09", "15"]
    assert fig1_4_5.choose_some_inverted(keys, keys, num_images=4) == ["00", "05", "10", "15"]
    assert fig1_4_5.choose_some_inverted(keys[:2], keys[:1], num_images=4) == ["00", "01"]


def test_figure_4(packed: Path, stage1: Path, labels: Path, tmp_path: Path) -> None:
    index = Index.load(packed)
    chosen = [index.key(0), index.key(1)]
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{chosen[0]}.png").write_bytes(encode_png(np.eye(96, dtype=np.uint8) * 200))
    drawn = fig1_4_5.fig4(
        tmp_path,
        data=packed,
        model=stage1,
        labels=labels,
        methods={"RBD": other},
        keys=chosen,
    )
    assert drawn.empty == (f"pseudo label, {chosen[1]}: missing", f"RBD, {chosen[1]}: missing")
    cells = cells_of(read_png(drawn.path), rows=2, titles=5)
    label_HW = decode_mask(Index.load(labels).read(0))
    assert shows(cells[0][3], label_HW)
    size = image_of(packed, chosen[0]).shape[:2]
    assert shows(cells[0][4], resized(np.eye(96, dtype=np.uint8) * 200, size))
    assert is_empty(cells[1][3])
    assert is_empty(cells[1][4])


def test_figure_5(packed: Path, tmp_path: Path) -> None:
    drawn = fig1_4_5.fig5(tmp_path, data=packed, num_images=2, activator=untrained(**UNTRAINED))
    assert not drawn.empty
    cells = cells_of(read_png(drawn.path), rows=2, titles=5, captions=True)
    keys = sorted(Index.load(packed).keys.to_pylist())
    activator = untrained(**UNTRAINED)
    for key, row in zip((keys[0], keys[-1]), cells, strict=True):
        image_HW3 = image_of(packed, key)
        unit_hw = normalised(activator(image_HW3))
        assert shows(row[0], image_HW3)
        above_HW = resized(unit_hw, image_HW3.shape[:2]) >= otsu(unit_hw)
        assert shows(row[2], above_HW * np.uint8(255))


def test_figure_8_takes_folders_of_files(scenes, tmp_path: Path) -> None:
    """Images and truth are plain folders; one method lacks an image."""
    names = sorted(path.stem for path in scenes.images.iterdir())
    ours = tmp_path / "ours"
    ours.mkdir()
    for name in names[1:]:
        (ours / f"{name}.png").write_bytes(encode_png(np.full((96, 96), 77, np.uint8)))
    drawn = fig8.fig8(
        tmp_path / "out",
        data=scenes.images,
        truth=scenes.masks,
        methods={"ours": ours, "again": ours},
    )
    first = encode_key(names[0])
    assert drawn.empty == (f"ours, {first}: missing", f"again, {first}: missing")
    assert f"2 empty cells: ours, {first}: missing; again" in str(drawn)
    cells = cells_of(read_png(drawn.path), rows=len(names), titles=4)
    for name, row in zip(names[1:], cells[1:], strict=True):
        (image,) = scenes.images.glob(f"{name}.*")
        (mask,) = scenes.masks.glob(f"{name}.*")
        assert shows(row[0], decode(image.read_bytes()))
        assert shows(row[1], decode_mask(mask.read_bytes()))
        size = decode_mask(mask.read_bytes()).shape
        assert shows(row[2], np.full(size, 77, np.uint8))


def test_damaged_images_become_cells_with_a_reason(
    packed: Path, stage1: Path, tmp_path: Path
) -> None:
    broken = _copy_with_damage(packed, tmp_path / "data", row=2)
    key = Index.load(packed).key(2)
    for figure, model in (
        (fig1_4_5.fig1, {"model": stage1}),
        (fig1_4_5.fig5, {"activator": untrained(**UNTRAINED)}),
    ):
        drawn = figure(tmp_path, data=broken, keys=[key], **model)
        assert drawn.empty[:2] == (f"image, {key}: damaged", drawn.empty[1])
        assert all(cell.endswith("no image") for cell in drawn.empty[1:])


def test_a_photograph_next_to_its_mask_is_the_image(tmp_path: Path) -> None:
    """Some benchmarks are distributed this way: `a.jpg` and `a.png` in one folder."""
    photo = np.full((20, 30, 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), photo)
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((20, 30), np.uint8)))
    drawn = fig8.fig8(tmp_path / "out", data=tmp_path, methods={}, truth=tmp_path)
    cells = cells_of(read_png(drawn.path), rows=1, titles=2)
    assert abs(int(cells[0][0][80, 80, 0]) - 90) < 3
    assert cells[0][1][80, 80, 0] == 0


def test_a_detector_has_no_activation_map(stage2: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is of kind detector"):
        fig1_4_5.fig1(tmp_path, data=packed, model=stage2)


def test_grey_and_coloured_span_their_scale() -> None:
    ramp_hw = np.linspace(-3, 5, 20, dtype=np.float32).reshape(4, 5)
    picture_HW = grey(ramp_hw, (4, 5))
    assert (picture_HW.min(), picture_HW.max()) == (0, 255)
    assert (np.diff(picture_HW.ravel().astype(int)) > 0).all()
    picture_HW3 = coloured(ramp_hw, (8, 10))
    assert picture_HW3.shape == (8, 10, 3)
    assert tuple(picture_HW3[-1, -1]) == (253, 231, 37)
