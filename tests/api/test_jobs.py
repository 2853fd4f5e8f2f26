"""Commands as functions, and the labels that they make."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

import a2s
from a2s.data.synthetic import render_folder
from a2s.errors import ConfigError, DataError, LabelError


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_labels_are_those_of_the_images(scenes, labels) -> None:
    stems = sorted(path.stem for path in scenes.train.iterdir())
    assert labels.keys() == stems
    assert len(labels) == len(list(labels)) == len(stems)
    for label in labels:
        assert label.mask.shape[::-1] == size_of(next(scenes.train.glob(f"{label.key}.*")))
        assert label.mask.dtype == np.uint8
        assert 0 <= label.quality <= 1
        assert label.numbers["quality"] == label.quality
        assert "offset" not in label.numbers
        assert label.numbers["area_share"] == pytest.approx((label.mask > 127).mean(), abs=1e-6)
    assert labels[-1].key == labels[stems[-1]].key == stems[-1]
    assert labels.numbers("quality").tolist() == [label.quality for label in labels]


def test_what_is_not_there_is_an_error(data, labels) -> None:
    with pytest.raises(IndexError):
        labels[len(labels)]
    with pytest.raises(KeyError, match="absent"):
        labels["absent"]
    with pytest.raises(LabelError, match="holds images"):
        a2s.LabelSet(data)
    with pytest.raises(DataError, match="no finished shards"):
        a2s.LabelSet(data.with_name("absent"))


def test_the_dataset_pairs_images_with_labels(scenes, data, labels) -> None:
    dataset = labels.dataset(data)
    assert len(dataset) == len(labels)
    for number, label in enumerate(labels):
        image_3HW, label_1HW, quality = dataset[number]
        pixels = np.asarray(Image.open(next(scenes.train.glob(f"{label.key}.*"))).convert("RGB"))
        assert np.array_equal((image_3HW * 255).round().byte().permute(1, 2, 0).numpy(), pixels)
        assert np.array_equal((label_1HW[0] * 255).round().byte().numpy(), label.mask)
        assert float(quality) == pytest.approx(label.quality)


def test_labels_are_exported(data, labels, tmp_path: Path) -> None:
    out = labels.export(data, tmp_path / "out", format="png", instances=True, workers=0)
    for label in labels:
        with Image.open(out / "masks" / f"{label.key}.png") as image:
            assert ((np.asarray(image) > 0) == (label.mask > 127)).all()
    with pytest.raises(ConfigError, match="instances: True there, False now"):
        labels.export(data, out, format="png", workers=0)


def test_a_loader_stacks_squares(data, labels) -> None:
    loader = DataLoader(labels.dataset(data, size=48), batch_size=4)
    for image_B3SS, label_B1SS, quality_B in loader:
        assert image_B3SS.shape == (4, 3, 48, 48)
        assert label_B1SS.shape == (4, 1, 48, 48)
        assert quality_B.shape == (4,)
        assert 0 <= image_B3SS.min() < image_B3SS.max() <= 1
        assert 0 <= label_B1SS.min() < label_B1SS.max() <= 1


def test_poor_labels_are_left_out(data, labels) -> None:
    qualities = sorted(label.quality for label in labels)
    bound = (qualities[2] + qualities[3]) / 2
    assert qualities[2] < bound < qualities[3]
    dataset = labels.dataset(data, min_quality=bound)
    assert len(dataset) == sum(quality >= bound for quality in qualities)
    assert all(float(dataset[number][2]) >= bound for number in range(len(dataset)))
    with pytest.raises(LabelError, match=r"no label of .* has a quality"):
        labels.dataset(data, min_quality=qualities[-1] + 0.001)


def test_images_of_other_labels_are_refused(labels, tmp_path) -> None:
    render_folder(tmp_path / "others", num_train=1, num_test=1, side_px=64, seed=1)
    (photo,) = (tmp_path / "others" / "train").iterdir()
    photo.rename(photo.with_name(f"another{photo.suffix}"))
    other = a2s.shard([photo.with_name(f"another{photo.suffix}")], tmp_path / "data", workers=0)
    with pytest.raises(DataError, match="was made of other images"):
        labels.dataset(other)


def test_a_detector_is_trained_and_corrects_labels(scenes, data, labels) -> None:
    settings = {
        "encoder": {"name": "mobilenet_v2"},
        "image_size": 64,
        "batch_size": 4,
        "epochs": 2,
        "warm_epochs": 1,
        "loader_workers": 0,
    }
    out = data.with_name("stage2")
    detector = a2s.train(data, labels.folder, out, **settings)
    photos = sorted(scenes.images.iterdir())
    assert [p.size for p in detector.predict(photos)] == [size_of(p) for p in photos]
    corrected = a2s.LabelSet(out / "rectified")
    assert corrected.keys() == labels.keys()
    assert corrected[0].quality is None
    assert math.isnan(float(corrected.dataset(data)[0][2]))
    with pytest.raises(LabelError, match="no quality numbers"):
        corrected.dataset(data, min_quality=0.5)


def test_scores_are_those_of_the_file(scenes, tmp_path, detector_file) -> None:
    detector = a2s.Detector.load(detector_file)
    photos = sorted(scenes.images.iterdir())
    (tmp_path / "pred").mkdir()
    for photo, found in zip(photos, detector.predict(photos), strict=True):
        found.image().save(tmp_path / "pred" / f"{photo.stem}.png")
    scores = a2s.evaluate(tmp_path / "pred", scenes.masks, tmp_path / "scores", workers=0)
    assert scores["num_images"] == len(photos)
    truth = [np.asarray(Image.open(scenes.masks / f"{p.stem}.png")) > 127 for p in photos]
    maps = [p.saliency for p in detector.predict(photos)]
    # Maps are stretched to 0..1 for their scores.
    maps = [(m - m.min()) / (m.max() - m.min()) for m in maps]
    mae = np.mean([np.abs(m - t).mean() for m, t in zip(maps, truth, strict=True)])
    assert scores["mae"] == pytest.approx(mae, abs=1e-4)


def test_nothing_is_printed_to_standard_output(scenes, tmp_path, capsys) -> None:
    a2s.shard(scenes.images, tmp_path / "data", workers=0)
    found = capsys.readouterr()
    assert found.out == ""
    assert "shard: wrote 4 images" in found.err


def test_a_wrong_setting_is_named(scenes, tmp_path) -> None:
    with pytest.raises(ConfigError, match="shard_sise"):
        a2s.shard(scenes.images, tmp_path / "data", shard_sise=5)
    assert not (tmp_path / "data").exists()


def test_too_many_failures_are_an_error(scenes, tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    good = sorted(scenes.images.iterdir())[0]
    (tmp_path / "photos" / good.name).write_bytes(good.read_bytes())
    (tmp_path / "photos" / "bad.png").write_bytes(good.read_bytes()[:100])
    settings = {"images": tmp_path / "photos", "out": tmp_path / "data", "workers": 0}
    with pytest.raises(DataError, match=r"too many images failed; see .*failures\.jsonl"):
        a2s.shard(**settings)
    # The rest is there.
    assert Path(a2s.shard(**settings, max_failure_rate=0.5), "shard-000000.tar").exists()
