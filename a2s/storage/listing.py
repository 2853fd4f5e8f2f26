"""Read-only view of a local or remote folder, without locks; used by `a2s status`."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from a2s.errors import A2SError, ConfigError
from a2s.storage.objects.retries import retried
from a2s.storage.objects.stores import store_of
from a2s.storage.objects.urls import is_url, normal

_TIMES = ("LastModified", "mtime", "updated", "last_modified", "created")
"""Keys under which the file systems of fsspec report the modification time."""


@dataclass(frozen=True)
class Entry:
    """One file or folder; size and time are None if the storage does not report them."""

    name: str
    path: str
    is_folder: bool
    is_file: bool
    """Whether it can be read: no folder, named pipe, socket or device."""
    size_bytes: int | None
    written_sec: float | None


class Folder:
    """Snapshot of one folder's entries by name; reads contents on request."""

    def __init__(self, url: str, file_system: Any, path: str) -> None:
        self.url = url
        self._file_system = file_system
        self._path = path
        self.entries = self._list()

    @staticmethod
    def open(url: str) -> Folder:
        """List a folder.

        Raises:
            ConfigError: the folder does not exist, is a file, or cannot be listed.
            DataError: the URL's scheme is not allowed.
        """
        if "://" in url or "::" in url:
            from a2s.storage.remote import is_remote

            is_remote(url)
        from fsspec.core import url_to_fs

        if is_url(url):
            try:
                url = normal(url)
            except ValueError as error:
                raise ConfigError(str(error)) from None
            file_system = store_of(url).file_system
            path = file_system._strip_protocol(url)
        else:
            try:
                file_system, path = url_to_fs(url)
            except (ImportError, ValueError) as error:
                raise ConfigError(f"{url}: cannot be opened ({_one_line(error)})") from None
        try:
            folder = Folder(url, file_system, path)
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"{url}: no such folder") from None
        entries = list(folder.entries.values())
        if len(entries) == 1 and _same_path(entries[0].path, path) and not entries[0].is_folder:
            raise ConfigError(f"{url}: is a file; give the folder that contains it")
        return folder

    def refresh(self) -> Folder:
        """List the folder again."""
        return Folder(self.url, self._file_system, self._path)

    def subfolder(self, name: str) -> Folder | None:
        """List a subfolder; None if it does not exist.

        Raises:
            ConfigError: it cannot be listed.
        """
        if name.split("/")[0] not in self.entries:
            return None
        try:
            return Folder(
                f"{self.url.rstrip('/')}/{name}",
                self._file_system,
                f"{self._path.rstrip('/')}/{name}",
            )
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Read files concurrently; None for a file that has been deleted meanwhile.

        Raises:
            ConfigError: an existing file cannot be read.
        """
        wanted = [name for name in names if name in self.entries]
        for name in wanted:
            if not self.entries[name].is_file:
                raise ConfigError(f"{self.url.rstrip('/')}/{name}: not a regular file")
        paths = [self.entries[name].path for name in wanted]
        # `cat` would treat brackets in a path as a glob pattern.
        contents = self._file_system.cat_ranges(paths, None, None, on_error="return")
        found: dict[str, bytes | None] = {}
        for name, content in zip(wanted, contents, strict=True):
            if isinstance(content, FileNotFoundError):
                found[name] = None
            elif isinstance(content, BaseException):
                found[name] = self._read_again(name, content)
            else:
                found[name] = bytes(content)
        return found

    def _read_again(self, name: str, error: BaseException) -> bytes | None:
        """Read a file that could not be read among others; None if it has been deleted."""
        where = f"{self.url.rstrip('/')}/{name}"
        if not is_url(self.url):
            raise ConfigError(f"{where}: cannot be read ({_one_line(error)})")
        path = self.entries[name].path
        try:
            return bytes(retried(where, "read", lambda: self._file_system.cat_file(path)))
        except FileNotFoundError:
            return None

    def _repeated(self, what: str, call: Callable[[], Any]) -> Any:
        return retried(self.url, what, call) if is_url(self.url) else call()

    def read_one(self, name: str) -> bytes | None:
        """Read a file; None if it does not exist.

        Raises:
            ConfigError: as `read`.
        """
        return self.read([name]).get(name)

    def written_sec(self, name: str) -> float | None:
        """Modification time of a file, in seconds since 1970; None if unknown."""
        entry = self.entries.get(name)
        return entry.written_sec if entry else None

    def _list(self) -> dict[str, Entry]:
        self._file_system.invalidate_cache()
        # Drivers also raise their own exception classes; all mean that listing failed.
        try:
            infos = self._repeated("listed", lambda: self._file_system.ls(self._path, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            raise
        except A2SError:
            raise
        except Exception as error:
            raise ConfigError(f"{self.url}: cannot be listed ({_one_line(error)})") from None
        return {
            entry.name: entry
            for entry in map(_entry, infos)
            if entry.name and not (entry.is_folder and _same_path(entry.path, self._path))
        }


def _entry(info: Mapping[str, Any]) -> Entry:
    path = str(info["name"])
    size = info.get("size")
    return Entry(
        name=path.rstrip("/").rpartition("/")[2],
        path=path,
        is_folder=info.get("type") == "directory",
        is_file=info.get("type") == "file",
        size_bytes=None if size is None else int(size),
        written_sec=next((_seconds(info[key]) for key in _TIMES if info.get(key)), None),
    )


def _seconds(time: object) -> float | None:
    if isinstance(time, str):
        time = datetime.datetime.fromisoformat(time)
    if isinstance(time, datetime.datetime):
        aware = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
        return aware.timestamp()
    return float(time) if isinstance(time, int | float) else None


def _same_path(path: str, other: str) -> bool:
    return path.rstrip("/") == other.rstrip("/")


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
