"""Label store: round trip, detection of damage, consistency after crashes."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from a2s.errors import LabelError
from a2s.labels.store import generations
from a2s.labels.store.fixed_point import from_u16
from a2s.labels.store.generations import Generation
from a2s.labels.store.rows import RowFile, RowWriter, quantise

HEIGHT, WIDTH = 5, 7


def label(row: int, *, salt: int = 0) -> np.ndarray:
    generator = np.random.default_rng((row, salt))
    return generator.random((HEIGHT, WIDTH)).astype(np.float32)


def write(
    store: Path, rows: list[int], *, generation: int = 1, step: int = 0, rank: int = 0
) -> list[RowFile]:
    writer = RowWriter(
        store,
        generation=generation,
        step=step,
        rank=rank,
        height=HEIGHT,
        width=WIDTH,
        rows_per_file=4,
    )
    for row in rows:
        writer.add(row, label(row, salt=generation))
    return writer.close()


def publish(store: Path, files: list[RowFile], keep: np.ndarray, *, generation: int = 1) -> str:
    return generations.publish(
        store, generation=generation, files=files, keep_N=keep, height=HEIGHT, width=WIDTH
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    folder.mkdir()
    return folder


def test_two_ranks_write_one_generation(store: Path) -> None:
    keep = np.ones(20, bool)
    keep[[3, 11]] = False
    rows = [int(row) for row in np.random.default_rng(0).permutation(20) if keep[row]]
    counts = [
        len(write(store, rows[:11], rank=0)),
        len(write(store, rows[11:], rank=1)),
    ]
    assert counts == [3, 2]
    files = generations.collect(store, generation=1, step=0, num_files_by_rank=counts)
    publish(store, files, keep)
    generation = Generation.load(store, 1)
    assert (generation.has_label_N == keep).all()
    for row in rows:
        assert np.abs(generation.read(row) - label(row, salt=1)).max() <= 0.5 / 65534 + 1e-7
        assert (quantise(generation.read(row)) == generation.read_u16(row)).all()
    with pytest.raises(LabelError, match="no label for row 3"):
        generation.read(3)


def test_fixed_point_is_exact_at_0_and_1_and_idempotent() -> None:
    every = np.arange(65535, dtype=np.uint16)
    assert (quantise(from_u16(every)) == every).all()
    ends = np.asarray([[0.0, 1.0, 0.5]], np.float32)
    assert quantise(ends).tolist() == [[0, 65534, 32767]]


@pytest.mark.parametrize("value", [np.nan, -0.01, 1.01, np.inf])
def test_values_outside_0_to_1_are_refused(store: Path, value: float) -> None:
    bad = label(0)
    bad[2, 2] = value
    writer = RowWriter(store, generation=1, step=0, rank=0, height=HEIGHT, width=WIDTH)
    with pytest.raises(LabelError, match="outside"):
        writer.add(0, bad)
    assert writer.close() == []


def test_resume_in_mid_epoch_with_another_number_of_ranks(store: Path) -> None:
    keep = np.ones(12, bool)
    first = [write(store, [0, 1, 2], rank=0), write(store, [3, 4, 5], rank=1)]
    files = generations.collect(
        store, generation=1, step=0, num_files_by_rank=[len(part) for part in first]
    )
    part = generations.publish_part(store, generation=1, step=3, files=files)
    # Three ranks resume at step 3; a rank had crashed there after writing a file.
    orphan = write(store, [6, 7], step=3, rank=0)
    assert generations.clean(store, keep=[part]) == len(orphan)
    counts = [len(write(store, [6 + 2 * rank, 7 + 2 * rank], step=3, rank=rank)) for rank in (0, 1)]
    counts.append(len(write(store, [10, 11], step=3, rank=2)))
    files = generations.load_part(store, part)
    files += generations.collect(store, generation=1, step=3, num_files_by_rank=counts)
    publish(store, files, keep)
    generation = Generation.load(store, 1)
    for row in range(12):
        assert (generation.read_u16(row) == quantise(label(row, salt=1))).all()


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 3, 0], [0, 1, 2, 3, 4]])
def test_generations_with_missing_or_duplicate_labels_are_not_published(
    store: Path, rows: list[int]
) -> None:
    keep = np.asarray([True, True, True, True, False])
    with pytest.raises(LabelError, match="does not have exactly one label per image"):
        publish(store, write(store, rows), keep)
    assert not list(store.glob("*.json"))


def test_files_are_never_overwritten(store: Path) -> None:
    write(store, [0, 1])
    before = next(store.rglob("*.rows")).read_bytes()
    with pytest.raises(LabelError, match="exists already"):
        write(store, [2, 3])
    assert next(store.rglob("*.rows")).read_bytes() == before


def test_clean_deletes_only_store_files_that_no_commit_names(store: Path) -> None:
    keep = np.ones(4, bool)
    names = [
        publish(store, write(store, [0, 1, 2, 3], generation=number), keep, generation=number)
        for number in (1, 2, 3)
    ]
    part = generations.publish_part(
        store, generation=4, step=1, files=write(store, [0], generation=4)
    )
    write(store, [1], generation=4, step=1)
    (store / "00004" / ".s00000001-r0000-00001.rows.abc.tmp").write_bytes(b"half")
    (store / "notes.txt").write_text("mine")
    # One row file, manifest, and table of generation 1; the orphan; the half-written file.
    assert generations.clean(store, keep=[*names[1:], part]) == 5
    assert generations.clean(store, keep=[*names[1:], part]) == 0
    assert sorted(path.name for path in store.iterdir()) == [
        "00002",
        "00003",
        "00004",
        "generation-00002.json",
        "generation-00002.table",
        "generation-00003.json",
        "generation-00003.table",
        "generation-00004-s00000001.json",
        "notes.txt",
    ]
    assert (Generation.load(store, 2).read_u16(3) == quantise(label(3, salt=2))).all()


def test_every_flipped_byte_of_a_row_file_is_detected(store: Path) -> None:
    publish(store, write(store, [0, 1]), np.ones(2, bool))
    generation = Generation.load(store, 1)
    path = next(store.rglob("*.rows"))
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        bad = 0
        for row in (0, 1):
            try:
                generation.read(row)
            except LabelError:
                bad += 1
        assert bad >= 1, position
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(LabelError):
            generation.read(1)
    path.unlink()
    with pytest.raises(LabelError, match="cannot be read"):
        generation.read(0)


def test_a_replaced_row_file_is_detected(store: Path) -> None:
    publish(store, write(store, [0, 1]), np.ones(2, bool))
    path = next(store.rglob("*.rows"))
    path.unlink()
    write(store, [1, 0])
    with pytest.raises(LabelError, match="differs from its entry"):
        Generation.load(store, 1).read(0)


def test_damaged_manifests_and_tables_are_detected(store: Path) -> None:
    publish(store, write(store, [0, 1]), np.ones(2, bool))
    table = store / "generation-00001.table"
    whole = table.read_bytes()
    table.write_bytes(whole[:-1] + b"\x07")
    with pytest.raises(LabelError, match="damaged"):
        Generation.load(store, 1)
    table.unlink()
    with pytest.raises(LabelError, match="cannot be read"):
        Generation.load(store, 1)
    table.write_bytes(whole)
    manifest = store / "generation-00001.json"
    content = json.loads(manifest.read_text())
    for broken in ({}, {"version": 1}, {**content, "version": 99}, []):
        manifest.write_text(json.dumps(broken))
        with pytest.raises(LabelError):
            Generation.load(store, 1)
    manifest.write_text("{")
    with pytest.raises(LabelError, match="cannot be read"):
        Generation.load(store, 1)
    with pytest.raises(LabelError):
        Generation.load(store, 2)


def _read_in_child(generation: Generation, rows: list[int], queue: multiprocessing.Queue) -> None:
    queue.put([int(generation.read_u16(row).sum()) for row in rows])


def test_reading_after_fork(store: Path) -> None:
    rows = list(range(9))
    publish(store, write(store, rows), np.ones(9, bool))
    generation = Generation.load(store, 1)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue = context.Queue()
    children = [
        context.Process(target=_read_in_child, args=(generation, rows, queue)) for _ in range(3)
    ]
    for child in children:
        child.start()
    expected = [int(generation.read_u16(row).sum()) for row in rows]
    assert [queue.get(timeout=30) for _ in children] == [expected] * 3
    for child in children:
        child.join()
