"""Environment of a run: package versions, machine, git state."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from a2s.storage.machine import num_cpus
from a2s.storage.objects.urls import shown

_PACKAGES = (
    "a2s",
    "accelerate",
    "numba",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pydensecrf2",
    "ray",
    "torch",
    "torchvision",
    "webdataset",
)


def environment() -> dict[str, Any]:
    """Return package versions, machine, and git state of the running code."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "argv": [shown(word) for word in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu_count": num_cpus(),
        "packages": versions,
        "git": _git(),
    }


def _git() -> dict[str, object] | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def ask(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return {"commit": ask("rev-parse", "HEAD"), "modified": ask("status", "--porcelain") != ""}
