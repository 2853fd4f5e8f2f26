"""Which files of two folders `soak.py` compares."""

from __future__ import annotations

import json
import re
from pathlib import Path

NOT_COMPARED = {
    "metrics.jsonl": "a log; lines of steps that are repeated come twice",
    "environment.json": "when and where",
    ".lock": "number of the process",
    ".lock-setup": "empty",
    ".lock-shards": "empty",
    "checkpoints, commits, labels of a run": "but its last ones: signals commit in between",
    "stopped.json": "is there after a kill only",
    "scores.json: inputs_sha256": "digest of when the masks were written",
    "review.jsonl: at": "when it was decided",
    "written.txt: order, mtime_ns": "when a file was written; lines may come twice after a kill",
    "report.html: seconds": "how long its commands took",
}
TEMPORARY = (".tmp", ".staging", ".partial")


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of the files that must be equal, by relative path.

    A signal makes training commit in between, so that numbers of commits differ: of a training run,
    its last weights, momentum and rectified labels are compared; of one with averages of labels,
    these and the labels, too.
    """
    if (folder / "checkpoints").is_dir():
        last = max((folder / "checkpoints").iterdir())
        files = [*last.glob("*.safetensors"), *folder.glob("*"), *folder.glob("rectified/*")]
        if (folder / "averages").is_dir():
            files += [*folder.glob("averages/*/*"), *folder.glob("labels/*/*")]
        return {
            path.name if path.parent == last else str(path.relative_to(folder)): path.read_bytes()
            for path in files
            if path.is_file() and path.name not in NOT_COMPARED
        }
    return {
        str(path.relative_to(folder)): comparable(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED and not path.name.endswith(TEMPORARY)
    }


def comparable(path: Path) -> bytes:
    """Bytes of a file, without times and digests of times."""
    if path.name == "scores.json":
        return json.dumps({**json.loads(path.read_bytes()), "inputs_sha256": ""}).encode()
    if path.name == "written.txt":
        # In scores.json is a digest of times.
        fields = [line.split()[:4] for line in path.read_text().splitlines()]
        return repr(sorted({*(tuple(f[: 3 if "scores" in f[1] else 4]) for f in fields)})).encode()
    if path.name == "review.jsonl":
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        return json.dumps([{**line, "at": ""} for line in lines]).encode()
    if path.suffix == ".html":
        return re.sub(rb"\b\d[\d.,:-]* ?(s|min|h|d|UTC)\b", b"", path.read_bytes())
    return path.read_bytes()
