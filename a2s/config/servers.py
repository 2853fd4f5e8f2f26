"""Settings of commands that answer a browser or another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional

from a2s.config.base import NO_IDENTITY, Folder, Settings

Port = Annotated[int, Field(ge=0, le=65_535, json_schema_extra=NO_IDENTITY)]


class ReviewConfig(Settings):
    """Look at labels in a browser; accept, reject or fix them."""

    labels: Positional[Folder]
    """Label shards: the --out of `a2s label`, or `rectified` of a stage-2 run."""
    data: Folder
    """Data shards of these labels."""
    port: Port = 8342
    """Port on this machine; 0 takes any that is free."""


class ServeConfig(Settings):
    """Answer images that are sent by HTTP with their saliency map or cut-out."""

    model: Annotated[
        Literal["bundled", "bundled-activation", "rbd"] | Path,
        Field(json_schema_extra=NO_IDENTITY),
    ] = "bundled"
    """Model, as for `a2s predict`."""
    host: Annotated[str, Field(json_schema_extra=NO_IDENTITY)] = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is every address of this machine, open to its network."""
    port: Port = 7000
    """Port; 0 takes any that is free."""
