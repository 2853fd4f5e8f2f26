"""Settings of prediction that `a2s predict` and `a2s run` share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from a2s.config.base import NO_IDENTITY, Settings


class PredictOptions(Settings):
    """Settings of prediction."""

    cutout: bool = Field(False, json_schema_extra=NO_IDENTITY)
    """Also write `<key>.cutout.png`: the object, with the map as alpha channel."""
    crop: bool = Field(False, json_schema_extra=NO_IDENTITY)
    """Crop cut-outs to the object; implies --cutout."""
    background: str | None = Field(None, json_schema_extra=NO_IDENTITY)
    """Put the object on this colour (`white`, `#ff8800`) or on the blurred photograph (`blur`);
    implies --cutout."""
    format: Literal["png", "jpg", "webp"] | None = Field(None, json_schema_extra=NO_IDENTITY)
    """File format of cut-outs, where --out names no file; jpg needs --background. Default: png."""
    overlay: bool = Field(False, json_schema_extra=NO_IDENTITY)
    """Also write `<key>.overlay.jpg`: the map drawn over the image."""
    refine: bool = False
    """Move the map's edges to those of the photograph (dense CRF)."""
    max_pixels: int = Field(178_956_970, ge=1)
    """Refuse images with more pixels as `pixel_bomb`, without decoding them."""
    batch_size: int = Field(8, ge=1, json_schema_extra=NO_IDENTITY)
    """Images per task and, on a GPU, per forward pass."""

    @field_validator("background")
    @classmethod
    def _colour(cls, background: str | None) -> str | None:
        """Refuse what is no colour before anything is predicted."""
        if background is not None and background != "blur":
            from PIL import ImageColor

            try:
                ImageColor.getrgb(background)
            except ValueError:
                raise ValueError(
                    f"{background} is neither a colour, such as white or #ff8800, nor blur"
                ) from None
        return background

    @model_validator(mode="after")
    def _format(self) -> PredictOptions:
        """Refuse a format without cut-outs, and a transparent cut-out as JPEG."""
        if self.format is not None and not self.cuts_out:
            raise ValueError("format: is that of cut-outs; add cutout, or leave it out")
        if self.format == "jpg" and self.background is None:
            raise ValueError("format: jpg has no transparency; add background, or take png or webp")
        return self

    @property
    def cuts_out(self) -> bool:
        """Whether cut-outs are written."""
        return self.cutout or self.crop or self.background is not None
