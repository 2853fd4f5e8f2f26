"""Exit codes and messages of the command line, in real processes."""

from __future__ import annotations

import subprocess
import sys

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

    assert _a2s("--version").stdout == f"a2s {__version__}\n"


def test_user_error_is_one_line_and_exit_2() -> None:
    done = _a2s("stage2", "--config", "nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr == "a2s: config: nowhere.yaml does not exist\n"


@pytest.mark.parametrize("module", ["torch", "ray", "accelerate", "cv2", "pyarrow"])
def test_import_and_help_stay_light(module: str) -> None:
    code = (
        "import sys, a2s, a2s.__main__ as m\n"
        "try: m.run(['stage2', '--help'])\n"
        "except SystemExit: pass\n"
        f"sys.exit({module!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
