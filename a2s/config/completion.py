"""Scripts with which a shell completes `a2s`: commands, flags and their values."""

from __future__ import annotations

import contextlib
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, create_model
from tyro.conf import subcommand

from a2s.config.registry import COMMANDS

Shell = Literal["bash", "zsh", "fish"]


def print_script(shell: Shell) -> None:
    """Print the script for one shell; the flags are those of the settings classes."""
    with contextlib.suppress(SystemExit):
        tyro.cli(
            reduce(or_, (_with_common_flags(name) for name in COMMANDS)),
            prog="a2s",
            args=["--tyro-write-completion", shell, "-"],
        )


def _with_common_flags(name: str) -> Any:
    """Settings of a command and the flags that `parse` and `a2s` itself take off its arguments."""
    model = COMMANDS[name].settings_class()
    whole = create_model(
        model.__name__,
        __base__=model,
        config=(str, Field("", description="YAML file with a section per command.")),
        quiet=(bool, Field(False, description="Print errors only.")),
        takeover=(bool, Field(False, description="Continue in a folder of a lost process.")),
        help_all=(bool, Field(False, description="Show every setting.")),
    )
    return Annotated[whole, subcommand(name, description=COMMANDS[name].help)]
