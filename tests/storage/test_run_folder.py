"""Claims, settings that must not change, atomic files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from a2s.config.base import RefineConfig
from a2s.config.commands import EvaluateConfig, LabelConfig
from a2s.config.training import Stage1Config
from a2s.errors import ConfigError, DataError
from a2s.storage import files, run_folder


def _config(out: Path, **changes: object) -> Stage1Config:
    return Stage1Config.model_validate({"data": out, "out": out, **changes})


def test_claim_records_settings_and_environment(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    with run_folder.claim(
        out, command="stage1", config=_config(out), inputs={"data": "abc"}
    ) as run:
        run.log(epoch=1, loss=0.5)
        first = run.settings_hash
    assert yaml.safe_load((out / "config.yaml").read_text())["stage1"]["epochs"] == 20
    environment = json.loads((out / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert environment["python"] == sys.version.split()[0]
    assert json.loads((out / "metrics.jsonl").read_text())["loss"] == 0.5
    with run_folder.claim(
        out, command="stage1", config=_config(out), inputs={"data": "abc"}
    ) as run:
        assert run.settings_hash == first


@pytest.mark.parametrize("name", ["shard-000000.tar", "metrics.jsonl", "scores.json"])
def test_files_of_something_else_are_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    (tmp_path / "mine.txt").touch()
    with (
        pytest.raises(ConfigError, match=f"stage1: .* holds {name} of something else"),
        run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path)),
    ):
        pass
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {name, "mine.txt"}
    assert (tmp_path / name).read_text() == "mine"


def test_other_settings_name_the_differing_keys(tmp_path: Path) -> None:
    with run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path)):
        pass
    with (
        pytest.raises(ConfigError, match=r"alpha: 0.1 there, 0.3 now; lr: 1.0 there, 2.0 now"),
        run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path, lr=2.0, alpha=0.3)),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="belongs to a2s stage1; use another --out"),
        run_folder.claim(
            tmp_path,
            command="evaluate",
            config=EvaluateConfig(pred=tmp_path, truth=tmp_path, out=tmp_path),
        ),
    ):
        pass


def test_a_run_of_a_version_without_a_setting_goes_on_with_what_it_did(tmp_path: Path) -> None:
    with run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path)):
        pass
    # `width` was no setting once; every network had 64 channels.
    assert "width" not in yaml.safe_load((tmp_path / "config.yaml").read_text())["identity"]
    with (
        pytest.raises(ConfigError, match="width: unset there, 32 now"),
        run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path, width=32)),
    ):
        pass


def _fail_half_way(folder: Path) -> None:
    (folder / "work.json").touch()
    raise DataError("half way")


def test_a_failed_first_attempt_does_not_bar_the_corrected_command(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="no such folder"),
        run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path, lr=7.0)),
    ):
        raise DataError("no such folder")
    # Files of others are no work of the command.
    (tmp_path / "theirs.txt").touch()
    with (
        pytest.raises(DataError, match="no such folder"),
        run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path, lr=7.0)),
    ):
        raise DataError("no such folder")
    with (
        pytest.raises(DataError, match="half way"),
        run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path)) as folder,
    ):
        _fail_half_way(folder.path)
    # Something was written with these settings, so others are refused.
    with (
        pytest.raises(ConfigError, match=r"lr: 1.0 there, 7.0 now"),
        run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path, lr=7.0)),
    ):
        pass


def test_other_inputs_are_refused_and_free_settings_are_not(tmp_path: Path) -> None:
    with run_folder.claim(
        tmp_path, command="stage1", config=_config(tmp_path), inputs={"data": "a" * 64}
    ):
        pass
    free = _config(tmp_path, log_every=3, data=Path("elsewhere"), cache_gib=1.0)
    with run_folder.claim(tmp_path, command="stage1", config=free, inputs={"data": "a" * 64}):
        pass
    with (
        pytest.raises(ConfigError, match=r"inputs\.data: its content is not what it was"),
        run_folder.claim(tmp_path, command="stage1", config=free, inputs={"data": "b" * 64}),
    ):
        pass


def test_identity_keeps_nested_settings_and_drops_free_ones() -> None:
    config = LabelConfig(
        model=Path("m"), data=Path("d"), out=Path("o"), refine=RefineConfig(median=5), workers=3
    )
    assert run_folder.identity(config) == {
        "parity": {"network_size": "trained", "crf_input": "hard"},
        "min_quality": 0.0,
        "limit": None,
        "refine": {
            "backend": "auto",
            "iterations": 10,
            "median": 5,
            "max_side": 640,
        },
    }


HOLDER = """
import sys, time
from pathlib import Path
from a2s.storage import run_folder
from a2s.config.training import Stage1Config
out = Path(sys.argv[1])
with run_folder.claim(out, command="stage1", config=Stage1Config(data=out, out=out)):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=f"in use by a2s stage1, pid {holder.pid} on"),
            run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path)),
        ):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
    with run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path)):
        pass


def test_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with (
        pytest.raises(ConfigError, match="is a file"),
        run_folder.claim(file, command="stage1", config=_config(file)),
    ):
        pass
    assert file.read_text() == "precious"


def test_foreign_config_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    with (
        pytest.raises(ConfigError, match="not a configuration written by a2s"),
        run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path)),
    ):
        pass
    assert (tmp_path / "config.yaml").read_text() == "mine: 1\n"


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    files.write_json(file, {"b": 1, "a": [2]})
    before = file.read_bytes()

    def fail_half_way() -> None:
        with files.atomic_path(file) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_half_way()
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.json"]
    files.atomic_write(file, "new")
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o666 & ~files._umask()


@pytest.mark.parametrize("letter", ["a", "\u732b", "\U0001f408"])
def test_the_longest_file_names_can_be_written(tmp_path: Path, letter: str) -> None:
    name = letter * (251 // len(letter.encode())) + ".png"
    files.atomic_write(tmp_path / name, b"x")
    assert os.listdir(tmp_path) == [name]


WRITER = """
import sys
from pathlib import Path
from a2s.storage.files import atomic_write
number = 0
while True:
    number += 1
    atomic_write(Path(sys.argv[1]), bytes([number % 256]) * 200_000)
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "x"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(0.05)
    writer.kill()
    writer.wait()
    writer.stdout.close()
    data = file.read_bytes()
    assert len(data) == 200_000
    assert len(set(data)) == 1


def test_what_is_logged_after_a_line_that_was_cut_short_can_be_read(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    files.append_jsonl(log, {"step": 1})
    with log.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    for step in (3, 4):
        files.append_jsonl(log, {"step": step})
    assert log.read_bytes() == b'{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n{"step": 4}\n'


@pytest.mark.parametrize("stored", [b"", b"[]", b"3", b"{", b'{"batch_size": "8"}', b"\xff"])
def test_a_damaged_choice_of_the_first_run_is_one_line(tmp_path: Path, stored: bytes) -> None:
    folder = run_folder.RunDir(tmp_path, "hash")
    (tmp_path / "resolved.json").write_bytes(stored)
    with pytest.raises(ConfigError, match=r"resolved\.json is damaged \(batch_size\)"):
        folder.resolve_once("batch_size", lambda: 8, is_valid=lambda it: type(it) is int)
    assert (tmp_path / "resolved.json").read_bytes() == stored


def test_what_killed_calls_left_goes_and_settings_have_one_order(tmp_path: Path) -> None:
    left = [f".{name}.abcd_012.tmp" for name in ("environment.json", "config.yaml", ".lock")]
    others = [".mine.abcd_012.tmp", ".environment.json.tmp", "environment.json.abcd_012.tmp"]
    for name in left + others:
        (tmp_path / name).write_bytes(b"half")
    inputs = {"model.width": "64", "model.kind": "activation", "data": "0a"}
    for order in (inputs, dict(reversed(inputs.items()))):
        with run_folder.claim(tmp_path, command="stage1", config=_config(tmp_path), inputs=order):
            text = (tmp_path / "config.yaml").read_text()
    assert text.index("data: 0a") < text.index("model.kind") < text.index("model.width")
    assert not [name for name in left if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in others)
