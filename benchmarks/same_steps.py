"""The steps of `same_results.py`: small runs of every command that writes files.

They are relative to the folder in which they are run; what they read lies beside it, in `inputs`
(drawn scenes) and `choices` (files of settings).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "official": {
        "stage1": {
            "encoder_mode": "batch_statistics",
            "resize_filter": "bicubic",
            "e5_scale": True,
            "sign_tie": 0,
            "schedule": "official",
            "fusion_stride": 2,
            "cache_dtype": "float32",
        },
        "label": {"network_size": "own", "crf_input": "soft", "max_side": None},
        "stage2": {
            "resize_filter": "bicubic",
            "flip": "once",
            "schedule": "official",
            "encoder_lr_scale": 1.0,
            "binarise": False,
            "batchnorm": "train",
        },
        "evaluate": {"convention": "official"},
    },
    "others": {
        "stage1": {
            "encoder_mode": "trained",
            "resize_filter": "nearest",
            "boundary": "db4",
            "drop_pixels": False,
            "lr": 0.01,
        },
    },
}
"""By file name, values other than the defaults; where a setting lies each side is asked."""

_IMAGES, _MASKS = "../inputs/test/images", "../inputs/test/masks"
_UNMASKED = "../inputs/train"
_SIZE = ("--image-size", "64", "--batch-size", "8", "--epochs", "3", "--log-every", "2")
_SMALL = ("--encoder.name", "mobilenet_v2", *_SIZE)
_ANY_FAILURES = ("--max-failure-rate", "1")
_THREADS, _RAY = ("--workers", "0"), ("--workers", "2")


@dataclass(frozen=True)
class Step:
    """A command of a2s with its arguments, and the file or folder that it writes."""

    out: str
    arguments: tuple[str, ...]
    ranks: int = 1

    @property
    def named(self) -> list[str]:
        """The command, and of a table its name."""
        return [name for name in self.arguments[:2] if name[0].isalpha()]


def steps(*, pydensecrf: bool) -> list[Step]:
    """All steps in order, relative to the folder in which they are run."""
    return [
        *_stage1_steps(),
        *_label_steps(pydensecrf),
        *_stage2_steps(),
        *_use_steps(),
        *_whole_steps(),
    ]


def _choices(name: str) -> tuple[str, str]:
    return ("--config", f"../choices/{name}.yaml")


def _stage1_steps() -> list[Step]:
    def shard(out: str, *more: str) -> Step:
        source = ("shard", _IMAGES, "--masks", _MASKS, "--out", out)
        return Step(out, (*source, *_THREADS, *_ANY_FAILURES, *more))

    def stage1(out: str, *more: str, ranks: int = 1) -> Step:
        return Step(out, ("stage1", "--data", "data", "--out", out, *more), ranks)

    return [
        shard("data", "--shard-size", "9"),
        shard("data-reduced", "--max-side", "48"),
        # An epoch, and in another process the rest: what a run that goes on reads is compared too.
        stage1("stage1", *_SMALL, "--until-epoch", "1"),
        stage1("stage1", *_SMALL),
        stage1("stage1-ranks", *_SMALL, ranks=2),
        stage1("stage1-others", *_choices("others"), *_SMALL),
        # The encoder for which there are checkpoints in the authors' layout.
        stage1("stage1-official", *_choices("official"), *_SIZE, "--loader-workers", "0"),
    ]


def _label_steps(pydensecrf: bool) -> list[Step]:
    def label(out: str, *more: str, model: str = "stage1") -> Step:
        return Step(out, ("label", "--model", model, "--data", "data", "--out", out, *more))

    reference = ("--refine.backend", "pydensecrf")
    of_reference = [
        label("labels-pydensecrf", *reference, *_THREADS),
        label("labels-pydensecrf-ray", *reference, *_RAY),
    ]
    return [
        label("labels", *_THREADS),
        label("labels-ray", *_RAY),
        *(of_reference if pydensecrf else []),
        label("labels-torch", "--refine.backend", "torch", *_THREADS),
        label("labels-others", *_THREADS, model="stage1-others"),
        label("labels-official", *_choices("official"), *_THREADS, model="stage1-official"),
    ]


def _stage2_steps() -> list[Step]:
    given = ("--data", "data", "--labels", "labels")

    def stage2(out: str, *more: str, ranks: int = 1) -> Step:
        return Step(out, ("stage2", *given, "--out", out, *_SMALL, *more), ranks)

    in_turns = stage2("stage2-hma", "--rectify", "hma", "--warm-epochs", "1")
    hma = Step("stage2-hma", ("hma", "--run", "stage2-hma", *given, *_THREADS))
    return [
        stage2("stage2", "--warm-epochs", "1"),
        stage2("stage2-ranks", "--warm-epochs", "1", ranks=2),
        *(in_turns, hma, in_turns, hma, in_turns),
        stage2("stage2-official", *_choices("official"), "--warm-epochs", "1"),
        stage2("stage2-conv", "--detector", "conv", "--warm-epochs", "0", "--epochs", "1"),
        stage2("stage2-minet", "--detector", "minet", "--epochs", "1"),
    ]


def _use_steps() -> list[Step]:
    def predict(out: str, *more: str, model: str = "stage2") -> Step:
        given = ("predict", _IMAGES, "--model", model, "--out", out, *_ANY_FAILURES)
        return Step(out, (*given, *more))

    def evaluate(out: str, *more: str, pred: str = "preds") -> Step:
        return Step(out, ("evaluate", "--pred", pred, "--out", out, *_ANY_FAILURES, *more))

    pictures = ("--cutout", "--overlay")
    released, imported = "released.safetensors", "imported.safetensors"
    return [
        predict("preds", *pictures, *_THREADS),
        predict("preds-ray", *pictures, *_RAY),
        predict("maps", *_THREADS, model="stage1"),
        predict("maps-rbd", *_THREADS, model="rbd"),
        evaluate("scores", "--truth", _MASKS, *_THREADS),
        evaluate("scores-official", "--truth", "data", *_choices("official"), *_THREADS),
        evaluate("scores-labels", "--truth", "data", *_THREADS, pred="labels"),
        Step("snapshot", ("snapshot", "--model", "stage2", "--data", "data", "--labels", "labels",
                          "--out", "snapshot", "--images", "4")),
        Step(released, ("export-weights", "stage1-official", "--out", released)),
        Step(imported, ("import-weights", released, "--out", imported)),
    ]  # fmt: skip


def _whole_steps() -> list[Step]:
    """Commands that call the others: tables and figures, which share their runs, and `run`."""

    def ablate(name: str, *more: str) -> Step:
        return Step("ablations", ("ablate", name, "--out", "ablations", *more))

    learned = ("--data", _UNMASKED, "--test", f"scenes={_IMAGES}", "--truth", f"scenes={_MASKS}")
    quick = (*learned, "--quick", *_THREADS, *_ANY_FAILURES)
    tested = ("--test", _IMAGES, "--truth", _MASKS, *_THREADS, *_ANY_FAILURES, "--processes", "2")
    size = {"encoder.name": "mobilenet_v2", "image-size": "64", "batch-size": "8", "epochs": "1"}
    flags = [
        text
        for stage in ("stage1", "stage2")
        for name, value in size.items()
        for text in (f"--{stage}.{name}", value)
    ]
    return [
        ablate("tab8", "--rows", "OLR", *quick),
        *(ablate(name, *quick) for name in ("tab1", "fig1", "fig5", "fig8", "fig11")),
        ablate("tab3"),
        Step("whole", ("run", _UNMASKED, "--out", "whole", *tested, *flags)),
    ]
