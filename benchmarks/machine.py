"""What every result file says about where it was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path


def describe_machine() -> dict[str, str]:
    """Date, commit, hardware, and the versions that decide speed."""
    import torch

    root = Path(__file__).resolve().parents[1]
    commit = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    hardware = f"{len(os.sched_getaffinity(0))} cores {cpu}, {gib:.0f} GiB"
    if torch.cuda.is_available():
        hardware += f", {torch.cuda.get_device_name(0)}"
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "hardware": hardware,
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
