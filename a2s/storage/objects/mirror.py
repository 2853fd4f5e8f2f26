"""Folders on this machine that stand for folders of a store: links, and copies of small files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from a2s.errors import ConfigError, StorageError
from a2s.storage.objects import cache
from a2s.storage.objects.locks import locked
from a2s.storage.objects.retries import Conflict
from a2s.storage.objects.s3 import Object
from a2s.storage.objects.stores import copy_to, store_of
from a2s.storage.objects.urls import local_path, root, tree_of, url_of

_SMALL = (
    *(".csv", ".html", ".json", ".jsonl", ".log", ".md", ".parquet", ".table", ".txt", ".xml"),
    *(".yaml", ".yml"),
)
"""Suffixes of files that are opened by other means than `files.open_file`, or appended to."""
_SHOWN = (".", "..", ".parts")
"""Hidden names that are published: records of an unfinished export, by which it resumes."""
THREADS = 16


class Known(NamedTuple):
    """A file of a working folder, as it was when it was equal to its object."""

    etag: str
    mtime_ns: int
    size: int


def list_below(url: str) -> tuple[dict[str, Object], Object | None]:
    """List a folder: objects by relative path; and the object with the URL itself, if any.

    Raises:
        StorageError: it cannot be listed, or holds an object whose name is no path.
    """
    found: dict[str, Object] = {}
    exact = None
    for one in _all_below(url):
        if one.url == url:
            exact = one
            continue
        relative = one.url.removeprefix(f"{url}/")
        if is_hidden(relative):
            continue
        if not {"", ".", ".."}.isdisjoint(relative.split("/")):
            raise StorageError(f"{one.url}: its name is no path of a file; rename the object")
        found[relative] = one
    return found, exact


def _all_below(url: str) -> list[Object]:
    try:
        return list(store_of(url).find(url))
    except FileNotFoundError:
        raise StorageError(f"{url}: there is no such bucket") from None


def read_folder(path: Path) -> None:
    """Bring a folder or file of the tree `read` up to date with the store.

    Small files are fetched, of the others only links are made.

    Raises:
        StorageError: the store cannot be read.
    """
    url = str(url_of(path))
    with locked("folder", url):
        listed, exact = list_below(url)
        if exact is not None and not listed:
            _replace_folder(path)
            if not cache.is_linked(path, exact):
                cache.link(path, exact)
            cache.bring(path)
            return
        if path.is_symlink() or path.is_file():
            path.unlink()
        _drop_others(path, listed)
        _link_all(path, listed)
        _for_all(cache.bring, (path / name for name in listed if _is_small(name)))


def fetched(url: str) -> Path:
    """Path of a file that is fetched now.

    Raises:
        ConfigError: the URL names no object.
        StorageError: the store cannot be read.
    """
    try:
        path = local_path(url)
    except ValueError as error:
        raise ConfigError(f"{url} is no address of an object") from error
    read_folder(path)
    return path


def read_files(paths: Iterable[str]) -> None:
    """Bring single files of the tree `read` up to date with the store; other paths are left alone.

    Raises:
        StorageError: the store cannot be read.
    """

    def update(path: Path) -> None:
        url = str(url_of(path))
        one = store_of(url).head(url)
        if one is None:
            path.unlink(missing_ok=True)
        elif not cache.is_linked(path, one):
            cache.link(path, one)

    _for_all(update, (Path(path) for path in paths if tree_of(path) == "read"))


def work_folder(path: Path) -> dict[str, Known]:
    """Bring a working folder up to date with the store, and tell what both have.

    If the store holds what this machine has last published there, what is here is kept: it may be
    newer. Otherwise somebody else went on, and the store's version is taken.

    Raises:
        StorageError: the store cannot be read.
    """
    url = str(url_of(path))
    with locked("folder", url):
        listed, known = list_below(url)[0], read_known(path)
        if {name: one.etag for name, one in listed.items()} == {
            name: one.etag for name, one in known.items()
        }:
            return known
        shutil.rmtree(path, ignore_errors=True)
        _take(path, listed)
        known = {name: _known(path / name, one) for name, one in listed.items()}
        write_known(path, known)
        return known


def take_new(
    path: Path, known: dict[str, Known], token: str, *, concerns: Callable[[str], bool]
) -> None:
    """Take what other machines have put into the folder of a job with this token; see `Known`.

    Raises:
        StorageError: the store cannot be read.
        Conflict: somebody else has replaced an object.
    """
    url = str(url_of(path))
    listed = {name: one for name, one in list_below(url)[0].items() if concerns(name)}
    new = {n: one for n, one in listed.items() if n not in known or known[n].etag != one.etag}
    for name, one in new.items():
        there = store_of(one.url).head(one.url) if name in known else None
        if there is not None and there.token != token:
            raise Conflict(f"{one.url}: somebody else has written it meanwhile")
    _take(path, new)
    known |= {name: _known(path / name, one) for name, one in new.items()}


def follow(path: Path) -> None:
    """Make a working folder that another machine publishes equal to the store.

    No process may be writing there. What others have done here already is not done again.

    Raises:
        StorageError: the store cannot be read.
    """
    url = str(url_of(path))
    with locked("folder", url):
        listed, known = list_below(url)[0], read_known(path)
        _drop_others(path, listed)
        path.mkdir(parents=True, exist_ok=True)
        new = {
            name: one
            for name, one in listed.items()
            if name not in known or _now(path / name, one) != known[name]
        }
        _take(path, new)
        known = {name: _known(path / name, one) for name, one in listed.items()}
        write_known(path, known)


def is_hidden(name: str) -> bool:
    """Whether a relative path is of no concern to a store: locks, temporary files."""
    return any(part.startswith(".") and part not in _SHOWN for part in name.split("/"))


def read_known(path: Path) -> dict[str, Known]:
    """What this machine last had in common with the store; nothing if it cannot be told."""
    try:
        descriptor = os.open(state_file(path), os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor) as file:
            return {name: Known(*values) for name, values in json.load(file).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_known(path: Path, known: Mapping[str, Known]) -> None:
    """Remember it."""
    file = state_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(known))
    temporary.replace(file)


def forget(path: Path) -> None:
    """Delete a working folder whose content is in the store."""
    shutil.rmtree(path, ignore_errors=True)
    state_file(path).unlink(missing_ok=True)


def state_file(path: Path) -> Path:
    """Where `Known` files of a working folder are kept."""
    import hashlib

    return root() / "state" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:40]}.json"


def _is_small(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _SMALL


def _known(path: Path, one: Object) -> Known:
    facts = cache.stat(path)
    return Known(one.etag, facts.mtime_ns, facts.size)


def _now(path: Path, one: Object) -> Known | None:
    try:
        return _known(path, one)
    except OSError:
        return None


def _take(path: Path, listed: Mapping[str, Object]) -> None:
    """Link to objects, and copy the small ones."""
    _link_all(path, {name: one for name, one in listed.items() if not _is_small(name)})
    small = {name: one for name, one in listed.items() if _is_small(name)}
    _for_all(lambda name: _copy(path / name, small[name]), small)


def _copy(path: Path, one: Object) -> None:
    """Copy an object to a file of its own, which may be appended to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    copy_to(one, path)
    path.chmod(0o644)
    os.utime(path, ns=(round(one.written_sec * 1e9),) * 2)


def _link_all(path: Path, listed: Mapping[str, Object]) -> None:
    for name, one in listed.items():
        if not cache.is_linked(path / name, one):
            try:
                cache.link(path / name, one)
            except OSError as error:
                # A file and a folder of one name, say, or a name that is too long.
                raise StorageError(
                    f"{one.url}: no file can have its name here ({error.strerror}); rename it"
                ) from None


def _replace_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def _drop_others(path: Path, listed: Mapping[str, Object]) -> None:
    """Remove the links to objects that are gone, and folders without any."""
    for folder, _, names in os.walk(path, topdown=False):
        prefix = os.path.relpath(folder, path)
        prefix = "" if prefix == "." else f"{prefix}/"
        for name in names:
            if f"{prefix}{name}" not in listed:
                os.unlink(os.path.join(folder, name))
        if not os.listdir(folder):
            os.rmdir(folder)


def _for_all(call: object, items: Iterable[object]) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(call, items):  # type: ignore[arg-type]
            pass
