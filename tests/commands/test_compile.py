"""`--compile`: the same training, and the same names in its checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from label_shards import write_labels
from processes import pack, run_ranks

from a2s.__main__ import run
from a2s.parallel import rank_main
from a2s.storage import checkpoints
from a2s.training import stage2

FLAGS = ("--no-compile", "--compile")


def trained_both_ways(
    command: list[str], tmp_path: Path
) -> tuple[list[list[float]], list[dict[str, torch.Tensor]]]:
    """Losses of every log line and the last weights, without and with --compile."""
    losses, weights = [], []
    for flag in FLAGS:
        AcceleratorState._reset_state(reset_partial_state=True)
        assert run([*command, "--out", str(tmp_path / flag), flag]) == 0
        lines = (tmp_path / flag / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        commit = checkpoints.last_commit(tmp_path / flag)
        assert commit is not None
        weights.append(checkpoints.load(commit)[0])
    AcceleratorState._reset_state(reset_partial_state=True)
    return losses, weights


# torch.compile looks at the gradients of its inputs, and warns of its own look.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("stage", "precision", "flags"),
    [
        ("stage1", "fp32", ["--cache-gib", "0", "--lr", "0.01"]),
        ("stage2", "fp32", ["--warm-epochs", "1"]),
        ("stage2", "bf16", ["--warm-epochs", "1"]),
        ("stage2", "fp32", ["--warm-epochs", "1", "--detector", "minet"]),
    ],
)
def test_compiled_training_is_the_same_training(
    scenes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    precision: str,
    flags: list[str],
) -> None:
    """Graphs are captured and differentiated as for a GPU, and run without generated code."""
    data = pack(scenes.train, tmp_path / "data")
    labels = write_labels(data, tmp_path / "labels")
    plain, compiled = torch.compile, []

    def without_code(function, **settings):
        compiled.append(function)
        return plain(function, backend="aot_eager", fullgraph=True, **settings)

    monkeypatch.setattr(torch, "compile", without_code)
    monkeypatch.setattr(rank_main, "report_to_launcher", lambda function: function)
    command = [stage, "--data", str(data), "--precision", precision, "--epochs", "2"]
    command += ["--encoder.name", "mobilenet_v2", "--image-size", "32", "--batch-size", "4"]
    command += ["--loader-workers", "0", "--log-every", "1", *flags]
    if stage == "stage2":
        command += ["--labels", str(labels)]
    losses, weights = trained_both_ways(command, tmp_path)
    assert len(compiled) == 2
    exact = 1e-5 if precision == "fp32" else 2e-2
    later = 1e-3 if precision == "fp32" and "minet" not in flags else 5e-2
    assert losses[0][:1] == pytest.approx(losses[1][:1], abs=exact)
    # Training amplifies the last bits of every sum, and BatchNorm of few pixels amplifies more.
    assert losses[0] == pytest.approx(losses[1], abs=later)
    assert weights[0].keys() == weights[1].keys(), "compiled networks' tensors have other names"


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_nobody_keeps_what_a_compiled_function_returned(
    scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Where a GPU replays it, the next call overwrites it; here that is NaN."""
    data = pack(scenes.train, tmp_path / "data")
    labels = write_labels(data, tmp_path / "labels")
    overwritten = []

    def overwriting(function, **settings):
        returned: list[torch.Tensor] = []

        def call(*arguments, **named):
            for tensor in returned:
                tensor.data.fill_(math.nan)
                overwritten.append(tensor.shape)
            returned.clear()
            result = function(*arguments, **named)
            leaves = torch.utils._pytree.tree_leaves(result)
            returned.extend(leaf for leaf in leaves if leaf.is_floating_point())
            return result

        return call

    monkeypatch.setattr(torch, "compile", overwriting)
    monkeypatch.setattr(rank_main, "report_to_launcher", lambda function: function)
    # As on a GPU: a step is one call.
    monkeypatch.setattr(stage2, "micro_batches", lambda count, **_: [slice(0, count)])
    command = [stage, "--data", str(data), "--epochs", "3", "--encoder.name", "mobilenet_v2"]
    command += ["--image-size", "32", "--batch-size", "4", "--loader-workers", "0"]
    command += ["--log-every", "2"]
    command += ["--labels", str(labels), "--warm-epochs", "1"] if stage == "stage2" else []
    losses, weights = trained_both_ways(command, tmp_path)
    assert len(overwritten) > 2 * len(losses[0])
    assert losses[0] == losses[1]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    rectified = [sorted((tmp_path / flag).glob("rectified/*.tar")) for flag in FLAGS]
    assert [path.read_bytes() for path in rectified[0]] == [p.read_bytes() for p in rectified[1]]
    assert bool(rectified[0]) == (stage == "stage2")


def test_several_ranks_are_told_that_they_cannot_compile(scenes, tmp_path: Path) -> None:
    data = pack(scenes.train, tmp_path / "data")
    command = ["stage1", "--data", str(data), "--out", str(tmp_path / "out"), "--compile"]
    command += ["--encoder.name", "mobilenet_v2", "--image-size", "32"]
    done = run_ranks(command, world=2)
    assert [rank.code for rank in done] == [2, 2]
    assert sum("leave --compile out" in rank.stderr for rank in done) == 1
