"""How masks are called after their images: `{stem}_mask.png`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from a2s.data.keys import decode_key, encode_key
from a2s.errors import ConfigError

_FIELDS = {"{stem}": r"(?P<stem>.+)", "{parent}": r"(?P<parent>.+)", "{name}": r"(?P<name>[^/]+)"}
_EXAMPLE = "'{stem}_mask.png'"


@dataclass(frozen=True)
class MaskNames:
    """A pattern that every mask's path below its folder matches.

    `{stem}` stands for the path of the image without suffix, `{parent}` for its folder and
    `{name}` for its name alone; `*` for anything inside one name. Without a suffix the pattern is
    for masks of any format.
    """

    pattern: str
    _expression: re.Pattern[str]

    @staticmethod
    def parse(pattern: str) -> MaskNames:
        """Read a pattern.

        Raises:
            ConfigError: it does not say where the image's name is.
        """
        parts = re.split(r"(\{[^{}]*\}|\*)", pattern.removeprefix("./"))
        fields = [part for part in parts if part.startswith("{")]
        unknown = [part for part in fields if part not in _FIELDS]
        is_whole = fields == ["{stem}"] or sorted(fields) in (["{name}"], ["{name}", "{parent}"])
        if unknown or not is_whole:
            raise ConfigError(
                f"--mask-pattern {pattern}: needs {{stem}}, the image's path without suffix, or "
                f"{{name}}, its name alone, maybe with {{parent}}, its folder; such as {_EXAMPLE}"
            )
        text = "".join(
            "[^/]*" if part == "*" else _FIELDS.get(part, re.escape(part)) for part in parts
        )
        any_suffix = "" if re.search(r"\.\w+$", pattern) else r"\.\w+"
        return MaskNames(pattern, re.compile(text + any_suffix, re.IGNORECASE))

    @property
    def is_by_name(self) -> bool:
        """Whether a mask belongs to every image of a name, whatever its folder."""
        return "{name}" in self.pattern and "{parent}" not in self.pattern

    def image_key(self, relative: str) -> str | None:
        """Key of the image that owns the mask at a path below its folder; None: no mask.

        With `is_by_name` it is the key of the name alone.

        Raises:
            DataError: the name is not text.
        """
        match = self._expression.fullmatch(relative)
        if match is None:
            return None
        found = match.groupdict()
        stem = found.get("stem") or "/".join(filter(None, (found.get("parent"), found["name"])))
        return encode_key(stem)


def last_part(key: str) -> str:
    """Key of a file's name alone."""
    return key.rpartition("/")[2]


def suggestion(image_keys: Iterable[str], mask_paths: Iterable[str]) -> str:
    """How a pattern could pair these, as a clause; an example if nothing fits."""
    masks = list(mask_paths)
    for key in image_keys:
        stem = decode_key(key)
        folder, _, name = stem.rpartition("/")
        for path in masks:
            for text, field in ((stem, "{stem}"), (name, "{name}")):
                alone = rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])"
                pattern = re.sub(alone, field, path, count=1)
                if pattern != path:
                    if folder and field == "{name}" and pattern.startswith(f"{folder}/"):
                        pattern = f"{{parent}}{pattern.removeprefix(folder)}"
                    return f"--mask-pattern '{pattern}' would pair {path} with {stem}"
    return (
        f"where masks are called after their images in another way, give --mask-pattern {_EXAMPLE}"
    )
