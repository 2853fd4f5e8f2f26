#!/usr/bin/env python3
"""Stands in for the C compiler that Triton wants, so that the image needs none.

    python triton_cc.py build FOLDER   compile Triton's one C file, with a real compiler
    CC=triton-cc                       hand out what was compiled, for that file alone

Triton calls `$CC FILE.c … -o FILE.so …` for its launcher, whose source comes with the package. Any
other file is refused.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCE, LIBRARY = "driver.c", "cuda_utils.so"
FOLDER = Path(__file__).resolve().parents[1] / "lib" / "triton-cc"


def build(folder: Path) -> None:
    """Compile the launcher; the driver's library, which the host has, is found when it runs."""
    from triton.backends.nvidia import driver

    folder.mkdir(parents=True, exist_ok=True)
    source = Path(driver.dirname) / SOURCE
    shutil.copy(source, folder / SOURCE)
    with tempfile.TemporaryDirectory() as name:
        stub = Path(name) / "libcuda.so.1"
        empty = ["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-o", str(stub), "-x", "c"]
        subprocess.run([*empty, "/dev/null"], check=True)
        command = ["gcc", str(source), "-O3", "-shared", "-fPIC", "-Wno-psabi"]
        command += ["-o", str(folder / LIBRARY), "-Wl,--no-as-needed", str(stub)]
        command += [f"-I{sysconfig.get_paths()['include']}"]
        command += [f"-I{include}" for include in driver.include_dirs]
        subprocess.run(command, check=True)


def hand_out(arguments: list[str]) -> int:
    """Copy the compiled library to where a compiler would write it."""
    sources = [Path(word) for word in arguments if word.endswith(".c")]
    known = (FOLDER / SOURCE).read_bytes()
    if "-o" not in arguments or [path.read_bytes() for path in sources] != [known]:
        print(
            "triton-cc: this image has no C compiler, only the launcher of its own Triton; build "
            "an image FROM this one with gcc and set CC=gcc",
            file=sys.stderr,
        )
        return 1
    shutil.copy(FOLDER / LIBRARY, arguments[arguments.index("-o") + 1])
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:
        build(Path(sys.argv[2]))
    else:
        sys.exit(hand_out(sys.argv[1:]))
