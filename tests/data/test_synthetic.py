"""Synthetic scenes: deterministic bytes, exact masks, shadows, the command line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from a2s.data.synthetic import MANIFEST, draw_scene, main, render_folder


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert render_folder(tmp_path / name, num_train=2, num_test=2, side_px=64, seed=seed)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    ours, others = files(tmp_path / "a"), files(tmp_path / "c")
    assert all(ours[name] != others[name] for name in ours)


def test_scene_does_not_depend_on_earlier_scenes(tmp_path):
    render_folder(tmp_path / "few", num_train=1, num_test=1, side_px=64, seed=5)
    scene = draw_scene(seed=5, index=1, side_px=64)
    mask = np.array(Image.open(tmp_path / "few/test/masks/scene-0001.png"))
    assert np.array_equal(mask, scene.mask_HW)


@pytest.mark.parametrize("index", range(12))
def test_mask_is_exact_and_plausible(index):
    scene = draw_scene(seed=11, index=index, side_px=128)
    assert scene.image_HW3.shape == (*scene.mask_HW.shape, 3)
    assert scene.image_HW3.dtype == scene.mask_HW.dtype == np.uint8
    assert max(scene.mask_HW.shape) <= 128
    assert set(np.unique(scene.mask_HW)) == {0, 255}
    assert 0.005 < (scene.mask_HW > 0).mean() < 0.5
    _, num_objects = ndimage.label(scene.mask_HW, structure=np.ones((3, 3)))
    assert 1 <= num_objects <= 3


def test_shadows_darken_the_ground_and_are_not_in_the_mask():
    darker = []
    for index in range(20):
        scene = draw_scene(seed=2, index=index, side_px=128)
        shadow = scene.shadow_HW > 0.3
        assert not (shadow & (scene.mask_HW > 0)).any()
        ground = ndimage.binary_dilation(shadow, iterations=6) & ~shadow & (scene.mask_HW == 0)
        if shadow.sum() > 50 and ground.sum() > 50:
            grey = scene.image_HW3.mean(axis=2)
            darker.append(grey[shadow].mean() < grey[ground].mean())
    assert len(darker) >= 15
    assert all(darker)


def test_second_rendering_is_a_no_op_and_another_request_renders_again(tmp_path):
    request = {"num_train": 1, "num_test": 1, "side_px": 48, "seed": 0}
    assert render_folder(tmp_path, **request)
    before = (tmp_path / "train/scene-0000.jpg").stat().st_mtime_ns
    assert not render_folder(tmp_path, **request)
    assert (tmp_path / "train/scene-0000.jpg").stat().st_mtime_ns == before
    assert render_folder(tmp_path, **{**request, "num_train": 2})
    assert sorted(files(tmp_path)) == [
        MANIFEST,
        "test/images/scene-0002.jpg",
        "test/masks/scene-0002.png",
        "train/scene-0000.jpg",
        "train/scene-0001.jpg",
    ]


def test_interrupted_rendering_starts_again(tmp_path):
    request = {"num_train": 2, "num_test": 1, "side_px": 48, "seed": 0}
    render_folder(tmp_path, **request)
    whole = files(tmp_path)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / "train/scene-0001.jpg").unlink()
    assert render_folder(tmp_path, **request)
    assert files(tmp_path) == whole


def test_command_line(tmp_path, capsys):
    assert main([str(tmp_path), "--num-train", "1", "--num-test", "1", "--side-px", "40"]) == 0
    assert "rendered 1 + 1 scenes" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--side-px", "8"])
    assert stopped.value.code == 2
