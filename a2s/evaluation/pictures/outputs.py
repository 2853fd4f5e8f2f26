"""Files of a prediction: its map, cut-out and overlay, and how each is drawn and encoded.

`write_chunk` writes them into a folder; a map is written after the others, so an image whose map
is there is done. `pictures_of` draws them for whoever writes them elsewhere (`files.py`).
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from a2s.data.arrays import U8
from a2s.data.images import MAX_PIXELS, BadImage, decode_mask, encode_png
from a2s.data.keys import decode_key
from a2s.data.own_pictures import SOFTWARE, SOFTWARE_TAG
from a2s.data.photograph import colour_profile, decode_with_alpha, over_white
from a2s.errors import DataError
from a2s.models.predict import Answer, Logits, Picture, Probabilities, load_step, to_map
from a2s.models.saved import Model
from a2s.storage import files
from a2s.storage.failures import Failure, failure
from a2s.storage.written import Written

Kind = Literal["overlay", "cutout", "map"]
Format = Literal["png", "jpg", "webp"]
PILLOW_NAMES: dict[Format, str] = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
_OPTIONS = {"PNG": {"compress_level": 3}, "JPEG": {"quality": 90}, "WEBP": {"quality": 90}}
# Errors of a file system about one name; any other error ends the run.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ)


@dataclass(frozen=True)
class Style:
    """How maps and pictures are made."""

    refine: bool = False
    crop: bool = False
    background: str | None = None
    """A colour as Pillow reads it, or `blur`; None leaves the cut-out transparent."""
    format: Format = "png"
    """File format of cut-outs."""
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Outputs:
    """Output folder, what is written for each image, and how."""

    folder: Path
    kinds: tuple[Kind, ...]
    """In the order in which they are written; without `map` the one in the folder is used."""
    style: Style

    def path(self, key: str, kind: Kind) -> Path:
        """Output file of a key.

        Raises:
            DataError: the key is not a safe name.
        """
        return self.folder / f"{decode_key(key)}{self._suffix(kind)}"

    def list_suffix(self, kind: Kind) -> str:
        """What a key ends in when it stands for an output file in the list of written files."""
        return self._suffix(kind).replace(".", "%2E")

    def _suffix(self, kind: Kind) -> str:
        suffix = {"overlay": ".overlay.jpg", "cutout": f".cutout.{self.style.format}"}
        return suffix.get(kind, ".png")


@dataclass
class ChunkResult:
    """Result of a chunk: number of images written, what the files hold, and failures."""

    num_written: int = 0
    files: list[Written] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def predict_chunk(pictures: list[Picture], model: Model, outputs: Outputs) -> ChunkResult:
    """Predict and write a chunk in one process, which keeps the network for the next one."""
    step = load_step(model, outputs.style.max_pixels)
    return write_chunk(pictures, step(pictures), outputs)


def draw_chunk(pictures: list[Picture], outputs: Outputs) -> ChunkResult:
    """Write the pictures of images whose maps are in the folder."""
    return write_chunk(pictures, [None] * len(pictures), outputs)


def write_chunk(
    pictures: list[Picture], answers: Sequence[Answer | None], outputs: Outputs
) -> ChunkResult:
    """Write the files of a chunk; failed images are listed, not raised."""
    result = ChunkResult()
    for picture, answer in zip(pictures, answers, strict=True):
        reason = ""
        try:
            if isinstance(answer, BadImage):
                raise answer
            _write(picture, answer, outputs, result.files)
            result.num_written += 1
        except BadImage as error:
            reason, detail = error.reason, error.detail
        except DataError as error:
            reason, detail = "unsafe_name", str(error)
        except OSError as error:
            if error.errno not in _NAME_ERRORS:
                raise
            reason, detail = "unwritable_name", f"{error.strerror}: {error.filename}"
        if reason:
            result.failures.append(failure(picture.key, picture.shown, reason, detail))
    return result


def merged(pictures: Sequence[Picture], parts: list[ChunkResult]) -> ChunkResult:
    """The result of a chunk from those of its parts."""
    return ChunkResult(
        sum(part.num_written for part in parts),
        [file for part in parts for file in part.files],
        [row for part in parts for row in part.failures],
    )


def given_up(pictures: Sequence[Picture], reason: str, detail: str) -> ChunkResult:
    """The result of a chunk of one image that ends the process that predicts it."""
    (picture,) = pictures
    return ChunkResult(failures=[failure(picture.key, picture.shown, reason, detail)])


def _write(
    picture: Picture,
    answer: Logits | Probabilities | None,
    outputs: Outputs,
    files_written: list[Written],
) -> None:
    """Write the files of one image; each is added to `files_written`."""
    map_path = outputs.path(picture.key, "map")
    map_path.parent.mkdir(parents=True, exist_ok=True)
    known_HW = decode_mask(files.read_bytes(map_path)) if answer is None else to_map(answer)
    drawn = pictures_of(picture, known_HW, outputs.kinds, outputs.style, is_refined=answer is None)
    formats: dict[Kind, Format] = {"overlay": "jpg", "cutout": outputs.style.format}
    for drawing in drawn:
        path, kind = outputs.path(picture.key, drawing.kind), drawing.kind
        is_map = kind == "map"
        data = encode_png(drawing.pixels) if is_map else encode(drawing, formats[kind])
        files.atomic_write(path, data)
        listed_as = f"{picture.key}{outputs.list_suffix(kind)}"
        files_written.append(Written.of(path, listed_as, data))


@dataclass(frozen=True)
class Drawing:
    """Pixels of a picture (H W, H W 3 or H W 4) and the ICC profile of its colours."""

    kind: Kind
    pixels: U8
    profile: bytes = b""


def pictures_of(
    picture: Picture,
    map_HW: U8,
    kinds: Sequence[Kind],
    style: Style,
    *,
    is_refined: bool = False,
) -> Iterator[Drawing]:
    """Draw the pictures of one image, in the order of `kinds`.

    Shape: map_HW at the image's own size.

    Raises:
        BadImage: the image cannot be read any more.
    """
    refine = style.refine and not is_refined
    if not refine and tuple(kinds) == ("map",):
        yield Drawing("map", map_HW)
        return
    # Decode again: keeping a batch of large photographs would fill the memory.
    data = picture.read()
    image_HWC = decode_with_alpha(data, max_pixels=style.max_pixels)
    profile = colour_profile(data)
    if refine:
        map_HW = _refined(over_white(image_HWC), map_HW)
    for kind in kinds:
        if kind == "map":
            yield Drawing(kind, map_HW)
        elif kind == "overlay":
            from a2s.evaluation.pictures.overlay import overlay

            yield Drawing(kind, overlay(over_white(image_HWC), map_HW), profile)
        else:
            yield Drawing(kind, _cut_out(image_HWC, map_HW, style), profile)


def _refined(image_HW3: U8, map_HW: U8) -> U8:
    from a2s.labels.crf.backends import marginal_of
    from a2s.labels.edges import refine_map

    return refine_map(image_HW3, map_HW, marginal_of("numba"))


def _cut_out(image_HWC: U8, map_HW: U8, style: Style) -> U8:
    from a2s.evaluation.pictures import cutout

    alpha_HW = cutout.alpha_of(image_HWC, map_HW)
    picture_HWC = cutout.cutout(np.ascontiguousarray(image_HWC[..., :3]), alpha_HW)
    if style.background == "blur":
        behind_HW3 = cutout.blurred(over_white(image_HWC), alpha_HW)
        picture_HWC = cutout.on_background(picture_HWC, behind_HW3)
    elif style.background is not None:
        behind_HW3 = np.empty_like(picture_HWC[..., :3])
        behind_HW3[:] = colour_of(style.background)
        picture_HWC = cutout.on_background(picture_HWC, behind_HW3)
    return picture_HWC[cutout.object_box(alpha_HW)] if style.crop else picture_HWC


def colour_of(text: str) -> tuple[int, ...]:
    """RGB of a colour: a name of CSS, `#rrggbb`, or another form that Pillow knows."""
    from PIL import ImageColor

    return ImageColor.getrgb(text)[:3]


def is_whole(data: bytes) -> bool:
    """Whether the bytes of a picture are there up to its end; what they hold is not looked at."""
    if data.startswith(b"RIFF"):
        return len(data) == int.from_bytes(data[4:8], "little") + 8
    ends = {b"\x89PNG": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}
    return any(data.startswith(start) and data.endswith(end) for start, end in ends.items())


def encode(drawing: Drawing, file_format: Format, *, is_marked: bool = False) -> bytes:
    """Encode a picture; a marked one says that a2s wrote it (`data.own_pictures`)."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    name = PILLOW_NAMES[file_format]
    options: dict[str, Any] = {**_OPTIONS[name]}
    if drawing.profile:
        options["icc_profile"] = drawing.profile
    if is_marked and name == "PNG":
        options["pnginfo"] = info = PngInfo()
        info.add_text("Software", SOFTWARE)
    elif is_marked:
        options["exif"] = exif = Image.Exif()
        exif[SOFTWARE_TAG] = SOFTWARE
    buffer = io.BytesIO()
    Image.fromarray(drawing.pixels).save(buffer, name, **options)
    return buffer.getvalue()
