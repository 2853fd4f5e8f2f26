"""Fixtures every test may use; the environment is set before numpy and torch are imported."""

from __future__ import annotations

import os
import re

from repository import REPO

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.pop("RAY_ADDRESS", None)

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest_plugins = ["figure_runs", "object_store"]


def pytest_configure(config: pytest.Config) -> None:
    """Tests are about the CPU, on a machine with a GPU too; `-m gpu` runs those for one."""
    if not re.search(r"(?<!not )\bgpu\b", config.getoption("markexpr")):
        # CUDA stops at a number that no device has; Ray counts four, for tests with GPUs in name.
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1,-1,-1,-1"


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache of weights."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A2S_CACHE", str(cache))
        yield cache


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference material (oracles, encoders, photographs); skips loudly without it."""
    folder = Path(os.environ.get("A2S_SHARED", REPO.parent / "shared"))
    if not (folder / "oracles").is_dir():
        pytest.skip(f"REFERENCE MATERIAL ABSENT: no {folder}/oracles; set A2S_SHARED to its folder")
    return folder


@pytest.fixture
def free_port() -> int:
    """A TCP port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class SceneFolders:
    """Rendered scenes on disk: images to train on, and test images with their exact masks."""

    train: Path
    images: Path
    masks: Path


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneFolders:
    """Eight training and four test scenes of 96 px, rendered once; treat them as read-only."""
    from a2s.data.synthetic import render_folder

    root = tmp_path_factory.mktemp("scenes")
    render_folder(root, num_train=8, num_test=4, side_px=96, seed=7)
    return SceneFolders(root / "train", root / "test" / "images", root / "test" / "masks")
