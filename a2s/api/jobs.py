"""Commands as functions: `shard`, `label`, `train`, `evaluate`.

They write the same folders as on the command line, and resume in the same way. Further settings are
given by name as in docs/settings.md, nested ones as a dictionary: `encoder={"name": "resnet50"}`.
What a command prints goes to standard error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from a2s.api.command import run_command
from a2s.api.readable import readable
from a2s.evaluation.score_files import read_scores

if TYPE_CHECKING:
    from a2s.api.detector import Detector
    from a2s.api.label_set import LabelSet

AnyPath = str | os.PathLike[str]


def shard(images: AnyPath | list[AnyPath], out: AnyPath, **settings: Any) -> Path:
    """Pack images into shards (`a2s shard`) and return their folder.

    `images` are folders, files, `.txt` lists or tars (paths or URLs).

    Raises:
        ConfigError: a setting or the output folder is wrong.
        DataError: an input holds no image, or too many could not be used.
    """
    sources = images if isinstance(images, list) else [images]
    run_command("shard", {"images": [os.fspath(s) for s in sources], "out": out, **settings})
    return Path(out)


def label(data: AnyPath, out: AnyPath, *, model: AnyPath = "bundled", **settings: Any) -> LabelSet:
    """Make pseudo labels of the images in shards (`a2s label`) and return them.

    `model` is a run folder or file of either stage, `bundled`, the activation network inside the
    package, or `rbd`, a baseline without training.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: a setting or the output folder is wrong.
        DataError: the shards are not finished, or too many images failed.
    """
    from a2s.api.label_set import LabelSet

    run_command("label", {"data": data, "out": out, "model": model, **settings})
    return LabelSet(out)


def train(
    data: AnyPath,
    labels: AnyPath | None,
    out: AnyPath,
    *,
    stage: Literal[1, 2] = 2,
    **settings: Any,
) -> Detector:
    """Train in this process, on one device, and return the network of the last commit.

    Stage 2 (`a2s stage2`) trains a detector on labels. Stage 1 (`a2s stage1`) trains the activation
    network, whose maps become labels; its `labels` may be None. For several GPUs use the commands.

    Raises:
        ConfigError: a setting or the output folder is wrong.
        DataError, LabelError: images or labels are not finished or damaged.
        WeightsError: the encoder's weights are missing or do not fit.
    """
    from a2s.api.detector import Detector

    run_command(f"stage{stage}", {"data": data, "labels": labels, "out": out, **settings})
    return Detector.load(out)


def evaluate(pred: AnyPath, truth: AnyPath, out: AnyPath, **settings: Any) -> dict[str, Any]:
    """Score predictions or labels against masks (`a2s evaluate`) and return the scores.

    The dictionary is that of `scores.json` in the output folder: `adaptive_f`, `mae`, `s_measure`
    and so on, all in 0..1, and counts (docs/evaluate.md).

    Raises:
        ConfigError: a setting or the output folder is wrong.
        DataError: nothing pairs, or too many predictions are missing.
    """
    run_command("evaluate", {"pred": pred, "truth": truth, "out": out, **settings})
    return read_scores(readable(out) / "scores.json")
