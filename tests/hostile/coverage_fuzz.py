"""Fuzz with atheris: it keeps the inputs that reach new code, and changes these (`make fuzz`).

    python tests/hostile/coverage_fuzz.py SECONDS FOLDER [TARGET...]

Each target of `fuzz_targets.py` has its share of the time. Inputs that reach new code are kept in
FOLDER/TARGET, one that breaks something is FOLDER/TARGET-crash-…: copy it to seeds/TARGET, where
`test_seeds.py` tries it for ever. Exit codes: 0 nothing found, 1 otherwise.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ONE = "--one"


def fuzz_one(name: str, arguments: list[str]) -> None:
    """Fuzz a target until libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["a2s", "PIL", "tarfile", "yaml", "tyro"]):
        from fuzz_targets import TARGETS

    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    seconds, folder = int(sys.argv[1]), Path(sys.argv[2])
    from fuzz_targets import TARGETS, first_inputs

    names, is_broken = sys.argv[3:] or list(TARGETS), False
    for name in names:
        corpus = folder / name
        corpus.mkdir(parents=True, exist_ok=True)
        seeds = sorted((Path(__file__).parent / "seeds" / name).glob("*"))
        for number, data in enumerate([*first_inputs(name), *map(Path.read_bytes, seeds)]):
            (corpus / f"first-{number}").write_bytes(data)
        command = [
            *(sys.executable, __file__, ONE, name, str(corpus)),
            f"-max_total_time={max(1, seconds // len(names))}",
            *(f"-artifact_prefix={corpus}-", "-rss_limit_mb=4096", "-timeout=60", "-verbosity=0"),
            *("-print_final_stats=1", "-max_len=20000"),
        ]
        done = subprocess.run(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
        tried = [line for line in done.stdout.splitlines() if "number_of_executed_units" in line]
        kept = len(list(corpus.iterdir()))
        print(f"{name}: {''.join(tried) or 'nothing'}; {kept} inputs kept", flush=True)
        if done.returncode:
            print(done.stdout[-4000:], flush=True)
            is_broken = True
    return int(is_broken)


if __name__ == "__main__":
    # Helpers of the tests import each other by their bare names.
    sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
    if sys.argv[1] == ONE:
        fuzz_one(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
