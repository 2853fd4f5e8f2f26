"""Run a command of a2s in this process."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Mapping
from typing import Any

from a2s.config.registry import COMMANDS
from a2s.errors import DataError
from a2s.pipeline import Job
from a2s.storage.failures import FILE_NAME
from a2s.storage.objects.session import session

TOO_MANY_FAILED = 3
"""Exit code of a command that is done, but with too many failures."""


def run_command(command: str, settings: Mapping[str, Any]) -> None:
    """Run a command in this process.

    Raises:
        A2SError: as the command.
        DataError: it is done, but too many images failed.
    """
    job = Job(command, dict(settings))
    config = job.parsed()
    module = importlib.import_module(f"a2s.commands.{COMMANDS[command].module}")
    with contextlib.redirect_stdout(sys.stderr), session(command, config) as local:
        code = module.run(local)
    if code == TOO_MANY_FAILED:
        raise DataError(
            f"{command}: done, but too many images failed; see {job.out / FILE_NAME}, or allow "
            "more with max_failure_rate"
        )
    assert code == 0, code
