"""What differs between two folders of results: every byte, but for times and the like. Pure.

Files of equal bytes are equal. Of others, values are compared where a file can hold a time: JSON
and JSON lines by field, tables (Markdown, CSV) by column, YAML by setting, in whatever group the
setting lies. Everything else is compared byte by byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path

import yaml
from same_values import first_byte, leaves, reader_of

IGNORED: dict[str, dict[str, str]] = {
    "metrics.jsonl": {
        "time_unix_sec": "when the line was written",
        "elapsed_sec": "time",
        "wall_sec": "time",
        "seconds": "time",
        "stage_sec.*": "time",
        "*.stage_sec.*": "time",
        "*.waiting_sec": "time",
        "*.busy_share": "share of a time",
        "data_wait_share": "share of a time",
        "images_per_sec": "rate",
        "bottleneck": "which stage took longest, and its share of the time",
        "work_sec_by_node": "times, by nodes whose names are drawn",
        "tasks_copied": "tasks that took longer than others",
        "peak_memory_mib": "memory",
    },
    "environment.json": {
        "argv.0": "path of the code",
        "git.commit": "the side's commit",
        "git.modified": "whether the side has uncommitted changes",
        "python": "version of the interpreter",
        "packages.*": "versions of packages",
    },
    ".lock": {"pid": "number of the process"},
    "scores.json": {"inputs_sha256": "digest of when the masks and maps were written"},
    "written.txt": {
        "*.mtime_ns": "when the file was written",
        "scores%2Ejson.crc32": "the digest of times in the file",
    },
    "tab1.json": {"time_per_image_sec.*": "time"},
    "tab1.csv": {"ms per map": "time"},
    "tab1.md": {"ms per map": "time"},
    "tab?.csv": {"hours": "time"},
    "tab?.md": {"hours": "time"},
}
"""By file name, the fields whose values may differ, and why. They must be there on both sides."""
DERIVED: dict[str, dict[str, str]] = {
    "shard-*.json": {
        "settings": "digest of the settings",
        "manifest_sha256": "digest of the file",
    },
    "metrics.jsonl": {"key": "digest of a job's settings"},
}
"""The same, where settings of the same folder's `config.yaml` have moved or differ."""
INPUTS = "identity.inputs."
"""What a command has read, by its content; it stands beside the settings."""

_ABSENT = object()
_EMPTY = ("", "–")
"""What a table's cell without a value holds."""


@dataclass
class Comparison:
    """What two folders have in common, and what they do not."""

    num_files: int = 0
    num_bytes: int = 0
    differences: dict[str, str] = field(default_factory=dict)
    """By path of the file, in words."""
    ignored: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By file name and field, as the rules have them, how often two values differed."""
    settings_moved: dict[str, list[str]] = field(default_factory=dict)
    """By `old place -> new place`, the files."""
    settings_differ: dict[str, list[str]] = field(default_factory=dict)
    settings_expected: dict[str, list[str]] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether nothing differs but what may."""
        return not self.differences and not self.settings_differ


def compare(old: Path, new: Path, *, expected: Collection[str] = ()) -> Comparison:
    """Compare all files of two folders; `expected` are settings that may differ or be missing."""
    result = Comparison()
    in_old, in_new = _files(old), _files(new)
    for path in in_old ^ in_new:
        result.differences[path] = f"only in {'old' if path in in_old else 'new'}"
    both = sorted(in_old & in_new)
    # Settings first: digests of them may differ where they do.
    by_settings = [path for path in both if path.endswith(".yaml")]
    changed = {
        str(Path(path).parent)
        for path in by_settings
        if _compare_settings(result, path, old / path, new / path, expected)
    }
    for path in both:
        before, after = (old / path).read_bytes(), (new / path).read_bytes()
        result.num_files += 1
        result.num_bytes += len(before)
        if before != after and path not in by_settings:
            has_changed = str(Path(path).parent) in changed
            told = _difference(result, path, before, after, settings_changed=has_changed)
            if told:
                result.differences[path] = told
    result.differences = dict(sorted(result.differences.items()))
    return result


def reason(file: str, name: str) -> str:
    """Why a field that was passed over may differ."""
    return (IGNORED.get(file, {}) | DERIVED.get(file, {}))[name]


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _difference(
    result: Comparison, path: str, old: bytes, new: bytes, *, settings_changed: bool
) -> str:
    """The first difference between two files, in words; empty where all of them may be."""
    name = Path(path).name
    read = reader_of(name)
    if read is None:
        return first_byte(name, old, new)
    may = _rules_for(name, IGNORED) | (_rules_for(name, DERIVED) if settings_changed else {})
    try:
        pairs = [*zip_longest(*(read(text.decode(), may) for text in (old, new)))]
    except ValueError as error:
        return f"cannot be read: {error}"
    passed = 0
    for number, (before, after) in enumerate(pairs, start=1):
        where = f"line {number}: " if len(pairs) > 1 else ""
        if before is None or after is None:
            return f"{where}only in {'old' if after is None else 'new'}"
        for key in dict.fromkeys((*before, *after)):
            values = before.get(key, _ABSENT), after.get(key, _ABSENT)
            # By their text, so that 1, 1.0 and true are three values and NaN is one.
            if repr(values[0]) == repr(values[1]):
                continue
            rule = next((pattern for pattern in may if fnmatchcase(key, pattern)), None)
            if rule is None or not _alike(*values):
                return f"{where}{key}: {_shown(values[0])} -> {_shown(values[1])}"
            result.ignored[may[rule], rule] += 1
            passed += 1
        if [*before] != [*after]:
            return f"{where}other order of fields"
    return "" if passed else "equal values, written in another way"


def _rules_for(name: str, rules: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The fields that may differ in files of this name, each with the rule's file name."""
    return {
        key: pattern for pattern in rules if fnmatchcase(name, pattern) for key in rules[pattern]
    }


def _alike(old: object, new: object) -> bool:
    """Whether a value may stand for the other: two numbers, or two texts, or none on both sides."""
    if isinstance(old, str) and isinstance(new, str):
        return (old in _EMPTY) == (new in _EMPTY)
    return type(old) is type(new) or {type(old), type(new)} <= {int, float}


def _shown(value: object) -> str:
    return "not there" if value is _ABSENT else repr(value)[:100]


def _compare_settings(
    result: Comparison, path: str, old: Path, new: Path, expected: Collection[str]
) -> bool:
    """Compare two files of settings; whether any has moved or differs.

    A setting has moved when the same section has its name and its value in another group.
    """
    before, after = (leaves(yaml.safe_load(file.read_text("utf-8"))) for file in (old, new))
    left = {key: value for key, value in after.items() if key not in before}
    told: list[tuple[dict[str, list[str]], str]] = []
    for key, value in before.items():
        place = key if key in after else _moved_to(key, value, left)
        now = after.get(place, _ABSENT)
        left.pop(place, None)
        if place and place != key:
            told.append((result.settings_moved, f"{key} -> {place}"))
        elif repr(now) != repr(value) and key.startswith(INPUTS):
            result.differences[path] = f"{key}: {_shown(value)} -> {_shown(now)}"
        elif repr(now) != repr(value):
            kind = _kind(result, key, expected)
            told.append((kind, f"{key}: {_shown(value)} -> {_shown(now)}"))
    for key, value in left.items():
        told.append((_kind(result, key, expected), f"{key}: not there -> {_shown(value)}"))
    for kind, text in told:
        kind.setdefault(text, []).append(path)
    return bool(told)


def _moved_to(key: str, value: object, left: Mapping[str, object]) -> str:
    """The nearest place of the same section where this setting is now; empty if nowhere."""
    section, name = key.partition(".")[0], key.rpartition(".")[2]
    places = [
        place
        for place, now in left.items()
        if (place.partition(".")[0], place.rpartition(".")[2]) == (section, name)
        and repr(now) == repr(value)
    ]

    def num_shared(place: str) -> int:
        return sum(a == b for a, b in zip(key.split("."), place.split("."), strict=False))

    return max(places, key=num_shared, default="")


def _kind(result: Comparison, key: str, expected: Collection[str]) -> dict[str, list[str]]:
    is_expected = key.rpartition(".")[2] in expected
    return result.settings_expected if is_expected else result.settings_differ
