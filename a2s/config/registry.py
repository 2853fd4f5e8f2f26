"""Every command: its help text, its settings class, and the module that runs it.

To add a command, add a row here, its settings class in this folder, and a file in `a2s/commands/`.
Classes and modules are named, not imported, so that `a2s --help` loads neither pydantic nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pydantic import BaseModel


class Command(NamedTuple):
    """One command of `a2s`."""

    help: str
    """Its line in `a2s --help`."""
    settings: str
    """Module of `a2s.config` and class in it."""
    module: str
    """Module of `a2s.commands` whose `run(settings)` returns the exit code."""

    def settings_class(self) -> type[BaseModel]:
        """Import the class of the command's settings."""
        module, name = self.settings.split(".")
        found: type[BaseModel] = getattr(importlib.import_module(f"a2s.config.{module}"), name)
        return found


COMMANDS = {
    "shard": Command(
        "pack images into WebDataset shards, set bad images aside",
        "commands.ShardConfig",
        "shard",
    ),
    "stage1": Command(
        "train the activation network on shards, without labels",
        "training.Stage1Config",
        "stage1",
    ),
    "label": Command(
        "turn activation maps into pseudo labels (dense CRF, median)",
        "commands.LabelConfig",
        "label",
    ),
    "stage2": Command(
        "train the detector on pseudo labels, correct the labels meanwhile",
        "training.Stage2Config",
        "stage2",
    ),
    "snapshot": Command(
        "save stage 2's labels and predictions of a few images",
        "commands.SnapshotConfig",
        "snapshot",
    ),
    "hma": Command(
        "correct stage 2's labels between epochs by a moving average",
        "commands.HmaConfig",
        "hma",
    ),
    "predict": Command(
        "write saliency maps, cut-outs, and overlays of images",
        "commands.PredictConfig",
        "predict",
    ),
    "serve": Command(
        "answer images sent by HTTP with saliency maps or cut-outs",
        "servers.ServeConfig",
        "serve",
    ),
    "evaluate": Command(
        "score predictions: MAE, F, weighted F, S, E, curves",
        "commands.EvaluateConfig",
        "evaluate",
    ),
    "run": Command(
        "run shard to evaluate on one machine, resumable at every step",
        "run.RunConfig",
        "run",
    ),
    "ablate": Command(
        "reproduce a table or figure of the paper, compare the numbers",
        "ablate.AblateConfig",
        "ablate",
    ),
    "estimate": Command(
        "estimate the cost of labelling: core and GPU hours, bytes",
        "commands.EstimateConfig",
        "estimate",
    ),
    "status": Command(
        "show the progress of a job: rate, time left, failures",
        "checks.StatusConfig",
        "status",
    ),
    "report": Command(
        "write an HTML page about runs: verdict, pictures, curves",
        "checks.ReportConfig",
        "report",
    ),
    "review": Command(
        "look at labels in a browser: accept, reject, fix them",
        "servers.ReviewConfig",
        "review",
    ),
    "verify": Command(
        "compare every byte of a folder with its checksums, repair it",
        "checks.VerifyConfig",
        "verify",
    ),
    "export": Command(
        "write labels for COCO, YOLO, VOC, Label Studio, CVAT and others",
        "export.ExportConfig",
        "export",
    ),
    "import-masks": Command(
        "read masks that people corrected in Label Studio or CVAT",
        "export.ImportMasksConfig",
        "import_masks",
    ),
    "import-weights": Command(
        "convert a checkpoint of the paper's authors to a model",
        "commands.ImportWeightsConfig",
        "import_weights",
    ),
    "export-weights": Command(
        "convert a model to a checkpoint in the authors' layout",
        "commands.ExportWeightsConfig",
        "export_weights",
    ),
    "export-model": Command(
        "write a detector as ONNX or as a graph of torch.export",
        "export.ExportModelConfig",
        "export_model",
    ),
    "doctor": Command(
        "check what works on this machine and what does not",
        "checks.DoctorConfig",
        "doctor",
    ),
    "completion": Command(
        "print the script with which bash, zsh or fish completes a2s",
        "checks.CompletionConfig",
        "completion",
    ),
}
