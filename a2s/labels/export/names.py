"""File names of exported images: safe on every system, and back to keys. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from a2s.data.keys import decode_key, encode_key
from a2s.errors import DataError
from a2s.storage.parsing import printable

_RESERVED_CHARACTERS = frozenset('%<>:"\\|?*')
"""What Windows refuses in names, and the character that escapes."""
_RESERVED_NAMES = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?:\.|$)", re.I
)
_IMAGE_FOLDERS = frozenset({"images", "JPEGImages", "data"})
"""Where exports have their images (`formats.py`)."""
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def file_name(key: str) -> str:
    """The path of an image without suffix, in which only harmless characters are left.

    Letters of all scripts and spaces stay. Control characters, bytes that were no UTF-8, what
    Windows reserves, and dots and spaces at an end become `%XX`, so no two keys share a name.

    Raises:
        DataError: the key is none.
    """
    return "/".join(map(_safe, decode_key(key).split("/")))


def _safe(segment: str) -> str:
    last = len(segment) - 1
    is_device = _RESERVED_NAMES.match(segment) is not None
    return "".join(
        _escaped(character)
        if character in _RESERVED_CHARACTERS
        or printable(character) != character
        or (position == 0 and (is_device or character == "."))
        or (position in (0, last) and character in " .")
        else character
        for position, character in enumerate(segment)
    )


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def possible_keys(path: str) -> Iterator[str]:
    """Keys that another program's path or URL of an image may stand for, the likeliest first.

    It may have a suffix, and be escaped as a URL. In front it may have the folder of an export's
    images and all above; other folders belong to the key, or `b/cat` would be mistaken for `cat`.
    """
    path = path.partition("?d=")[2] or path
    stem = re.sub(r"\.[^./]*$", "", path)
    for text in dict.fromkeys([stem, unquote(stem, errors="surrogateescape")]):
        segments = [segment for segment in text.split("/") if segment]
        for first in range(len(segments)):
            if first and segments[first - 1] not in _IMAGE_FOLDERS:
                continue
            name = "/".join(segments[first:])
            for spelling in (_unescaped(name), name):
                try:
                    yield encode_key(spelling)
                except DataError:
                    continue


def _unescaped(name: str) -> str:
    raw = name.encode("utf-8", "surrogatepass")
    plain = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), raw)
    return plain.decode("utf-8", "surrogateescape")
