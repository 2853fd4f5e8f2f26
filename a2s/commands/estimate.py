"""`a2s estimate`: time the labelling of a sample, by stage and with the pool, and extrapolate.

Nothing is written. The sample goes through the functions that `a2s label` runs.
"""

from __future__ import annotations

import functools
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from a2s.config.commands import EstimateConfig
from a2s.config.schedules import DEPENDS_ON_LABELS
from a2s.data.chunks import Chunk
from a2s.data.index import Index
from a2s.data.isolation import isolated
from a2s.errors import DataError
from a2s.labels.making.all_shards import network_input
from a2s.labels.making.chunk import STAGES, Labelled, label_chunk, refine_chunk
from a2s.labels.making.forecast import Sample, describe, forecast
from a2s.labels.recipe import crf_is_batched, recipe_of, with_backend
from a2s.labels.refine import Recipe
from a2s.models.saved import SavedNetwork
from a2s.parallel import model_actors, pool
from a2s.parallel.progress import say
from a2s.storage import places

TAR_BLOCK = 512
PER_WORKER = 8
"""Fewest images per worker of the pool, so that waiting for the last ones counts little."""
GPU_CHUNK = 64
"""Images that a GPU gets at once; more of them are hardly faster."""


def run(config: EstimateConfig) -> int:
    """Print the forecast.

    Raises:
        DataError: the data folder is missing, unfinished or empty, or no image can be read.
        CheckpointError: the model is missing, or is not a stage-1 model.
    """
    index = Index.load(config.data.resolve())
    num_images = config.images or len(index)
    sample = measure(config, index, num_images=num_images)
    print(f"estimate: {num_images:,} images like those of {config.data}")
    device = "GPU" if sample.device_sec else "CPU"
    for line in describe(sample, forecast(sample, num_images), device=device):
        print(f"  {line}")
    data, labels = shlex.quote(str(config.data)), shlex.quote(f"labels/{config.data.name}")
    print(f"next: a2s label --model RUN --data {data} --out {labels}")
    return 0


def measure(config: EstimateConfig, index: Index, *, num_images: int) -> Sample:
    """Time a sample of the images: one by one, then with the pool that `num_images` would get.

    Raises: as `run`.
    """
    if len(index) == 0:
        raise DataError(f"estimate: {config.data} holds no images; nothing can be timed")
    if config.workers == 0:
        config = config.model_copy(update={"ray_address": None})
    workers = pool.resolve_workers(
        config.workers, num_images, ray_address=config.ray_address, has_threads=True
    )
    around: Any = nullcontext()
    if workers != 0:
        around = pool.session(workers=workers, ray_address=config.ray_address)
    begun = time.monotonic()
    with around, _model(config) as model:
        session_sec = time.monotonic() - begun
        # The devices of the cluster count if there is one, else those of this machine.
        on_gpu = pool.has_gpu(config.ray_address)
        refine = with_backend(config.refine, on_gpu=lambda: on_gpu)
        steps = label_steps(
            config,
            model,
            recipe_of(refine, crf_input=config.parity.crf_input, sign_tie=model.sign_tie),
            on_gpu=on_gpu,
            crf_on_gpu=crf_is_batched(refine),
        )
        count = pool.num_cluster_cpus() if workers is None else workers or pool.num_cpus()
        alone = _chunks(index, config.sample, length=1)
        say(f"estimate: timing {len(alone)} of {len(index):,} images, CRF by {refine.backend}")
        # One thread alone, after an untimed image that pays for imports and compiled code.
        list(time_chunks(alone[:1], steps, workers=0, threads=1))
        singles = list(time_chunks(alone, steps, workers=0, threads=1))

        num_images, length = max(config.sample, PER_WORKER * count), config.sample // (4 * count)
        if "model_stage" in steps and crf_is_batched(refine):
            # Nearly as many images at once as a GPU gets in a large job.
            num_images, length = max(num_images, 4 * GPU_CHUNK), GPU_CHUNK
        together = _chunks(index, num_images, length=max(1, length))
        begun = time.monotonic()
        warm = list(time_chunks(together[: 2 * count], steps, workers=workers, threads=count))
        warm_sec = time.monotonic() - begun - sum(_seconds(part) for part in warm) / count
        begun = time.monotonic()
        results = list(time_chunks(together, steps, workers=workers, threads=count))
        pool_sec = time.monotonic() - begun
    return summarise(
        singles,
        results,
        index,
        workers=count,
        pool_sec=pool_sec,
        start_sec=session_sec + max(0.0, warm_sec),
        network=_in_words(model, given=config.model),
    )


def _in_words(model: SavedNetwork, *, given: Path | None) -> str:
    """Which network was timed."""
    spec = model.metadata
    parts = [spec.get("encoder.name", model.kind)]
    if model.kind == "activation":
        heads = spec.get("kept_heads", "0").count(",") + 1
        frames = dict.fromkeys((spec.get("boundary_frame", spec["frame"]), spec["frame"]))
        sees = f"frame{'s' * (len(frames) > 1)} {' and '.join(frames)} px"
        parts.append(f"{heads} head{'s' * (heads > 1)}, {sees}")
    parts.append(f"images of {model.image_size} px")
    if given is None:
        return f"{', '.join(parts)}; untrained, as a2s run builds it (--model times your own)"
    return f"{', '.join(parts)}; {given}"


@contextmanager
def _model(config: EstimateConfig) -> Iterator[SavedNetwork]:
    """The stage-1 model, or an untrained one of the same shape in a temporary folder."""
    if config.model is not None:
        yield SavedNetwork.find_for_labels(config.model)
        return
    from safetensors.torch import save_file

    from a2s.models.activation_net import ActivationNet
    from a2s.models.encoder_weights import load_encoder

    encoder = load_encoder(config.encoder.name, config.encoder.weights)
    encoder.check_side(config.image_size)
    # All that `a2s run` trains with labels of RBD.
    with_labels = {name: values[True] for name, values in DEPENDS_ON_LABELS.items()}
    network = ActivationNet(
        encoder,
        fusion_stride=4,
        heads=with_labels["heads"],
        label_heads=with_labels["label_heads"],
        frame=with_labels["frame"],
    )
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix="a2s-estimate-", dir=places.temporary()) as folder:
        path = Path(folder) / "model.safetensors"
        input_spec = {"image_size": str(config.image_size), "resize_filter": "bilinear"}
        input_spec["kept_heads"] = ",".join(map(str, network.kept))
        save_file(tensors, path, {**network.spec(), **input_spec})
        yield SavedNetwork.find_for_labels(path)


def label_steps(
    config: EstimateConfig, model: SavedNetwork, recipe: Recipe, *, on_gpu: bool, crf_on_gpu: bool
) -> dict[str, Any]:
    """The arguments of `map_items` that `a2s label` gives, too."""
    sees = network_input(model, config.parity.network_size)
    if not on_gpu:
        return {"fn": label_chunk, "common": (model, sees, recipe)}
    from a2s.labels.making.batch_size import LARGEST_BATCH
    from a2s.labels.making.gpu import load_activation

    batch = LARGEST_BATCH if config.batch_size == "auto" else config.batch_size
    load = functools.partial(load_activation, model, sees, batch, recipe if crf_on_gpu else None)
    return {"fn": refine_chunk, "common": (recipe,), "model_stage": model_actors.ModelStage(load)}


def time_chunks(
    chunks: list[Chunk], steps: dict[str, Any], *, workers: int | None, threads: int
) -> Iterator[Labelled]:
    """Label chunks as `a2s label` does; the results carry their seconds."""
    return pool.map_items(
        steps["fn"],
        chunks,
        workers=workers,
        common=steps["common"],
        model_stage=steps.get("model_stage"),
        threads=threads if workers == 0 else 0,
        isolation=isolated,
    )


def _chunks(index: Index, count: int, *, length: int) -> list[Chunk]:
    """About `count` images, in chunks of `length` taken evenly from the whole folder."""
    starts = np.linspace(0, max(0, len(index) - length), max(1, count // length)).astype(int)
    chunks = []
    for number, start in enumerate(np.unique(starts)):
        shard = int(index.shard_N[start])
        stop = min(int(start) + length, index.shard_rows(shard).stop)
        chunks.append(Chunk(shard, number, index.part(range(int(start), stop))))
    return chunks


def _seconds(part: Labelled) -> float:
    return sum(part.seconds.values())


def summarise(
    singles: list[Labelled],
    results: list[Labelled],
    index: Index,
    *,
    workers: int,
    pool_sec: float,
    start_sec: float,
    network: str,
) -> Sample:
    """Sum up what was measured: images alone, then those of the pool.

    Raises:
        DataError: no image alone could be read.
    """
    good = [part for part in singles if part.labels]
    num_good = len(good)
    if not num_good:
        first = singles[0].failures[0]
        raise DataError(
            f"estimate: none of {len(singles)} sampled images can be read; the first: "
            f"{first['key']} in {first['path']}: {first['detail']}"
        )
    # At least one, for a sample whose second half is all damaged.
    num_pooled = max(1, sum(len(part.labels) for part in results))
    # On a GPU a batch counts, not an image alone; a damaged chunk was only read.
    device_stages = {stage for part in [*results, *good] for stage in part.device_seconds}
    device_stages -= {"decode", "queue"}
    # Waiting is spread over the stages as their time is.
    alone = _busy(good)
    stage_sec = {
        stage: sum(
            alone * part.seconds[stage] + part.device_seconds.get(stage, 0.0) for part in good
        )
        / num_good
        for stage in STAGES
    }
    device_sec = 0.0
    for stage in sorted(device_stages):
        seconds = sum(part.device_seconds.get(stage, 0.0) for part in results)
        stage_sec[stage] = seconds / num_pooled
        device_sec += stage_sec[stage]
    labels = [label for part in good for label in part.labels.values()]
    sizes = [TAR_BLOCK + -(-len(label.png) // TAR_BLOCK) * TAR_BLOCK for label in labels]
    return Sample(
        cpu_sec_N=[
            min(part.cpu_sec, _seconds(part)) + part.device_seconds.get("decode", 0.0)
            for part in good
        ],
        stage_sec=stage_sec,
        device_sec=device_sec,
        read_bytes=float(index.size_N.mean()),
        label_bytes=sum(sizes) / len(sizes),
        workers=workers,
        pool_images_per_sec=num_pooled / pool_sec,
        start_sec=start_sec,
        busy=_busy(results),
        network=network,
    )


def _busy(parts: list[Labelled]) -> float:
    """Share of CPU time in the time that these chunks took. Range: (0, 1]."""
    seconds = sum(map(_seconds, parts))
    spent = sum(min(part.cpu_sec, _seconds(part)) for part in parts)
    return max(spent / seconds, 0.01) if seconds else 1.0
