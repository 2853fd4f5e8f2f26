"""Records of a job that hold something else than the command wrote: one line, nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forkserver import Process
from processes import Finished, call, environment, pack

from a2s.data.shards import read_manifest, sealed
from a2s.storage.hashing import sha256_file


def walked(value: Any, change: Callable[[Any], Any]) -> Any:
    """A JSON value with every number and text changed."""
    if isinstance(value, dict):
        return {key: walked(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [walked(inner, change) for inner in value]
    return change(value)


OTHER_KINDS: dict[str, Callable[[Any], Any]] = {
    "list": lambda _: [],
    "number": lambda _: 3,
    "nothing": lambda _: None,
    "no names": lambda _: {},
    "texts": lambda value: walked(value, lambda _: "x"),
    "nones": lambda value: walked(value, lambda _: None),
    "not finite": lambda value: walked(value, lambda _: float("nan")),
    "huge": lambda value: walked(value, lambda _: 10**400),
}


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def assert_one_line(done: Finished, *parts: str) -> None:
    assert done.code == 2, done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    for part in parts:
        assert part in line
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def scored(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "scores"
    masks = ("--pred", scenes.masks, "--truth", scenes.masks)
    done = call("evaluate", *masks, "--out", out, "--workers", 0)
    assert done.code == 0, done.stderr
    return out


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("name", ["scores.json", "curves.json"])
def test_a_report_of_damaged_scores(scored: Path, tmp_path: Path, name: str, kind: str) -> None:
    scores = shutil.copytree(scored, tmp_path / "scores")
    change_json(scores / name, OTHER_KINDS[kind])
    done = call("report", scores, "--out", tmp_path / "page.html")
    assert_one_line(done, f"{name}: cannot be read", "evaluate again")
    assert not (tmp_path / "page.html").exists()


def test_a_report_does_not_show_a_score_with_a_flipped_digit(scored: Path, tmp_path: Path) -> None:
    scores = shutil.copytree(scored, tmp_path / "scores")
    text = (scores / "scores.json").read_text()
    (scores / "scores.json").write_text(text.replace('"mae": 0.', '"mae": 1.'))
    done = call("report", scores, "--out", tmp_path / "page.html")
    assert_one_line(done, "scores.json: cannot be read (it does not match its checksum in written")
    (scores / "scores.json").write_text(text)
    (scores / "written.txt").unlink()
    assert call("report", scores, "--out", tmp_path / "page.html").code == 0


@pytest.mark.parametrize("kind", ["list", "texts", "no names"])
def test_damaged_scores_are_computed_again(scored: Path, scenes, tmp_path: Path, kind: str) -> None:
    scores = shutil.copytree(scored, tmp_path / "scores")
    change_json(scores / "scores.json", OTHER_KINDS[kind])
    masks = ("--pred", scenes.masks, "--truth", scenes.masks)
    assert call("evaluate", *masks, "--out", scores, "--workers", 0).code == 0
    assert (scores / "scores.json").read_bytes() == (scored / "scores.json").read_bytes()


def packing(scenes, data: Path) -> tuple[object, ...]:
    return ("shard", scenes.train, "--out", data, "--workers", 0, "--shard-size", 3)


def fewer(work: dict[str, Any]) -> dict[str, Any]:
    return {**work, "num_images": 5, "num_shards": 2}


@pytest.mark.parametrize("change", [*OTHER_KINDS.values(), fewer])
def test_shard_does_not_go_by_a_damaged_list(
    scenes, tmp_path: Path, change: Callable[[Any], Any]
) -> None:
    """A list of fewer images would pass for a job that is done."""
    data = pack(scenes.train, tmp_path / "data")
    (data / "shard-000002.json").unlink()
    change_json(data / "work.json", change)
    assert_one_line(
        call(*packing(scenes, data)), "work.json: the list of what is packed is damaged"
    )
    assert not (data / "shard-000002.json").exists()


def test_nor_by_a_damaged_table_or_an_impossible_list_of_older_versions(
    scenes, tmp_path: Path
) -> None:
    data = pack(scenes.train, tmp_path / "data")
    table, before = data / "work.parquet", (data / "work.parquet").read_bytes()
    table.write_bytes(before[:99] + bytes([before[99] ^ 1]) + before[100:])
    assert_one_line(call(*packing(scenes, data)), "work.parquet does not match its checksum")
    table.write_bytes(before)
    assert call(*packing(scenes, data)).code == 0

    def older(work: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in work.items() if not k.endswith("sha256")}

    change_json(data / "work.json", older)
    assert call(*packing(scenes, data)).code == 0
    change_json(data / "work.json", lambda work: {**work, "num_shards": 2})
    assert_one_line(call(*packing(scenes, data)), "2 shards of 8 images are impossible")


@pytest.mark.parametrize(
    "change", [{"tar_bytes": 512}, {"count": 1}, {"num_shards": 2}, {"settings": "x"}]
)
def test_verify_reads_what_manifests_say(scenes, tmp_path: Path, change: dict[str, object]) -> None:
    data = pack(scenes.train, tmp_path / "data")
    change_json(data / "shard-000001.json", lambda manifest: sealed({**manifest, **change}))
    read_manifest(data / "shard-000001.json")
    assert call("stage1", "--data", data, "--out", tmp_path / "s1").code == 2
    assert call("verify", data).code == 3


@pytest.mark.parametrize("name", ["work.json", "work.parquet"])
def test_verify_reads_the_list_of_what_is_packed(scenes, tmp_path: Path, name: str) -> None:
    data = pack(scenes.train, tmp_path / "data")
    before = (data / name).read_bytes()
    for position in (len(before) // 3, len(before) // 2):
        flipped = bytearray(before)
        flipped[position] ^= 1
        (data / name).write_bytes(flipped)
        done = call("verify", data)
        assert done.code == 3
        assert "the list of what is packed is damaged" in done.stdout


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"identity: [1]", b"a: b"])
def test_settings_that_nobody_can_read(scenes, tmp_path: Path, content: bytes) -> None:
    data = pack(scenes.train, tmp_path / "data")
    assert call("verify", data).code == 0
    (data / "config.yaml").write_bytes(content)
    done = call("verify", data)
    assert done.code == 3
    assert "config.yaml: not the settings of a command" in done.stdout
    assert "config.yaml is damaged" in call("status", data).stdout
    assert_one_line(call(*packing(scenes, data)), "config.yaml is not a configuration")
    # Without shards, too, it is not called a folder of something else.
    for path in data.glob("shard-*.json"):
        path.unlink()
    assert_one_line(call("status", data), "config.yaml is damaged")


@pytest.mark.parametrize("name", ["scores.json", "images.parquet", "config.yaml"])
def test_something_else_in_the_place_of_a_file_is_named(
    scored: Path, scenes, tmp_path: Path, name: str
) -> None:
    scores = shutil.copytree(scored, tmp_path / "scores")
    (scores / "scores.json").unlink()
    (scores / name).unlink(missing_ok=True)
    (scores / name).mkdir()
    (scores / name / "x").touch()
    masks = ("--pred", scenes.masks, "--truth", scenes.masks)
    command = ["evaluate", *masks, "--out", scores, "--workers", "0"]
    process = Process([str(one) for one in command], env=environment())
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    line = said.splitlines()[-1]
    assert name in line
    assert ".tmp" not in line
    assert "Traceback" not in said
    assert not list(scores.glob(".*.tmp"))
    before = sha256_file(scored / "scores.json")
    shutil.rmtree(scores / name)
    if name != "config.yaml":
        assert call(*command).code == 0
        assert sha256_file(scores / "scores.json") == before


HMA_SETTINGS = {
    "command": "stage2",
    "rectify": "hma",
    "warm_epochs": 1,
    "image_size": 64,
    "parity": {"resize_filter": "bilinear"},
    "inputs": {"data": "0" * 64, "labels": "0" * 64},
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "config.yaml is not a configuration written by a2s; restore it from a copy"),
        (b"\xff\x00", "config.yaml is not a configuration written by a2s"),
        (b"identity: [1]", "config.yaml is not a configuration written by a2s"),
        ({"warm_epochs": "x"}, "config.yaml is damaged (warm_epochs: "),
        ({"warm_epochs": None}, "config.yaml is damaged (warm_epochs: "),
        ({"image_size": 10**400}, "config.yaml is damaged (image_size: "),
        ({"image_size": -1}, "config.yaml is damaged (image_size: "),
        ({"parity": []}, "config.yaml is damaged (parity: "),
        ({"parity": {"resize_filter": "y"}}, "config.yaml is damaged (parity.resize_filter: "),
        ({"inputs": None}, "config.yaml is damaged (inputs: "),
        ({"rectify": "olr"}, "is not a run of a2s stage2 with rectify hma"),
        ({}, "is not what"),
    ],
)
def test_hma_says_which_settings_of_its_run_are_damaged(
    scenes, tmp_path: Path, content: bytes | dict[str, object], said: str
) -> None:
    if isinstance(content, dict):
        content = json.dumps({"identity": {**HMA_SETTINGS, **content}}).encode()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_bytes(content)
    data = pack(scenes.train, tmp_path / "data") if said == "is not what" else tmp_path
    done = call("hma", "--run", run, "--data", data, "--labels", data)
    assert_one_line(done, said)
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_label_takes_no_backend_from_damaged_settings(scenes, tmp_path: Path) -> None:
    data, out = pack(scenes.train, tmp_path / "data"), tmp_path / "labels"
    command = ("label", "--model", "rbd", "--data", data, "--out", out, "--workers", 0)
    assert call(*command).code == 0
    before = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(before.replace("backend: numba", "backend: nvmba"))
    assert_one_line(call(*command), "backend: nvmba there, numba now")


def test_ablate_takes_no_unfinished_shards_for_fewer_images(scenes, tmp_path: Path) -> None:
    data = pack(scenes.train, tmp_path / "data")
    (data / "shard-000001.json").unlink()
    masks = f"train={scenes.masks}"
    flags = ("--truth", masks, "--limit", 6, "--rows", "0.1", "--out", tmp_path / "out")
    done = call("ablate", "tab5", "--data", data, *flags)
    assert_one_line(done, "2 of 3 shards are finished")
    assert not (tmp_path / "out" / "shared" / "data").exists()
