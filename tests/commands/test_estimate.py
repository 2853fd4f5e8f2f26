"""`a2s estimate` on real shards, with and without a model, and on what it cannot time."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from labelling_run import encoded, write_data, write_model

from a2s.commands import estimate
from a2s.config.base import EncoderConfig, RefineConfig
from a2s.config.commands import EstimateConfig
from a2s.data.chunks import Chunk
from a2s.errors import DataError
from a2s.labels.making import chunk
from a2s.parallel import pool


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shards = [
        [(f"{number}/{n}", encoded(50, 70, seed=10 * number + n + 1)) for n in range(8)]
        for number in range(2)
    ]
    return write_data(tmp_path_factory.mktemp("estimate") / "data", shards)


def test_it_prints_hours_bytes_pool_and_mix_and_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    before = sorted(path.name for path in data.iterdir())
    settings = EstimateConfig(data=data, model=model, workers=0, sample=6, images=1_000_000)
    assert estimate.run(settings) == 0
    out = capsys.readouterr().out
    assert "1,000,000 images like those of" in out
    for word in ("decode", "network", "refine", "write", "core-hours", "bytes", "here", "mix"):
        assert re.search(rf"^  {word}", out, re.MULTILINE), word
    match = re.search(r"core-hours ([\d.,]+) \(±", out)
    assert match is not None
    assert float(match[1].replace(",", "")) > 0
    assert "best pool  " in out
    assert sorted(path.name for path in data.iterdir()) == before
    assert list(tmp_path.iterdir()) == [model]


def test_a_gpu_is_timed_with_as_many_images_as_a_large_job_gives_it(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A GPU in name: what runs there finds none and computes on the CPU."""
    real, lengths = estimate.time_chunks, []

    def noted(chunks: list[Chunk], *rest: Any, **settings: Any) -> Any:
        lengths.append([len(one.part) for one in chunks])
        return real(chunks, *rest, **settings)

    monkeypatch.setattr(pool, "has_gpu", lambda address: True)
    monkeypatch.setattr(estimate, "time_chunks", noted)
    monkeypatch.setattr(estimate, "GPU_CHUNK", 5)
    model = write_model(tmp_path / "model.safetensors")
    settings = EstimateConfig(data=data, model=model, workers=0, sample=4, images=1000)
    refine = RefineConfig(backend="torch")
    assert estimate.run(settings.model_copy(update={"refine": refine})) == 0
    assert lengths[-1][0] == 5
    assert max(lengths[1]) == 1
    assert "no GPU was found" not in capsys.readouterr().out


def test_without_a_model_an_untrained_network_is_timed(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = EstimateConfig(
        data=data,
        encoder=EncoderConfig(name="mobilenet_v2"),
        image_size=64,
        workers=0,
        sample=4,
    )
    assert estimate.run(settings) == 0
    out = capsys.readouterr().out
    assert "16 images like those of" in out
    # What `a2s run` trains has three heads.
    assert "network    mobilenet_v2, 4 heads, frames 0 and 64 px, images of 64 px; untrained" in out


def test_the_model_that_was_timed_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    assert estimate.run(EstimateConfig(data=data, model=model, workers=0, sample=2)) == 0
    named = f"network    mobilenet_v2, 1 head, frame 0 px, images of 64 px; {model}"
    assert named in capsys.readouterr().out


@pytest.mark.slow
def test_waiting_is_no_core_time(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Asleep as a process is that other work keeps from its core."""
    real = chunk.refine

    def late(*args: Any, **options: Any) -> Any:
        time.sleep(1.0)
        return real(*args, **options)

    monkeypatch.setattr(chunk, "refine", late)
    model = write_model(tmp_path / "model.safetensors")
    settings = EstimateConfig(data=data, model=model, workers=0, sample=3, images=3600)
    assert estimate.run(settings) == 0
    out = capsys.readouterr().out
    match = re.search(r"core-hours ([\d.,]+) \(±", out)
    assert match is not None
    assert 0 < float(match[1]) < 0.7
    assert re.search(r"waiting    \d\d% of the workers' time", out)


def test_images_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors")
    broken = write_data(tmp_path / "data", [[("a", encoded(30, 30, seed=1)[:-40])]])
    with pytest.raises(DataError, match=r"none of 1 sampled images can be read; the first: a in"):
        estimate.run(EstimateConfig(data=broken, model=model, workers=0, sample=2))
    empty = write_data(tmp_path / "empty", [[]])
    with pytest.raises(DataError, match="holds no images"):
        estimate.run(EstimateConfig(data=empty, model=model, workers=0))
