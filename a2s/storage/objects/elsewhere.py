"""Tasks on other machines that write into a folder of a store.

The machine of the command has the working folder and publishes it (`publisher`). A task on another
machine writes into a working folder of its own, puts the files into the store before it ends, the
manifests last, and deletes them here. What it reads of the folder and is not on its machine, it
reads from the store. When all tasks have ended, the command learns of the new objects by a list of
the folder.

A task may run twice, and both may write: objects of the same job are not replaced. All others are
replaced only on condition that they are what the task has just seen, and only as long as the
command holds the lock of the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from a2s.errors import ConfigError, StorageError
from a2s.storage.objects import cache, lease, written_here
from a2s.storage.objects.mirror import is_hidden
from a2s.storage.objects.order import is_last
from a2s.storage.objects.publisher import THREADS, Publisher
from a2s.storage.objects.retries import Conflict
from a2s.storage.objects.s3 import ABSENT, PART_BYTES, Object
from a2s.storage.objects.stores import store_of
from a2s.storage.objects.urls import here, in_tree, root, url_of

R = TypeVar("R")
_UNPACKED = ".staging"
_current: dict[str, tuple[Job, Publisher]] = {}


@dataclass(frozen=True)
class Job:
    """What tasks must know: the working folder of the command's machine, and its lock."""

    work: Path
    token: str
    """That of the command's lock, and of every object that its tasks put."""
    lock_url: str


@contextlib.contextmanager
def commanded(job: Job, publisher: Publisher) -> Iterator[None]:
    """Within the block, tasks of this process are those of a command that writes to a store."""
    mark = _mark_of(job.work)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(job.token)
    _current["job"] = (job, publisher)
    try:
        yield
    finally:
        del _current["job"]
        mark.unlink(missing_ok=True)


def job() -> Job | None:
    """The job of this process; None if it writes to no store."""
    found = _current.get("job")
    return None if found is None else found[0]


@contextlib.contextmanager
def gathered() -> Iterator[None]:
    """Publish what tasks on other machines will read; afterwards, learn what they have written.

    Raises:
        ConfigError: tasks would read copies that are on this machine only.
        StorageError: the store cannot be reached.
    """
    found = _current.get("job")
    if found is None:
        yield
        return
    command, publisher = found
    unpacked = command.work / _UNPACKED
    if unpacked.is_dir() and any(unpacked.iterdir()):
        raise ConfigError(
            f"{url_of(command.work)}: tars that were downloaded and unpacked are on this machine "
            "only, so the workers of --ray-address cannot read them; leave it out, or give "
            "uncompressed tars of an object store"
        )
    publisher.publish()
    yield
    publisher.take_in()


def shared(job: Job, function: Callable[..., R], *arguments: Any) -> R:
    """Call a function in a task, with the paths of this machine.

    Raises:
        StorageError: what it has written cannot be put, or another command has taken over.
    """
    work = in_tree(job.work, "work")
    if is_commanded_here(work, job.token):
        return function(*map(on_this_machine, arguments))
    work.mkdir(parents=True, exist_ok=True)
    cache.borrow(work)
    with written_here.noted() as written:
        result = function(*map(on_this_machine, arguments))
    names = [path.relative_to(work).as_posix() for path in written if path.is_relative_to(work)]
    names = [name for name in dict.fromkeys(names) if not is_hidden(name)]
    for name in put_all(job, work, [name for name in names if (work / name).is_file()]):
        (work / name).unlink()
    return result


def sharing(job: Job, build: Callable[[], Callable[[Any], R]]) -> Callable[[Any], R]:
    """Build a stage in an actor, whose function is called as by `shared`."""
    step: Callable[[Any], R] = on_this_machine(build)()
    return functools.partial(shared, job, step)


def on_this_machine(value: Any) -> Any:
    """A value in which paths of a cache are those of this machine's."""
    if isinstance(value, Path):
        found = here(value)
        return value if found is None else Path(found)
    if isinstance(value, functools.partial):
        return functools.partial(value.func, *map(on_this_machine, value.args), **value.keywords)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: on_this_machine(path)
            for field in dataclasses.fields(value)
            if field.init and isinstance(path := getattr(value, field.name), Path)
        }
        return dataclasses.replace(value, **changed) if changed else value
    return value


def put_all(job: Job, work: Path, names: Sequence[str]) -> dict[str, Object]:
    """Put files of a working folder, what declares others finished last; the objects by name.

    Raises:
        StorageError: the store cannot be reached, or another command has taken over.
        Conflict: somebody else has written one of them.
    """
    if not names:
        return {}
    if not lease.is_held(job.lock_url, job.token):
        raise StorageError(
            f"{url_of(work)}: the command of this task does not hold it any more, so that nothing "
            "is written"
        )
    put = functools.partial(_put, job, work)
    first = [name for name in names if not is_last(name)]
    with ThreadPoolExecutor(THREADS) as threads:
        objects = dict(zip(first, threads.map(put, first), strict=True))
    return objects | {name: put(name) for name in names if is_last(name)}


def _put(job: Job, work: Path, name: str) -> Object:
    path, url = work / name, f"{url_of(work)}/{name}"
    store = store_of(url)
    there = store.head(url)
    if there is not None and there.token == job.token:
        return there
    expect = ABSENT if there is None else there.etag
    try:
        if path.stat().st_size <= PART_BYTES:
            return store.put(url, _read(path), expect=expect, token=job.token)
        return store.put_file(url, path, expect=expect, token=job.token)
    except Conflict:
        # The other attempt of a straggler may come in between.
        there = store.head(url)
        if there is None or there.token != job.token:
            raise
        return there


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _mark_of(work: Path) -> Path:
    """File by which tasks find out that they share a working folder with the command."""
    name = hashlib.sha256(str(url_of(work)).encode()).hexdigest()[:40]
    return root() / "state" / f"{name}.command"


def is_commanded_here(work: Path, token: str) -> bool:
    """Whether this machine's working folder is that of the command with this token."""
    try:
        return _read(_mark_of(work)).decode() == token
    except OSError:
        return False
