"""Exit codes and messages of the command line, in real processes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def _a2s(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "a2s", *arguments], capture_output=True, text=True, timeout=60
    )


def test_help_lists_every_command() -> None:
    done = _a2s("--help")
    assert done.returncode == 0
    names = "shard stage1 label stage2 predict evaluate run status doctor"
    for command in names.split():
        assert f"  {command} " in done.stdout


def test_no_command_and_unknown_command_exit_2() -> None:
    assert _a2s().returncode == 2
    done = _a2s("lable")
    assert done.returncode == 2
    assert done.stderr == "a2s: no command 'lable'; did you mean label?\n"


def test_version() -> None:
    from a2s import __version__

    for flag in ("--version", "-V"):
        assert _a2s(flag).stdout == f"a2s {__version__}\n"


def test_help_of_a_command() -> None:
    assert _a2s("help").stdout == _a2s("--help").stdout
    done = _a2s("help", "predict")
    assert (done.returncode, done.stdout) == (0, _a2s("predict", "--help").stdout)
    done = _a2s("help", "predcit")
    assert done.returncode == 2
    assert done.stderr == "a2s: no command 'predcit'; did you mean predict?\n"


def test_quiet_prints_errors_only(scenes: Any, tmp_path: Path) -> None:
    flags = ("shard", str(scenes.images), "--out", str(tmp_path / "data"), "--workers", "0")
    done = _a2s(*flags, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "data" / "shard-000000.json").exists()
    done = _a2s("--quiet", "shard", "nowhere", "--out", str(tmp_path / "other"))
    assert done.returncode == 2
    assert done.stderr.startswith("a2s: ")


def test_the_next_command_can_be_pasted(scenes: Any, tmp_path: Path) -> None:
    data = tmp_path / "my data"
    done = _a2s("shard", str(scenes.images), "--out", str(data), "--workers", "0")
    (command,) = re.findall("next: (.*)", done.stdout)
    assert shlex.split(command) == ["a2s", "stage1", "--data", str(data), "--out", "runs/s1"]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["a2s", "pred"], "predict"),
        (["a2s", "predict", "--cut"], "--cutout"),
        (["a2s", "run", "--stage1.ep"], "--stage1.epochs"),
        (["a2s", "predict", "--conf"], "--config"),
    ],
)
def test_bash_completes_commands_and_flags(
    words: list[str], completed: str, tmp_path: Path
) -> None:
    script = _a2s("completion", "bash").stdout
    ask = (
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _tyro_a2s\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    (tmp_path / "script").write_text(f"{script}\n{ask}")
    # The script asks a Python for what comes next.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(tmp_path / "script")],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{completed}\n"


def test_user_error_is_one_line_and_exit_2() -> None:
    done = _a2s("stage2", "--config", "nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr == (
        "a2s: config: nowhere.yaml does not exist; give a file, or the name of a preset "
        "(mobile-cpu, official, paper)\n"
    )


@pytest.mark.parametrize("module", ["torch", "ray", "accelerate", "cv2", "pyarrow"])
def test_import_and_help_stay_light(module: str) -> None:
    code = (
        "import sys, a2s, a2s.__main__ as m\n"
        "try: m.run(['stage2', '--help'])\n"
        "except SystemExit: pass\n"
        f"sys.exit({module!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_idle_threads_of_a_command_do_not_spin_unless_asked_to(
    given: dict[str, str], expected: str
) -> None:
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    code = (
        "import os, sys; from a2s import __main__ as a2s\n"
        "a2s.run = lambda arguments: print(os.environ.get('GOMP_SPINCOUNT')) or 0\n"
        "a2s.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
