"""Progress of a folder of shards, from their manifests. Pure.

The time at which a manifest was written comes from the storage. Manifests contain no time, so that
equal input gives equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from a2s.storage.parsing import parse_json
from a2s.storage.status import quality
from a2s.storage.status.pace import Pace, State, Stop, left_sec, pace_of, rounded, state_of

KEYS_SHOWN = 3
_MASK_REASONS = ("mask_", "duplicate_mask")
"""How reasons in the `failures.jsonl` of data shards begin that concern a mask, not an image."""


@dataclass(frozen=True)
class Manifest:
    """Contents of one shard's manifest, and the time it was written (None: unknown)."""

    name: str
    count: int
    num_images: int
    failures: list[dict[str, str]]
    settings: str
    num_shards: int | None
    num_images_total: int | None
    num_empty: int | None
    num_no_object: int | None
    quality_counts: list[int] | None
    num_left_out: int
    tar_bytes: int
    written_sec: float | None


@dataclass(frozen=True)
class Reason:
    """Failures with the same reason; `share` is relative to all images processed so far."""

    reason: str
    count: int
    share: float
    keys: list[str]


@dataclass(frozen=True)
class ShardsStatus:
    """Progress of a folder of data or label shards."""

    command: str
    state: State
    shards_done: int
    num_shards: int | None
    images_done: int
    num_images: int | None
    num_images_is_exact: bool
    rate_images_per_sec: float | None
    recent_rate_images_per_sec: float | None
    left_sec: float | None
    silent_sec: float | None
    newest_sec: float | None
    num_empty: int | None
    num_no_object: int | None
    quality_counts: list[int] | None
    """Numbers of labels by their quality, in equal bins of 0..1 (`status.quality`)."""
    num_left_out: int
    """Labels that were not good enough."""
    num_failed: int
    failures: list[Reason]
    problems: list[str] = field(default_factory=list)
    stopped: Stop | None = None


def parse_manifest(name: str, data: bytes, *, written_sec: float | None) -> Manifest:
    """Parse a shard's manifest; fields of only data or only label shards are optional.

    Raises:
        ValueError: it is not a manifest.
    """
    try:
        values: dict[str, Any] = parse_json(data)
        failures = [_failure(row) for row in values.get("failures", [])]
        count = int(values["count"])
        return Manifest(
            name=name,
            count=count,
            num_images=int(values.get("num_images", count + len(failures))),
            failures=failures,
            settings=str(values["settings"]),
            num_shards=_int_or_none(values["num_shards"]),
            num_images_total=_int_or_none(values.get("num_images_total")),
            num_empty=_int_or_none(values.get("num_empty")),
            num_no_object=_int_or_none(values.get("num_no_object")),
            quality_counts=_counts(values.get("quality_counts")),
            num_left_out=len(values.get("left_out", [])),
            tar_bytes=int(values["tar_bytes"]),
            written_sec=written_sec,
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{name}: not a manifest ({error!r})") from None


def parse_work(data: bytes) -> tuple[int, list[dict[str, str]]]:
    """Parse `work.json` of data shards: number of images, and failures before the first shard.

    Raises:
        ValueError: it is damaged.
    """
    try:
        work = parse_json(data)
        return int(work["num_images"]), [_failure(row) for row in work["failures"]]
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not a list of work ({error!r})") from None


def failures_elsewhere(lines: bytes, manifests: Sequence[Manifest]) -> list[dict[str, str]]:
    """Return the image failures in `failures.jsonl` that no manifest contains.

    Raises:
        ValueError: it is damaged.
    """
    try:
        rows = [_failure(parse_json(line)) for line in lines.splitlines()]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a list of failures ({error!r})") from None
    known = Counter((row["key"], row["reason"]) for one in manifests for row in one.failures)
    found = Counter((row["key"], row["reason"]) for row in rows)
    return [
        {"key": key, "reason": reason}
        for key, reason in (found - known).elements()
        if not reason.startswith(_MASK_REASONS)
    ]


def split_by_settings(
    manifests: Sequence[Manifest], settings: str | None
) -> tuple[list[Manifest], list[str]]:
    """Split manifests into those made with these settings, and the names of the others.

    If the folder's settings are unknown, the most frequent settings of the manifests count.
    """
    counts = Counter(manifest.settings for manifest in manifests)
    expected = settings or max(counts, key=lambda one: (counts[one], one), default="")
    matching = [manifest for manifest in manifests if manifest.settings == expected]
    return matching, [manifest.name for manifest in manifests if manifest.settings != expected]


def _failure(row: Any) -> dict[str, str]:
    return {"key": str(row["key"]), "reason": str(row["reason"])}


def _counts(value: Any) -> list[int] | None:
    if value is None:
        return None
    counts = [int(number) for number in value]
    if len(counts) != quality.NUM_BINS:
        raise TypeError(f"{len(counts)} counts of quality instead of {quality.NUM_BINS}")
    return counts


def _int_or_none(value: Any) -> int | None:
    return None if value is None else int(value)


def shards_status(
    manifests: Sequence[Manifest],
    *,
    command: str,
    start_sec: float | None,
    now_sec: float,
    listed: int | None = None,
    failed_before: Sequence[dict[str, str]] = (),
    problems: Sequence[str] = (),
) -> ShardsStatus:
    """Summarise the manifests of finished shards.

    `listed` is the number of images to pack, if known. `failed_before` are failures of images that
    reached no shard.
    """
    problems = list(problems)
    stated = {manifest.num_shards for manifest in manifests}
    if len(stated) > 1:
        problems.append(f"its manifests disagree on the number of shards: {_listed(stated)}")
    num_shards = max((number for number in stated if number is not None), default=None)
    packed = sum(manifest.num_images for manifest in manifests)
    totals = {m.num_images_total for m in manifests if m.num_images_total is not None}
    if len(totals) > 1:
        problems.append(f"its manifests disagree on the number of images: {_listed(totals)}")
    finished = num_shards is not None and len(manifests) >= num_shards
    expected: int | None = listed if listed is not None else max(totals, default=None)
    exact = expected is not None or finished
    if expected is None and finished:
        expected = packed
    elif expected is None and num_shards is not None and manifests:
        expected = round(packed / len(manifests) * num_shards)

    events = [(m.written_sec, m.num_images) for m in manifests if m.written_sec is not None]
    pace = pace_of(events, start_sec=start_sec, now_sec=now_sec)
    failures = [*failed_before, *(row for manifest in manifests for row in manifest.failures)]
    seen = packed + len(failed_before)
    empty = [m.num_empty for m in manifests if m.num_empty is not None]
    no_object = [m.num_no_object for m in manifests if m.num_no_object is not None]
    counts = [m.quality_counts for m in manifests if m.quality_counts is not None]
    return ShardsStatus(
        command=command,
        state=state_of(finished, pace, any_done=bool(manifests)),
        shards_done=len(manifests),
        num_shards=num_shards,
        images_done=seen,
        num_images=None if expected is None else expected + len(failed_before),
        num_images_is_exact=exact,
        rate_images_per_sec=rounded(pace.overall_per_sec),
        recent_rate_images_per_sec=rounded(pace.recent_per_sec),
        left_sec=_left(finished, None if expected is None else expected - packed, pace),
        silent_sec=rounded(pace.silent_sec),
        newest_sec=pace.newest_sec,
        num_empty=sum(empty) if empty else None,
        num_no_object=sum(no_object) if no_object else None,
        quality_counts=quality.add(counts) if counts else None,
        num_left_out=sum(manifest.num_left_out for manifest in manifests),
        num_failed=len(failures),
        failures=reasons(failures, num_images=seen),
        problems=problems,
    )


def _listed(numbers: Iterable[int | None]) -> str:
    return ", ".join(sorted("none" if number is None else f"{number:,}" for number in numbers))


def _left(finished: bool, todo: float | None, pace: Pace) -> float | None:
    return None if finished or todo is None else rounded(left_sec(todo, pace))


def reasons(failures: Sequence[dict[str, str]], *, num_images: int) -> list[Reason]:
    """Group failures by reason, the most frequent first, with the first keys of each."""
    counts = Counter(row["reason"] for row in failures)
    return [
        Reason(
            reason,
            count,
            round(count / max(num_images, 1), 6),
            [row["key"] for row in failures if row["reason"] == reason][:KEYS_SHOWN],
        )
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
