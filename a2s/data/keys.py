"""Keys: a unique name per image that is safe as a tar member, as a file name and in a URL."""

from __future__ import annotations

import re

from a2s.errors import DataError

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/")
_KEY = re.compile(r"(?:[A-Za-z0-9_/-]|%[0-9A-F]{2})+")
# Of all texts, the keys match the first and not the second. Arrow's regular expressions know them.
IS_KEY = r"^(?:[A-Za-z0-9_-]|%[0-9A-F]{2})+(?:/(?:[A-Za-z0-9_-]|%[0-9A-F]{2})+)*\z"
IS_NO_KEY = (
    r"(?:^|/)(?:%2E){1,2}(?:/|\z)|%00"
    r"|%2[DF]|%3[0-9]|%4[1-9A-F]|%5[0-9AF]|%6[1-9A-F]|%7[0-9A]"  # need no escape
)
_ESCAPE = re.compile(rb"%([0-9A-F]{2})")


def encode_key(relative_path: str) -> str:
    """Convert a path relative to the input's root, without its last suffix, to a key.

    Every byte of the UTF-8 path outside `[A-Za-z0-9_/-]` becomes `%XX`. A file name that is not
    UTF-8 (Python lists it with surrogate escapes) keeps its raw bytes.

    Raises:
        DataError: the path is empty, absolute, or has an empty, `.` or `..` segment or a NUL.
    """
    _refuse_unsafe(relative_path)
    try:
        raw = relative_path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise DataError(
            f"file name {relative_path!r} is not text ({error.reason}); rename the file"
        ) from error
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)


def decode_key(key: str) -> str:
    """Convert a key back to its relative path; the inverse of `encode_key`.

    Accepts only the canonical spelling that `encode_key` writes, so two keys never decode to the
    same path.

    Raises:
        DataError: malformed or non-canonical escapes, or a path that would leave the folder.
    """
    if not _KEY.fullmatch(key):
        raise DataError(
            f"key {key!r} is malformed: allowed are A-Z a-z 0-9 _ - / and %XX (upper-case hex)"
        )
    raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), key.encode("ascii"))
    path = raw.decode("utf-8", "surrogateescape")
    _refuse_unsafe(path)
    if encode_key(path) != key:
        raise DataError(f"key {key!r} escapes a character that needs no escape; re-create it")
    return path


def _refuse_unsafe(path: str) -> None:
    if "\0" in path:
        raise DataError(f"name {path!r} holds a NUL character; rename the file")
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            raise DataError(
                f"name {path!r} is not a plain relative path (segment {segment!r});"
                " it could leave the output folder, so it is refused"
            )
