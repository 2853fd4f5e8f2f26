"""Every benchmark finds what it imports, also those that need a GPU or hours to run."""

from __future__ import annotations

import subprocess
import sys

from processes import environment
from repository import REPO


def test_every_benchmark_can_be_imported() -> None:
    names = sorted(path.stem for path in (REPO / "benchmarks").glob("*.py"))
    assert len(names) > 30
    done = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(names)}"],
        cwd=REPO / "benchmarks",
        env=environment(PYTHONPATH=str(REPO)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
