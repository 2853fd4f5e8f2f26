"""Manifests, commits, settings and lists of any content: used whole, or refused in one line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hostile import fuzzed, picture
from hypothesis import example, given
from hypothesis import strategies as st

from a2s.config.parse import parse
from a2s.data.index import Index
from a2s.data.inputs import collect
from a2s.data.keys import decode_key
from a2s.data.shards import ShardWriter, read_manifest, sealed
from a2s.data.tables import _refuse_false_keys
from a2s.errors import CheckpointError, ConfigError, DataError, LabelError
from a2s.labels.store import generations
from a2s.labels.store.rows import write_rows
from a2s.storage import checkpoints
from a2s.storage.status.pace import Stop
from a2s.storage.status.shards import parse_manifest
from a2s.storage.status.stop import parse_stop, stop_in_log
from a2s.storage.status.text import clock
from a2s.storage.status.training import parse_log

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["../../etc/passwd", "/etc/passwd", "shard-000000", "0" * 64]),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
DEEP, DIGITS = b"[" * 100_000, b'{"count": ' + b"9" * 5000 + b"}"


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shard")
    with ShardWriter(out, settings="s", num_shards=1) as writer:
        for key in ("a", "b"):
            writer.add(key, {"jpg": picture()})
    return out


def changed(shard: Path, changes: dict[str, Any]) -> bytes:
    manifest = json.loads((shard / "shard-000000.json").read_text())
    manifest |= changes
    return json.dumps(sealed({k: v for k, v in manifest.items() if v != "missing"})).encode()


FIELDS = [*("name", "count", "tar_bytes", "tar_sha256", "parquet_sha256"), "settings", "num_shards"]


@fuzzed
@given(changes=st.dictionaries(st.sampled_from([*FIELDS, "failures"]), VALUES | st.just("missing")))
@example(changes={"name": "../../x"})
@example(changes={"count": float("inf")})
@example(changes={"tar_sha256": "missing"})
@example(changes={"failures": [3]})
def test_fuzz_a_manifest_of_a_shard(shard: Path, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "x"
    if not folder.exists():
        shutil.copytree(shard, folder)
    data = changed(shard, changes)
    (folder / "shard-000000.json").write_bytes(data)
    try:
        assert read_manifest(folder / "shard-000000.json")["name"] == "shard-000000"
        assert len(Index.load(folder)) == 2
    except (DataError, ValueError):
        pass
    with contextlib.suppress(ValueError):
        parse_manifest("x", data, written_sec=None)


@fuzzed
@given(data=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
@example(DEEP)
@example(DIGITS)
@example(b"\xff\xfe")
@example(b"[]")
def test_fuzz_records_of_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "00001.json"
    path.write_bytes(data)
    with pytest.raises(ValueError):  # noqa: PT011
        read_manifest(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoints.read_commit(path)
    (tmp_path / "generation-00001.json").write_bytes(data)
    with pytest.raises(LabelError):
        generations.Generation.load(tmp_path, 1)
    with pytest.raises(ValueError):  # noqa: PT011
        parse_manifest("x", data, written_sec=None)
    parse_log(data)
    assert_sayable(parse_stop(data))
    assert_sayable(stop_in_log(data, start_sec=None))


@fuzzed
@given(when=PLAIN, said=VALUES)
@example(when=float("nan"), said="x")
@example(when=1e300, said={})
def test_fuzz_why_a_job_has_stopped(when: Any, said: Any) -> None:
    assert_sayable(parse_stop(json.dumps({"time_unix_sec": when, "why": said}).encode()))
    record = {"time_unix_sec": when, "job": said, "exit_code": said}
    assert_sayable(stop_in_log(json.dumps(record).encode(), start_sec=0.0))


def assert_sayable(stop: Stop | None) -> None:
    """A stop, if there is one, has a date that can be printed."""
    if stop is not None:
        assert clock(stop.time_sec)


def table_of(shard: Path, folder: Path, **columns: list[Any]) -> Path:
    """A copy of a shard whose table has other columns, under a manifest that agrees."""
    shutil.copytree(shard, folder)
    table = pq.read_table(folder / "shard-000000.parquet")
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, folder / "shard-000000.parquet")
    digest = hashlib.sha256((folder / "shard-000000.parquet").read_bytes()).hexdigest()
    (folder / "shard-000000.json").write_bytes(changed(shard, {"parquet_sha256": digest}))
    return folder


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"key": ["../../x", "b"]}, "not a key"),
        ({"key": ["/x", "b"]}, "not a key"),
        ({"key": ["%2E%2E/x", "b"]}, "not a key"),
        ({"key": [None, "b"]}, "no key"),
        ({"offset": [-5, 0]}, "outside its shard"),
        ({"size": [2**62, 1]}, "outside its shard"),
        ({"crc32": ["a", "b"]}, "cannot be read"),
    ],
)
def test_a_table_that_lies_is_refused(
    shard: Path, tmp_path: Path, columns: dict[str, list[Any]], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        Index.load(table_of(shard, tmp_path / "x", **columns))


@given(
    st.one_of(
        st.text(max_size=9),
        st.text("aZ09_-/%.2EF\0", max_size=9),
        st.from_regex(r"(%[0-9A-F]{2}|[a-z/]){1,6}", fullmatch=True),
    )
)
@example("%2E%2E/x")
@example("a/%2E")
@example("%41")
@example("a\n")
def test_keys_are_judged_alike_one_by_one_and_by_the_million(text: str) -> None:
    outcomes = []
    for judge in (
        lambda: decode_key(text),
        lambda: _refuse_false_keys(Path("x"), pa.chunked_array([[text]])),
    ):
        try:
            judge()
            outcomes.append(True)
        except DataError:
            outcomes.append(False)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", ["../../x.rows", "/etc/passwd", "00001/../x.rows", "00001/x"])
def test_a_label_manifest_names_only_files_of_its_store(name: str, tmp_path: Path) -> None:
    store = tmp_path / "labels"
    labels_NHW = np.zeros((1, 4, 4), np.uint16)
    file = write_rows(store, "00001/s00000000-r0000-00000.rows", [0], labels_NHW)
    keep_N = np.ones(1, bool)
    generations.publish(store, generation=1, files=[file], keep_N=keep_N, height=4, width=4)
    path = store / "generation-00001.json"
    manifest = json.loads(path.read_text())
    generations.check_whole(store, 1)
    for change in (
        {"files": [{**manifest["files"][0], "name": name}]},
        {"table": {**manifest["table"], "name": name}},
    ):
        path.write_text(json.dumps(manifest | change))
        with pytest.raises(LabelError, match="manifest"):
            generations.Generation.load(store, 1)
    with pytest.raises(LabelError, match="is not the name of a partial manifest"):
        generations.load_part(store, name)


def code_of(path: Path, arguments: list[str]) -> Any:
    """Exit code of the settings: 2 for those that are refused."""
    try:
        parse("shard", ["x", "--out", "y", "--config", str(path), *arguments])
    except ConfigError:
        return 2
    except SystemExit as stop:
        return stop.code
    return 0


@fuzzed
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.dictionaries(st.sampled_from(["shard", "run", "stage1"]), VALUES, max_size=2).map(
            yaml.safe_dump
        ),
        st.dictionaries(
            st.sampled_from(["max_pixels", "limit", "masks", "images", "workers", "out"]), VALUES
        ).map(lambda section: yaml.safe_dump({"shard": section})),
    ),
    arguments=st.lists(st.text(max_size=8) | st.sampled_from(["--limit", "--max-pixels", "-1"])),
)
@example("shard: " + "[" * 5000 + "]" * 5000, [])
@example("\n".join(" " * depth + "a:" for depth in range(3000)), [])
@example("shard:\n  max_pixels: " + "9" * 5000, [])
@example("shard:\n  3: 4", [])
@example("shard:\n  ? null\n  : 4", [])
@example("? [a, b]\n: 3", [])
@example("shard:\n  max_pixels: 2024-13-45", [])
@example("shard: &x\n  out: *x", [])
@example("a: &a0 [1]\n" + "".join(f"b{n}: &a{n + 1} [{f'*a{n},' * 9}]\n" for n in range(9)), [])
@example("", ["--limit", "9" * 5000])
@example("", ["--limit", "99999999999999999999"])
def test_fuzz_settings(tmp_path: Path, text: str, arguments: list[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert code_of(path, arguments) in (0, 2)


@fuzzed
@given(
    data=st.binary(max_size=80)
    | st.lists(st.text(max_size=9)).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))
)
@example(b"\0.jpg")
@example("a\x1c\u2028b.jpg\n".encode())
@example(b"/\n")
@example(b"../../x.jpg\n/etc/passwd.jpg")
def test_fuzz_list_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    try:
        found = collect([str(path)], masks=None, out=tmp_path / "out")
    except DataError:
        return
    for key in found.images["key"].to_pylist():
        decode_key(key)
