"""A label set belongs to one model, and says how another differs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from labelling_run import config, encoded, shard_bytes, write_data, write_model

from a2s.commands import label
from a2s.errors import ConfigError


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, data, and the labels that it made of them."""
    folder = tmp_path_factory.mktemp("label")
    model = write_model(folder / "model.safetensors")
    data = write_data(folder / "data", [[("a", encoded(20, 30, seed=1))]])
    assert label.run(config(model, data, folder / "labels")) == 0
    return model, data, folder / "labels"


def refusal(model: Path, data: Path, labels: Path) -> str:
    before = shard_bytes(labels)
    with pytest.raises(ConfigError) as caught:
        label.run(config(model, data, labels))
    assert shard_bytes(labels) == before
    assert "inputs.model_sha256: its content is not what it was" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"encoder": "resnet50"}, "encoder.name: mobilenet_v2 there, resnet50 now"),
        ({"fusion_stride": 8}, "fusion_stride: 4 there, 8 now"),
    ],
)
def test_a_resumed_label_set_names_the_difference_of_another_model(
    labelled: tuple[Path, Path, Path], change: dict[str, object], difference: str, tmp_path: Path
) -> None:
    _, data, labels = labelled
    other = write_model(tmp_path / "other.safetensors", **change)  # type: ignore[arg-type]
    text = refusal(other, data, labels)
    assert re.findall(r"inputs\.model\.(.*?)[;)]", text) == [difference]


def test_other_weights_are_another_model(labelled: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, data, labels = labelled
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    (tmp_path / "other.safetensors").write_bytes(content)
    assert "inputs.model." not in refusal(tmp_path / "other.safetensors", data, labels)


def test_the_same_model_elsewhere_is_the_same(
    labelled: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    model, data, labels = labelled
    (tmp_path / "copy.safetensors").write_bytes(model.read_bytes())
    assert label.run(config(tmp_path / "copy.safetensors", data, labels)) == 0


def test_labels_of_the_baseline_need_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [(name, encoded(40, 60, seed=number)) for number, name in enumerate("abcd")]
    data = write_data(tmp_path / "data", [images[:3], images[3:]])
    for workers in (0, 2):
        settings = config(tmp_path / "x", data, tmp_path / f"labels{workers}")
        settings = settings.model_copy(update={"model": "rbd", "workers": workers})
        assert label.run(settings) == 0
        assert "next: a2s stage1 --data" in capsys.readouterr().out
    found = shard_bytes(tmp_path / "labels0")
    assert found == shard_bytes(tmp_path / "labels2")
    assert sum(name.endswith(".tar") for name in found) == 2
    model = write_model(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"inputs\.baseline: rbd there, unset now"):
        label.run(config(model, data, tmp_path / "labels0"))
