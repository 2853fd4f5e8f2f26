"""Import time of the commands, in seconds of fresh interpreters.

    python benchmarks/startup.py [--rounds 7]

`torchvision` imports its classifiers unchanged, `a2s.models.torchvision_nets` without torch's
compiler; all other lines include the first two. `a2s label` imports everything that the command
needs, with the garbage collector settings of `a2s.__main__`; `collected` uses Python's defaults.
Modules are loaded from bytecode on disk. `from source` is a start without bytecode, as in a
container image that was built without it. Interpreters alternate. Writes
`benchmarks/results/startup.json`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

from a2s.storage.files import write_json

RESULT = Path(__file__).parent / "results" / "startup.json"
LABEL = "import a2s.models.encoders, a2s.commands.label, a2s.labels.crf.numba_backend.inference"
COMMAND = f"import gc; gc.set_threshold(5_000); {LABEL}; gc.freeze()"
IMPORTS = {
    "python": "pass",
    "torch": "import torch",
    "torchvision": "import torchvision.models",
    "a2s.models.torchvision_nets": "import a2s.models.torchvision_nets",
    "a2s.commands.label, torchvision first": "import torchvision.models, a2s.commands.label",
    "a2s.commands.label": "import a2s.models.encoders, a2s.commands.label",
    "a2s.commands.predict": "import a2s.models.encoders, a2s.commands.predict",
    "a2s label": COMMAND,
    "a2s label, collected": LABEL,
    "a2s label, from source": COMMAND,
}


def seconds(name: str, code: str) -> tuple[float, float]:
    """Wall and CPU time of an interpreter that runs `code`."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    with tempfile.TemporaryDirectory() as nothing:
        if name.endswith("from source"):
            environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": nothing}
        before, start = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        wall, after = time.perf_counter() - start, os.times()
    used = after.children_user - before.children_user
    return wall, used + after.children_system - before.children_system


def main() -> None:
    """Measure all variants alternately and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for name, code in IMPORTS.items():
        seconds(name, code)  # files into the page cache, bytecode onto the disk
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, code in IMPORTS.items():
            taken[name].append(seconds(name, code))
    medians = {
        name: {
            "wall": round(statistics.median(wall for wall, _ in pairs), 2),
            "cpu": round(statistics.median(cpu for _, cpu in pairs), 2),
        }
        for name, pairs in taken.items()
    }
    for name, values in medians.items():
        print(f"{values['wall']:6.2f} s wall, {values['cpu']:6.2f} s of CPU  {name}")
    command = f"python benchmarks/startup.py --rounds {rounds}"
    write_json(RESULT, {"command": command, **describe_machine(), "seconds": medians})


if __name__ == "__main__":
    main()
