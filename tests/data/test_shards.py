"""Shards: deterministic bytes, readable by WebDataset and the index; unsafe tars and URLs."""

from __future__ import annotations

import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from a2s.data.index import Index
from a2s.data.shards import ShardWriter, remove_leftovers, shard_done, shard_name
from a2s.errors import DataError
from a2s.evaluation.pairs import find_truths
from a2s.storage.files import read_json
from a2s.storage.remote import is_remote, open_source

LONG = "folder/" + "x" * 180
SAMPLES = {"a": b"A" * 511, "b/c%20d": b"", LONG: b"B" * 513, "z": b"C" * 512}


def write(folder: Path, *, shards: int = 1, num_shards: int | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(shards):
        columns = {"width": "int32", "height": "int32", "score": "float32"}
        with ShardWriter(
            folder, shard_name(number), columns=columns, settings="s", num_shards=num_shards
        ) as writer:
            for i, (key, data) in enumerate(SAMPLES.items()):
                members = {"jpg": data} | ({"mask.png": b"mask" * i} if i % 2 else {})
                name = key if number == 0 else f"{number}/{key}"
                writer.add(name, members, width=i, height=2 * i, score=i / 2)
            writer.extra["failures"] = []
    return folder


def test_index_reads_back_what_was_written(tmp_path: Path) -> None:
    index = Index.load(write(tmp_path / "x", shards=2, num_shards=2))
    assert len(index) == 8
    assert [shard.name for shard in index.shards] == ["shard-000000", "shard-000001"]
    assert index.shard_sizes.tolist() == [4, 4]
    assert index.shard_rows(1) == range(4, 8)
    assert index.shard_N.tolist() == [0] * 4 + [1] * 4
    assert index.width_N.tolist() == [0, 1, 2, 3] * 2
    assert index.height_N.dtype == np.int32
    assert index.crc32_N.dtype == np.uint32
    truths = find_truths(index.folder)
    for row in range(8):
        key, data = list(SAMPLES.items())[row % 4]
        assert index.key(row).endswith(key)
        assert index.read(row) == data
        assert (index.key(row) in truths.keys) == bool(row % 2)
        if row % 2:
            assert truths.locate(index.key(row)).read() == b"mask" * (row % 4)
    assert index.keys_for(np.array([3, 0])) == ["z", "a"]
    assert index.rows_of(["z", "nowhere", "1/a"]).tolist() == [3, -1, 4]
    assert index.rows_of(index.keys).tolist() == list(range(8))
    assert index.rows_by_key()["1/z"] == 7
    assert index.column("score").tolist() == [0, 0.5, 1, 1.5] * 2
    with pytest.raises(DataError, match="no column nonsense"):
        index.column("nonsense")


def test_label_shards_need_no_size_columns(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, columns={"area_share": "float64"}) as writer:
        writer.add("a", {"png": b"1"}, area_share=0.25)
    index = Index.load(tmp_path)
    assert index.width_N.tolist() == [-1]
    assert index.column("area_share").tolist() == [0.25]


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    names = sorted(path.name for path in one.iterdir())
    assert names == [f"shard-000000.{kind}" for kind in ("json", "parquet", "tar")]
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert Index.load(one).fingerprint == Index.load(two).fingerprint


def test_tar_members_have_neutral_metadata(tmp_path: Path) -> None:
    with tarfile.open(write(tmp_path / "x") / "shard-000000.tar") as tar:
        for member in tar:
            assert member.isreg()
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)


def test_webdataset_reads_it(tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    # WebDataset's own file opener leaves closing to the garbage collector, so call the two stages
    # after it directly.
    path = write(tmp_path / "x") / "shard-000000.tar"
    with path.open("rb") as stream:
        members = tar_file_expander([{"url": str(path), "stream": stream}])
        samples = {sample["__key__"]: sample for sample in group_by_keys(members)}
    assert samples.keys() == SAMPLES.keys()
    assert samples["z"]["jpg"] == SAMPLES["z"]
    assert samples["z"]["mask.png"] == b"mask" * 3


def test_an_exception_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), ShardWriter(tmp_path) as writer:
        writer.add("a", {"jpg": b"1"}, unknown_column=1)
    assert list(tmp_path.iterdir()) == []


def test_shard_done_checks_manifest_settings_and_tar(tmp_path: Path) -> None:
    folder = write(tmp_path / "x")
    assert shard_done(folder, "shard-000000", settings="s") is not None
    assert shard_done(folder, "shard-000000", settings="other") is None
    assert shard_done(folder, "shard-000001", settings="s") is None
    with (folder / "shard-000000.tar").open("ab") as file:
        file.write(b"more")
    assert shard_done(folder, "shard-000000", settings="s") is None


def test_reading_detects_damage(tmp_path: Path) -> None:
    folder = write(tmp_path / "x")
    index = Index.load(folder)
    with (folder / "shard-000000.tar").open("r+b") as file:
        file.seek(int(index.offset_N[3]) + 5)
        file.write(b"!")
    with pytest.raises(DataError, match=r"shard-000000.tar: key z does not match"):
        index.read(3)
    assert index.read(0) == SAMPLES["a"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "shard-000001.tar").unlink(), "is missing"),
        (lambda folder: os.truncate(folder / "shard-000001.tar", 1000), "has 1000 bytes"),
        (lambda folder: (folder / "shard-000001.parquet").unlink(), "is missing"),
        (lambda folder: (folder / "shard-000001.json").unlink(), "1 of 2 shards are finished"),
        (lambda folder: (folder / "shard-000001.json").write_text("{"), "delete it and rerun"),
        (
            lambda folder: (folder / "shard-000001.parquet").write_bytes(
                (folder / "shard-000002.parquet").read_bytes()
            ),
            "does not match its checksum",
        ),
    ],
)
def test_inconsistent_folders_are_refused(tmp_path: Path, spoil: object, message: str) -> None:
    folder = write(tmp_path / "x", shards=2, num_shards=2)
    columns = {"width": "int32", "height": "int32", "score": "float32"}
    with ShardWriter(folder, "shard-000002", columns=columns) as writer:
        writer.add("k", {"jpg": b"1"}, width=1, height=1, score=0.0)
    (folder / "shard-000002.json").unlink()
    spoil(folder)
    with pytest.raises(DataError, match=message):
        Index.load(folder)


def test_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: no finished shards"):
        Index.load(tmp_path)


def test_an_empty_shard_keeps_its_number(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", shards=1)
    with ShardWriter(
        folder,
        "shard-000001",
        columns={"width": "int32", "height": "int32", "score": "float32"},
        settings="s",
    ):
        pass
    index = Index.load(folder)
    assert index.shard_sizes.tolist() == [4, 0]
    with tarfile.open(folder / "shard-000001.tar") as tar:
        assert tar.getnames() == []


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    mine, other = tmp_path / ".shard-000000.tar.k1.tmp", tmp_path / ".shard-000001.tar.k1.tmp"
    mine.write_bytes(b"half")
    other.write_bytes(b"somebody's")
    remove_leftovers(tmp_path, {"shard-000000"})
    assert not mine.exists()
    assert other.exists()


def test_concurrent_writers_never_leave_a_partial_shard(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", shards=1)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    stop = threading.Event()
    seen = []

    def look() -> None:
        while not stop.is_set():
            seen.append(shard_done(folder, "shard-000000", settings="s") is not None)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        with ThreadPoolExecutor(2) as writers:
            list(writers.map(lambda _: write(folder, shards=1), range(40)))
    finally:
        stop.set()
        reader.join()
    assert len(seen) > 40
    assert all(seen)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_old_manifest_is_removed_before_a_different_tar_appears(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", shards=1)
    manifest = folder / "shard-000000.json"
    renamed = []
    replace = Path.replace

    def watch(self: Path, target: Path) -> Path:
        renamed.append((target.name, manifest.exists()))
        return replace(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", watch)
        with ShardWriter(folder, settings="other") as writer:
            writer.add("b", {"png": b"2"})
    table, tar, written = renamed
    assert table == ("shard-000000.parquet", False)
    assert tar == ("shard-000000.tar", False)
    assert written == ("shard-000000.json", False)


def test_reads_survive_fork(tmp_path: Path) -> None:
    index = Index.load(write(tmp_path / "x"))
    index.read(0)
    child = os.fork()
    if child == 0:
        good = all(index.read(0) == SAMPLES["a"] for _ in range(200))
        os._exit(0 if good else 1)
    assert all(index.read(3) == SAMPLES["z"] for _ in range(200))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_open_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("a2s.data.open_files.OPEN_FILES", 2)
    index = Index.load(write(tmp_path / "x", shards=5))
    before = len(os.listdir("/proc/self/fd"))
    for row in range(0, len(index), 4):
        index.read(row)
    assert len(os.listdir("/proc/self/fd")) - before <= 2


@pytest.mark.parametrize(
    "source",
    [
        *("pipe:touch pwned", "pipe:touch pwned #.tar", "PIPE:touch pwned", "PIPE://x"),
        *("ftp://h/x.tar", "ssh://h/x.tar", "simplecache::file://x.tar"),
    ],
)
def test_dangerous_sources_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"refused|not allowed"):
        open_source(source)
    assert list(tmp_path.iterdir()) == []


def test_schemes() -> None:
    assert [is_remote(s) for s in ("a/b:c.tar", "file:///x.tar", "s3://b/x.tar")] == [
        False,
        False,
        True,
    ]


def test_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tar: cannot be opened"):
        open_source(tmp_path / "none.tar")


@pytest.mark.parametrize("position", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_the_table_is_refused(tmp_path: Path, position: float) -> None:
    """The table names the bytes of a tar; a wrong name would give an image another label."""
    write(tmp_path)
    manifest = read_json(tmp_path / "shard-000000.json")
    assert shard_done(tmp_path, "shard-000000", settings=manifest["settings"]) is not None
    table = tmp_path / "shard-000000.parquet"
    data = bytearray(table.read_bytes())
    data[int(position * len(data))] ^= 1
    table.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-000000\.parquet: does not match its checksum"):
        Index.load(tmp_path)
    assert shard_done(tmp_path, "shard-000000", settings=manifest["settings"]) is None
    table.unlink()
    with pytest.raises(DataError, match=r"shard-000000\.parquet: is missing"):
        Index.load(tmp_path)
