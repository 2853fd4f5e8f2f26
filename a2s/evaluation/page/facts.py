"""What was done, in terms and values: data, encoder, settings, versions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from a2s.evaluation.page.label_table import LabelTable
from a2s.evaluation.page.parts import Parts, settings_of
from a2s.storage.files import read_bytes
from a2s.storage.parsing import parse_json


def of_run(
    parts: Parts, recorded: Mapping[str, Any], labels: LabelTable | None
) -> list[tuple[str, str]]:
    """List what one should know of a run before its pictures."""
    found = [("command", f"a2s {parts.command}"), ("folder", str(parts.folder))]
    for title, folder in (("images", parts.data), ("test images", parts.test_data)):
        if folder is not None and (title == "images" or parts.has_test_set):
            found.append((title, f"{count_images(folder):,} in {folder}"))
    if labels is not None:
        found.append(("labels", _labels(labels)))
    if parts.truth is not None:
        found.append(("truth", str(parts.truth)))
    for name, stage in (("stage 1", parts.stage1), ("stage 2", parts.stage2)):
        if stage is not None and (stage / "config.yaml").exists():
            found.append((name, _training(settings_of(stage)[0])))
    versions = recorded.get("packages", {})
    if isinstance(versions, dict) and versions:
        shown = [f"{name} {versions[name]}" for name in ("a2s", "torch") if name in versions]
        shown.append(f"Python {recorded.get('python')}")
        git = recorded.get("git")
        if isinstance(git, dict):
            changed = ", with changes" if git.get("modified") else ""
            shown.append(f"commit {str(git.get('commit'))[:12]}{changed}")
        found.append(("versions", ", ".join(shown)))
        cores = f"{recorded.get('cpu_count')} CPU cores"
        found.append(("machine", f"{recorded.get('platform')}, {cores}"))
    started = parts.folder / "environment.json"
    if started.exists():
        at = time.gmtime(started.stat().st_mtime)
        found.append(("last started", time.strftime("%Y-%m-%d %H:%M UTC", at)))
    return found


def count_images(folder: Path) -> int:
    """Number of images in finished shards, from their manifests; damaged ones do not count."""
    total = 0
    for path in folder.glob("shard-*.json"):
        try:
            total += int(parse_json(read_bytes(path))["count"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return total


def _labels(table: LabelTable) -> str:
    said = [f"{table.num_labels:,}"]
    if "quality" in table.counts:
        said.append(f"mean expected F {table.mean('quality'):.3f}")
    if "area_share" in table.counts:
        said.append(f"mean area {table.mean('area_share'):.1%}, {table.num_empty:,} empty")
    if "no_object" in table.flags:
        said.append(f"{table.flags['no_object']:,} show no object")
    return "; ".join(said)


def _training(section: Mapping[str, Any]) -> str:
    encoder = section.get("encoder") or {}
    weights = str(encoder.get("weights", "none"))
    init = section.get("init")
    pretrained = "starts from the bundled detector" if init == "bundled" else f"weights {weights}"
    return (
        f"{encoder.get('name')}, {pretrained}; {section.get('epochs')} epochs, batch "
        f"{section.get('batch_size')}, {section.get('image_size')} px, lr {section.get('lr')}, "
        f"seed {section.get('seed')}"
    )
