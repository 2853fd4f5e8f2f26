"""A stage-2 run that alternates with `a2s hma`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from label_shards import MISSING, write_labels
from processes import Finished, call, pack

from a2s.storage import checkpoints

SIDE, EPOCHS, WARM = 64, 3, 1
UNLABELLED = 4
"""The row of the only image without a label."""


def pack_photographs(shared: Path, root: Path) -> Path:
    """Ten photographs of MSRA-B in shards of four, a rectangle as the label of nine."""
    (root / "photos").mkdir()
    for path in sorted((shared / "data" / "msra1000").glob("*.jpg"))[:10]:
        (root / "photos" / path.name).symlink_to(path)
    data = pack(root / "photos", root / "data", shard_size=4)
    write_labels(data, root / "labels", odd={UNLABELLED: MISSING})
    return data


def train_until_it_waits(shared: Path, data: Path, out: Path) -> Case:
    """Train a run until it needs the first generation of `a2s hma`; treat it as read-only."""
    case = Case(data, shared / "encoders" / "mobilenet_v2_imagenet.safetensors", out)
    done = case.stage2()
    assert done.code == 0, done.stderr
    assert f"stops after epoch 2 of {EPOCHS}; next: a2s hma --run {case.out} --data" in done.stdout
    assert "and then this command again" in done.stdout
    return case


class Case:
    """A run, and the commands stage2 and hma for it."""

    def __init__(self, data: Path, encoder: Path, out: Path) -> None:
        self.data, self.encoder, self.out = data, encoder, out

    def stage2(self, *extra: object) -> Finished:
        flags = f"--image-size {SIDE} --batch-size 4 --epochs {EPOCHS} --warm-epochs {WARM}"
        weights = ("--encoder.name", "mobilenet_v2", "--encoder.weights", self.encoder)
        pair = ("--data", self.data, "--labels", self.data.parent / "labels")
        fixed = (
            *flags.split(),
            "--loader-workers",
            "0",
            "--log-every",
            "1",
            "--rectify",
            "hma",
            "--commit-every",
            "1",
        )
        return call("stage2", *pair, "--out", self.out, *weights, *fixed, *extra)

    def averaging_arguments(self, *extra: object) -> list[str]:
        pair = ("--data", self.data, "--labels", self.data.parent / "labels")
        return [str(part) for part in ("hma", "--run", self.out, *pair, *extra)]

    def averaging(self, *extra: object) -> Finished:
        return call(*self.averaging_arguments("--workers", "0", *extra))

    def copied(self, out: Path) -> Case:
        shutil.copytree(self.out, out)
        return Case(self.data, self.encoder, out)

    def state(self) -> dict[str, object]:
        commit = checkpoints.last_commit(self.out)
        assert commit is not None
        return {"commit": commit.number, **commit.state}

    def events(self) -> list[dict[str, object]]:
        lines = (self.out / "metrics.jsonl").read_text().splitlines()
        return [values for values in map(json.loads, lines) if "event" in values]


def contents(out: Path) -> dict[str, bytes]:
    """Files of a run that must not depend on workers or restarts, by path."""
    folders = ("labels", "averages", "checkpoints", "commits", "rectified")
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for folder in folders
        for path in sorted((out / folder).rglob("*"))
        if path.is_file()
    }
