"""a2s: saliency pseudo labels from unlabelled images, and a detector that corrects them.

The names of the Python API (docs/api.md) are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2s.api.detector import Detector as Detector
    from a2s.api.jobs import evaluate as evaluate
    from a2s.api.jobs import label as label
    from a2s.api.jobs import shard as shard
    from a2s.api.jobs import train as train
    from a2s.api.label_item import Label as Label
    from a2s.api.label_set import LabelSet as LabelSet
    from a2s.api.prediction import Prediction as Prediction

__version__ = "0.2.0"

_MODULES = {
    "Detector": "detector",
    "Prediction": "prediction",
    "LabelSet": "label_set",
    "Label": "label_item",
    "shard": "jobs",
    "label": "jobs",
    "train": "jobs",
    "evaluate": "jobs",
}
"""Names of the API, and the module of `a2s.api` that has each."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'a2s' has no attribute {name!r}")
    return getattr(importlib.import_module(f"a2s.api.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
