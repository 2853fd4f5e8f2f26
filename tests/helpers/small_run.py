"""Settings of `a2s run` with which it takes seconds on drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from a2s.config.base import EncoderConfig
from a2s.config.commands import LabelOptions, PredictOptions, ShardOptions
from a2s.config.run import RunConfig
from a2s.config.training import Stage1Options, Stage2Options

SMALL: dict[str, Any] = {
    "encoder": EncoderConfig(name="mobilenet_v2"),
    "image_size": 64,
    "batch_size": 4,
    "epochs": 2,
    "loader_workers": 0,
}


def small(scenes: Any, out: Path, **changes: Any) -> RunConfig:
    """Learn from the training scenes, score on the test scenes."""
    settings = {
        "images": (str(scenes.train),),
        "out": out,
        "test": scenes.images,
        "truth": scenes.masks,
        "shard": ShardOptions(shard_size=5),
        # Heads over untrained features need not agree.
        "stage1": Stage1Options(
            **SMALL, fusion_stride=8, min_agreement=0, cache_dir=out.parent / "cache"
        ),
        "label": LabelOptions(batch_size=4),
        "stage2": Stage2Options(**SMALL, warm_epochs=1),
        "predict": PredictOptions(cutout=True),
        "workers": 0,
        "processes": 1,
        "init": "none",
    }
    return RunConfig(**{**settings, **changes})
