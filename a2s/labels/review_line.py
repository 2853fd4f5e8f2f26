"""A decision, and its line in the file of decisions: read, checked and made."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from a2s.storage.parsing import first_problem, parse_json

Verdict = Literal["accepted", "rejected", "fixed"]
Source = Literal["review", "labelstudio", "coco"]


class Line(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: str
    verdict: Literal["accepted", "rejected", "fixed", "undone"]
    at: Annotated[str, StringConstraints(max_length=40)]
    source: Source = "review"
    mask_png_base64: str | None = None

    def mask_png(self) -> bytes | None:
        """The mask.

        Raises:
            ValueError: it is no base64.
        """
        try:
            mask = self.mask_png_base64
            return None if mask is None else base64.b64decode(mask, validate=True)
        except ValueError as error:
            raise ValueError(f"has a mask that is no base64 ({error})") from None


class _Time(BaseModel):
    at: AwareDatetime


def read_line(line: bytes) -> Line:
    """Parse a line.

    Raises:
        ValueError: it is no decision; the text follows the number of the line.
    """
    try:
        record = Line.model_validate(parse_json(line))
        _Time.model_validate({"at": record.at})
    except ValidationError as error:
        raise ValueError(f"is no decision ({first_problem(error)})") from None
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from None
    return record


def make_line(
    *, key: str, verdict: Verdict, at: str, source: Source, mask_png: bytes | None
) -> dict[str, str]:
    """What stands in the line of a decision."""
    line: dict[str, str] = {"key": key, "verdict": verdict, "at": at, "source": source}
    if mask_png is not None:
        line["mask_png_base64"] = base64.b64encode(mask_png).decode()
    # What is written can be read.
    Line.model_validate(line)
    _Time.model_validate({"at": at})
    return line


@dataclass(frozen=True)
class Decision:
    """What a reviewer decided about one label.

    Range: `mask_png`, only of "fixed", is a PNG of mode L with the values 0 and 255, at the image's
    own size; `at` is a time as ISO 8601 with its offset from UTC.
    """

    key: str
    verdict: Verdict
    mask_png: bytes | None
    at: str
    source: Source = "review"


def now() -> str:
    """The time for `Decision.at`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def fingerprint(decisions: Mapping[str, Decision]) -> str:
    """Hash of what was decided, without when: equal decisions train equal networks."""
    total = hashlib.sha256()
    for key in sorted(decisions):
        one = decisions[key]
        mask_sha256 = hashlib.sha256(one.mask_png or b"").hexdigest()
        total.update(f"{key} {one.verdict} {mask_sha256}\n".encode())
    return total.hexdigest()
