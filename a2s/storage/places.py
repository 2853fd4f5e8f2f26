"""Folders that the environment names: temporary files, sockets, home, caches.

What cannot be used is replaced where that is safe; else an error names the variable to change.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from a2s.errors import ConfigError

SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux."""
SHORT = (Path("/tmp"), Path("/var/tmp"))
SHARED_MEMORY = Path("/dev/shm")
_PACKAGE = Path(__file__).resolve().parents[1]


def temporary() -> Path:
    """Folder for temporary files: $TMPDIR, or /tmp where that cannot be written.

    Raises:
        ConfigError: none can be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        raise ConfigError(
            f"TMPDIR: no folder for temporary files can be written (TMPDIR="
            f"{os.environ.get('TMPDIR', '')}, /tmp, /var/tmp); set it to one that can"
        ) from None


def for_sockets(name_bytes: int) -> Path:
    """Folder for temporary files in which the path of a socket is short enough.

    `name_bytes` is the length of the socket's name below the folder, with its `/`.

    Raises:
        ConfigError: TMPDIR is too long, and neither /tmp nor /var/tmp can be written.
    """
    folder, longest = temporary(), SOCKET_BYTES - name_bytes
    for one in (folder, *SHORT):
        if len(os.fsencode(one)) <= longest and is_writable(one):
            return one
    raise ConfigError(
        f"TMPDIR={folder} is too long for sockets, whose paths have at most {SOCKET_BYTES} bytes; "
        f"set TMPDIR to a folder of at most {longest} bytes"
    )


def is_writable(folder: Path) -> bool:
    """Whether a file can be made there; also tells for root, who may write what cannot be."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def home() -> Path | None:
    """The folder $HOME if it can be written."""
    named = os.environ.get("HOME")
    # Every command asks, so nothing is written; root is told of a read-only file system too.
    is_usable = named and os.path.isdir(named) and os.access(named, os.W_OK | os.X_OK)
    return Path(named) if named and is_usable else None


def cache() -> Path:
    """Folder of downloads: $A2S_CACHE, else .cache/a2s in the home folder.

    Raises:
        ConfigError: neither is known.
    """
    if named := os.environ.get("A2S_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "a2s"
    except RuntimeError:
        raise ConfigError(
            "HOME is not set, and this user has no home folder; set A2S_CACHE to a folder for "
            "downloads"
        ) from None


def replace_caches(environ: MutableMapping[str, str]) -> None:
    """Where there is no home, let libraries keep what they compile in a folder of this user alone.

    Triton would fail without one, numba make a folder `~` where the command was called, or compile
    again in every process, and Matplotlib complain. What the user has set stays.
    """
    if home() is not None:
        return
    folder = temporary() / f"a2s-kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return
    found = folder.lstat()
    # What others may write there would be run.
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or not folder.is_dir():
        return
    if "TRITON_HOME" not in environ:
        environ.setdefault("TRITON_CACHE_DIR", str(folder))
    environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    # Beside the code, where numba prefers to keep it, there may be something already.
    if not os.access(_PACKAGE, os.W_OK):
        environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))
