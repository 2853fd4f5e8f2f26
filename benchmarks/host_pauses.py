"""Host-side pauses of a training loop for batches and commits, compared with the simple way.

    python benchmarks/host_pauses.py [--rounds 5] [--encoder resnet50] [--folder DIR]

- `batch`: milliseconds to receive a batch of 8 from a worker process that computes nothing: as
  separate tensors with one file descriptor each, and as `Batch`, a single block of memory. With
  images and labels at 320 px, and without images, as with cached features.
- `commit`: milliseconds for which training pauses after an epoch of stage 2: with a blocking
  commit, and with asynchronous checkpointing. `durable` is the time until the latter is on the disk
  of `--folder`.

Variants alternate; results are medians. Writes `benchmarks/results/host_pauses.json`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import describe_machine
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from a2s.data.batch import Batch
from a2s.models.detector import Detector
from a2s.models.encoder_weights import load_encoder
from a2s.storage import checkpoints
from a2s.storage.files import write_json
from a2s.training.async_checkpoint import AsyncCheckpointer
from a2s.training.optimizer import GuardedSGD, pack_momentum

RESULT = Path(__file__).resolve().parent / "results" / "host_pauses.json"
BATCH, COUNT = 8, 300


class Ready(Dataset[Any]):
    """Dataset that always returns the same batch, in the form that `pack` gives it."""

    def __init__(self, side: int, pack: Callable[..., Any]) -> None:
        self.side, self.pack = side, pack

    def __getitems__(self, _: list[int]) -> Any:
        side = self.side
        return self.pack(
            image_B3SS=torch.zeros(BATCH, 3, side, side, dtype=torch.uint8),
            row_B=torch.arange(BATCH),
            valid_B=torch.ones(BATCH, dtype=torch.bool),
            flip_B=torch.zeros(BATCH, dtype=torch.bool),
            label_B1SS=torch.zeros(BATCH, 1, side, side),
        )


def apart(**tensors: Tensor) -> dict[str, Tensor]:
    return tensors


def as_is(batch: Any) -> Any:
    return batch


def per_batch(side: int, pack: Callable[..., Any]) -> float:
    """Milliseconds per batch, without the first ones."""
    batches: Iterator[Any] = iter(
        DataLoader(
            Ready(side, pack),
            batch_sampler=[[0]] * (COUNT + 20),
            collate_fn=as_is,
            num_workers=1,
            prefetch_factor=4,
            multiprocessing_context="fork",
        )
    )
    for _ in range(20):
        next(batches)
    started = time.perf_counter()
    for _ in range(COUNT):
        next(batches)
    return 1000 * (time.perf_counter() - started) / COUNT


def commits(encoder: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each variant, per round."""
    model = Detector(load_encoder(encoder, "none"))
    parameters = dict(model.named_parameters())
    group = [{"params": list(parameters.values())}]
    optimizer = GuardedSGD(group, lr=0.1, momentum=0.9, weight_decay=0, nesterov=True)
    found: dict[str, list[float]] = {"in place": [], "beside training": [], "durable": []}
    with tempfile.TemporaryDirectory(dir=folder) as root, AsyncCheckpointer() as durable:
        for number in range(1, rounds + 2):
            for way in ("in place", "beside training"):
                started = time.perf_counter()
                save = checkpoints.save if way == "in place" else durable.begin
                save(
                    Path(root, way),
                    number,
                    model=model.state_dict(),
                    metadata=model.spec(),
                    optimizer=pack_momentum(optimizer, parameters),
                    state={"epoch": 1, "step": 0, "finished": False},
                )
                found[way].append(1000 * (time.perf_counter() - started))
                durable.wait()
                if way == "beside training":
                    found["durable"].append(1000 * (time.perf_counter() - started))
    # Warm-up: the first round also allocates memory.
    return {way: values[1:] for way, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--folder", type=Path, help="folder of the commits")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {
        f"batch, {side} px" if side else "batch, no images": {"tensors": [], "one piece": []}
        for side in (320, 0)
    }
    for _ in range(args.rounds):
        for name, side in zip(found, (320, 0), strict=True):
            found[name]["tensors"].append(per_batch(side, apart))
            found[name]["one piece"].append(per_batch(side, Batch.of))
    found["commit"] = commits(args.encoder, args.folder or args.out.parent, args.rounds)
    result: dict[str, Any] = {
        "command": f"python benchmarks/host_pauses.py --rounds {args.rounds}",
        **describe_machine(),
        "milliseconds": {
            name: {way: round(median(values), 2) for way, values in ways.items()}
            for name, ways in found.items()
        },
        "rounds": {
            name: {way: [round(value, 2) for value in values] for way, values in ways.items()}
            for name, ways in found.items()
        },
    }
    write_json(args.out, result)
    print(result["milliseconds"])


if __name__ == "__main__":
    main()
