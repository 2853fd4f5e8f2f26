"""Labels in the order of doubt, filters, and labels that are no pair with the data."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from review_labels import HOSTILE, repeat, write_pair

from a2s.data.images import decode_mask
from a2s.data.index import Index
from a2s.errors import DataError
from a2s.evaluation.review.desk import Desk, Query
from a2s.evaluation.review.pictures import EDIT_PX, Pictures, edit_size, pack, unpack
from a2s.labels.review import (
    Decision,
    SupersededError,
    Verdict,
    append_decisions,
    now,
    read_decisions,
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(*write_pair(tmp_path_factory.mktemp("desk"), names=(HOSTILE,)))


def decide(desk: Desk, row: int, verdict: Verdict, png: bytes | None = None) -> None:
    desk.decide(row, verdict, png, now(), version=int(desk.version_N[row]))


def undo(desk: Desk, row: int) -> None:
    desk.undo(row, version=int(desk.version_N[row]))


def rows_of(desk: Desk, query: Query) -> list[int]:
    number, total = desk.find(query)
    page = desk.page(number, first=0, count=total or 1)
    assert page is not None
    return [int(str(one["row"])) for one in page]


def test_the_most_doubtful_come_first(desk: Desk) -> None:
    assert rows_of(desk, Query()) == [5, 0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        (Query(least_quality=0.5, most_quality=0.7), [6, 7, 8]),
        (Query(flag="no_object"), [5]),
        (Query(flag="inverted"), []),
        (Query(shard="shard-000001"), [6, 7, 8, 9, 10, 11]),
        (Query(shard="../../etc"), []),
        (Query(text="SCENE 01"), [10, 11]),
        (Query(text="dir/scene 003"), [3]),
        (Query(text="onerror="), [0]),
        (Query(text="%25"), []),
        (Query(text=".*"), []),
        (Query(text="../"), []),
        (Query(text="\0"), []),
        (Query(state="accepted"), []),
    ],
)
def test_filters(desk: Desk, query: Query, rows: list[int]) -> None:
    assert rows_of(desk, query) == rows


def test_lists_stay_as_they_were_and_are_forgotten_in_time(desk: Desk) -> None:
    number, _ = desk.find(Query(state="undecided"))
    decide(desk, 3, "accepted")
    before = desk.page(number, first=0, count=20)
    assert before is not None
    assert len(before) == 12
    assert rows_of(desk, Query(state="accepted")) == [3]
    undo(desk, 3)
    for _ in range(20):
        desk.find(Query())
    assert desk.page(number, first=0, count=20) is None


def test_decisions_of_others_are_followed(desk: Desk) -> None:
    since, key = desk.version, desk.labels.key(7)
    append_decisions(desk.labels.folder, [Decision(key, "rejected", None, now(), "coco")])
    assert desk.follow(since) == (since + 1, [7])
    assert desk.follow(since + 1) == (since + 1, [])
    assert desk.describe(7)["state"] == "rejected"
    assert desk.counts()["rejected"] == 1
    undo(desk, 7)
    assert key not in read_decisions(desk.labels.folder)


def test_what_others_decided_before_the_own_decision_is_followed(desk: Desk) -> None:
    since, keys = desk.version, [desk.labels.key(row) for row in (1, 2)]
    append_decisions(desk.labels.folder, [Decision(keys[0], "rejected", None, now())])
    read = desk._log.refresh
    # They append after this desk has read the file, and before it appends.
    theirs = [Decision(keys[1], "rejected", None, now())]

    def late() -> set[str]:
        desk._log.refresh = read  # type: ignore[method-assign]
        found = read()
        append_decisions(desk.labels.folder, theirs)
        return found

    desk._log.refresh = late  # type: ignore[method-assign]
    decide(desk, 4, "accepted")
    assert desk.follow(since)[1] == [1, 2, 4]
    assert desk.counts()["rejected"] == 2
    for row in (1, 2, 4):
        undo(desk, row)
    assert desk.counts() == {"undecided": 12, "accepted": 0, "rejected": 0, "fixed": 0}


def test_accepting_a_fixed_label_keeps_what_was_drawn(desk: Desk) -> None:
    png, key = Pictures(desk).drawn(2, np.ones((96, 120), bool)), desk.labels.key(2)
    decide(desk, 2, "fixed", png)
    version = int(desk.version_N[2])
    decide(desk, 2, "accepted")
    assert read_decisions(desk.labels.folder)[key].mask_png == png
    assert desk.version_N[2] == version
    undo(desk, 2)
    assert key not in read_decisions(desk.labels.folder)


def test_a_decision_about_what_holds_no_more_is_refused(desk: Desk) -> None:
    seen = int(desk.version_N[6])
    decide(desk, 6, "rejected")
    mine = int(desk.version_N[6])
    with pytest.raises(SupersededError, match="scene 006 meanwhile"):
        desk.decide(6, "accepted", None, now(), version=seen)
    append_decisions(
        desk.labels.folder, [Decision(desk.labels.key(6), "accepted", None, now(), "coco")]
    )
    with pytest.raises(SupersededError):
        desk.undo(6, version=mine)
    assert desk.describe(6)["state"] == "accepted"
    undo(desk, 6)
    undo(desk, 6)


def test_polls_and_key_presses_search_no_labels(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Index, "rows_of", None)
    since = desk.version
    decide(desk, 8, "accepted")
    decide(desk, 9, "rejected")
    assert desk.follow(since) == (since + 2, [8, 9])
    undo(desk, 8)
    undo(desk, 9)
    assert desk.follow(since + 3) == (since + 4, [9])


def test_folders_that_are_no_pair_are_one_line(desk: Desk, tmp_path: Path) -> None:
    labels, data = desk.labels.folder, desk.data.folder
    other, other_data = write_pair(tmp_path / "other", count=8, names=("a", "b"))
    for given, message in (
        ((labels, other_data), "was made of other images"),
        ((data, data), "holds images, where labels are wanted"),
        ((labels, labels), "holds labels, where images are wanted"),
        ((tmp_path / "none", data), "no finished shards"),
        ((labels, tmp_path / "none"), "no finished shards"),
    ):
        with pytest.raises(DataError, match=message) as error:
            Desk(*given)
        assert "\n" not in str(error.value)
    (other / "shard-000001.json").unlink()
    with pytest.raises(DataError, match="1 of 2 shards are finished"):
        Desk(other, other_data)
    (labels / "review.jsonl").write_text("no\n")
    with pytest.raises(DataError, match="line 1 is no JSON"):
        Desk(labels, data)
    (labels / "review.jsonl").unlink()


def test_a_mask_drawn_at_a_smaller_size_keeps_the_rest(tmp_path: Path) -> None:
    desk = Desk(*write_pair(tmp_path, count=2, width=2400, height=900))
    pictures = Pictures(desk)
    height, width = edit_size(900, 2400)
    assert max(height, width) == EDIT_PX
    drawn_hw = unpack(pictures.mask(0), height=height, width=width).copy()
    first_HW = pictures.label(0)
    assert (decode_mask(pictures.drawn(0, drawn_hw)) == first_HW).all()
    drawn_hw[:40, :60] = True
    found_HW = decode_mask(pictures.drawn(0, drawn_hw))
    assert found_HW.shape == (900, 2400)
    assert found_HW[:55, :85].min() == 255
    assert (found_HW[70:] == first_HW[70:]).all()


def test_packed_masks_are_their_own_inverse() -> None:
    mask = np.random.default_rng(0).random((13, 7)) > 0.5
    assert (unpack(pack(mask), height=13, width=7) == mask).all()
    for wrong in (b"", pack(mask)[:-1], pack(mask) + b"\0"):
        with pytest.raises(DataError):
            unpack(wrong, height=13, width=7)


def test_a_hundred_thousand_labels_are_found_at_once(desk: Desk, tmp_path: Path) -> None:
    folders = []
    for index in (desk.labels, desk.data):
        folder = tmp_path / index.folder.name
        shutil.copytree(index.folder, folder)
        repeat(folder, 100_000)
        folders.append(folder)
    large = Desk(folders[0], folders[1])
    assert len(large) == 100_000
    start = time.monotonic()
    number, total = large.find(Query(least_quality=0.2, text="scene"))
    page = large.page(number, first=total - 200, count=200)
    assert page is not None
    assert len(page) == 200
    assert time.monotonic() - start < 5
