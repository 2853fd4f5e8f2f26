"""Several processes in one folder of labels, and accounting where nothing can be labelled."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from labelling_run import encoded, write_data, write_model

from a2s.commands import estimate
from a2s.config.base import RefineConfig
from a2s.data.chunks import chunks
from a2s.data.index import Index
from a2s.errors import ConfigError, StorageError
from a2s.labels.making.chunk import Activated, Label, Labelled, label_chunk, refine_chunk
from a2s.labels.making.timing import StageTimes
from a2s.labels.quality import Quality
from a2s.labels.recipe import recipe_of
from a2s.models.saved import SavedNetwork
from a2s.parallel import bottleneck
from a2s.storage import run_folder


def test_a_chunk_of_damaged_images_alone_is_accounted_for_on_a_gpu() -> None:
    totals = StageTimes(wall_sec=2.0)
    totals.add(Labelled(0, 0, device_seconds={"decode": 0.5}))
    devices, readers, _ = totals.groups(1)
    assert (devices.busy, readers.stage_sec) == (0.0, {"decode": 0.5})
    assert "decode" in bottleneck.bottleneck(totals.groups(1))


def test_processes_that_start_together_find_out_once(tmp_path: Path) -> None:
    found: list[int] = []

    def find_out() -> int:
        time.sleep(0.1)
        found.append(len(found))
        return found[-1]

    folder = run_folder.RunDir(tmp_path, "", shared=True)
    with ThreadPoolExecutor(2) as threads:
        ask = partial(folder.resolve_once, is_valid=lambda stored: type(stored) is int)
        known = [threads.submit(ask, "batch_size", find_out) for _ in range(2)]
    assert [one.result() for one in known] == [0, 0]


def test_a_part_that_fails_leaves_the_settings_that_another_goes_by(tmp_path: Path) -> None:
    config = RefineConfig()

    def claim(part: range) -> AbstractContextManager[run_folder.RunDir]:
        return run_folder.claim(tmp_path, command="label", config=config, parts=[part])

    with claim(range(3)):
        with pytest.raises(ConfigError, match="too late"), claim(range(3, 9)):
            raise ConfigError("too late")
        assert (tmp_path / "config.yaml").exists()
    with pytest.raises(ConfigError, match="alone"), claim(range(3, 9)):
        raise ConfigError("alone")
    assert not (tmp_path / "config.yaml").exists()


def test_an_estimate_stands_damaged_images_on_a_gpu() -> None:
    quality = Quality(
        quality=0.9,
        no_object=False,
        area_share=0.5,
        border_contact=0.0,
        decision_margin=0.5,
        sign_margin=0.1,
        crf_agreement=1.0,
        num_components=1,
        map_overlap=1.0,
        map_inside=1.0,
        map_peak=1.0,
        colour_contrast=0.5,
        inverted=False,
    )
    good = Labelled(
        0,
        0,
        {"a": Label(b"png", 1, 1, quality)},
        device_seconds={"decode": 0.1, "queue": 0.0, "network": 0.2},
    )
    damaged = Labelled(0, 1, failures=[{"key": "b"}], device_seconds={"decode": 0.1})
    index = cast(Index, SimpleNamespace(size_N=np.array([10, 10])))
    sample = estimate.summarise(
        [good, damaged], [damaged, good], index, workers=1, pool_sec=1.0, start_sec=0.0, network="x"
    )
    assert (sample.device_sec, sample.pool_images_per_sec) == (0.2, 1.0)


def test_shards_that_cannot_be_reached_are_no_damaged_images(tmp_path: Path) -> None:
    saved = SavedNetwork.find(write_model(tmp_path / "model.safetensors"))
    data = write_data(tmp_path / "data", [[("a", encoded(40, 40, seed=1))]])
    (chunk,) = chunks(Index.load(data), todo=[0], size=4)
    chunk.part.shards[0].path.unlink()
    recipe = recipe_of(RefineConfig(backend="numba"))
    with pytest.raises(StorageError, match="cannot be read at key a"):
        label_chunk(chunk, saved, saved.trained_input, recipe)
    activated = Activated({0: np.zeros((16, 16), np.float32)}, {}, {}, {0: (40, 40)}, {})
    with pytest.raises(StorageError, match="same command resumes"):
        refine_chunk(chunk, activated, recipe)
