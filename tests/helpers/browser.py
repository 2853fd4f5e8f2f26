"""Headless Chromium: what a page becomes in it, and what it says on its console."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Opened(NamedTuple):
    """The page after loading, and the lines of its console."""

    html: str
    console: list[str]


def open_page(page: Path, *, work: Path) -> Opened:
    """Load a local page; skips the test where no Chromium is installed."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no headless browser: none of {', '.join(NAMES)} is on the PATH")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={work / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", page.absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return Opened(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])


def scroll_width(page: Path, *, width_px: int, work: Path) -> int:
    """Width in pixels that a page takes in a window of this width."""
    frame = page.parent / "frame.html"
    # A window of headless Chromium has a least width; a frame has none.
    frame.write_text(
        f'<iframe width="{width_px}" height="800" src="{page.as_uri()}" style="border:0"></iframe>'
        "<script>const frame = document.querySelector('iframe');"
        "frame.onload = () => document.body.dataset.width ="
        " frame.contentDocument.documentElement.scrollWidth;</script>",
        "utf-8",
    )
    html = open_page(frame, work=work).html
    return int(html.split('data-width="')[1].split('"')[0])
