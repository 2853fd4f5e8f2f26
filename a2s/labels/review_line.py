"""A line of the file of decisions: read, checked and made."""

from __future__ import annotations

import base64
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
