"""A Ray node joins during labelling, another one is lost: images/s before and after.

    python benchmarks/label_cluster.py --data DATA --model RUN [--images 1000]

Two nodes of one core each on this machine. The first one starts alone. The second one joins after a
fifth of the images and is killed after four fifths. Every image must be labelled once, with the
same bytes as in a single process. Writes `benchmarks/results/label_cluster.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

from machine import describe_machine

from a2s.config.base import RefineConfig
from a2s.data.chunks import chunks
from a2s.data.index import Index
from a2s.labels.making.chunk import label_chunk
from a2s.labels.recipe import recipe_of
from a2s.models.inference import on_cpu
from a2s.models.saved import SavedNetwork
from a2s.parallel import pool, ray_session, tasks
from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 4
STORE = {"object_store_memory": 80 * 2**20}


def rate(seconds: list[float], first: int, last: int, warm_up: int) -> float:
    """Images/s of the chunks from `first` to `last`, without those finished during a start-up."""
    part = seconds[first + warm_up : last]
    return CHUNK * (len(part) - 1) / (part[-1] - part[0])


def main() -> None:
    from ray.cluster_utils import Cluster

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    index = Index.load(arguments.data.resolve()).head(arguments.images)
    saved = SavedNetwork.find_for_labels(arguments.model)
    recipe = recipe_of(RefineConfig(backend="numba"))
    common = (saved, saved.trained_input, recipe)
    on_cpu(saved)
    todo = list(range(len(index.shards)))

    def digest(labels: dict[str, bytes]) -> str:
        whole = hashlib.sha256()
        for key in sorted(labels):
            whole.update(key.encode() + labels[key])
        return whole.hexdigest()

    alone = {
        key: label.png
        for done in pool.map_items(
            label_chunk,
            chunks(index, todo=todo, size=CHUNK),
            workers=0,
            threads=2,
            common=common,
        )
        for key, label in done.labels.items()
    }

    ray_session.create_private_token()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **STORE})
    arrived: list[float] = []
    labels: dict[str, bytes] = {}
    notes: list[str] = []
    tally = tasks.Tally()
    num_chunks = sum(-(-shard.count // CHUNK) for shard in index.shards)
    joins, leaves = num_chunks // 5, 4 * num_chunks // 5
    second = None
    try:
        for done in pool.map_items(
            label_chunk,
            chunks(index, todo=todo, size=CHUNK),
            workers=None,
            common=common,
            ray_address=cluster.address,
            tally=tally,
            note=notes.append,
        ):
            arrived.append(time.monotonic())
            for key, label in done.labels.items():
                assert key not in labels, key
                labels[key] = label.png
            if len(arrived) == joins:
                second = cluster.add_node(num_cpus=1, **STORE)
            if len(arrived) == leaves:
                cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()
    # A joining node first starts its worker: imports, model, compiled code.
    one = rate(arrived, 0, joins, warm_up=5)
    two = rate(arrived, joins, leaves, warm_up=(leaves - joins) // 2)
    after = rate(arrived, leaves, num_chunks, warm_up=5)
    result = {
        **describe_machine(),
        "command": "python benchmarks/label_cluster.py --data DATA --model RUN",
        "num_images": len(index),
        "images_per_sec": {
            "one node": round(one, 2),
            "two nodes": round(two, 2),
            "one again, the other killed": round(after, 2),
        },
        "speed_up_of_the_second_node": round(two / one, 2),
        "labels_once_and_equal_to_one_process": digest(labels) == digest(alone),
        "chunks_done_again": sum("node was lost" in note for note in notes),
        "notes": notes,
    }
    write_json(ROOT / "benchmarks" / "results" / "label_cluster.json", result)
    print(result)


if __name__ == "__main__":
    main()
