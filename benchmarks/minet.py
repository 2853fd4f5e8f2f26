"""Detectors of Table VII at full size: parameters, time of a forward pass, first steps of MINet.

    python benchmarks/minet.py [--encoder resnet50] [--side 320] [--batch 2] [--steps 5]

Forward passes of one image alternate between the detectors and are timed in CPU seconds. Then
`a2s stage2 --detector minet` trains on drawn scenes with an untrained encoder and rectifies labels
from the first epoch on. Writes `benchmarks/results/minet.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gpu_train import make_images, pack
from machine import describe_machine

from a2s.models.detector import DETECTORS, Detector
from a2s.models.encoders import build_encoder
from a2s.storage.files import write_json

HERE = Path(__file__).parent
RESULT = HERE / "results" / "minet.json"
# Millions of parameters in Table VII, which include the encoder's unused classifier.
PRINTED = {"ram": 28.40, "conv": 28.25, "minet": 164.43}
UNUSED_CLASSIFIER = 2_049_000


def networks(encoder: str, side: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Parameters of every detector, and CPU seconds of a forward pass of one image."""
    image = torch.randn(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    found: dict[str, dict[str, Any]] = {}
    built, seconds = {}, {}
    for name in DETECTORS:
        net = Detector(build_encoder(encoder), detector=name).eval()
        built[name] = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        seconds[name] = [0.0]
        count = sum(p.numel() for p in net.parameters())
        decoder = sum(p.numel() for p in net.decoder.parameters())
        found[name] = {"parameters": count, "decoder_parameters": decoder}
        if encoder == "resnet50":
            with_classifier = count + UNUSED_CLASSIFIER
            found[name] |= {"with_unused_classifier": with_classifier, "table_7": PRINTED[name]}
            assert round(with_classifier / 1e6, 2) == PRINTED[name], name
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, net in built.items():
                start = time.process_time()
                assert net(image).shape == (1, 1, side, side)
                seconds[name].append(time.process_time() - start)
    for name in DETECTORS:
        # The first round is a warm-up.
        found[name]["forward_cpu_sec"] = round(statistics.median(seconds[name][2:]), 3)
    return found


def first_steps(encoder: str, side: int, batch: int, steps: int) -> dict[str, Any]:
    """Run the command and return its log lines of all steps."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_images(root, count=batch * steps, side=side, num_scenes=batch * steps)
        pack(root)
        command = ["stage2", "--detector", "minet", "--encoder.name", encoder]
        command += ["--image-size", str(side), "--batch-size", str(batch), "--epochs", "1"]
        command += ["--warm-epochs", "0", "--log-every", "1", "--loader-workers", "0"]
        folders = ["--data", str(root / "data"), "--labels", str(root / "labels")]
        folders += ["--out", str(root / "out")]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        before_sec = used.ru_utime + used.ru_stime
        subprocess.run(
            [sys.executable, "-m", "a2s", *command, *folders],
            env={**os.environ, "PYTHONPATH": str(HERE.parent), "ACCELERATE_USE_CPU": "true"},
            check=True,
        )
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        lines = [json.loads(line) for line in (root / "out" / "metrics.jsonl").open()]
    names = ("loss", "bce", "cel", "label_flip_share")
    return {
        "command": shlex.join(["a2s", *command]),
        "steps": [{name: line[name] for name in names} for line in lines],
        "seconds_between_steps": [
            round(after["time_unix_sec"] - before["time_unix_sec"], 1)
            for before, after in itertools.pairwise(lines)
        ],
        "peak_memory_mib": lines[-1]["peak_memory_mib"],
        "command_cpu_sec": round(used.ru_utime + used.ru_stime - before_sec, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    result = {
        "command": shlex.join(["python", "benchmarks/minet.py", *sys.argv[1:]]),
        **describe_machine(),
        "encoder": args.encoder,
        "image_size": args.side,
        "detectors": networks(args.encoder, args.side, args.rounds),
        "minet_training": first_steps(args.encoder, args.side, args.batch, args.steps),
    }
    write_json(args.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
