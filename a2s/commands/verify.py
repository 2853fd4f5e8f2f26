"""`a2s verify`: compare every byte of a folder with its checksums, and clear the way for repairs.

It finds shards (data, labels, rectified labels), runs (commits, checkpoints, label generations) and
lists of written files (predictions, exports, scores) anywhere below the folder. `--repair` deletes
the files that declare a damaged part finished, and damaged files of lists, so that the command that
made them makes them again.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from a2s.config.checks import VerifyConfig
from a2s.data import work_list
from a2s.data.index import Index
from a2s.data.keys import decode_key
from a2s.data.shards import read_manifest, shard_name
from a2s.errors import CheckpointError, ConfigError, DataError, LabelError, StorageError
from a2s.evaluation.pictures.pending import num_without_checksum
from a2s.labels.store.generations import check_part, check_whole
from a2s.parallel import pool
from a2s.parallel.progress import Progress
from a2s.storage import checkpoints, lock, run_folder, written
from a2s.storage.files import NotAFile, is_there, read_json, size_of
from a2s.storage.hashing import sha256_file
from a2s.storage.written import crc32_of

MAX_SHARDS = 10**6
"""As many as their names have numbers for."""
STORES = ("labels", "averages")
_SHARD = re.compile(r"shard-\d+\.json")


class Part(NamedTuple):
    """What is verified at once: a shard's manifest, a run's commit file, or a list of files."""

    path: Path
    kind: Literal["shard", "commit", "list"]


class Checked(NamedTuple):
    """A part, what is wrong with it, the files of a list that are damaged, and how many it has."""

    part: Part
    problems: tuple[str, ...]
    damaged: tuple[Path, ...] = ()
    num_files: int = 0


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
        raise ConfigError(f"verify: {config.folder} holds neither shards nor runs nor lists of a2s")
    with ExitStack() as stack:
        if config.repair:
            for folder in sorted({_folder_of(part) for part in parts}):
                stack.enter_context(lock.hold(folder, "verify"))
        checked = _verify(parts)
        damaged = [one for one in checked if one.problems]
        for damage in damaged:
            for problem in damage.problems:
                print(f"verify: {problem}")
        shard_folders = {part.path.parent for part in parts if part.kind == "shard"}
        intact = shard_folders - {damage.part.path.parent for damage in damaged} - set(unfinished)
        others = [*unfinished.values(), *_refusals(sorted(intact))]
        others += _damaged_settings(sorted({_folder_of(part) for part in parts}))
        others += _without_checksums(part.path.parent for part in parts if part.kind == "list")
        for text in others:
            print(f"verify: {text}")
        repaired = [_repair(damage) for damage in damaged] if config.repair else []
    count = Counter(part.kind for part in parts)
    files = f", {sum(one.num_files for one in checked):,} other files" if count["list"] else ""
    print(
        f"verify: {count['shard']:,} shards and {count['commit']:,} commits{files} of "
        f"{config.folder} read, {len(damaged):,} damaged"
    )
    for text in dict.fromkeys(repaired):
        print(f"verify: {text}")
    if damaged and not config.repair:
        print(
            "next: the same command with --repair deletes what declares them finished, and damaged "
            "files of predictions, exports and scores"
        )
    return 3 if damaged or others else 0


def _parts(root: Path) -> tuple[list[Part], dict[Path, str]]:
    """Find shards and commits below a folder, and say which folders of shards are unfinished."""
    parts, unfinished = [], {}
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        path = Path(folder)
        # A folder in the place of a manifest or commit is damage as well.
        entries = sorted([*names, *subfolders])
        manifests = [path / name for name in entries if _SHARD.fullmatch(name)]
        parts += [Part(manifest, "shard") for manifest in manifests]
        if path.name == "commits":
            commits = [path / name for name in entries if name.endswith(".json")]
            parts += [Part(commit, "commit") for commit in commits]
        if written.FILE_NAME in entries and "config.yaml" in names:
            parts.append(Part(path / written.FILE_NAME, "list"))
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
    return part.path.parent.parent if part.kind == "commit" else part.path.parent


def _verify(parts: list[Part]) -> list[Checked]:
    found = []
    with Progress(len(parts), unit="parts", name="verify") as progress:
        results = pool.map_items(_checked, parts, workers=0, threads=pool.num_cpus())
        with closing(results):
            for one in results:
                progress.update()
                found.append(one)
    return sorted(found)


def _checked(part: Part) -> Checked:
    if part.kind == "list":
        return _check_list(part)
    check = _commit_problems if part.kind == "commit" else _shard_problems
    return Checked(part, tuple(check(part.path)))


def _check_list(part: Part) -> Checked:
    """Compare the files of a list with their checksums."""
    folder = part.path.parent
    try:
        files = list(written.WrittenFiles(folder))
        paths = [folder / decode_key(file.key) for file in files]
    except (OSError, DataError) as error:
        return Checked(part, (f"{part.path}: cannot be read ({error})",))
    with ThreadPoolExecutor(pool.num_cpus()) as threads:
        problems = [*threads.map(_problem_of, paths, files)]
    damaged = [path for path, text in zip(paths, problems, strict=True) if text]
    texts = tuple(text for text in problems if text)
    return Checked(part, texts, tuple(damaged), len(files))


def _problem_of(path: Path, file: written.Written) -> str:
    try:
        is_same = (size_of(path), crc32_of(path)) == (file.size, file.crc32)
    except FileNotFoundError:
        return f"{path}: is missing"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    return "" if is_same else f"{path}: does not match its checksum in {written.FILE_NAME}"


def _without_checksums(folders: Iterable[Path]) -> Iterator[str]:
    """Folders of predictions with files whose checksums are not listed."""
    for folder in folders:
        try:
            number = num_without_checksum(folder)
        except (OSError, DataError):
            # The list itself is damaged, which has been said.
            continue
        if number:
            yield (
                f"{folder}: {number:,} files have no checksum in {written.FILE_NAME}; repeat the "
                "command that makes them, it adds them"
            )


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
            if os.path.lexists(folder / work_list.WORK):
                work_list.read(folder, shard_size=None)
        except DataError as error:
            yield str(error)


def _damaged_settings(folders: Iterable[Path]) -> Iterator[str]:
    """Folders whose settings cannot be read: no command would go on in them."""
    for folder in folders:
        file = folder / "config.yaml"
        if os.path.lexists(file) and run_folder.recorded(folder, "command") is None:
            yield f"{file}: not the settings of a command; restore it from a copy"
        file = folder / run_folder.RESOLVED
        with suppress(FileNotFoundError):
            try:
                found = read_json(file)
            except (ValueError, NotAFile):
                found = None
            if not isinstance(found, dict):
                yield f"{file}: not what a command resolved; restore it from a copy"


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


def _repair(damage: Checked) -> str:
    """Delete what declares a part finished, or its damaged files; return what to do next."""
    part, folder = damage.part, _folder_of(damage.part)
    if part.path.is_dir():
        return f"{part.path} was kept: it is a folder in the place of a file; move it away"
    if part.kind == "commit":
        others = [path for path in part.path.parent.glob("*.json") if path != part.path]
        if not any(not tuple(_commit_problems(path)) for path in others):
            return f"{part.path} was kept: {folder} has no other intact commit; start a new --out"
    if part.kind == "list":
        if not damage.damaged:
            return (
                f"{part.path} was kept: nothing else tells what {folder} holds; start a new --out"
            )
        for path in damage.damaged:
            with suppress(FileNotFoundError, IsADirectoryError):
                path.unlink()
        what = f"{len(damage.damaged):,} damaged files"
    else:
        part.path.unlink()
        what = part.path.name
    command = run_folder.recorded(folder, "command")
    made_by = f"the a2s {command} command of {folder}" if command else f"what made {folder}"
    return f"deleted {what} in {folder}; repeat {made_by}, it makes the rest again"
