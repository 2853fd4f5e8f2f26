"""Small data, a stage-1 network and a short stage-2 run for the figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_shards import write_labels
from labelling_run import write_model
from processes import pack

from a2s.__main__ import run
from a2s.parallel import rank_main


@pytest.fixture(scope="session")
def packed(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of eight scenes; `labels`, `stage1.safetensors` and `stage2` lie beside them."""
    return pack(scenes.train, tmp_path_factory.mktemp("figures") / "data")


@pytest.fixture(scope="session")
def labels(packed: Path) -> Path:
    return write_labels(packed, packed.parent / "labels", odd={1: "no label"})


@pytest.fixture(scope="session")
def stage1(packed: Path) -> Path:
    return write_model(packed.parent / "stage1.safetensors")


@pytest.fixture(scope="session")
def stage2(packed: Path, labels: Path) -> Path:
    """Two epochs, of which the second corrects labels."""
    out = packed.parent / "stage2"
    flags = "--encoder.name mobilenet_v2 --image-size 32 --batch-size 4 --loader-workers 0"
    flags += " --epochs 2 --warm-epochs 1 --lam 0.5"
    folders = ["--data", str(packed), "--labels", str(labels), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        # It is for launched processes, and points the fault handler at their stderr.
        patch.setattr(rank_main, "report_to_launcher", lambda function: function)
        assert run(["stage2", *folders, *flags.split()]) == 0
    return out
