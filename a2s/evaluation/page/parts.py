"""Which folders belong to a run: those below a run folder, or those that one command has read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from a2s.errors import ConfigError
from a2s.storage.files import read_text
from a2s.storage.objects.mirror import read_folder
from a2s.storage.objects.urls import is_url, local_path
from a2s.storage.parsing import parse_yaml
from a2s.storage.run_folder import recorded

REPORTED = ("run", "label", "stage1", "stage2", "evaluate")
NAMED: dict[str, Literal["rbd", "bundled"]] = {"rbd": "rbd", "bundled": "bundled"}
"""Models that `label --model` takes by name, and records so; others are paths from the root."""


@dataclass(frozen=True)
class Parts:
    """Folders and settings of one run; a part is None if the run has none or it is gone."""

    folder: Path
    command: str
    settings: Mapping[str, Any]
    data: Path | None = None
    labels: Path | None = None
    """Labels that were made, or learned from."""
    label_model: Path | None = None
    """Network whose maps are shown beside the labels, which were made of them, or its name. Of
    stage 1 it is the run itself, which learned from the labels."""
    stage1: Path | None = None
    stage2: Path | None = None
    test_data: Path | None = None
    """Photographs of which there are predictions; the same as `data` if no others were given."""
    test_labels: Path | None = None
    maps: Path | None = None
    """Activation maps of `test_data`, a file per image."""
    preds: Path | None = None
    """Predictions of `test_data`, or what `evaluate` scored."""
    truth: Path | None = None
    mask_pattern: str | None = None
    scores: Mapping[str, Path] = field(default_factory=dict)
    """Folders of `evaluate` by the name of their row."""
    gone: tuple[str, ...] = ()
    """Folders that the settings name and that are not there."""

    @property
    def rectified(self) -> Path | None:
        """Label shards that stage 2 has corrected."""
        return _there(self.stage2 / "rectified") if self.stage2 else None

    @property
    def has_test_set(self) -> bool:
        """Whether predictions are of other photographs than those that were learned from."""
        return self.test_data is not None and self.test_data != self.data


def find_parts(folder: Path) -> Parts:
    """Find the parts of a run from its settings.

    Raises:
        ConfigError: the folder is not of one of the commands `REPORTED`.
    """
    settings, command = settings_of(folder)
    gone: list[str] = []

    def other(
        value: object, *, of: Path = folder, out: object = settings.get("out")
    ) -> Path | None:
        """Find an input, whose path counts from where the command was started."""
        if value is None:
            return None
        found = _resolved(of, str(out), str(value))
        if found is None:
            gone.append(str(value))
        return found

    if command == "run":
        return _whole_run(folder, settings, other(settings.get("truth")), tuple(gone))
    if command == "evaluate":
        side = {"preds": other(settings.get("pred")), "truth": other(settings.get("truth"))}
        pattern = settings.get("mask_pattern")
        scores = {"predictions": folder}
        return Parts(
            folder, command, settings, **side, mask_pattern=pattern, scores=scores, gone=(*gone,)
        )
    data = other(settings.get("data"))
    labels = folder if command == "label" else other(settings.get("labels"))
    made = settings_of(labels)[0] if labels and recorded(labels, "command") == "label" else {}
    model = made.get("model")
    if model is not None and model not in NAMED:
        assert labels is not None
        model = other(model, of=labels, out=made.get("out"))
    if command == "stage1":
        model = folder
    return Parts(
        folder,
        command,
        settings,
        data=data,
        labels=labels,
        label_model=None if model is None else Path(model),
        stage1=folder if command == "stage1" else None,
        stage2=folder if command == "stage2" else None,
        gone=tuple(gone),
    )


def _whole_run(
    folder: Path, settings: Mapping[str, Any], truth: Path | None, gone: tuple[str, ...]
) -> Parts:
    has_test = settings.get("test") is not None
    stage1 = _there(folder / "stage1")
    # With a bundled detector there is no stage 1, and the settings of labels name their model.
    model = stage1 or _labels_model(folder)
    return Parts(
        folder,
        "run",
        settings,
        data=_there(folder / "data"),
        labels=_there(folder / "labels"),
        label_model=model,
        stage1=stage1,
        stage2=_there(folder / "stage2"),
        test_data=_there(folder / ("test-data" if has_test else "data")),
        test_labels=_there(folder / ("test-labels" if has_test else "labels")),
        maps=_there(folder / "test-maps"),
        preds=_there(folder / "preds"),
        truth=truth,
        mask_pattern=settings.get("mask_pattern"),
        scores={path.parent.name: path.parent for path in _score_files(folder / "scores")},
        gone=gone,
    )


def _labels_model(folder: Path) -> Path | None:
    labels = folder / "labels"
    if recorded(labels, "command") != "label":
        return None
    settings = settings_of(labels)[0]
    model = str(settings.get("model"))
    return Path(model) if model in NAMED else _resolved(labels, str(settings.get("out")), model)


def _score_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/scores.json"))


def settings_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Read settings and name of the command that wrote a folder.

    Raises:
        ConfigError: it is not one of the commands `REPORTED`.
    """
    command = recorded(folder, "command")
    if command not in REPORTED:
        said = f"it is of a2s {command}" if isinstance(command, str) else _without_settings(folder)
        raise ConfigError(
            f"report: {folder}: {said}; give the --out of {', '.join(REPORTED[:-1])} or "
            f"{REPORTED[-1]}"
        )
    try:
        values = parse_yaml(read_text(folder / "config.yaml")).get(command)
    except (ValueError, AttributeError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"report: {folder}/config.yaml is damaged: no settings of {command}")
    return values, command


def _without_settings(folder: Path) -> str:
    if os.path.lexists(folder / "config.yaml"):
        return "its config.yaml cannot be read, or is damaged"
    return "it holds no config.yaml of a2s"


def _resolved(folder: Path, out: str, value: str) -> Path | None:
    """Find a recorded path: a URL, absolute, or relative to where the command stood, or to here."""
    if is_url(value):
        path = local_path(value)
        read_folder(path)
        return path if path.exists() else None
    here = str(folder.resolve())
    stood = here.removesuffix(os.sep + os.path.normpath(out))
    candidates = [Path(value)] if os.path.isabs(value) or stood == here else []
    candidates += [Path(stood) / value, Path(value)]
    return next((path for path in candidates if path.exists()), None)


def _there(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None
