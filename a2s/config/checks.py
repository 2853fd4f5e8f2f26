"""Settings of commands about a machine, a job, what a job has written, or the shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional, arg

from a2s.config.base import NO_IDENTITY, DetectorName, EncoderConfig, Folder, Settings


class DoctorConfig(Settings):
    """Check what works on this machine and what does not."""

    encoder: EncoderConfig = EncoderConfig()
    """Encoder whose weights are compared with the network."""
    detector: DetectorName = "ram"
    """Detector that is built and whose parameters are counted."""
    out: Path | None = None
    """Folder whose free disk space is checked; default: the current folder."""


class StatusConfig(Settings):
    """Show the progress of a job: shards, images, rate, time left, failures by reason."""

    out: Positional[str] = Field(description="Output folder of the job or its URL (s3, gs, http).")
    as_json: Annotated[bool, arg(name="json")] = Field(False, description="Print one JSON object.")


class ReportConfig(Settings):
    """Write one HTML page about a run: verdict, pictures, histograms, curves, settings."""

    runs: Positional[tuple[Path, ...]] = Field(min_length=1)
    """Output folders of run, label, stage1, stage2 or evaluate; several are compared."""
    out: Path | None = None
    """File of the page; default: report.html in the first folder."""


class VerifyConfig(Settings):
    """Compare every byte of a folder with its checksums; repair what a command can make again."""

    folder: Positional[Folder]
    """Folder of shards, a run, predictions, an export or scores; or one above several of them."""
    repair: bool = Field(False, json_schema_extra=NO_IDENTITY)
    """Delete damaged files of predictions, exports and scores, and what declares other damaged
    parts finished; the command that made them makes them again."""


class CompletionConfig(Settings):
    """Print the script with which a shell completes commands and flags of a2s."""

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """Shell that reads the script."""
