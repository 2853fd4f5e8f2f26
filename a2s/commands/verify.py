"""`a2s verify`: compare every byte of a folder with its checksums, and clear the way for repairs.

It finds shards (data, labels, rectified labels) and runs (commits, checkpoints, label generations)
anywhere below the folder. `--repair` deletes the files that declare a damaged part finished, so
that the command that made it makes it again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from a2s.config.checks import VerifyConfig
from a2s.data.index import Index
from a2s.data.shards import read_manifest, shard_name
from a2s.errors import CheckpointError, ConfigError, DataError, LabelError, StorageError
from a2s.labels.store.generations import check_part, check_whole
from a2s.parallel import pool
from a2s.parallel.progress import Progress
from a2s.storage import checkpoints, lock, run_folder
from a2s.storage.files import is_there, size_of
from a2s.storage.hashing import sha256_file

MAX_SHARDS = 10**6
"""As many as their names have numbers for."""
STORES = ("labels", "averages")
_SHARD = re.compile(r"shard-\d+\.json")


class Part(NamedTuple):
    """What is verified at once: a shard's manifest, or a run's commit file."""

    path: Path
    is_commit: bool


class Damage(NamedTuple):
    """A damaged part, and what is wrong with it."""

    part: Part
    problems: tuple[str, ...]


def run(config: VerifyConfig) -> int:
    """Print what is damaged or unfinished; return 0 if nothing is, else 3.

    Raises:
        ConfigError: the folder does not exist, holds nothing with checksums, or is in use.
        StorageError: a folder below it cannot be listed.
    """
    if not config.folder.is_dir():
        raise ConfigError(f"verify: {config.folder} is not a folder")
    parts, unfinished = _parts(config.folder)
    if not parts and not unfinished:
        raise ConfigError(f"verify: {config.folder} holds neither shards nor runs of a2s")
    with ExitStack() as stack:
        if config.repair:
            for folder in sorted({_folder_of(part) for part in parts}):
                stack.enter_context(lock.hold(folder, "verify"))
        damaged = _verify(parts)
        for damage in damaged:
            for problem in damage.problems:
                print(f"verify: {problem}")
        shard_folders = {part.path.parent for part in parts if not part.is_commit}
        intact = shard_folders - {damage.part.path.parent for damage in damaged} - set(unfinished)
        others = [*unfinished.values(), *_refusals(sorted(intact))]
        others += _damaged_settings(sorted({_folder_of(part) for part in parts}))
        for text in others:
            print(f"verify: {text}")
        repaired = [_repair(damage.part) for damage in damaged] if config.repair else []
    shards = sum(not part.is_commit for part in parts)
    print(
        f"verify: {shards:,} shards and {len(parts) - shards:,} commits of {config.folder} read,"
        f" {len(damaged):,} damaged"
    )
    for text in dict.fromkeys(repaired):
        print(f"verify: {text}")
    if damaged and not config.repair:
        print("next: the same command with --repair deletes what declares them finished")
    return 3 if damaged or others else 0


def _parts(root: Path) -> tuple[list[Part], dict[Path, str]]:
    """Find shards and commits below a folder, and say which folders of shards are unfinished."""
    parts, unfinished = [], {}
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        path = Path(folder)
        manifests = [path / name for name in sorted(names) if _SHARD.fullmatch(name)]
        parts += [Part(manifest, False) for manifest in manifests]
        if path.name == "commits":
            parts += [Part(path / name, True) for name in sorted(names) if name.endswith(".json")]
        tars = {name.removesuffix(".tar") for name in names if name.endswith(".tar")}
        finished = {manifest.stem for manifest in manifests}
        without = sorted((tars | _expected(manifests)) - finished)
        if manifests and without:
            unfinished[path] = (
                f"{path}: {len(without)} shards are not finished (first {without[0]}); "
                "repeat the command that makes them"
            )
    return parts, unfinished


def _raise(error: OSError) -> NoReturn:
    raise StorageError(f"verify: {error.filename} cannot be listed ({error.strerror})")


def _expected(manifests: list[Path]) -> set[str]:
    """Names of the shards that a folder has when it is complete, as one of its manifests says."""
    for path in manifests:
        with suppress(OSError, ValueError):
            # A manifest that lies about it must not make a name for each of 2**60 shards.
            number = min(read_manifest(path)["num_shards"] or 0, MAX_SHARDS)
            return {shard_name(number) for number in range(number)}
    return set()


def _folder_of(part: Part) -> Path:
    """The output folder whose lock covers a part."""
    return part.path.parent.parent if part.is_commit else part.path.parent


def _verify(parts: list[Part]) -> list[Damage]:
    found = []
    with Progress(len(parts), unit="parts", name="verify") as progress:
        results = pool.map_items(_problems, parts, workers=0, threads=pool.num_cpus())
        with closing(results):
            for damage in results:
                progress.update()
                if damage.problems:
                    found.append(damage)
    return sorted(found)


def _problems(part: Part) -> Damage:
    check = _commit_problems if part.is_commit else _shard_problems
    return Damage(part, tuple(check(part.path)))


def _shard_problems(path: Path) -> Iterator[str]:
    """Compare the tar and the Parquet file of a shard with its manifest."""
    try:
        manifest = read_manifest(path)
    except (OSError, ValueError) as error:
        yield f"{path}: not the manifest of a shard ({error})"
        return
    expected = {".tar": manifest["tar_sha256"], ".parquet": manifest["parquet_sha256"]}
    for suffix, sha256 in expected.items():
        file = path.with_suffix(suffix)
        if not is_there(file):
            yield f"{file}: is missing"
        elif sha256_file(file) != sha256:
            yield f"{file}: does not match its checksum in {path.name}"
    if is_there(tar := path.with_suffix(".tar")) and size_of(tar) != manifest["tar_bytes"]:
        yield f"{path}: says that {tar.name} has {manifest['tar_bytes']} bytes, not {size_of(tar)}"


def _refusals(folders: Iterable[Path]) -> Iterator[str]:
    """What a command that reads these folders of whole shards would say against them."""
    for folder in folders:
        try:
            Index.load(folder)
        except DataError as error:
            yield str(error)


def _damaged_settings(folders: Iterable[Path]) -> Iterator[str]:
    """Folders whose settings cannot be read: no command would go on in them."""
    for folder in folders:
        file = folder / "config.yaml"
        if os.path.lexists(file) and run_folder.recorded(folder, "command") is None:
            yield f"{file}: not the settings of a command; restore it from a copy"


def _commit_problems(path: Path) -> Iterator[str]:
    """Compare the checkpoint of a commit, and the labels that it names, with their checksums."""
    run = path.parent.parent
    try:
        commit = checkpoints.read_commit(path)
        checkpoints.verify(commit)
    except CheckpointError as error:
        yield str(error)
        return
    for store in (run / name for name in STORES if (run / name).is_dir()):
        try:
            if commit.state.get("generation"):
                check_whole(store, int(commit.state["generation"]))
            if commit.state.get("part") and store.name == "labels":
                check_part(store, str(commit.state["part"]))
        except LabelError as error:
            yield str(error)


def _repair(part: Part) -> str:
    """Delete the file that declares a part finished; return what to do next."""
    folder = _folder_of(part)
    if part.is_commit:
        others = [path for path in part.path.parent.glob("*.json") if path != part.path]
        if not any(not tuple(_commit_problems(path)) for path in others):
            return f"{part.path} was kept: {folder} has no other intact commit; start a new --out"
    part.path.unlink()
    command = run_folder.recorded(folder, "command")
    made_by = f"the a2s {command} command of {folder}" if command else f"what made {folder}"
    return f"deleted {part.path.name} in {folder}; repeat {made_by}, it makes the rest again"
