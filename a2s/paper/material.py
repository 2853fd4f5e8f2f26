"""Turn the settings of `a2s ablate` into a `Material`: data, test sets, masks, given maps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from a2s.config.ablate import AblateConfig, by_name
from a2s.config.base import EncoderConfig, Settings
from a2s.config.schedules import scaled_milestones
from a2s.config.training import Stage1Options, Stage2Options
from a2s.data.index import Index
from a2s.errors import ConfigError
from a2s.paper.catalogue import Need
from a2s.paper.tables.rows import Material, Scored
from a2s.pipeline import Job, chosen

TRAIN = "train"
QUICK_TRAIN, QUICK_TEST = 24, 12
QUICK: dict[str, dict[str, Any]] = {
    "stage1": {
        "encoder": EncoderConfig(name="mobilenet_v2"),
        "image_size": 64,
        "batch_size": 8,
        "epochs": 2,
        "fusion_stride": 8,
        "loader_workers": 0,
    },
    "stage2": {
        "encoder": EncoderConfig(name="mobilenet_v2"),
        "image_size": 64,
        "batch_size": 8,
        "epochs": 2,
        "warm_epochs": 1,
        "loader_workers": 0,
    },
}
"""Values that `--quick` sets wherever the user kept the default."""


def quick_form(config: AblateConfig) -> AblateConfig:
    """Shrink the settings so that the table runs on a laptop; explicit settings stay."""
    sections = {name: _quick(getattr(config, name), values) for name, values in QUICK.items()}
    limit = QUICK_TRAIN if config.limit is None else config.limit
    return config.model_copy(update={**sections, "limit": limit})


def _quick(section: Settings, values: dict[str, Any]) -> Settings:
    defaults = {name: field.default for name, field in type(section).model_fields.items()}
    left = {k: v for k, v in values.items() if getattr(section, k) == defaults[k]}
    if isinstance(section, Stage1Options | Stage2Options) and "epochs" in left:
        schedule = section.SCHEDULES[section.parity.schedule]
        if section.milestones == scaled_milestones(schedule, epochs=section.epochs):
            # The user gave no milestones, so they follow the number of epochs.
            left["milestones"] = None
    return type(section)(**{**chosen(section), **left})


def gather(config: AblateConfig, needs: Need) -> Material:
    """Collect the training data, the test sets and their masks.

    Raises:
        ConfigError: a flag that the table needs is missing, or two flags contradict each other.
        DataError: a folder of shards is damaged.
    """
    tests, truths = by_name(config.test), by_name(config.truth)
    _check(config, tests, truths, needs)
    pooled = {"workers": config.workers, "max_failure_rate": config.max_failure_rate}
    shared, packing, data, train = config.out / "shared", [], None, None
    if config.data is not None:
        given = _Given(TRAIN, config.data, truths.get(TRAIN), config.limit)
        data, train, jobs = _shards(given, shared / "data", pooled)
        packing += jobs
    scored = []
    for name, images in tests.items():
        given = _Given(name, Path(images), truths.get(name), QUICK_TEST if config.quick else None)
        _, found, jobs = _shards(given, shared / "tests" / name, pooled)
        if found is None:
            raise ConfigError(
                f"ablate: the masks of --test {name}=… are not known: --truth {name}="
            )
        scored.append(found)
        packing += jobs
    if needs == "masks" and not (train or scored):
        raise ConfigError(
            f"ablate: {config.name} has nothing to score on; give --truth {TRAIN}=MASKS of --data, "
            "or --test NAME=IMAGES --truth NAME=MASKS"
        )
    stage1 = chosen(config.stage1)
    if stage1["cache_dir"] is None:
        stage1["cache_dir"] = shared / "cache"
    return Material(
        out=config.out,
        data=data,
        packing=tuple(packing),
        train=train,
        tests=tuple(scored),
        stage1=stage1,
        label=chosen(config.label),
        stage2=chosen(config.stage2),
        pooled=pooled,
        maps=_maps(by_name(config.maps), [*tests]),
        runs=config.runs or (config.out,),
    )


class _Given(NamedTuple):
    """A data set as the flags describe it."""

    name: str
    images: Path
    masks: str | None
    limit: int | None


def _shards(
    given: _Given, out: Path, pooled: dict[str, Any]
) -> tuple[Path, Scored | None, list[Job]]:
    """Return a set's shards, the scored set (None without masks), and the jobs that pack it.

    Existing shards are used in place, without a job, unless `limit` asks for a part of the images.
    """
    shards = sorted(given.images.glob("shard-*.json"))
    masks = None if given.masks is None else Path(os.path.abspath(given.masks))
    # Loaded in any case: a folder that lacks shards would pass for one of fewer images.
    has_masks = (bool(shards) and _has_masks(given.images)) or masks is not None
    if shards and given.limit is None:
        scored = Scored(given.name, given.images, masks or given.images)
        return given.images, scored if has_masks else None, []
    tars = tuple(str(manifest.with_suffix(".tar")) for manifest in shards)
    sources = {"images": tars or (str(given.images),), "masks": masks, "limit": given.limit}
    job = Job("shard", {**sources, "out": out, **pooled})
    return out, Scored(given.name, out, out) if has_masks else None, [job]


def _has_masks(shards: Path) -> bool:
    return bool((Index.load(shards).mask_offset_N >= 0).any())


def _check(
    config: AblateConfig, tests: dict[str, str], truths: dict[str, str], needs: Need
) -> None:
    if needs != "nothing" and config.data is None:
        raise ConfigError(f"ablate: {config.name} needs --data, a folder of images or of shards")
    if needs == "tests" and not tests:
        raise ConfigError(
            f"ablate: {config.name} needs a set to score on: --test NAME=IMAGES --truth NAME=MASKS"
        )
    if TRAIN in tests:
        raise ConfigError(f"ablate: --test {TRAIN}= stands for --data; give the set another name")
    for name in truths.keys() - tests.keys() - {TRAIN}:
        raise ConfigError(f"ablate: --truth {name}=… comes without --test {name}=IMAGES")


def _maps(folders: dict[str, str], tests: list[str]) -> dict[str, dict[str, Path]]:
    """Folders of maps by method and test set; with a single test set its name is optional."""
    maps: dict[str, dict[str, Path]] = {}
    for key, folder in folders.items():
        method, _, test = key.partition("/")
        if not test and len(tests) == 1:
            test = tests[0]
        if test not in tests:
            known = ", ".join(tests) or "none"
            raise ConfigError(
                f"ablate: --maps {key}=… must name a test set, {method}/TEST=FOLDER (sets: {known})"
            )
        maps.setdefault(method, {})[test] = Path(folder)
    return maps
