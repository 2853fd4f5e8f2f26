"""`a2s status` and `a2s report` of a simulated billion labels: 10,000 shards of 100,000.

    python benchmarks/billion.py [--shards 10000] [--rows 1000]

Labels a few drawn scenes, then writes manifests and tables of that many shards in their image:
every manifest says 100,000 labels, every table has `--rows` of them (a table of 100,000 rows takes
10 MB), and the tar is one file with many names. Both commands run in fresh processes; the table of
one shard is also read at its full size, from which the time for a billion rows follows. Writes
`benchmarks/results/billion.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe_machine

from a2s.data.synthetic import render_folder

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "billion.json"
LABELS_PER_SHARD = 100_000


def a2s(*arguments: object) -> dict[str, float]:
    """Run a command; wall and CPU seconds and peak memory, start-up included."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "a2s", *map(str, arguments)]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        peak_kib, status = 0, Path(f"/proc/{process.pid}/status")
        while not (done := os.wait4(process.pid, os.WNOHANG))[0]:
            # Not the resource usage, in which a child begins with its parent's memory.
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak_kib = int(line.split()[1])
            time.sleep(0.05)
        said.seek(0)
        text = said.read()
    _, code, usage = done
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}: {text}")
    print(text, flush=True)
    return {
        "wall_sec": round(time.monotonic() - started, 1),
        "cpu_sec": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(peak_kib / 1024),
    }


def table_of(real: pa.Table, num_rows: int) -> pa.Table:
    """A table of that many rows: real places of labels, new keys, random numbers."""
    rng = np.random.default_rng(0)
    at = rng.integers(0, len(real), num_rows)
    made = real.take(pa.array(at))
    keys = pa.array([f"images/{number:09d}" for number in range(num_rows)])
    made = made.set_column(made.column_names.index("key"), "key", keys)
    for name in ("quality", "area_share", "decision_margin", "crf_agreement"):
        field = made.schema.field(name)
        made = made.set_column(
            made.column_names.index(name), field, pa.array(rng.random(num_rows)).cast(field.type)
        )
    return made


def synthesise(labels: Path, out: Path, *, num_shards: int, rows: int) -> pa.Table:
    """Write a folder of label shards like `labels`, which has one; return its table."""
    out.mkdir()
    for name in ("config.yaml", "environment.json"):
        (out / name).write_bytes((labels / name).read_bytes())
    manifest = json.loads((labels / "shard-000000.json").read_text())
    real = pq.read_table(labels / "shard-000000.parquet")
    pq.write_table(table_of(real, rows), out / "table")
    (out / "tar").write_bytes((labels / "shard-000000.tar").read_bytes())
    manifest |= {
        "count": LABELS_PER_SHARD,
        "num_images": LABELS_PER_SHARD,
        "num_images_total": LABELS_PER_SHARD * num_shards,
        "num_shards": num_shards,
        "quality_counts": [LABELS_PER_SHARD // 20] * 20,
    }
    for number in range(num_shards):
        name = f"shard-{number:06d}"
        for suffix, source in ((".parquet", "table"), (".tar", "tar")):
            os.link(out / source, out / (name + suffix))
        text = json.dumps({**manifest, "name": name}, indent=1, sort_keys=True)
        (out / f"{name}.json").write_text(text)
    return real


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        render_folder(work, num_train=16, num_test=1, side_px=96, seed=0)
        a2s("shard", work / "train", "--out", work / "data", "--workers", 0)
        a2s(
            *("label", "--model", "rbd", "--data", work / "data", "--out", work / "labels"),
            *("--workers", 0),
        )
        out = work / "billion"
        real = synthesise(work / "labels", out, num_shards=args.shards, rows=args.rows)
        result: dict[str, Any] = {
            "command": f"python benchmarks/billion.py --shards {args.shards} --rows {args.rows}",
            **describe_machine(),
            "load_average": round(os.getloadavg()[0], 1),
            "labels_in_manifests": args.shards * LABELS_PER_SHARD,
            "rows_in_tables": args.shards * args.rows,
            "status": a2s("status", out),
            "report": a2s("report", out, "--out", work / "report.html"),
        }
        full = work / "full"
        full.mkdir()
        for number in range(4):
            pq.write_table(table_of(real, LABELS_PER_SHARD), full / f"shard-{number:06d}.parquet")
            (full / f"shard-{number:06d}.json").write_text("{}")
        from a2s.evaluation.page.label_table import read_labels

        began = time.process_time()
        read = read_labels(full)
        million_sec = (time.process_time() - began) / read.num_labels * 1e6
        result["cpu_sec_per_million_rows_of_full_tables"] = round(million_sec, 2)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
