"""Places where a command must work, or say which variable is wrong: home, temporary files, memory.

Root may write everywhere, so what cannot be written is a path that cannot exist, or a read-only
mount in a mount namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment, pack
from repository import REPO

NOWHERE = "/proc/nonexistent"
OF_THE_TESTS = ("A2S_CACHE", "TMPDIR", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def run(
    *arguments: object, mount: str = "", unset: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command; `mount`: what a shell does before, in a mount namespace of its own."""
    kept = environment(PYTHONPATH=str(REPO))
    kept = {name: kept[name] for name in kept if name not in (*OF_THE_TESTS, *unset)}
    command = [sys.executable, "-m", "a2s", *map(str, arguments)]
    if mount:
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
            pytest.skip("CANNOT MOUNT: no permission for a mount namespace")
        command = ["unshare", "--mount", "sh", "-ec", f'{mount}; exec "$@"', "sh", *command]
    return subprocess.run(
        command, env={**kept, **variables}, capture_output=True, text=True, timeout=240
    )


def with_ray(images: Path, out: Path) -> list[object]:
    return ["shard", images, "--out", out, "--workers", "1", "--shard-size", "4"]


def with_loaders(data: Path, out: Path, *, workers: int) -> list[object]:
    flags = ["--encoder.name", "mobilenet_v2", "--epochs", "1", "--image-size", "256"]
    flags += ["--batch-size", "4", "--loader-workers", str(workers)]
    return ["stage1", "--data", data, "--out", out, "--cache-dir", f"{out}-cache", *flags]


def long_folder(tmp_path: Path) -> Path:
    """Longer than the path of a socket may be."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    return folder


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_ray_without_a_home_and_with_a_long_tmpdir(scenes, tmp_path: Path) -> None:
    done = run(
        *with_ray(scenes.images, tmp_path / "a"), unset=("HOME",), TMPDIR=str(long_folder(tmp_path))
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "a").glob("shard-*.json"))) == 1


@pytest.mark.slow
def test_ray_with_a_home_that_cannot_be_written_and_without_shared_memory(
    scenes, tmp_path: Path
) -> None:
    read_only = "mount -t tmpfs -o ro tmpfs /dev/shm"
    done = run(*with_ray(scenes.images, tmp_path / "a"), mount=read_only, HOME=NOWHERE)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "a").glob("shard-*.json"))) == 1


@pytest.mark.parametrize("folder", [NOWHERE, "long"])
def test_a_folder_for_ray_that_cannot_be_is_one_line(folder: str, scenes, tmp_path: Path) -> None:
    named = str(long_folder(tmp_path)) if folder == "long" else folder
    done = run(*with_ray(scenes.images, tmp_path / "a"), RAY_TMPDIR=named)
    assert one_line(done).startswith(f"a2s: RAY_TMPDIR={named} ")


@pytest.mark.slow
def test_loaders_with_a_long_tmpdir(scenes, tmp_path: Path) -> None:
    data = pack(scenes.train, tmp_path / "data")
    long = str(long_folder(tmp_path))
    done = run(*with_loaders(data, tmp_path / "s1", workers=1), TMPDIR=long)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [("size=256k", "is full (0 MiB free, a batch takes 0.8)"), ("ro", "cannot be written")],
)
def test_too_little_shared_memory_for_loaders_is_one_line(
    options: str, said: str, scenes, tmp_path: Path
) -> None:
    data = pack(scenes.train, tmp_path / "data")
    small = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    line = one_line(run(*with_loaders(data, tmp_path / "s1", workers=1), mount=small))
    assert line.startswith(f"a2s: data: /dev/shm {said}"), line
    assert "--loader-workers" in line


def test_no_folder_for_temporary_files_is_one_line(scenes, tmp_path: Path) -> None:
    closed = "for at in /tmp /var/tmp; do mount --bind $at $at; mount -o remount,ro,bind $at; done"
    flags = ["--model", "rbd", "--out", tmp_path / "maps"]
    line = one_line(run("predict", scenes.images, *flags, mount=f"{closed}; cd /proc"))
    assert line.startswith("a2s: TMPDIR: no folder for temporary files can be written"), line


@pytest.mark.slow
def test_doctor_names_every_place_that_cannot_be_used(tmp_path: Path) -> None:
    read_only = f"mount --bind {REPO} {REPO}; mount -o remount,ro,bind {REPO}"
    done = run(
        *("doctor", "--encoder.name", "mobilenet_v2", "--out", tmp_path),
        mount=f"{read_only}; mount -t tmpfs -o size=256k tmpfs /dev/shm; cd /",
        HOME=NOWHERE,
        TMPDIR=NOWHERE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line.split()[1]: line for line in done.stdout.splitlines() if line[:4] == "warn"}
    assert {"shm", "tmp", "home", "weights"} <= set(found), done.stdout
    assert "--loader-workers 0" in found["shm"] or "--shm-size" in found["shm"]
    assert f"TMPDIR={NOWHERE} cannot be written; /tmp is used" in found["tmp"]
    assert f"HOME={NOWHERE} cannot be written" in found["home"]
    assert f"compiled into /tmp/a2s-kernels-{os.getuid()}/numba" in done.stdout
    assert "set A2S_CACHE" in found["weights"]


def test_compiled_kernels_go_to_a_folder_of_this_user_alone(tmp_path: Path) -> None:
    code = (
        "import os, sys; from a2s.storage import places\n"
        "places._PACKAGE = sys.argv[1]\n"
        "places.replace_caches(os.environ)\n"
        "names = ('TRITON_CACHE_DIR', 'NUMBA_CACHE_DIR', 'MPLCONFIGDIR')\n"
        "print(*map(os.environ.get, names), sep='\\n')"
    )

    def chosen(package: str = NOWHERE, **variables: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, package],
            env={"PYTHONPATH": str(REPO), "TMPDIR": str(tmp_path), **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    assert chosen(HOME=str(tmp_path)) == ["None"] * 3
    own = {"TRITON_CACHE_DIR": "a", "NUMBA_CACHE_DIR": "b", "MPLCONFIGDIR": "c"}
    assert chosen(**own) == ["a", "b", "c"]
    folder = tmp_path / f"a2s-kernels-{os.getuid()}"
    places = [str(folder), f"{folder}/numba", f"{folder}/matplotlib"]
    assert chosen(HOME=NOWHERE) == chosen(HOME=sys.executable) == chosen() == places
    assert folder.stat().st_mode & 0o777 == 0o700
    # Beside a package that can be written its code is compiled already.
    assert chosen(package=str(tmp_path)) == [places[0], "None", places[2]]
    # Somebody else may have made it, to have their code run.
    folder.chmod(0o777)
    assert chosen(HOME=NOWHERE) == ["None"] * 3
