"""Describe the machine of a result; measure the memory of a process tree."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

PRICE = {"core_hour": 0.04, "gpu_hour": 2.5}
"""Assumed prices in dollars of a rented core and a rented data-centre GPU."""


def describe_machine() -> dict[str, str]:
    """Date, commit, hardware, and the versions that affect speed.

    In a copy without git history, A2S_COMMIT gives the commit.
    """
    import torch

    root = Path(__file__).resolve().parents[1]
    commit = os.environ.get("A2S_COMMIT", "")
    if not commit:
        git = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
        try:
            commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            commit = "unknown"
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


def tree(root: int) -> set[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rsplit(") ", 1)[1].split()[1])
    found, grew = {root}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grew = bool(more)
    return found


def tree_pss_kib(root: int) -> int:
    """Sum the proportional set sizes of a process and its descendants, in KiB."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total
