"""Strips: one image with its map, label, corrected label, prediction and truth side by side.

What is stored is read. Where a run keeps no map or prediction of an image (those that it learned
from), the run's own networks compute it, for the images on the page only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from a2s.data.arrays import U8
from a2s.data.images import MAX_PIXELS, BadImage, decode, decode_mask
from a2s.data.keys import decode_key
from a2s.data.masks import decode_map, decode_truth
from a2s.data.open_files import Address
from a2s.errors import A2SError, DataError
from a2s.evaluation.page import pictures
from a2s.evaluation.page.label_table import Row, find_rows
from a2s.evaluation.page.parts import NAMED
from a2s.evaluation.pairs import PictureFile, PictureSet
from a2s.models.bundled import find_model
from a2s.models.predict import Picture, Step, new_step, to_map
from a2s.storage.files import is_there
from a2s.storage.parsing import printable


class Wanted(NamedTuple):
    """An image that shall be shown, the shard that holds it if known, and what to say of it."""

    key: str
    caption: str
    shard: str | None = None


@dataclass(frozen=True)
class Cell:
    """One picture of a strip, or the reason why it is missing."""

    title: str
    alt: str
    uri: str = ""
    problem: str = ""

    def renamed(self, title: str) -> Cell:
        """The same picture under another title."""
        return replace(self, title=title, alt=f"{title[:1]}: {self.alt}")


@dataclass(frozen=True)
class Strip:
    """The pictures of one image."""

    name: str
    caption: str
    cells: list[Cell]


@dataclass
class Network:
    """A network that answers for single images; it is loaded when the first image needs it."""

    path: Path
    problem: str = ""
    _step: Step | None = None

    def map(self, row: Row, data: Path) -> U8:
        """Compute the map of one photograph. Shape: H W.

        Raises:
            DataError: the photograph or the network cannot be read.
        """
        if self.problem:
            raise DataError(self.problem)
        try:
            if self._step is None:
                named = NAMED.get(str(self.path))
                model = find_model(named, for_labels=True) if named else find_model(self.path)
                self._step = new_step(model[0], MAX_PIXELS)
        except A2SError as error:
            # Many images ask; the answer stays the same.
            self.problem = f"no network: {error}"
            raise DataError(self.problem) from error
        file = row.picture(data)
        (answer,) = self._step([Picture(row.key, file.address, row.shard, file.crc32)])
        if isinstance(answer, BadImage):
            raise answer
        return to_map(answer)


@dataclass
class Sources:
    """Where the pictures of one set of images come from; a column without a source is left out."""

    data: Path | None
    labels: Path | None = None
    rectified: Path | None = None
    maps: Path | Network | None = None
    preds: Path | Network | None = None
    truths: PictureSet | None = None
    problems: list[str] = field(default_factory=list)

    def strips(self, wanted: Sequence[Wanted]) -> list[Strip]:
        """Make a strip of each image; what cannot be read is a cell that says why."""
        rows = {name: self._rows(folder, wanted) for name, folder in self._shards().items()}
        return [self._strip(one, rows) for one in wanted]

    def _shards(self) -> dict[str, Path]:
        folders = {"data": self.data, "labels": self.labels, "rectified": self.rectified}
        return {name: folder for name, folder in folders.items() if folder is not None}

    def _rows(self, folder: Path, wanted: Sequence[Wanted]) -> dict[str, Row]:
        shards = [one.shard for one in wanted if one.shard is not None]
        known = shards if len(shards) == len(wanted) else None
        try:
            return find_rows(folder, [one.key for one in wanted], shards=known)
        except DataError as error:
            self.problems.append(str(error))
            return {}

    def _strip(self, one: Wanted, rows: dict[str, dict[str, Row]]) -> Strip:
        name = shown(one.key)
        image = rows.get("data", {}).get(one.key)

        def cell(title: str, read: Callable[[], U8 | None]) -> Cell | None:
            try:
                picture = read()
            except DataError as error:
                reason = error.reason if isinstance(error, BadImage) else str(error)
                return Cell(title, f"{title} of {name} is missing", problem=reason)
            if picture is None:
                return None
            if picture.ndim == 3:
                return Cell(title, f"{title} {name}", pictures.photograph(picture))
            share = float((picture > 127).mean())
            alt = f"{title} of {name}, {share:.0%} of it salient"
            return Cell(title, alt, pictures.mask(picture))

        def photograph() -> U8 | None:
            return decode(image.picture(self.data).read()) if image and self.data else None

        def computed(source: Path | Network | None) -> U8 | None:
            if isinstance(source, Network):
                return source.map(image, self.data) if image and self.data else None
            return None if source is None else stored(source, one.key)

        def label(name: str, folder: Path | None) -> U8 | None:
            row = rows.get(name, {}).get(one.key)
            return decode_mask(row.picture(folder).read()) if row and folder else None

        cells = [
            cell("image", photograph),
            cell("map", lambda: computed(self.maps)),
            cell("label", lambda: label("labels", self.labels)),
            cell("corrected label", lambda: label("rectified", self.rectified)),
            cell("prediction", lambda: computed(self.preds)),
            cell("truth", lambda: self._truth(one.key, image)),
        ]
        return Strip(name, one.caption, [one for one in cells if one is not None])

    def _truth(self, key: str, image: Row | None) -> U8 | None:
        packed = image.mask(self.data) if image and self.data else None
        if packed is not None:
            return decode_truth(packed.read())[0]
        return self.truths.picture(key) if self.truths and key in self.truths.keys else None


def stored(folder: Path, key: str) -> U8 | None:
    """Read the map of a key from a folder of files; None: there is none. Shape: H W.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / f"{decode_key(key)}.png"
    return decode_map(PictureFile(Address(str(path))).read()) if is_there(path) else None


def shown(key: str) -> str:
    """Name of an image as people know it, safe to print."""
    try:
        return printable(decode_key(key))
    except DataError:
        return key
