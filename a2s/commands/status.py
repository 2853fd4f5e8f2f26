"""`a2s status`: show the progress of a job from its folder, without locking or writing anything.

    a2s status labels/x
    a2s status s3://bucket/labels/x --json

Shards are counted by their manifests (as old as their files), training by its commits and log.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from typing import Any

from a2s.config.checks import StatusConfig
from a2s.errors import ConfigError
from a2s.storage.checkpoints import check_state
from a2s.storage.hashing import digest
from a2s.storage.listing import Folder
from a2s.storage.parsing import parse_json, parse_yaml
from a2s.storage.status import shards
from a2s.storage.status.pipeline import (
    CommandStatus,
    PipelineStatus,
    Status,
    Step,
    StepStatus,
    pipeline_status,
)
from a2s.storage.status.stop import last_record, parse_stop, stop_in_log, with_stop
from a2s.storage.status.text import counted, describe, few
from a2s.storage.status.training import TrainingStatus, parse_log, parse_pause, training_status

RUN_STEPS: tuple[tuple[str, str, set[str]], ...] = (
    ("data", "shard", set()),
    ("test-data", "shard", {"test"}),
    ("seeds", "label", {"seeds", "stage1"}),
    ("stage1", "stage1", {"stage1"}),
    ("labels", "label", set()),
    ("stage2", "stage2", set()),
    ("preds", "predict", set()),
    ("test-maps", "predict", {"truth"}),
    ("test-rbd", "predict", {"truth"}),
    ("test-bundled", "predict", {"truth"}),
    ("test-labels", "label", {"test", "truth"}),
    *(
        (f"scores/{name}", "evaluate", {"truth"})
        for name in ("maps", "labels", "detector", "rbd", "bundled")
    ),
)
"""Folders of `a2s run` in order: name, command, and the settings without which it is absent."""
LAST_FILE = {
    "predict": "failures.jsonl",
    "evaluate": "scores.json",
    "export": "export.json",
    "snapshot": "snapshot.json",
}
"""The file that a command without manifests writes last."""
_SHARD = re.compile(r"shard-\d{6,}\.json")
_COMMIT = re.compile(r"\d{5,}\.json")


def run(config: StatusConfig) -> int:
    """Print the progress of the job in a folder.

    Raises:
        ConfigError: no such folder, or nothing of a2s in it.
        DataError: a URL whose scheme is not allowed.
    """
    now_sec = time.time()
    status = status_of(Folder.open(config.out), now_sec=now_sec)
    if config.as_json:
        values = {"out": config.out, **dataclasses.asdict(status)}
        print(json.dumps(values, ensure_ascii=False))
    else:
        print(describe(config.out, status, now_sec=now_sec))
    return 0


def status_of(folder: Folder, *, now_sec: float) -> Status:
    """Return the progress of the job in a folder, of whatever command.

    Raises:
        ConfigError: nothing in it is of a2s, or a file cannot be read.
    """
    status = _progress(folder, now_sec=now_sec)
    stop = parse_stop(folder.read_one("stopped.json"))
    if stop is None and status.command in ("run", "ablate"):
        stop = stop_in_log(_log(folder), start_sec=folder.written_sec("environment.json"))
    return with_stop(status, stop)


def _progress(folder: Folder, *, now_sec: float) -> Status:
    if set(folder.entries) <= {".lock", ".lock-setup", ".lock-shards"}:
        return CommandStatus("", "empty")
    problems: list[str] = []
    record = _record(folder, problems)
    identity = record.get("identity", {})
    command = identity.get("command", "")
    if command in ("stage1", "stage2"):
        return _training(folder, command, record[command], problems, now_sec=now_sec)
    if command == "run":
        return _whole(folder, record["run"], problems, now_sec=now_sec)
    if command == "ablate" or command in LAST_FILE:
        return _plain(folder, command, problems, now_sec=now_sec)
    if command in ("shard", "label") or any(map(_SHARD.fullmatch, folder.entries)):
        settings = digest(identity) if identity else None
        return _shards(folder, command, settings, problems, now_sec=now_sec)
    if problems:
        raise ConfigError(
            f"status: {folder.url}/config.yaml is damaged, or not written by a2s; restore it from "
            "a copy"
        )
    raise ConfigError(
        f"status: {folder.url} holds nothing that a2s has written (looked for config.yaml and "
        "shard-*.json); give the --out of shard, stage1, label, stage2, snapshot, predict, "
        "evaluate, export, run or ablate"
    )


def _record(folder: Folder, problems: list[str]) -> dict[str, Any]:
    """Read `config.yaml`: the command, its settings and its identity; {} without the file."""
    data = folder.read_one("config.yaml")
    if data is None:
        return {}
    try:
        record = parse_yaml(data)
        command = record["identity"]["command"]
        if isinstance(record[command], dict):
            return dict(record)
    except (ValueError, KeyError, TypeError):
        pass
    problems.append("config.yaml is damaged, or not written by a2s")
    return {}


def _shards(
    folder: Folder, command: str, settings: str | None, problems: list[str], *, now_sec: float
) -> shards.ShardsStatus:
    names = sorted(filter(_SHARD.fullmatch, folder.entries))
    # work.json has the failures before the first shard; failures.jsonl, written last, has all.
    listing = next((name for name in ("work.json", "failures.jsonl") if name in folder.entries), "")
    contents = folder.read([*names, listing])
    manifests: list[shards.Manifest] = []
    damaged: list[str] = []
    for name in names:
        data = contents[name]
        if data is None:
            continue
        try:
            written_sec = folder.written_sec(name)
            manifests.append(shards.parse_manifest(name, data, written_sec=written_sec))
        except ValueError:
            damaged.append(name)
    if damaged:
        problems.append(f"{counted(damaged, 'manifest')} damaged: {few(damaged)}")
    manifests, others = shards.split_by_settings(manifests, settings)
    if others:
        problems.append(
            f"{counted(others, 'manifest')} made with other settings, not counted: {few(others)}"
        )
    if torn := _torn(folder, manifests):
        torn = _torn(folder.refresh(), [m for m in manifests if m.name in torn])
    if torn:
        problems.append(
            f"{counted(torn, 'manifest')} without the tar or table of their size, not counted: "
            f"{few(torn)}; the same command makes them again"
        )
        manifests = [manifest for manifest in manifests if manifest.name not in torn]
    listed: int | None = None
    before: list[dict[str, str]] = []
    try:
        if (work := contents.get("work.json")) is not None:
            listed, before = shards.parse_work(work)
        elif command != "label" and (lines := contents.get("failures.jsonl")) is not None:
            before = shards.failures_elsewhere(lines, manifests)
    except ValueError:
        problems.append(f"{listing} is damaged")
    if not command and any(manifest.num_empty is not None for manifest in manifests):
        command = "label"
    return shards.shards_status(
        manifests,
        command=command or ("shard" if listing == "work.json" else ""),
        start_sec=folder.written_sec("environment.json"),
        now_sec=now_sec,
        listed=listed,
        failed_before=before,
        problems=problems,
    )


def _torn(folder: Folder, manifests: list[shards.Manifest]) -> list[str]:
    """Manifests whose tar or table is missing; a copy of manifests alone is fine."""
    if not any(name.endswith(".tar") for name in folder.entries):
        return []
    torn = []
    for manifest in manifests:
        stem = manifest.name.removesuffix(".json")
        tar = folder.entries.get(f"{stem}.tar")
        size = tar.size_bytes if tar else -1
        if size not in (manifest.tar_bytes, None) or f"{stem}.parquet" not in folder.entries:
            torn.append(manifest.name)
    return torn


def _training(
    folder: Folder, command: str, settings: dict[str, Any], problems: list[str], *, now_sec: float
) -> TrainingStatus:
    log = _log(folder)
    records, damaged = parse_log(log)
    if damaged:
        problems.append(f"metrics.jsonl: lines that cannot be read: {damaged}")
    status = training_status(
        records,
        _last_commit(folder, problems),
        command=command,
        num_epochs=int(settings["epochs"]),
        batch_size=int(settings["batch_size"]),
        start_sec=folder.written_sec("environment.json"),
        now_sec=now_sec,
        problems=problems,
        pause=parse_pause(log),
    )
    if command == "stage2" and status.state == "finished":
        rectified = folder.subfolder("rectified")
        part = _shards(rectified, "label", None, [], now_sec=now_sec) if rectified else None
        if part is None or part.state != "finished":
            written = f"{part.shards_done} of {part.num_shards} shards" if part else "no shard yet"
            problem = f"its rectified labels are not all written ({written})"
            return dataclasses.replace(status, state="running", problems=[*problems, problem])
    return status


def _last_commit(folder: Folder, problems: list[str]) -> dict[str, Any] | None:
    """Read the newest readable commit; a commit that was just deleted is skipped."""
    commits = folder.subfolder("commits")
    if commits is None:
        return None
    names = sorted(filter(_COMMIT.fullmatch, commits.entries), key=lambda name: int(name[:-5]))
    for name, data in reversed(commits.read(names).items()):
        if data is None:
            continue
        try:
            record: dict[str, Any] = parse_json(data)
            state = record["state"]
            check_state(state)
            return {"commit": int(name.removesuffix(".json")), "state": state}
        except (ValueError, KeyError, TypeError):
            problems.append(f"commits/{name} is damaged")
    return None


def _plain(folder: Folder, command: str, problems: list[str], *, now_sec: float) -> CommandStatus:
    """Read from its last file whether a command is finished; predict writes that every time.

    A folder of ablate may hold many tables, so there the log tells.
    """
    start_sec = folder.written_sec("environment.json")
    if command == "ablate":
        finished = last_record(_log(folder)).get("event") == "written"
    else:
        last_sec = folder.written_sec(LAST_FILE[command])
        finished = LAST_FILE[command] in folder.entries
        if command == "predict" and start_sec is not None and last_sec is not None:
            finished = last_sec >= start_sec
    silent = None if start_sec is None else max(0.0, now_sec - start_sec)
    return CommandStatus(command, "finished" if finished else "running", silent, problems)


def _whole(
    folder: Folder, settings: dict[str, Any], problems: list[str], *, now_sec: float
) -> Status:
    names = {name for _, _, needs in RUN_STEPS for name in needs}
    given = {name for name in names if settings.get(name) not in (None, "none")} - {"stage1"}
    if settings.get("init") != "bundled":
        given |= {"stage1"} if settings.get("seeds") == "none" else {"stage1", "seeds"}
    steps = []
    for name, command, needs in RUN_STEPS:
        sub = folder.subfolder(name)
        if sub is None and not needs <= given:
            continue
        steps.append(Step(name, command, _step(sub, command, now_sec=now_sec) if sub else None))
    return pipeline_status(steps, problems=problems)


def _step(folder: Folder, command: str, *, now_sec: float) -> StepStatus:
    try:
        status = status_of(folder, now_sec=now_sec)
    except ConfigError as error:
        return CommandStatus(command, "started", problems=[str(error)])
    if isinstance(status, PipelineStatus):
        return CommandStatus(command, "started", problems=["it holds another run"])
    return status


def _log(folder: Folder) -> bytes:
    return folder.read_one("metrics.jsonl") or b""
