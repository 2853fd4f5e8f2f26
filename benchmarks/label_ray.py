"""What Ray costs `a2s label` on one machine: CPU time by kind of process, without Ray and with it.

    python benchmarks/label_ray.py --data DIR --out benchmarks/results/label_ray.json [--limit 32]

`--data` are shards of `a2s shard`. The same images are labelled with the bundled network by threads
of one process and by Ray workers. CPU time is counted, since the clock says little beside others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from machine import describe_machine, tree

from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
TICK = os.sysconf("SC_CLK_TCK")
KINDS = {
    "ray::_run": "workers",
    "isolated_decoder": "decoders",
    "ray": "servers of Ray",
    "a2s label": "command",
}


def kind_of(pid: int) -> str | None:
    """What a process is, by its command line; None if it cannot be told."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return None
    return next((kind for text, kind in KINDS.items() if text in line), None)


def cpu_seconds(command: list[str]) -> dict[str, float]:
    """CPU seconds of a command and all its processes, by kind."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    ticks, kinds = dict[int, int](), dict[int, str]()
    while process.poll() is None:
        for pid in tree(process.pid):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            ticks[pid] = int(fields[11]) + int(fields[12])
            # A worker of Ray is idle at first, and again at the end.
            if kinds.get(pid) != "workers" and (kind := kind_of(pid)):
                kinds[pid] = kind
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    found = Counter[str]()
    for pid, count in ticks.items():
        found[kinds.get(pid, "others")] += count
    return {kind: round(count / TICK, 2) for kind, count in found.items() if count}


START = """
import json, time
spent, last = {}, time.process_time()
def until(what):
    global last
    spent[what], last = round(time.process_time() - last, 2), time.process_time()
import ray
until("Ray")
import torch
until("torch")
import a2s.labels.making.chunk
until("a2s")
from a2s.labels.crf.self_test import mask_of
mask_of("numba")
until("numba and the compiled CRF")
from a2s.models.bundled import bundled
bundled("activation").load()
until("network")
print(json.dumps(spent))
"""


def start_of_a_worker() -> dict[str, float]:
    """CPU seconds of what every worker does before its first image, once its code is compiled."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", START]
    for _ in range(2):
        said = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    found: dict[str, float] = json.loads(said)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, workers in (("threads", 0), ("Ray", args.workers)):
            command = [sys.executable, "-m", "a2s", "label", "--data", str(args.data)]
            command += ["--out", f"{folder}/{name}", "--limit", str(args.limit)]
            seconds = cpu_seconds([*command, "--workers", str(workers)])
            found[name] = {"total": round(sum(seconds.values()), 2), **seconds}
            print(name, found[name], flush=True)
    result = {
        **describe_machine(),
        "command": f"python benchmarks/label_ray.py --data DIR --limit {args.limit}",
        "images": args.limit,
        "load_average": round(os.getloadavg()[0], 1),
        "cpu_sec": found,
        "start_of_a_worker_cpu_sec": start_of_a_worker(),
    }
    write_json(args.out, result)


if __name__ == "__main__":
    main()
