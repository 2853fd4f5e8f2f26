"""What a detector says about one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from a2s.api.sources import named
from a2s.data.arrays import F32, U8
from a2s.data.images import BadImage
from a2s.errors import ConfigError
from a2s.evaluation.pictures.outputs import Kind, Style, pictures_of
from a2s.models.predict import Picture


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Saliency of one image, at the image's own size (after the EXIF orientation of a file)."""

    map: U8
    """Saliency, as `a2s predict` writes it. Shape: H W, uint8. Range: 0..255."""
    _picture: Picture

    def __repr__(self) -> str:
        return f"Prediction({self._picture.shown}, {self.size[0]}x{self.size[1]})"

    @property
    def saliency(self) -> F32:
        """Shape: H W, float32. Range: 0..1."""
        return self.map.astype(np.float32) / np.float32(255)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as PIL's `Image.size`."""
        return self.map.shape[1], self.map.shape[0]

    def image(self) -> Image.Image:
        """The map as a grey PIL image (mode L)."""
        return Image.fromarray(self.map)

    def cutout(self, *, crop: bool = False, background: str | None = None) -> Image.Image:
        """The object with the map as alpha channel, and its own colours at its edges.

        `crop` leaves out what is around the object. `background` is a colour (`white`, `#ff8800`)
        or `blur`, and puts the object on it. An image's own transparency stays.

        Returns an RGBA image at the image's own size (unless cropped), RGB with a background.

        Raises:
            ConfigError: the background is no colour.
        """
        try:
            return self._draw("cutout", Style(crop=crop, background=background))
        except ValueError:
            raise ConfigError(
                f"cutout: {background} is neither a colour, such as white or #ff8800, nor blur"
            ) from None

    def overlay(self) -> Image.Image:
        """The map drawn over the image: background dimmed, contour at half of the range.

        Returns an RGB image at the image's own size.
        """
        return self._draw("overlay", Style())

    def _draw(self, kind: Kind, style: Style) -> Image.Image:
        try:
            (drawing,) = pictures_of(self._picture, self.map, (kind,), style)
        except BadImage as error:
            raise named(error, self._picture) from None
        image = Image.fromarray(drawing.pixels)
        if drawing.profile:
            image.info["icc_profile"] = drawing.profile
        return image
