"""CPUs and memory that this process may use, and the defaults of its threads; needs no torch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
SPIN_COUNT = "1000"
"""How often an idle thread of libgomp looks for work before it sleeps. With libgomp's own 300,000
two jobs on the same cores take several times as long (benchmarks/results/shared_cores.json)."""
_chosen = False


def num_cpus() -> int:
    """CPUs that this process may use: its affinity, limited by the CPU quota, rounded up.

    Rounded down, a container with 1.5 CPUs would leave a third of them unused.
    """
    cpus, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cpu_quota(mounted: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float | None:
    """CPUs that the control groups of this process grant, such as 1.5; None without a quota.

    `mounted` is where control groups are mounted, `own` the kernel's list of those of the process.
    """
    quotas = []
    for folder in _folders("cpu", mounted, own):
        try:
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text().strip()
            if quota not in ("max", "-1"):
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError):
            continue
    return min(quotas, default=None)


def free_memory_bytes(mounted: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Available memory, or what the control groups have left of their limits if that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    free = kib * 1024
    for folder in _folders("memory", mounted, own):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                limit = int((folder / limit_name).read_text())
                used = int((folder / used_name).read_text())
            except (OSError, ValueError):
                continue
            free = min(free, max(0, limit - used))
    return free


def _folders(controller: str, mounted: Path, own: Path) -> Iterator[Path]:
    """Folders of the control groups of this process for a controller, and of all around them.

    In a container the root of the mount may be the container's own group, under another name.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    tops = {mounted, mounted / controller}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mounted / (controller if controllers else "")
        inner = Path(path.lstrip("/"))
        tops.update(top / part for part in (inner, *inner.parents))
    yield from sorted(tops)


@functools.cache
def keep_freed_memory() -> None:
    """Let this process use freed arrays again instead of returning them to the kernel.

    Where many are made and freed, as for each image that is scored, a fifth of the time goes into
    pages that the kernel clears again and again.
    """
    # Of glibc: M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD. Other libraries have no mallopt.
    with contextlib.suppress(AttributeError):
        for option, num_bytes in ((-1, 2**27), (-2, 2**26), (-3, 2**25)):
            ctypes.CDLL(None).mallopt(option, num_bytes)


def choose_threads(environ: MutableMapping[str, str]) -> None:
    """Set how threads of libgomp wait and, below a CPU quota, how many there are.

    It reads both when torch is imported. What the user has set stays.
    """
    global _chosen
    if "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    # libgomp knows the affinity, and no quota: its threads would be stopped in turns.
    is_limited = num_cpus() < len(os.sched_getaffinity(0))
    if is_limited and "LOCAL_WORLD_SIZE" not in environ and "OMP_NUM_THREADS" not in environ:
        environ["OMP_NUM_THREADS"] = str(num_cpus())
        _chosen = True


def share_threads(environ: MutableMapping[str, str], processes: int) -> None:
    """Share the CPUs among processes that this one starts, unless the user gave a number."""
    if _chosen:
        environ.pop("OMP_NUM_THREADS", None)
    environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cpus() // processes)))
