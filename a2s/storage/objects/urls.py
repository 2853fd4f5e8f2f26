"""URLs of object stores, and the paths that stand for them on this machine.

    s3://bucket/labels      <cache>/a2s-objects/read/s3/bucket/labels      what a command reads
                            <cache>/a2s-objects/work/s3/bucket/labels      what it writes

The path tells the URL, so it needs no table and means the same on every machine.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Literal

CACHE = "A2S_CACHE"
"""Environment variable: folder of the cache."""
MARK = "a2s-objects"
WRITABLE = ("s3", "gs", "az")
SCHEMES = (*WRITABLE, "http", "https")
Tree = Literal["read", "work"]

_URL = re.compile(rf"({'|'.join(SCHEMES)}):/+(.*)", re.IGNORECASE | re.DOTALL)
_ALMOST_URL = re.compile(rf"({'|'.join(SCHEMES)}):(?!//)", re.IGNORECASE)
_BELOW = re.compile(rf"/{MARK}/(read|work)/({'|'.join(SCHEMES)})/(.*)", re.DOTALL)
_SHOWN = re.compile(rf"[^\s'\"=(]*/{MARK}/(?:read|work)/({'|'.join(SCHEMES)})/")
_USER = re.compile(rf"\b((?:{'|'.join(SCHEMES)}):/+)[^/\s'\"]*@", re.IGNORECASE)
_SECRET = re.compile(
    r"([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|Signature|AWSAccessKeyId|sig|access_token|api_?key|password)=)[^&\s'\"]+",
    re.IGNORECASE,
)
_HIDDEN = "***"


def root() -> Path:
    """Folder of the cache: that of `A2S_CACHE`, else one in the user's, else a temporary one."""
    if chosen := os.environ.get(CACHE):
        return Path(os.path.abspath(chosen)) / MARK
    home = os.path.expanduser("~")
    if os.path.isabs(home) and os.access(home, os.W_OK):
        return Path(home) / ".cache" / "a2s" / MARK
    return Path(tempfile.gettempdir()) / f"a2s-{os.getuid()}" / MARK


def is_url(text: str) -> bool:
    """Whether a text is a URL of an object store, also after `Path` made one slash of two."""
    return _URL.fullmatch(text) is not None


def normal(url: str) -> str:
    """A URL as stores take it: the scheme in small letters, and one slash between all parts.

    Raises:
        ValueError: as `local_path`.
    """
    scheme, rest = _parts(url)
    if scheme in WRITABLE:
        return f"{scheme}://{'/'.join(rest)}"
    # What slashes mean to a web server is its own business.
    return f"{scheme}://{url.partition(':')[2].lstrip('/')}"


def check_written(text: str) -> None:
    """Refuse what was meant for a URL and is none, such as `s3:bucket/x`: it would be a path.

    Raises:
        ValueError: it is that, or a URL with a user or password.
    """
    if match := _ALMOST_URL.match(text):
        scheme = match[1].lower()
        raise ValueError(
            f"{text} is no URL; write {scheme}://…, or ./{text} for a file of that name"
        )
    if is_url(text):
        _parts(text)


def local_path(url: str, tree: Tree = "read") -> Path:
    """The path that stands for a URL.

    Raises:
        ValueError: it names no bucket, has a part that a path must not have, or a password.
    """
    scheme, parts = _parts(url)
    return root().joinpath(tree, scheme, *parts)


def _parts(url: str) -> tuple[str, list[str]]:
    """Scheme and parts of a URL, the bucket first. Raises as `local_path`."""
    match = _URL.fullmatch(url)
    assert match is not None, url
    parts = [part for part in match[2].split("/") if part]
    if not parts or not {".", ".."}.isdisjoint(parts) or "\0" in url:
        raise ValueError(f"{url} is no address of an object or folder")
    if "@" in parts[0]:
        # It would end in logs, settings and names of folders.
        raise ValueError(
            f"{shown(url)}: no user or password can be in a URL; give them in the environment, or "
            "for web servers in ~/.netrc"
        )
    return match[1].lower(), parts


def url_of(path: str | os.PathLike[str]) -> str | None:
    """The URL that a path stands for; None for any other path."""
    match = _BELOW.search(os.fspath(path))
    return f"{match[2]}://{match[3]}" if match else None


def tree_of(path: str | os.PathLike[str]) -> Tree | None:
    """The tree of a path; None for one that stands for no URL."""
    match = _BELOW.search(os.fspath(path))
    return None if match is None else "read" if match[1] == "read" else "work"


def in_tree(path: str | os.PathLike[str], tree: Tree) -> Path:
    """The path that stands for the same URL in a tree of this machine."""
    url = url_of(path)
    assert url is not None, path
    return local_path(url, tree)


def here(path: str | bytes | os.PathLike[str]) -> str | None:
    """The path on this machine of a URL, or of a path of any machine's cache; None for others."""
    text = os.fsdecode(path)
    try:
        if f"/{MARK}/" in text:
            tree, url = tree_of(text), url_of(text)
            return os.fspath(local_path(url, tree)) if url and tree else None
        return os.fspath(local_path(text)) if "://" in text and is_url(text) else None
    except ValueError:
        # It looks like one, and is none.
        return None


def portable(path: bytes) -> bytes:
    """A path that is meant for other machines too: the URL, if it is read from a store."""
    if f"/{MARK}/read/".encode() not in path:
        return path
    return os.fsencode(url_of(os.fsdecode(path)) or path)


def shown(text: str) -> str:
    """A text in which the URLs stand, in place of their paths, and without what is secret."""
    if "@" in text:
        text = _USER.sub(rf"\1{_HIDDEN}@", text)
    if "=" in text:
        text = _SECRET.sub(rf"\1{_HIDDEN}", text)
    if f"/{MARK}/" not in text:
        return text
    for tree in ("read", "work"):
        for scheme in SCHEMES:
            text = text.replace(f"{root()}/{tree}/{scheme}/", f"{scheme}://")
    return _SHOWN.sub(r"\1://", text)
