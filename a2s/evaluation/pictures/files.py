"""Pictures of single images as files of chosen names, or on standard output.

A folder of results has a list of its files (`storage/written.py`). Here each picture says in its
metadata that a2s wrote it, and no other file is replaced.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from a2s.data.images import SUFFIXES, BadImage
from a2s.data.inputs import refuse_unknown
from a2s.data.open_files import Address, Held
from a2s.data.own_pictures import WORDS, is_ours, is_result
from a2s.data.tar_inputs import is_tar
from a2s.errors import ConfigError, DataError, StorageError
from a2s.evaluation.pictures.outputs import Format, Kind, Style, encode, pictures_of
from a2s.models.predict import Picture, load_step, to_map
from a2s.models.saved import Model
from a2s.storage.failures import Failure, failure
from a2s.storage.files import atomic_write
from a2s.storage.remote import download, is_remote

STANDARD = "-"
"""Standard input or output."""
MAX_BYTES = 256 * 2**20
MAX_SEC = 300.0
"""Limits of an image that is downloaded or read from standard input."""
_FORMATS: dict[str, Format] = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
_OTHER_FORMATS = {*SUFFIXES, ".gif", ".avif", ".heic", ".jp2", ".jxl", ".psd"} - _FORMATS.keys()
_KINDS: tuple[Kind, ...] = ("map", "cutout", "overlay")
_WORD_OF: dict[Kind, str] = dict(zip(_KINDS, WORDS, strict=True))


@dataclass(frozen=True)
class Target:
    """One picture of one image: where it goes (None: standard output), and its format."""

    source: str
    kind: Kind
    path: Path | None
    format: Format


def format_of(out: Path) -> Format | None:
    """Format of the picture file that `--out` names; None if it is a folder, there or not.

    Raises:
        ConfigError: it names a picture in a format that is not written.
    """
    if out.is_dir():
        return None
    if out.suffix.lower() in _OTHER_FORMATS:
        raise ConfigError(f"predict: {out}: pictures are written as .png, .jpg or .webp")
    return _FORMATS.get(out.suffix.lower())


def is_image(source: str) -> bool:
    """Whether an input is one image: standard input, a file, or a URL of anything but a tar."""
    if source == STANDARD:
        return True
    if is_remote(source):
        return not is_tar(Path(urlsplit(source).path))
    return Path(source).suffix.lower() in SUFFIXES and not os.path.isdir(_local(source))


def without_repeats(sources: Sequence[str]) -> list[str]:
    """Name every file and address once, however it is written."""
    chosen: dict[str, str] = {}
    for source in sources:
        is_file = source != STANDARD and not is_remote(source)
        chosen.setdefault(os.path.abspath(_local(source)) if is_file else source, source)
    return list(chosen.values())


def without_results(sources: Sequence[str]) -> list[str]:
    """Leave out what an earlier run wrote beside images, as a shell's `*.png` finds it.

    If nothing else is left, they are what is meant.
    """
    return [source for source in sources if not is_result(Path(source))] or list(sources)


def plan(
    sources: Sequence[str], out: Path | None, kinds: Sequence[Kind], cut_outs: Format | None
) -> list[Target]:
    """Where each picture goes: to the file `out`, or beside its image; pictures of URLs go here.

    Raises:
        ConfigError: an input is not there or is no image, or a file would get more than one
            picture.
    """
    for source in sources:
        _refuse_other(source)
    if out is None and STANDARD not in sources:
        return _beside(sources, kinds, cut_outs or "png")
    if len(sources) > 1 or len(kinds) > 1:
        raise ConfigError(
            f"predict: {out or 'standard output'} takes one picture of one image, not "
            f"{', '.join(kinds)} of {len(sources)}; give --out FOLDER"
        )
    if out is None or str(out) == STANDARD:
        return [Target(sources[0], kinds[0], None, cut_outs or "png")]
    named = _FORMATS[out.suffix.lower()]
    if cut_outs not in (None, named):
        raise ConfigError(f"predict: --format {cut_outs} contradicts the name {out}")
    return [Target(sources[0], kinds[0], out, named)]


def _refuse_other(source: str) -> None:
    """Check that an input is one image.

    Raises:
        ConfigError: it is not there, may hold many images, or is something else.
    """
    if source != STANDARD and not is_remote(source) and not os.path.exists(_local(source)):
        raise ConfigError(f"{source}: no such file or folder")
    if is_image(source):
        return
    path = Path(_local(source))
    if is_remote(source) or path.is_dir() or is_tar(path) or path.suffix.lower() == ".txt":
        raise ConfigError(f"predict: {source} may hold many images; give --out FOLDER")
    refuse_unknown(source)


def _local(source: str) -> str:
    return source.removeprefix("file://")


def _beside(sources: Sequence[str], kinds: Sequence[Kind], cut_outs: Format) -> list[Target]:
    formats: dict[Kind, Format] = {"map": "png", "cutout": cut_outs, "overlay": "jpg"}
    targets: dict[Path, Target] = {}
    for source in sources:
        path = Path(name_of(source) if is_remote(source) else _local(source))
        for kind in kinds:
            file = path.with_name(f"{path.stem}.{_WORD_OF[kind]}.{formats[kind]}")
            if file in targets:
                raise ConfigError(
                    f"predict: {targets[file].source} and {source} would both become {file}; give "
                    "them different names"
                )
            targets[file] = Target(source, kind, file, formats[kind])
    return list(targets.values())


def check(targets: Sequence[Target], *, is_opaque: bool) -> None:
    """Check that no target replaces an input, or a file that a2s did not write.

    `is_opaque` says that cut-outs have a background.

    Raises:
        ConfigError: one does, a cut-out would lose its transparency, or standard output is a
            terminal.
    """
    if not is_opaque and any(t.kind == "cutout" and t.format == "jpg" for t in targets):
        raise ConfigError(
            "predict: jpg has no transparency; add --background COLOUR, or take png or webp"
        )
    sources = [Path(target.source) for target in targets]
    inputs = {(s.st_dev, s.st_ino) for s in (path.stat() for path in sources if path.is_file())}
    for target in targets:
        if target.path is None:
            if sys.stdout.isatty():
                raise ConfigError(
                    "predict: standard output is a terminal; redirect it, or give -o FILE"
                )
            continue
        if not os.path.lexists(target.path):
            continue
        if target.path.exists():
            found = target.path.stat()
            if (found.st_dev, found.st_ino) in inputs:
                raise ConfigError(f"predict: {target.path} is an input; give another -o")
        if not is_ours(target.path):
            raise ConfigError(
                f"predict: {target.path} exists, and a2s did not write it; delete it, or give "
                "another -o"
            )


def write(targets: Sequence[Target], model: Model, style: Style) -> Iterator[Failure | None]:
    """Predict and write the targets; yield after each image, with what went wrong."""
    step = load_step(model, style.max_pixels)
    by_source: dict[str, list[Target]] = {}
    for target in targets:
        by_source.setdefault(target.source, []).append(target)
    for source, own in by_source.items():
        try:
            picture = Picture(source, read(source), source)
            (answer,) = step([picture])
            if isinstance(answer, BadImage):
                raise answer
            kinds = [target.kind for target in own]
            for target, drawing in zip(
                own, pictures_of(picture, to_map(answer), kinds, style), strict=True
            ):
                _put(target.path, encode(drawing, target.format, is_marked=True))
        except BadImage as error:
            yield failure(source, source, error.reason, error.detail)
        except (DataError, StorageError) as error:
            # One address that does not answer costs no other image.
            yield failure(source, source, "unreadable", str(error).removeprefix(f"{source}: "))
        else:
            yield None


def read(source: str) -> Address | Held:
    """The address of an image file, or what is downloaded or comes from standard input.

    Raises:
        DataError, StorageError: as `remote.download`.
    """
    if source == STANDARD:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DataError(f"predict: standard input holds more than {MAX_BYTES:,} bytes")
        return Held(data)
    if is_remote(source):
        return Held(download(source, max_bytes=MAX_BYTES, max_sec=MAX_SEC))
    return Address(_local(source))


def name_of(source: str) -> str:
    """File name for an image without one: that in its URL, with a suffix that inputs may have."""
    name = posixpath.basename(unquote(urlsplit(source).path)) if is_remote(source) else "stdin"
    name = name.replace("/", "_").lstrip(".") or "image"
    # What the bytes are is found out from them.
    return name if name.lower().endswith(SUFFIXES) else f"{name}.png"


def _put(path: Path | None, data: bytes) -> None:
    if path is None:
        # Not sys.stdout: what people read is silenced or sent elsewhere there.
        with os.fdopen(os.dup(1), "wb") as output:
            output.write(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)
