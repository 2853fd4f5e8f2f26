"""What the comparison of two commits' results passes over, and that it passes over nothing else."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
LINE = {"time_unix_sec": 1.5, "epoch": 1, "loss": 0.25, "images_per_sec": 9.0}
SETTINGS = {
    "stage1": {"encoder": {"name": "resnet50"}, "e5_scale": False, "epochs": 2, "out": "s1"},
    "identity": {"e5_scale": False, "epochs": 2, "inputs": {"data": "0a1b"}},
}


@pytest.fixture
def same(monkeypatch):
    """Import the benchmark's modules, which lie beside each other and in no package."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import same_files
    import same_results
    import same_runs

    return {"files": same_files, "results": same_results, "runs": same_runs}


@pytest.fixture
def compared(same, tmp_path):
    """Compare two folders of these files; the text or bytes of each by its path."""

    def compare(old, new, **more):
        for side, files in (("old", old), ("new", new)):
            for path, content in files.items():
                file = tmp_path / side / path
                file.parent.mkdir(parents=True, exist_ok=True)
                data = content if isinstance(content, bytes) else content.encode()
                file.write_bytes(data)
        return same["files"].compare(tmp_path / "old", tmp_path / "new", **more)

    return compare


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def tar(**members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def table(hours, mae):
    return f"# T\n\n| row | MAE | hours |\n| --- | --- | --- |\n| A | {mae} | {hours} |\n\n- note\n"


def config(**changes):
    """`config.yaml` with settings of both sections changed: a dict is a group, None is left out."""
    sections = {
        name: {k: v for k, v in {**SETTINGS[name], **changes}.items() if v is not None}
        for name in SETTINGS
    }
    return yaml.safe_dump(sections, sort_keys=False)


DIFFER = [
    ("x.png", b"abc", b"abd", "3 bytes, from byte 2"),
    ("x.parquet", b"abc", b"abcd", "3 -> 4 bytes, from byte 3"),
    ("00001/r.rows", b"\0" * 999 + b"a", b"\0" * 999 + b"b", "1000 bytes, from byte 999"),
    ("c.svg", "<svg>1</svg>", "<svg>2</svg>", "from byte 5"),
    ("s.tar", tar(a=b"1", b=b"2"), tar(a=b"1", b=b"3"), "in b"),
    (
        "m.safetensors",
        save({"a": np.zeros(4), "b": np.zeros(4)}),
        save({"a": np.zeros(4), "b": np.ones(4)}),
        "in b",
    ),
    ("metrics.jsonl", lines(LINE), lines({**LINE, "loss": 0.26}), "loss: 0.25 -> 0.26"),
    ("metrics.jsonl", lines(LINE), lines(LINE, LINE), "line 2: only in new"),
    ("metrics.jsonl", lines(LINE), lines({**LINE, "lr": 1}), "lr: not there -> 1"),
    ("metrics.jsonl", lines({"epoch": 1}), lines({"epoch": 1.0}), "epoch: 1 -> 1.0"),
    ("metrics.jsonl", lines({"a": 1, "b": 2}), lines({"b": 2, "a": 1}), "other order"),
    # A time that is no longer there, or no longer a time.
    ("metrics.jsonl", lines({"wall_sec": 1.0}), lines({}), "wall_sec: 1.0 -> not there"),
    ("metrics.jsonl", lines({"wall_sec": 1.0}), lines({"wall_sec": None}), "1.0 -> None"),
    ("t/tab8.md", table("0.1", "0.2"), table("–", "0.2"), "hours: '0.1' -> '–'"),
    # A name that stands for a time elsewhere.
    ("scores.json", '{"seconds": 1}', '{"seconds": 2}', "seconds: 1 -> 2"),
    ("failures.jsonl", lines({"reason": "cut"}), lines({"reason": "empty"}), "reason: 'cut'"),
    ("work.json", '{"l": [1, 2]}', '{"l": [1, 3]}', "l.1: 2 -> 3"),
    ("work.json", '{"l": []}', '{"l": {}}', "l: [] -> {}"),
    ("work.json", '{"l": 1}', '{"l":  1}', "written in another way"),
    ("work.json", '{"l": 1}', '{"l": 1', "cannot be read"),
    ("tab8.md", table("0.1", "0.2"), table("0.1", "0.3"), "MAE: '0.2' -> '0.3'"),
    ("tab8.md", table("0.1", "0.2"), table("0.1", "0.2") + "more\n", "more"),
    ("tab8.csv", "row,mae\nA,1\n", "row,mae\nA,2\n", "mae: '1' -> '2'"),
    (".lock", "a2s label, pid 7 on h\n", "a2s stage1, pid 7 on h\n", "a2s label"),
    ("written.txt", "map a\n", "map b\n", "key: 'a' -> 'b'"),
    ("written.txt", "file a 1 2 3\n", "file a 1 5 3\n", "a.crc32: '2' -> '5'"),
]
MAY_DIFFER = [
    (
        "metrics.jsonl",
        lines(LINE),
        lines({**LINE, "time_unix_sec": 2, "images_per_sec": 8.5}),
        2,
    ),
    (
        "metrics.jsonl",
        lines({"CPU workers": {"busy_share": 0.5, "stage_sec": {"crf": 1.0, "net": 2.0}}}),
        lines({"CPU workers": {"busy_share": 0.6, "stage_sec": {"crf": 1.5, "net": 2.5}}}),
        3,
    ),
    (
        "metrics.jsonl",
        lines({"work_sec_by_node": {"0a": 1.5}}),
        lines({"work_sec_by_node": {"1b": 1.5}}),
        1,
    ),
    ("tab8.md", table("0.1", "0.2"), table("0.15", "0.2"), 1),
    ("tab3.csv", "hours,paper\n1.0,2\n", "hours,paper\n1.1,2\n", 1),
    (".lock", "a2s label, pid 7 on h\n", "a2s label, pid 17 on h\n", 1),
    ("written.txt", "map a\nfile a 1 2 3\n", "map a\nfile a 1 2 4\n", 1),
    ("written.txt", "file scores%2Ejson 1 2 3\n", "file scores%2Ejson 1 5 3\n", 1),
    ("environment.json", '{"git": {"commit": "a"}}', '{"git": {"commit": "b"}}', 1),
]


def test_equal_folders_are_equal(compared):
    files = {"a/shard-000000.tar": tar(x=b"1"), "a/metrics.jsonl": lines(LINE), "c.yaml": config()}
    found = compared(files, files)
    assert found.equal
    assert found.num_files == 3
    assert found.num_bytes == sum(
        len(data if isinstance(data, bytes) else data.encode()) for data in files.values()
    )
    assert not found.ignored


@pytest.mark.parametrize(("path", "old", "new", "words"), DIFFER, ids=[case[-1] for case in DIFFER])
def test_every_other_difference_is_named(compared, path, old, new, words):
    found = compared({path: old, "equal.png": b"1"}, {path: new, "equal.png": b"1"})
    assert not found.equal
    assert [*found.differences] == [path]
    assert words in found.differences[path]


def test_files_of_one_side_are_named(compared):
    found = compared({"a": "1", "b/c": "2"}, {"a": "1", "b/d": "2"})
    assert found.differences == {"b/c": "only in old", "b/d": "only in new"}


@pytest.mark.parametrize(
    ("path", "old", "new", "count"), MAY_DIFFER, ids=[case[0] for case in MAY_DIFFER]
)
def test_times_and_the_like_are_passed_over_and_counted(same, compared, path, old, new, count):
    found = compared({path: old}, {path: new})
    assert found.equal, found.differences
    assert found.ignored.total() == count
    assert all(same["files"].reason(*rule) for rule in found.ignored)


def test_a_setting_in_another_group_has_moved(compared):
    manifest = {"shard-000000.json": '{"settings": "a", "count": 1}'}
    other = {"shard-000000.json": '{"settings": "b", "count": 1}'}
    new = config(e5_scale=None, parity={"e5_scale": False})
    found = compared({"c.yaml": config(), **manifest}, {"c.yaml": new, **other})
    assert found.equal, found.differences
    assert found.settings_moved == {
        f"{section}.e5_scale -> {section}.parity.e5_scale": ["c.yaml"] for section in SETTINGS
    }
    # The digest of settings that have moved is another.
    assert [*found.ignored] == [("shard-*.json", "settings")]


def test_a_digest_of_equal_settings_is_compared(compared):
    found = compared(
        {"c.yaml": config(), "shard-000000.json": '{"settings": "a"}'},
        {"c.yaml": config(), "shard-000000.json": '{"settings": "b"}'},
    )
    assert "settings" in found.differences["shard-000000.json"]


@pytest.mark.parametrize(
    ("changes", "name", "told"),
    [
        ({"epochs": 3}, "epochs", "identity.epochs: 2 -> 3"),
        ({"epochs": None}, "epochs", "identity.epochs: 2 -> not there"),
        ({"lam": 1}, "lam", "identity.lam: not there -> 1"),
        ({"e5_scale": None, "parity": {"e5_scale": True}}, "e5_scale", "False -> not there"),
    ],
)
def test_other_settings_differ_unless_expected(compared, changes, name, told):
    found = compared({"c.yaml": config()}, {"c.yaml": config(**changes)})
    assert not found.equal
    assert any(told in text for text in found.settings_differ), found.settings_differ
    assert not found.differences
    expected = compared({}, {}, expected=[name])
    assert expected.equal
    assert expected.settings_expected == found.settings_differ


def test_what_was_read_is_a_result_and_no_setting(compared):
    found = compared(
        {"c.yaml": config()}, {"c.yaml": config(inputs={"data": "ff"})}, expected=["data"]
    )
    assert "identity.inputs.data: '0a1b' -> 'ff'" in found.differences["c.yaml"]


def test_differences_come_in_the_order_of_the_steps(same):
    from same_steps import steps

    paths = ["whole/a", "labels/b", "labels/a", "data/z", "of no step"]
    ordered = same["results"].in_order(dict.fromkeys(paths, ""), steps(pydensecrf=True))
    assert [*ordered] == ["data/z", "labels/a", "labels/b", "whole/a", "of no step"]


def test_settings_are_spelled_as_the_help_spells_them(same):
    spelled, values = same["runs"].spelled, {"e5_scale": True, "crf_input": "soft", "lr": 1}
    now = "│ --lr FLOAT  Rate. │\n│ --e5-scale, --no-e5-scale │\n│ --refine.crf-input {hard} │\n"
    later = "--lr FLOAT\n  --parity.e5-scale, --parity.no-e5-scale\n--parity.crf-input {hard}\n"
    assert spelled(values, now) == {"e5_scale": True, "refine": {"crf_input": "soft"}, "lr": 1}
    assert spelled(values, later) == {"parity": {"e5_scale": True, "crf_input": "soft"}, "lr": 1}
    with pytest.raises(KeyError, match="lr"):
        spelled(values, "--e5-scale\n--crf-input\n")
