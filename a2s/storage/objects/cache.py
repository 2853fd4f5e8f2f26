"""The cache of a machine: whole objects, of which the longest unused ones make room for new ones.

    blobs/3f/3f9a…-1048576       an object, named by its URL, etag and size
    read/s3/bucket/x/a.tar       a link to it, also where it is not there (yet, or any more)

A link says which object stands at a URL, and its own date when that was written. Whoever opens it
fetches the object first. Processes that want the same object wait for the one that fetches it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from a2s.errors import ConfigError, StorageError
from a2s.storage.objects.locks import locked
from a2s.storage.objects.retries import Conflict
from a2s.storage.objects.s3 import Object
from a2s.storage.objects.stores import copy_to, store_of
from a2s.storage.objects.urls import here, root, tree_of, url_of

LIMIT = "A2S_CACHE_GIB"
"""Environment variable: size of the cache."""
LIMIT_GIB = 50.0
SPARE_BYTES = 2**30
"""Space that the cache leaves free on its disk."""
_ADOPTED = (".rows", ".tar")
_TOUCH_SEC = 60.0
_BLOCK = 4096
_TRIES = 5
_borrowed: set[str] = set()
_fetched = {"bytes": -1}
"""What this process has fetched since it last looked how large the cache is; -1: it never has."""


@dataclass(frozen=True)
class Facts:
    """Size and date of a file, which need not be here."""

    size: int
    mtime_ns: int


def stat(path: str | bytes | os.PathLike[str]) -> Facts:
    """Size and date of a file, or of the object that stands for it.

    Raises:
        OSError: there is no such file.
    """
    found = here(path)
    if found is not None:
        with contextlib.suppress(OSError):
            blob = Path(os.readlink(found))
            if _is_blob(blob):
                return Facts(_size_of(blob), os.lstat(found).st_mtime_ns)
    try:
        status = os.stat(path if found is None else found)
    except FileNotFoundError:
        if found is None or not _is_borrowed(found):
            raise
        one = _head(str(url_of(found)))
        return Facts(one.size, round(one.written_sec * 1e9))
    return Facts(status.st_size, status.st_mtime_ns)


def borrow(work: Path) -> None:
    """Read what is not in this working folder from the store: another machine publishes it."""
    _borrowed.add(str(work))


def _is_borrowed(path: str | os.PathLike[str]) -> bool:
    return any(os.fspath(path).startswith(f"{work}/") for work in _borrowed)


def bring(path: str | bytes | os.PathLike[str]) -> Path:
    """The path of a file on this machine; if it stands for an object, that is fetched.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: it cannot be read, or was replaced since it was listed.
    """
    found = here(path)
    if found is None:
        return Path(os.fsdecode(path))
    local = Path(found)
    for _ in range(_TRIES):
        try:
            blob = Path(os.readlink(local))
        except FileNotFoundError:
            is_there = tree_of(local) != "read" and not _is_borrowed(local)
            return local if is_there else _unlisted(local)
        except OSError:
            # A file of its own, or a folder.
            return local
        if not _is_blob(blob):
            return local
        if _touch(blob) or fetch(str(url_of(local)), blob):
            return local
    raise StorageError(f"{url_of(local)}: is replaced again and again")


def blob_of(one: Object) -> Path:
    """Where the cache keeps an object."""
    name = hashlib.sha256(f"{one.url}\0{one.etag}".encode()).hexdigest()[:40]
    return root() / "blobs" / name[:2] / f"{name}-{one.size}"


def link(path: Path, one: Object) -> None:
    """Let a path stand for an object, without fetching it."""
    _replace_by_link(path, blob_of(one), round(one.written_sec * 1e9))


def is_linked(path: Path, one: Object) -> bool:
    """Whether a path stands for this very object."""
    try:
        return os.readlink(path) == str(blob_of(one))
    except OSError:
        return False


def adopt(path: Path, one: Object) -> None:
    """Make a file, which is the content of an object, part of the cache; its path stays."""
    blob, mtime_ns = blob_of(one), path.stat().st_mtime_ns
    blob.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.link(path, blob)
    _replace_by_link(path, blob, mtime_ns)
    _make_room(one.size, keep=blob)


def adopt_if_large(path: Path, one: Object) -> None:
    """Let the cache have a file of shards or labels, which makes room when others need it.

    Others, such as logs, are opened by other means than `files.open_file`.
    """
    if path.suffix in _ADOPTED and one.size <= limit_bytes() // 2:
        with contextlib.suppress(OSError):
            adopt(path, one)


def fetch(url: str, blob: Path) -> bool:
    """Fetch the object that a blob is of, unless another process has; True if it is there.

    Raises:
        FileNotFoundError: there is no object with this URL any more.
        StorageError: it cannot be read, or is not the one that was listed.
    """
    with locked("blob", blob.name):
        if _touch(blob):
            return True
        one = _head(url)
        if blob_of(one) != blob:
            raise StorageError(
                f"{url}: was replaced after this job had listed it; repeat the command"
            )
        _make_room(one.size, keep=blob)
        temporary = blob.with_name(f".{uuid.uuid4().hex}.tmp")
        blob.parent.mkdir(parents=True, exist_ok=True)
        try:
            copy_to(one, temporary)
            temporary.replace(blob)
        except Conflict:
            raise StorageError(
                f"{url}: was replaced while it was read; repeat the command"
            ) from None
        finally:
            temporary.unlink(missing_ok=True)
    return True


def limit_bytes() -> int:
    """Size that the cache may have.

    Raises:
        ConfigError: the variable is no number.
    """
    text = os.environ.get(LIMIT, "")
    try:
        return int(float(text or LIMIT_GIB) * 2**30)
    except (ValueError, OverflowError):
        raise ConfigError(f"{LIMIT}={text} is not a number of GiB") from None


def _unlisted(local: Path) -> Path:
    """Fetch an object that nobody has listed on this machine.

    No link is made: it would still be there when the object has changed.
    """
    one = _head(str(url_of(local)))
    blob = blob_of(one)
    fetch(one.url, blob)
    return blob


def _head(url: str) -> Object:
    one = store_of(url).head(url)
    if one is None:
        raise FileNotFoundError(errno.ENOENT, "no such object", url)
    return one


def _replace_by_link(path: Path, blob: Path, mtime_ns: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.link.tmp")
    os.symlink(blob, temporary)
    os.utime(temporary, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
    os.replace(temporary, path)


def _is_blob(path: Path) -> bool:
    return path.parent.parent == root() / "blobs"


def _size_of(blob: Path) -> int:
    return int(blob.name.rpartition("-")[2])


def _touch(blob: Path) -> bool:
    """Note that a blob is in use; False if it is not here, or damaged."""
    try:
        status = os.stat(blob)
        if status.st_size != _size_of(blob):
            return False
        if time.time() - status.st_mtime > _TOUCH_SEC:
            os.utime(blob)
    except FileNotFoundError:
        return False
    return True


def _make_room(size: int, *, keep: Path) -> None:
    """Delete the blobs that nobody has used for longest, so that `size` more bytes fit.

    A process looks only now and then, so each may exceed the limit by a hundredth of it.

    Raises:
        StorageError: the object is larger than the whole cache.
    """
    limit = limit_bytes()
    if size > limit:
        raise StorageError(
            f"{size:,} bytes are more than the cache may hold ({limit:,}); set {LIMIT} to a larger "
            "number of GiB"
        )
    if 0 <= _fetched["bytes"] <= limit // 100:
        _fetched["bytes"] += size + _BLOCK
        return
    _fetched["bytes"] = size + _BLOCK
    with locked("room"):
        found = sorted(_blobs(), key=lambda blob: blob[0])
        status = os.statvfs(root())
        used = sum(one[1] for one in found)
        allowed = min(limit, used + status.f_bavail * status.f_frsize - SPARE_BYTES) - size
        for _, num_bytes, path in found:
            if used <= allowed:
                break
            if path != str(keep):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                used -= num_bytes


def _blobs() -> Iterator[tuple[float, int, str]]:
    """Time of last use, size and path of every blob."""
    blobs = root() / "blobs"
    for folder in os.scandir(blobs) if blobs.is_dir() else ():
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                yield status.st_mtime, status.st_blocks * 512, entry.path
