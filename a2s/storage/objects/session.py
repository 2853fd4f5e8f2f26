"""One command on folders of object stores: what it reads is listed, what it writes is published.

The command itself sees paths of this machine only.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from a2s.errors import A2SError, ConfigError, StorageError
from a2s.storage.objects import elsewhere, lease, machines, mirror
from a2s.storage.objects.elsewhere import Job
from a2s.storage.objects.locks import try_locked
from a2s.storage.objects.publisher import SETTINGS, Publisher
from a2s.storage.objects.single_file import published_file
from a2s.storage.objects.stores import refuse_object, refuse_read_only
from a2s.storage.objects.urls import in_tree, is_url, local_path, shown, tree_of, url_of

HELD = "A2S_HELD"
"""Environment variable: the working folders that a process above this one publishes."""
_WRITES = {"review": "labels", "import-masks": "labels"}
"""The setting that names what a command writes, where that is not `out`."""
_FILE_WRITERS = ("report", "import-weights", "export-weights", "export-model")
_FOLDERS = ("data", "labels", "pred", "truth", "masks")
"""Settings that name a folder."""
_WITH_RANKS = ("stage1", "stage2")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_STREAMED = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tzst")
_SHARD = re.compile(r"shard-(\d{6,})\.(?:tar|parquet|json)")
C = TypeVar("C", bound=BaseModel)


@contextlib.contextmanager
def session(command: str, config: C) -> Iterator[C]:
    """Yield settings in which paths of this machine stand for URLs.

    Raises:
        ConfigError: a URL where a folder of this machine is wanted, or where nothing can be
            written; or the folder is in use.
        StorageError: a store cannot be reached.
    """
    config, found = _with_paths(command, config)
    if not found:
        yield config
        return
    _refuse(command, config, found)
    written = _written(command, config)
    try:
        for name, path in found:
            if path != written and tree_of(path) == "read":
                mirror.read_folder(path)
                if name in _FOLDERS and path.is_symlink():
                    raise ConfigError(
                        f"{command}: {url_of(path)} is a file; give the folder that contains it"
                    )
        if written is None:
            yield config
            return
        work = in_tree(written, "work")
        name = _WRITES.get(command, _name_of_written(command))
        local = config.model_copy(update={name: work})
        is_file = command in _FILE_WRITERS or (
            command == "predict" and work.suffix.lower() in _PICTURES
        )
        publishing = (
            published_file(work) if is_file else published(work, command, parts=_parts(config))
        )
        with publishing:
            yield local
    except A2SError as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (shown(error.args[0]), *error.args[1:])
        raise


@contextlib.contextmanager
def published(work: Path, command: str, *, parts: Sequence[range] | None = None) -> Iterator[None]:
    """Hold a folder of a store, bring it here, and publish what the block writes there.

    Of several ranks the first does; the others join it (`machines`). With `parts`, only these
    shards are held and published, and other machines may write other shards meanwhile.

    Raises:
        ConfigError: it is in use.
        StorageError: the store cannot be reached, or somebody else wrote there.
    """
    if _is_held(work):
        yield
        return
    if command in _WITH_RANKS and os.environ.get("RANK", "0") != "0":
        # Only the first rank may bring the folder up to date: it knows what it has published.
        with machines.joined(work, command):
            yield
        return
    url = str(url_of(work))
    # Before the lock, which would be below it.
    refuse_object(url)
    with contextlib.ExitStack() as stack:
        if parts is not None:
            stack.enter_context(_alone_here(work, command))
        held = stack.enter_context(lease.hold(url, command, parts=parts))
        concerns = functools.partial(_is_of, parts)
        known = mirror.work_folder(work)
        publisher = Publisher(work, command, held, known, concerns=concerns)
        stack.enter_context(elsewhere.commanded(Job(work, held.token, held.url), publisher))
        leads: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if command in _WITH_RANKS:
            leads = machines.led(work, command, held, publisher)
        before = os.environ.get(HELD)
        os.environ[HELD] = str(work)
        try:
            with leads:
                yield
        except BaseException:
            try:
                publisher.close()
            except StorageError as error:
                print(f"a2s: {command}: {error}", file=sys.stderr)
            raise
        finally:
            os.environ.pop(HELD)
            if before is not None:
                os.environ[HELD] = before
        publisher.close()
        if command not in _WITH_RANKS or os.environ.get("WORLD_SIZE", "1") == "1":
            # Other ranks may still look at it.
            mirror.forget(work)


@contextlib.contextmanager
def _alone_here(work: Path, command: str) -> Iterator[None]:
    """Refuse a second process of this machine: a working folder is published by one.

    Raises:
        ConfigError: there is one.
    """
    with try_locked("work", str(work)) as is_free:
        if not is_free:
            raise ConfigError(
                f"{command}: another process of this machine writes to {url_of(work)}; give it "
                "these --shards too, or this one an A2S_CACHE of its own"
            )
        yield


def _parts(config: BaseModel) -> list[range] | None:
    """The shards that a command was told to write; None: all."""
    text = getattr(config, "shards", None)
    if not isinstance(text, str):
        return None
    found = re.findall(r"(\d+)(?:\s*-\s*(\d+))?", text)
    return [range(int(first), int(last or first) + 1) for first, last in found]


def _is_of(parts: Sequence[range] | None, name: str) -> bool:
    """Whether a file is of these shards, or of those that all processes have in common."""
    match = _SHARD.fullmatch(name)
    if parts is None:
        return True
    return name == SETTINGS or (match is not None and any(int(match[1]) in one for one in parts))


def _is_held(path: Path) -> bool:
    held = os.environ.get(HELD)
    return held is not None and path.is_relative_to(held)


def _name_of_written(command: str) -> str:
    return "folder" if command == "verify" else "out"


def _written(command: str, config: BaseModel) -> Path | None:
    """The folder or file of a store that a command writes, as a path; None if there is none."""
    if command == "verify" and not getattr(config, "repair", False):
        return None
    value = getattr(config, _WRITES.get(command, _name_of_written(command)), None)
    runs = getattr(config, "runs", ())
    if command == "report" and value is None and runs and url_of(runs[0]):
        value = runs[0] / "report.html"
    return value if isinstance(value, Path) and url_of(value) and not _is_held(value) else None


def _with_paths(command: str, config: C) -> tuple[C, list[tuple[str, Path]]]:
    """Settings with paths in place of URLs, and the names and paths of those that stand for any."""
    found: list[tuple[str, Path]] = []

    def resolved(name: str, value: Any) -> Any:
        if isinstance(value, BaseModel):
            return walked(value)
        if isinstance(value, tuple):
            return tuple(resolved(name, one) for one in value)
        if isinstance(value, str) and name in ("images", "weights") and is_url(value):
            if name == "images" and _is_streamed(command, value):
                return value
            try:
                path = local_path(value)
            except ValueError as error:
                raise ConfigError(f"{command}: {error}") from None
            found.append((name, path))
            return str(path)
        if isinstance(value, Path) and url_of(value) and not _is_held(value):
            found.append((name, value))
        return value

    def walked(model: Any) -> Any:
        values = {name: getattr(model, name) for name in type(model).model_fields}
        changed = {
            name: new
            for name, value in values.items()
            if (new := resolved(name, value)) is not value and new != value
        }
        return model.model_copy(update=changed) if changed else model

    return walked(config), found


def _is_streamed(command: str, url: str) -> bool:
    """Whether a command reads an input as it comes, so that it need not be on this machine."""
    path = url.lower().partition("?")[0]
    return path.endswith(_STREAMED) or (command != "shard" and path.endswith(_PICTURES))


def _refuse(command: str, config: BaseModel, found: list[tuple[str, Path]]) -> None:
    """Refuse what does not work on a store.

    Raises:
        ConfigError: it says what, and what to do.
    """
    urls = {name: url_of(path) for name, path in found}
    if command in ("ablate", "doctor"):
        name, url = next(iter(urls.items()))
        raise ConfigError(f"{command}: --{name} {url} is a URL; give a folder of this machine")
    if "cache_dir" in urls:
        raise ConfigError(f"{command}: --cache-dir {urls['cache_dir']} must be on this machine")
    written = _written(command, config)
    if written is None:
        return
    url = str(url_of(written))
    refuse_read_only(url)
    if command not in _WITH_RANKS and machines.are_several():
        world = os.environ["WORLD_SIZE"]
        raise ConfigError(
            f"{command}: {world} ranks on several machines (WORLD_SIZE) cannot share {url}; start "
            "it on one machine, without a launcher"
        )
