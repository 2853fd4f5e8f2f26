"""What runs inside the images, without them: as their user, on disks that cannot be written.

A container of the image has /tmp and /data to write into, no home, and, with `--user` or on some
clusters, no entry for its user in /etc/passwd.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import REPO

TEXT = (REPO / "docker" / "Dockerfile").read_text("utf-8")
USER = "12345"
CODE, DATA = "/media", "/srv"
"""Folders that every Linux has: there this tree and the data are mounted."""
MOUNT = """
for closed in $CLOSED; do
  # The interpreter lies in a folder that is closed to others.
  keep="$(mktemp -d)"; mount --bind "$BASE" "$keep"
  mount -t tmpfs -o mode=755 tmpfs "$closed"; mkdir -p "$BASE"; mount --bind "$keep" "$BASE"
  mount -o remount,ro "$closed"; mount -o remount,ro,bind "$BASE"
done
mount --bind "$TREE" "$CODE"; mount -o remount,ro,bind "$CODE"
mount --bind "$FOLDER" "$DATA"
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,ro,bind /
cd "$DATA"
exec setpriv --reuid "$ID" --regid "$ID" --clear-groups env -i "$@"
"""


def variables() -> dict[str, str]:
    """Those that the images set, with the data where it is here."""
    lines = re.sub(r"\\\n\s*", " ", TEXT)
    (words,) = re.findall(r"^ENV (PATH=/opt/a2s/bin.*)$", lines, re.MULTILINE)
    found = dict(word.split("=", 1) for word in words.split())
    found = {name: value.replace("/data", DATA) for name, value in found.items()}
    found["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return {**found, "PYTHONPATH": CODE}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may write, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def inside(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    base = Path(sys.base_prefix)
    closed = [path for path in base.parents if not path.stat().st_mode & 0o001]
    given = {"TREE": REPO, "FOLDER": folder, "BASE": base, "CODE": CODE, "DATA": DATA, "ID": USER}
    given["CLOSED"] = " ".join(map(str, closed[-1:]))
    if Path(sys.executable).is_relative_to("/tmp"):
        pytest.skip("CANNOT MOUNT: the environment lies in /tmp, which is empty in a container")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("CANNOT MOUNT: no permission for a mount namespace")
    words = [f"{name}={value}" for name, value in variables().items()]
    return subprocess.run(
        ["unshare", "--mount", "sh", "-euc", MOUNT, "sh", *words, *command],
        env={**os.environ, **{name: str(value) for name, value in given.items()}},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_health_check_and_the_entry_point(folder: Path) -> None:
    (check,) = re.findall(r"^\s+CMD (\[\"python\".*\])$", TEXT, re.MULTILINE)
    done = inside(folder, *json.loads(check))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", TEXT, re.MULTILINE)
    (rest,) = re.findall(r"^CMD (\[.*\])$", TEXT, re.MULTILINE)
    done = inside(folder, *json.loads(entry), *json.loads(rest))
    assert done.returncode == 0, done.stderr
    assert "usage: a2s COMMAND" in done.stdout
    assert not list(folder.iterdir())
    # It is as closed as it should be.
    done = inside(folder, "sh", "-c", f"id -u; touch {CODE}/x /x; true")
    assert done.stdout.split() == [USER]
    assert done.stderr.count("Read-only file system") == 2, done.stderr


@pytest.mark.slow
def test_a_command_works_there_and_writes_nothing_else(scenes, folder: Path) -> None:
    (folder / "photos").mkdir()
    for path in scenes.images.iterdir():
        (folder / "photos" / path.name).write_bytes(path.read_bytes())
    done = inside(folder, "a2s", "predict", "photos", "--out", "masks", "--refine")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((folder / "masks").glob("*.png"))) == 4
    assert {path.name for path in folder.iterdir()} == {"photos", "masks"}
