"""The table of a label set, read shard by shard, against all its rows at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_shards import write_labels
from processes import pack

from a2s.errors import DataError
from a2s.evaluation.page.label_table import (
    EXTREMES,
    SAMPLE,
    LabelTable,
    find_rows,
    read_labels,
)

NUM_SHARDS, PER_SHARD = 7, 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label shards of 3,500 rows, with tables and manifests only."""
    out = tmp_path_factory.mktemp("labels")
    generator = np.random.default_rng(3)
    for shard in range(NUM_SHARDS):
        count = PER_SHARD
        columns = {
            "key": [f"k{shard}-{number}" for number in range(count)],
            "offset": np.arange(count),
            "size": np.full(count, 9),
            "crc32": np.arange(count, dtype=np.uint32),
            "quality": generator.beta(4, 2, count).astype(np.float32),
            "area_share": np.where(generator.random(count) < 0.1, 0, generator.random(count)),
            "num_components": generator.integers(0, 30, count),
            "no_object": generator.random(count) < 0.2,
        }
        pq.write_table(pa.table(columns), out / f"shard-{shard:06d}.parquet")
        (out / f"shard-{shard:06d}.json").write_text("{}")
    return out


def everything(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def test_counts_and_means_are_those_of_all_rows(folder: Path) -> None:
    table, rows = read_labels(folder), everything(folder)
    assert table.num_labels == len(rows) == NUM_SHARDS * PER_SHARD
    assert table.ranked_by == "quality"
    quality = rows["quality"].to_numpy().astype(np.float64)
    area = rows["area_share"].to_numpy()
    expected, _ = np.histogram(quality, bins=20, range=(0, 1))
    np.testing.assert_array_equal(table.counts["quality"].reshape(20, 50).sum(axis=1), expected)
    assert table.mean("quality") == pytest.approx(quality.mean())
    assert table.num_empty == int((area == 0).sum()) > 0
    assert table.flags == {"no_object": int(rows["no_object"].to_numpy().sum())}
    for share in (0.1, 0.5, 0.9):
        assert table.quantile("quality", share) == pytest.approx(
            np.quantile(quality, share), abs=0.002
        )
    by_area, _, _ = np.histogram2d(area, quality, bins=24, range=((0, 1), (0, 1)))
    np.testing.assert_array_equal(table.area_by_rank_AQ, by_area)


def test_more_regions_than_the_last_bin_count_there(folder: Path) -> None:
    table, rows = read_labels(folder), everything(folder)
    many = int((rows["num_components"].to_numpy() >= 12).sum())
    bins = np.linspace(0, 1000, 13).round().astype(int)
    assert int(table.counts["num_components"][bins[11] :].sum()) == many > 0


def test_extremes_are_exact_and_in_order(folder: Path) -> None:
    table, rows = read_labels(folder), everything(folder)
    keys, quality = rows["key"].to_pylist(), rows["quality"].to_numpy()
    order = np.argsort(quality, kind="stable")
    assert [row.key for row in table.worst] == [keys[at] for at in order[:EXTREMES]]
    assert [row.key for row in table.best] == [keys[at] for at in order[::-1][:EXTREMES]]
    best = table.best[0]
    assert best.shard == f"shard-{int(best.key[1]):06d}"
    assert best.numbers["quality"] == pytest.approx(float(quality.max()))


def test_the_sample_is_random_bounded_and_the_same_each_time(folder: Path) -> None:
    table, again = read_labels(folder), read_labels(folder)
    keys = [row.key for row in table.sample]
    assert keys == [row.key for row in again.sample]
    assert len(set(keys)) == SAMPLE < table.num_labels
    per_shard = np.bincount([int(key[1]) for key in keys], minlength=NUM_SHARDS)
    assert abs(per_shard - SAMPLE / NUM_SHARDS).max() < 5 * np.sqrt(SAMPLE / NUM_SHARDS)


def test_deciles_are_of_rising_quality(folder: Path) -> None:
    table, rows = read_labels(folder), everything(folder)
    edges = np.quantile(rows["quality"].to_numpy(), np.linspace(0, 1, 11))
    for number, part in enumerate(table.deciles(2)):
        assert len(part) == 2
        for row in part:
            assert edges[number] - 0.03 < row.numbers["quality"] < edges[number + 1] + 0.03


def test_few_labels_leave_some_tenths_empty(tmp_path: Path, folder: Path) -> None:
    table = read_labels(folder)
    few = LabelTable(num_labels=3, ranked_by="quality", sample=table.sample[:3])
    assert sorted(row.key for part in few.deciles(2) for row in part) == sorted(
        row.key for row in few.sample
    )


def test_rows_are_found_by_key_and_shard(folder: Path) -> None:
    keys = ["k0-0", "k6-499", "unknown"]
    assert set(find_rows(folder, keys)) == {"k0-0", "k6-499"}
    assert set(find_rows(folder, keys, shards=["shard-000006"])) == {"k6-499"}
    assert find_rows(folder, keys)["k6-499"].place["offset"] == 499


def test_labels_without_quality_are_ranked_by_what_they_have(tmp_path: Path) -> None:
    table = pa.table({"key": ["a", "b"], "decision_margin": [0.1, 0.4]})
    pq.write_table(table, tmp_path / "shard-000000.parquet")
    (tmp_path / "shard-000000.json").write_text("{}")
    found = read_labels(tmp_path)
    assert found.ranked_by == "decision_margin"
    assert [row.key for row in found.best] == ["b", "a"]


def test_damaged_and_missing_tables_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished shards"):
        read_labels(tmp_path)
    (tmp_path / "shard-000000.json").write_text("{}")
    (tmp_path / "shard-000000.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"shard-000000\.parquet: cannot be read"):
        read_labels(tmp_path)


def test_labels_that_are_not_finished_are_told(scenes, tmp_path: Path) -> None:
    data = pack(scenes.train, tmp_path / "data")
    labels = write_labels(data, tmp_path / "labels")
    assert not read_labels(labels).problems
    (labels / "shard-000001.json").unlink()
    table = read_labels(labels)
    assert table.num_labels == 5
    assert table.problems == [
        f"{labels}: 2 of 3 shards are finished; rerun the command that makes them, it resumes"
    ]
