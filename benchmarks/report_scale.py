"""Time and memory of `a2s report` and `a2s status` for a label set of a million images.

    python benchmarks/report_scale.py --labels LABELS --work DIR [--num-labels N...] \
        --out benchmarks/results/report_scale.json

Shards of a real label set are repeated under other names and keys: Parquet tables and manifests are
real files of their own, tars are hard links. Their images have other keys, so the page has no
photographs, of which it shows the same number for any set. Its counts must be those of all labels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe_machine


def repeat(folder: Path, out: Path, num_rows: int) -> int:
    """Repeat a folder's shards until they have this many rows; returns the number of shards."""
    out.mkdir(parents=True)
    tables = sorted(folder.glob("shard-*.parquet"))
    counts = [pq.read_metadata(path).num_rows for path in tables]
    num_shards, rows = 0, 0
    while rows < num_rows:
        rows += counts[num_shards % len(counts)]
        num_shards += 1
    for path in folder.iterdir():
        if not path.name.startswith((".", "shard-")) and path.is_file():
            shutil.copy2(path, out)
    for number in range(num_shards):
        source = tables[number % len(tables)]
        target = out / f"shard-{number:06d}.parquet"
        table = pq.read_table(source)
        keys = [f"{number:06d}/{key}" for key in table["key"].to_pylist()]
        at = table.schema.get_field_index("key")
        pq.write_table(table.set_column(at, "key", pa.array(keys)), target)
        os.link(source.with_suffix(".tar"), target.with_suffix(".tar"))
        manifest = json.loads(source.with_suffix(".json").read_text())
        manifest |= {"name": target.stem, "num_shards": num_shards}
        manifest["parquet_sha256"] = hashlib.sha256(target.read_bytes()).hexdigest()
        if "num_images_total" in manifest:
            manifest["num_images_total"] = rows
        target.with_suffix(".json").write_text(json.dumps(manifest))
    return num_shards


def run(*arguments: object) -> dict[str, Any]:
    """Run a command and measure it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "a2s", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    peak_kib = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except FileNotFoundError:
            break
        for line in status.splitlines():
            if line.startswith("VmHWM"):
                peak_kib = max(peak_kib, int(line.split()[1]))
        time.sleep(0.05)
    assert process.stdout is not None
    text = process.stdout.read()
    wall_sec = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    return {
        "command": " ".join(["a2s", *(Path(str(a)).name for a in arguments)]),
        "exit": process.wait(),
        "wall_sec": round(wall_sec, 1),
        "cpu_sec": round(after - before, 1),
        "peak_mib": round(peak_kib / 1024),
        "last_line": text.strip().splitlines()[-1].replace(str(arguments[1]), "LABELS"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("labels", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--num-labels", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    args = parser.parse_args()
    rows = []
    for count in args.num_labels:
        folder = args.work / str(count)
        shutil.rmtree(folder, ignore_errors=True)
        num_shards = repeat(args.labels, folder / "labels", count)
        for command in (("report", folder / "labels"), ("status", folder / "labels")):
            rows.append({"labels": count, "shards": num_shards, **run(*command)})
            print(rows[-1], flush=True)
        page = folder / "labels" / "report.html"
        rows[-2]["page_mib"] = round(page.stat().st_size / 2**20, 2)
        rows[-2]["page_says_count"] = f"{count:,}" in page.read_text("utf-8")
        args.out.write_text(json.dumps({**describe_machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
