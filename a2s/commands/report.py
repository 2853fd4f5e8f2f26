"""`a2s report`: one HTML page about a run, or about several side by side.

a2s report runs/mine
a2s report runs/a runs/b --out comparison.html
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from a2s.config.checks import ReportConfig
from a2s.errors import ConfigError
from a2s.parallel.progress import say
from a2s.storage.files import atomic_write, open_file, remove_abandoned
from a2s.storage.parsing import printable

_HEAD_BYTES = 4096


def run(config: ReportConfig) -> int:
    """Write the page; it needs no other file and no network.

    Raises:
        ConfigError: a folder is not of a command that can be shown, or the page has no place.
        DataError: what a folder holds cannot be read.
    """
    from a2s.evaluation.page.render import LETTERS, page

    if len(config.runs) > len(LETTERS):
        raise ConfigError(f"report: {len(config.runs)} runs; give at most {len(LETTERS)}")
    for folder in config.runs:
        if not folder.is_dir():
            raise ConfigError(f"report: {folder}: no such folder")
    out = config.out or config.runs[0] / "report.html"
    if out.is_dir():
        raise ConfigError(
            f"report: --out {out} is a folder; give a file, such as {out}/report.html"
        )
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"report: there is no folder {out.parent}; make it first")
    if os.path.lexists(out) and not _is_page(out):
        raise ConfigError(
            f"report: {out} exists, and a2s did not write it; delete it, or give another --out"
        )
    start_sec = time.monotonic()
    say(f"report: reading {', '.join(str(folder) for folder in config.runs)}")
    text, notes = page(config.runs)
    remove_abandoned([out])
    atomic_write(out, text)
    size_mib, elapsed_sec = len(text.encode()) / 2**20, time.monotonic() - start_sec
    if notes:
        more = f" and {len(notes) - 1} more, listed in it" if len(notes) > 1 else ""
        say(f"report: missing from the page: {printable(notes[0])}{more}")
    print(f"report: {out}, {size_mib:.1f} MiB, in {elapsed_sec:.0f} s; open it in a browser")
    return 0


def _is_page(file: Path) -> bool:
    """Whether a file is the page of an earlier call, by its title."""
    try:
        with open_file(file) as opened:
            return b"<title>a2s report: " in opened.read(_HEAD_BYTES)
    except OSError:
        return False
