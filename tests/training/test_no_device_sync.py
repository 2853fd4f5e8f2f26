"""Between two log lines a training loop never asks for what the device is still computing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from device_sync import Waits
from label_shards import write_labels
from processes import pack

from a2s.__main__ import run
from a2s.parallel import rank_main
from a2s.training import setup, stage1, stage2
from a2s.training.features.gpu_cache import GpuFeatureCache
from a2s.training.throughput import Meter


@pytest.mark.parametrize(
    "read",
    [
        lambda x: float(x.sum()),
        lambda x: bool(x.isfinite().all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: (x + 1).cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.to("cpu", copy=True),
        lambda x: x.detach().tolist(),
        lambda x: 1 / x.mean().item(),
    ],
)
def test_what_reads_is_found(read, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, other = torch.ones(3), torch.ones(3)
    waits = Waits(monkeypatch)
    waits.follow([weights])
    with waits:
        read(other)
        computed = 2 * weights[torch.tensor([0, 2])]
    assert not waits.found
    with waits:
        read(computed)
    assert waits.found
    assert all(Path(__file__).name in where for where in waits.found)


def test_what_was_sent_is_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    waits, here = Waits(monkeypatch), torch.ones(3)
    with waits:
        there = here.to(torch.device("cpu"), non_blocking=True)
        here.tolist()
        assert not waits.found
        there.tolist()
    assert waits.found


@pytest.mark.parametrize(
    ("stage", "flags"),
    [
        ("stage1", []),
        ("stage1", ["--drop-pixels"]),
        (
            "stage1",
            ["--parity.encoder-mode", "trained", "--image-size", "64", "--parity.boundary", "db1"],
        ),
        ("stage2", ["--warm-epochs", "1"]),
        ("stage2", ["--warm-epochs", "1", "--detector", "minet", "--no-binarise"]),
    ],
)
def test_a_step_reads_nothing_of_the_device(
    scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, flags: list[str]
) -> None:
    data = pack(scenes.train, tmp_path / "data")
    waits, steps = Waits(monkeypatch), []
    stages = {"stage1": stage1, "stage2": stage2}
    make, arrived, done = (
        getattr(stages[stage], f"start_{stage}"),
        Meter.data_arrived,
        Meter.step_done,
    )

    def start(*args, **named):
        model, parameters, optimizer = make(*args, **named)
        waits.follow([*model.parameters(), *model.buffers(), optimizer.found_inf])
        return model, parameters, optimizer

    def enter(meter) -> None:
        arrived(meter)
        waits.__enter__()

    def leave(meter, *, num_images: int) -> None:
        waits.__exit__(None, None, None)
        steps.append(num_images)
        done(meter, num_images=num_images)

    monkeypatch.setattr(stages[stage], f"start_{stage}", start)
    monkeypatch.setattr(Meter, "data_arrived", enter)
    monkeypatch.setattr(Meter, "step_done", leave)
    monkeypatch.setattr(rank_main, "report_to_launcher", lambda function: function)
    # The features of a GPU, which also take the weights' place where they are kept.
    monkeypatch.setattr(
        setup, "open_cache", lambda device, *_, made_from, **shape: kept(waits, device, shape)
    )
    command = [stage, "--data", str(data), "--out", str(tmp_path / "out"), "--epochs", "3"]
    command += ["--encoder.name", "mobilenet_v2", "--image-size", "32", "--batch-size", "4"]
    command += ["--loader-workers", "0", "--log-every", "2", *flags]
    if stage == "stage2":
        command += ["--labels", str(write_labels(data, tmp_path / "labels"))]
    try:
        assert run(command) == 0
    finally:
        waits.close()
    assert len(steps) == 6
    assert waits.num_followed > 100 * len(steps)
    assert waits.found == []


def kept(waits: Waits, device: torch.device, shape: dict[str, object]) -> GpuFeatureCache:
    cache = GpuFeatureCache(device, **shape)
    waits.follow([cache._store_NL, cache._finite, cache._largest])
    return cache
