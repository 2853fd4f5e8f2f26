"""Time and memory of one rank for index and epoch plan of ten million keys and 256 ranks.

    python benchmarks/plan_scale.py [--keys 10000000] [--shard-size 1000] [--ranks 256]

Writes tables and manifests of that many samples (without images) into a temporary folder. A fresh
process then does the work of one rank at the start of an epoch: load the index, make the plan, and
take its rows of every step. Afterwards it checks over all ranks that every key came once. Writes
`benchmarks/results/plan_scale.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

RESULT = Path(__file__).parent / "results" / "plan_scale.json"
LANES_PER_RANK = 8
IMAGE_BYTES = 50_000


def synthesise(folder: Path, *, num_keys: int, shard_size: int) -> None:
    """Write tables and manifests like `a2s shard`, with sparse files as tars."""
    num_shards = -(-num_keys // shard_size)
    for number in range(num_shards):
        rows = np.arange(number * shard_size, min((number + 1) * shard_size, num_keys))
        count = len(rows)
        keys = pc.binary_join_element_wise(
            "images/class_", pa.array(rows % 1000).cast("string"), ""
        )
        keys = pc.binary_join_element_wise(keys, "/", pa.array(rows).cast("string"), "")
        none = np.full(count, -1, np.int64)
        columns = {
            "key": keys,
            "offset": np.arange(count, dtype=np.int64) * IMAGE_BYTES + 512,
            "size": np.full(count, IMAGE_BYTES, np.int64),
            "crc32": (rows * 2654435761 % 2**32).astype(np.uint32),
            "mask_offset": none,
            "mask_size": none,
            "mask_crc32": np.zeros(count, np.uint32),
            "width": np.full(count, 400, np.int32),
            "height": np.full(count, 300, np.int32),
        }
        name = folder / f"shard-{number:06d}"
        pq.write_table(pa.table(columns), name.with_suffix(".parquet"))
        table = name.with_suffix(".parquet").read_bytes()
        tar_bytes = 512 + count * IMAGE_BYTES
        with name.with_suffix(".tar").open("wb") as file:
            file.truncate(tar_bytes)
        manifest = {
            "name": name.name,
            "count": count,
            "tar_bytes": tar_bytes,
            "tar_sha256": f"{number:064x}",
            "parquet_sha256": hashlib.sha256(table).hexdigest(),
            "settings": "",
            "num_shards": num_shards,
        }
        name.with_suffix(".json").write_text(json.dumps(manifest))


def peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)


def measure(folder: Path, ranks: int) -> dict[str, float]:
    """Time the work of one rank, then check the plan over all ranks."""
    from a2s.data.epoch_plan import make_plan
    from a2s.data.index import Index

    wall = [time.perf_counter()]
    cpu = [time.process_time()]

    def lap() -> None:
        wall.append(time.perf_counter())
        cpu.append(time.process_time())

    index = Index.load(folder)
    lap()
    plan = make_plan(index.shard_sizes, batch_size=LANES_PER_RANK * ranks, seed=0, epoch=1)
    lap()
    for step in range(plan.num_steps):
        plan.rank_batch(step, rank=ranks // 2, world=ranks)
    lap()
    peak = peak_gb()
    seen = np.zeros(len(index), np.uint8)
    for step in range(plan.num_steps):
        for rank in range(ranks):
            rows = plan.rank_batch(step, rank=rank, world=ranks)
            seen[rows[rows >= 0]] += 1
    assert (seen == 1).all(), "a key came twice or not at all"
    names = ("load_index", "make_plan", "rows_of_all_steps")
    result = {f"{n}_sec": round(b - a, 2) for n, a, b in zip(names, wall, wall[1:], strict=False)}
    result |= {
        f"{n}_cpu_sec": round(b - a, 2) for n, a, b in zip(names, cpu, cpu[1:], strict=False)
    }
    return result | {
        "total_sec": round(wall[-1] - wall[0], 2),
        "total_cpu_sec": round(cpu[-1] - cpu[0], 2),
        "peak_memory_gb": peak,
        "num_steps": plan.num_steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=256)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.ranks)))
        return
    from machine import describe_machine

    shape = [f"--keys {args.keys}", f"--shard-size {args.shard_size}", f"--ranks {args.ranks}"]
    with tempfile.TemporaryDirectory() as folder:
        synthesise(Path(folder), num_keys=args.keys, shard_size=args.shard_size)
        child = [sys.executable, __file__, "--measure", folder, "--ranks", str(args.ranks)]
        done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
        result = {
            "command": f"python benchmarks/plan_scale.py {' '.join(shape)}",
            **describe_machine(),
            "load_average": round(os.getloadavg()[0], 1),
            **json.loads(done.stdout),
        }
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(result, indent=1))
    if result["total_sec"] > 20 or result["peak_memory_gb"] > 4:
        sys.exit("over the limit of 20 s and 4 GB")


if __name__ == "__main__":
    main()
