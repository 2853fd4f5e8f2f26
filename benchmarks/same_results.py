"""Whether a change changes nothing: two commits run the same small jobs, every byte is compared.

    python benchmarks/same_results.py OLD NEW [--out FILE] [--expect-setting NAME …]

OLD and NEW are commits, or folders of work trees. Both run `same_steps.py` with the same inputs,
seeds and paths; `same_files.py` compares what they have written, and names the few fields whose
values may differ (times, memory, process numbers, the commit). Exit codes: 0 equal, 1 different,
2 something is missing or a step has failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from machine import describe_machine
from same_files import Comparison, compare, reason
from same_runs import Runner, Side, StepFailed
from same_steps import Step, steps

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 40
"""So many lines of differences are printed, one per step and kind of file."""


def git(*arguments: str, folder: Path = ROOT) -> str:
    """What git answers.

    Raises:
        StepFailed: it refuses.
    """
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepFailed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def work_tree(asked: str, folder: Path) -> Iterator[Path]:
    """The work tree that was asked for, or a temporary one of that commit in `folder`."""
    if (Path(asked) / "a2s").is_dir():
        yield Path(asked).resolve()
        return
    commit = git("rev-parse", "--verify", f"{asked}^{{commit}}")
    try:
        git("worktree", "add", "--detach", str(folder), commit)
        yield folder
    finally:
        if folder.exists():
            git("worktree", "remove", "--force", str(folder))


def described(side: Side, runner: Runner) -> dict[str, Any]:
    """What a side is made of, by its own interpreter.

    Raises:
        StepFailed: that interpreter imports another a2s, or none.
    """
    code = (
        "import json, platform, importlib.util as u, a2s, torch; print(json.dumps([a2s.__file__, "
        "platform.python_version(), torch.__version__, bool(u.find_spec('pydensecrf'))]))"
    )
    answer = runner.ask("-c", code)
    if answer is None:
        raise StepFailed(f"{side.name}: {side.python} imports no a2s and torch from {side.tree}")
    file, python, torch, has_reference = json.loads(answer)
    if Path(file).resolve().parents[1] != side.tree:
        raise StepFailed(f"{side.name}: {side.python} imports {file}, which is not of {side.tree}")
    return {
        "asked": side.asked,
        "commit": git("rev-parse", "HEAD", folder=side.tree),
        "modified": git("status", "--porcelain", folder=side.tree) != "",
        "software": f"Python {python}, torch {torch}",
        "pydensecrf": has_reference,
    }


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def run_sides(sides: Sequence[Side], work: Path) -> tuple[list[dict[str, Any]], list[Step]]:
    """Run all steps with each side's code, into `work`/OLD and `work`/NEW."""
    about = [described(side, Runner(side, work, say)) for side in sides]
    todo = steps(pydensecrf=all(one["pydensecrf"] for one in about))
    for side, one in zip(sides, about, strict=True):
        runner = Runner(side, work, say)
        if side is sides[0]:
            runner.draw_inputs()
        runner.write_choices()
        one["seconds"] = round(runner.run_all(todo), 1)
        # Both sides have worked in the same folder, so paths in results are equal.
        runner.run.rename(work / side.name)
    return about, todo


def in_order(paths: dict[str, str], todo: Sequence[Step]) -> dict[str, str]:
    """Differences in the order of the steps that made them: the first is nearest to the cause."""
    outs = [step.out for step in todo]

    def place(path: str) -> int:
        out = path.split("/")[0]
        return outs.index(out) if out in outs else len(outs)

    return dict(sorted(paths.items(), key=lambda item: (place(item[0]), item[0])))


def result_of(
    found: Comparison, about: Sequence[dict[str, Any]], todo: Sequence[Step], flags: Sequence[str]
) -> dict[str, Any]:
    """All that is known, as the document of `--out`."""
    machine = describe_machine()
    return {
        "verdict": "equal" if found.equal else "different",
        "old": about[0],
        "new": about[1],
        "date": machine["date"],
        "hardware": machine["hardware"],
        "command": " ".join(["python benchmarks/same_results.py", *flags]),
        "steps": [" ".join(("a2s", *step.arguments)) for step in todo],
        "num_files": found.num_files,
        "num_bytes": found.num_bytes,
        "differences": in_order(found.differences, todo),
        "settings_differ": found.settings_differ,
        "settings_expected": found.settings_expected,
        "settings_moved": found.settings_moved,
        "ignored": {
            f"{file}: {name}": {"count": count, "reason": reason(file, name)}
            for (file, name), count in sorted(found.ignored.items())
        },
    }


def report(result: dict[str, Any]) -> None:
    """Say what was found, on standard output."""
    print("passed over where two values differed:")
    for name, entry in result["ignored"].items():
        print(f"  {entry['count']:5}  {name} ({entry['reason']})")
    for kind in ("settings_moved", "settings_expected", "settings_differ"):
        for text, files in result[kind].items():
            print(f"{kind}: {text} in {len(files)} files, first {files[0]}")
    groups: dict[tuple[str, str], list[str]] = {}
    for path, text in result["differences"].items():
        groups.setdefault((path.split("/")[0], Path(path).suffix), []).append(f"{path}: {text}")
    for (out, suffix), (first, *more) in [*groups.items()][:SHOWN]:
        print(f"differs: {first}" + (f" (and {len(more)} more {suffix} of {out})" if more else ""))
    if len(groups) > SHOWN:
        print("… and more; the result of --out names all files")
    seconds = " and ".join(f"{result[side]['seconds']:.0f} s" for side in ("old", "new"))
    print(
        f"{result['verdict']}: {result['num_files']} files, {result['num_bytes']:,} bytes, "
        f"{len(result['differences'])} files differ; {seconds}"
    )


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    """Run both sides and compare them; the exit code."""
    parser = argparse.ArgumentParser(description="Compare the results of two commits.")
    parser.add_argument("old", metavar="OLD", help="commit, or folder of a work tree")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--python-old", default=sys.executable, help="interpreter of OLD")
    parser.add_argument("--python-new", default=sys.executable)
    parser.add_argument("--expect-setting", metavar="NAME", action="append", default=[],
                        help="a setting that may be new, gone or of another value")  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--keep", action="store_true", help="keep what both sides wrote")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminated)
    work = Path(tempfile.mkdtemp(prefix="a2s-same-")).resolve()
    keep = chosen.keep
    try:
        with ExitStack() as stack:
            given = (("OLD", chosen.old, chosen.python_old), ("NEW", chosen.new, chosen.python_new))
            sides = []
            for name, asked, python in given:
                tree = stack.enter_context(work_tree(asked, work / f"tree-{name}"))
                sides.append(Side(name, asked, tree, python))
            about, todo = run_sides(sides, work)
        found = compare(work / "OLD", work / "NEW", expected=chosen.expect_setting)
        result = result_of(found, about, todo, sys.argv[1:])
        report(result)
        if chosen.out:
            chosen.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
        keep = keep or not found.equal
        return 0 if found.equal else 1
    except StepFailed as error:
        keep = any(work.glob("logs-*/*"))
        say(f"same_results: {error}")
        return 2
    except KeyboardInterrupt:
        say("same_results: interrupted")
        return 130
    finally:
        if keep:
            say(f"same_results: logs and results are in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
