"""Status of folders of shards, and its text as shown in docs/status.md."""

from __future__ import annotations

import json

import pytest
from repository import REPO

from a2s.storage.status.shards import (
    Manifest,
    ShardsStatus,
    failures_elsewhere,
    parse_manifest,
    parse_work,
    shards_status,
    split_by_settings,
)
from a2s.storage.status.text import describe

START = 1_795_600_000.0


def manifest(number: int, *, written_sec: float | None = None, **more: object) -> Manifest:
    values = {
        "count": 1000,
        "settings": "a",
        "num_shards": 120,
        "tar_bytes": 10,
        "failures": [],
        **more,
    }
    return parse_manifest(
        f"shard-{number:06d}.json", json.dumps(values).encode(), written_sec=written_sec
    )


def failure(key: str, reason: str) -> dict[str, str]:
    return {"key": key, "reason": reason, "path": "p", "detail": "d"}


def status(manifests: list[Manifest], **more: object) -> ShardsStatus:
    times = {"start_sec": START, "now_sec": START + 1}
    return shards_status(manifests, **{"command": "label", **times, **more})


def test_the_page_shows_what_is_printed() -> None:
    page = (REPO / "docs" / "status.md").read_text("utf-8")
    shown = page.split("```\n")[2]
    manifests = [
        manifest(number, written_sec=START + 244 * (number + 1), num_images_total=119_650)
        for number in range(36)
    ]
    bad = [failure(f"a/{name}", "truncated") for name in ("cat", "dog", "elk", "fox", "gnu")]
    bad += [failure("b/wall", "pixel_bomb")]
    manifests.append(
        manifest(
            36,
            written_sec=START + 244 * 37,
            count=994,
            failures=bad,
            num_empty=41,
            num_images_total=119_650,
        )
    )
    found = status(manifests, now_sec=START + 244 * 37 + 12)
    assert describe("labels/x", found, now_sec=START + 244 * 37 + 12) + "\n" == shown


def test_total_is_exact_if_a_manifest_has_it_else_an_estimate() -> None:
    known = status([manifest(0, num_images=1000, num_images_total=77_000)])
    assert (known.num_images, known.num_images_is_exact) == (77_000, True)
    guessed = status([manifest(0), manifest(1, count=500)])
    assert (guessed.num_images, guessed.num_images_is_exact) == (90_000, False)
    done = status([manifest(0, num_shards=2), manifest(1, num_shards=2, count=3)])
    assert (done.state, done.num_images, done.num_images_is_exact) == ("finished", 1003, True)


def test_failures_count_as_processed_images() -> None:
    failures = [failure(f"k{n}", "truncated") for n in range(5)] + [failure("z", "no_pixels")]
    found = status(
        [manifest(0, count=94, failures=failures)],
        listed=200,
        failed_before=[failure("", "bad_name")],
    )
    assert (found.images_done, found.num_images, found.num_failed) == (101, 201, 7)
    first = found.failures[0]
    assert (first.reason, first.count, first.keys) == ("truncated", 5, ["k0", "k1", "k2"])
    assert first.share == pytest.approx(5 / 101, abs=1e-6)


def test_manifests_that_disagree_are_a_problem_in_one_line() -> None:
    found = status([manifest(0, num_shards=2), manifest(1, num_shards=3)])
    assert found.problems == ["its manifests disagree on the number of shards: 2, 3"]
    assert found.state == "running"
    mine, others = split_by_settings([manifest(0), manifest(1, settings="b"), manifest(2)], None)
    assert [one.name for one in mine] == ["shard-000000.json", "shard-000002.json"]
    assert others == ["shard-000001.json"]
    assert split_by_settings([manifest(0)], "b") == ([], ["shard-000000.json"])


def test_without_times_there_is_no_rate() -> None:
    found = status([manifest(0), manifest(1)], start_sec=None)
    assert found.rate_images_per_sec is None
    assert found.left_sec is None
    assert "rate" not in describe("x", found, now_sec=0)


def test_number_of_shards_not_stated() -> None:
    found = status([manifest(0, num_shards=None)])
    assert (found.num_shards, found.num_images, found.state) == (None, None, "running")
    assert "  images    1,000\n" in describe("x", found, now_sec=START) + "\n"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"{}", b'{"count": 1}', b"\xff\xfe", b'{"count": "many"}'],
)
def test_an_invalid_manifest_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_manifest("shard-000000.json", data, written_sec=None)
    with pytest.raises(ValueError, match=r"."):
        parse_work(data)


def test_failures_of_images_that_reached_no_shard() -> None:
    rows = [failure("a", "truncated"), failure("", "bad_name"), failure("m", "mask_without_image")]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    inside = manifest(0, failures=rows[:1])
    assert failures_elsewhere(lines, [inside]) == [{"key": "", "reason": "bad_name"}]
    with pytest.raises(ValueError, match=r"."):
        failures_elsewhere(b"{}\n", [])
