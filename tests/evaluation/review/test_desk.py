"""Labels in the order of doubt, filters, and labels that are no pair with the data."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from review_labels import HOSTILE, repeat, write_pair

from a2s.data.images import decode_mask
from a2s.errors import DataError
from a2s.evaluation.review.desk import Desk, Query
from a2s.evaluation.review.pictures import EDIT_PX, Pictures, edit_size, pack, unpack
from a2s.labels.review import Decision, append_decisions, now, read_decisions


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(*write_pair(tmp_path_factory.mktemp("desk"), names=(HOSTILE,)))


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
    desk.decide(3, "accepted", None, now())
    before = desk.page(number, first=0, count=20)
    assert before is not None
    assert len(before) == 12
    assert rows_of(desk, Query(state="accepted")) == [3]
    desk.undo(3)
    for _ in range(20):
        desk.find(Query())
    assert desk.page(number, first=0, count=20) is None


def test_decisions_of_others_are_followed(desk: Desk) -> None:
    since, key = desk.version, desk.labels.key(7)
    append_decisions(desk.labels.folder, [Decision(key, "rejected", None, now(), "coco")])
    assert desk.follow(since) == [7]
    assert desk.describe(7)["state"] == "rejected"
    assert desk.counts()["rejected"] == 1
    desk.undo(7)
    assert key not in read_decisions(desk.labels.folder)


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
