"""Complete pipeline on photographs: 1000 of MSRA-B for training, 200 of ECSSD for scoring.

    python benchmarks/real_run.py --out runs/real [--stage1.epochs 20 …]

Runs the commands one by one (each resumes), measures wall time and peak memory of each, and writes
`benchmarks/results/real_run.{json,md}`. Needs the reference material ($A2S_SHARED).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from machine import describe_machine, tree_pss_kib

from a2s.config.parse import parse
from a2s.evaluation.table import baseline

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))
CONFIG = ROOT / "benchmarks" / "real_run.yaml"


def peak_memory_gib(process: subprocess.Popen[str], stop: threading.Event) -> list[float]:
    """Peak of the summed proportional set sizes of a process and its descendants."""
    peak = [0.0]

    def watch() -> None:
        while not stop.wait(1.0):
            peak[0] = max(peak[0], tree_pss_kib(process.pid) / 2**20)

    threading.Thread(target=watch, daemon=True).start()
    return peak


def run(name: str, arguments: list[str], *, images: int, log: Path) -> dict[str, object]:
    """Run one command; its time is recorded only if it did the work in this call."""
    command = [sys.executable, "-m", "a2s", *arguments]
    print("$ a2s", *arguments, flush=True)
    start = time.monotonic()
    stop = threading.Event()
    with log.open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)
        peak = peak_memory_gib(process, stop)
        code = process.wait()
    stop.set()
    seconds = time.monotonic() - start
    if code:
        sys.exit(f"{name}: exit code {code}; see {log}")
    return {
        "step": name,
        "command": "a2s " + " ".join(map(portable, arguments)),
        "commit": describe_machine()["commit"],
        "load_average": round(os.getloadavg()[1], 1),
        "seconds": round(seconds, 1),
        "images_per_sec": round(images / seconds, 2),
        "peak_memory_gib": round(peak[0], 2),
    }


def epochs_of(command: str, flags: list[str]) -> int:
    """Number of epochs of a training command with these flags."""
    paths = ["--data", "d", "--out", "o", *(["--labels", "l"] if command == "stage2" else [])]
    return int(parse(command, ["--config", str(CONFIG), *paths, *flags]).epochs)


def portable(argument: str) -> str:
    """Rewrite an argument so that it is valid in the repository's root on any machine."""
    return argument.replace(str(SHARED), "$A2S_SHARED").replace(f"{ROOT}/", "")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--until", default="end")
    options, extra = parser.parse_known_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    weights = SHARED / "encoders" / "mobilenet_v2_imagenet.safetensors"
    encoder = ["--config", str(CONFIG), "--encoder.weights", str(weights)]
    msra, ecssd = SHARED / "data" / "msra1000", SHARED / "data" / "ecssd200"
    p = {name: str(out / name) for name in ("msra", "ecssd", "s1", "s2", "labels", "labels-ecssd")}
    stage = {
        flag.split(".")[0]: [] for flag in extra if flag.startswith("--stage")
    }  # per-stage flags, for example --stage2.epochs 6
    for flag, value in zip(extra[::2], extra[1::2], strict=True):
        section, _, key = flag.partition(".")
        stage[section] += [f"--{key}", value]
    more1, more2 = stage.get("--stage1", []), stage.get("--stage2", [])
    steps: list[tuple[str, list[str], int]] = [
        ("shard MSRA-B", ["shard", str(msra), "--out", p["msra"]], 1000),
        (
            "shard ECSSD",
            ["shard", str(ecssd / "images"), "--masks", str(ecssd / "masks"), "--out", p["ecssd"]],
            200,
        ),
        ("stage1", ["stage1", "--data", p["msra"], "--out", p["s1"], *encoder, *more1],
         1000 * epochs_of("stage1", more1)),
        *scored(out, "stage1", p["s1"], str(ecssd)),
        ("label ECSSD", ["label", "--model", p["s1"], "--data", p["ecssd"],
                         "--out", p["labels-ecssd"]], 200),
        ("evaluate labels", ["evaluate", "--pred", p["labels-ecssd"], "--truth",
                             str(ecssd / "masks"), "--out", str(out / "scores-labels")], 200),
        ("label MSRA-B", ["label", "--model", p["s1"], "--data", p["msra"],
                          "--out", p["labels"]], 1000),
        ("stage2", ["stage2", "--data", p["msra"], "--labels", p["labels"], "--out", p["s2"],
                    *encoder, *more2], 1000 * epochs_of("stage2", more2)),
        *scored(out, "stage2", p["s2"], str(ecssd)),
        *scored(out, "rbd", "rbd", str(ecssd)),
    ]  # fmt: skip
    record = out / "steps.json"
    done: dict[str, dict[str, object]] = json.loads(record.read_text()) if record.exists() else {}
    for name, arguments, images in steps:
        key = " ".join([name, *arguments])
        if key not in done:
            done[key] = run(name, arguments, images=images, log=out / "log.txt")
            record.write_text(json.dumps(done, indent=1))
        if name == options.until:
            return
    write_results(out, [done[" ".join([name, *arguments])] for name, arguments, _ in steps])


def scored(out: Path, stage: str, model: str, ecssd: str) -> list[tuple[str, list[str], int]]:
    """Predict and evaluate ECSSD with the model of one stage."""
    pred = str(out / f"preds-{stage}")
    return [
        (f"predict {stage}",
         ["predict", "--model", model, "--out", pred, f"{ecssd}/images"], 200),
        (f"evaluate {stage}",
         ["evaluate", "--pred", pred, "--truth", f"{ecssd}/masks",
          "--out", str(out / f"scores-{stage}")], 200),
    ]  # fmt: skip


def write_results(out: Path, steps: list[dict[str, object]]) -> None:
    """Write the tables of scores and costs as JSON and Markdown."""
    names = {"stage1": "activation maps (stage 1, raw)", "labels": "pseudo labels (CRF + median)",
             "stage2": "detector (stage 2)", "rbd": "RBD, without training"}  # fmt: skip
    scores = {
        title: json.loads((out / f"scores-{stage}" / "scores.json").read_text())
        for stage, title in names.items()
    }
    centre = baseline(scores[names["stage2"]], "centre")
    assert centre is not None
    scores["one Gaussian in the middle"] = centre
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    machine = describe_machine()
    document = {**machine, "scores": scores, "steps": steps}
    (results / "real_run.json").write_text(json.dumps(document, indent=1) + "\n")
    columns = ("adaptive_f", "mean_f", "max_f", "mae", "weighted_f", "s_measure", "e_measure")
    lines = [
        "# Complete pipeline on real photographs",
        "",
        f"{machine['date']}, commit {machine['commit']}, {machine['hardware']}.",
        "",
        "Trained on 1000 MSRA-B photographs without masks; scored on 200 ECSSD photographs.",
        "",
        "| maps | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for title, score in scores.items():
        row = " | ".join(f"{float(score[column]):.3f}" for column in columns)
        lines.append(f"| {title} | {row} |")
    shown = ("step", "seconds", "images_per_sec", "peak_memory_gib", "load_average", "commit")
    lines += [
        "",
        "Other work ran on the machine: `load` is the load average during a step. For training,",
        "images/s counts every pass over an image.",
        "",
        "| step | seconds | images/s | peak memory, GiB | load | commit |",
        "|---|---|---|---|---|---|",
    ]
    for step in steps:
        lines.append("| " + " | ".join(str(step[name]) for name in shown) + " |")
    lines += ["", "```", *(str(step["command"]) for step in steps), "```", ""]
    (results / "real_run.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
