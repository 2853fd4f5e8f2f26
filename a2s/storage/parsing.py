"""Parse JSON and YAML that anyone may have written, and show names that anyone gave. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from pydantic import ValidationError

MAX_DEPTH = 64
MAX_VALUES = 1_000_000
"""Values that a YAML file may hold; anchors make many of a few bytes."""
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_UNSAFE_BUT_BREAKS = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b\x0c\x0e-\x1f"))


def parse_json(text: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_yaml(text: bytes | str) -> Any:
    """Parse YAML to plain values, in one line of error if that fails.

    Raises:
        ValueError: it is none, is nested over MAX_DEPTH deep, holds over MAX_VALUES values, a key
            that is not text, or a number or date that is impossible.
    """
    try:
        value = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    _check([value])
    return value


def _check(level: list[Any]) -> None:
    """Walk through plain values level by level; anchors may make a value contain itself."""
    num_values, depth = 0, 0
    while level:
        depth, num_values = depth + 1, num_values + len(level)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested over {MAX_DEPTH} levels deep")
        if num_values > MAX_VALUES:
            raise ValueError(f"holds over {MAX_VALUES:,} values")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                for key in value:
                    if not isinstance(key, str):
                        raise ValueError(f"the key {key!r} is not text; put it in quotes")
                below += value.values()
            elif isinstance(value, list | tuple | set):
                below += value
            if num_values + len(below) > MAX_VALUES:
                raise ValueError(f"holds over {MAX_VALUES:,} values")
        level = below


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in a few words: `count: Field required`."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    what = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def printable(text: str, *, keep_breaks: bool = False) -> str:
    r"""Escape what a terminal obeys instead of showing it.

    That is control characters (line breaks and tabs too, unless `keep_breaks`), marks that reverse
    the direction of text, and bytes that were no UTF-8. They become `\x1b`, `\u202e` and so on.
    """
    return (_UNSAFE_BUT_BREAKS if keep_breaks else _UNSAFE).sub(_escaped, text)


def json_line(text: str) -> str:
    r"""The same for JSON text, which stays the same value: `\u001b`."""
    return _UNSAFE_BUT_BREAKS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
