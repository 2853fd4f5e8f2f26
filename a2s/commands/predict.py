"""`a2s predict`: saliency maps, cut-outs and overlays at the images' own size.

A map is written after its cut-out and overlay, so an image whose map is there is done.
"""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from a2s.config.commands import PredictConfig
from a2s.data.images import BadImage, decode, encode_png
from a2s.data.index import Index
from a2s.data.inputs import collect, describe_lost, describe_skipped, over_limit
from a2s.data.isolation import isolated
from a2s.data.keys import decode_key
from a2s.data.open_files import Address
from a2s.errors import DataError
from a2s.models.predict import Answer, Logits, Picture, Probabilities, load_step, to_map
from a2s.models.saved import Model, SavedNetwork
from a2s.parallel import model_actors, pool
from a2s.parallel.progress import Progress
from a2s.storage import files, run_folder
from a2s.storage.failures import FILE_NAME, Failure, failure, write_failures
from a2s.storage.remote import is_remote

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ["key", "path", "member", "offset", "size", "crc32"]
_SCAN_ROWS = 4096


def run(config: PredictConfig) -> int:
    """Predict every image that has no map yet; return 0, or 3 when too many failed.

    Raises:
        CheckpointError: the model is missing or damaged.
        DataError: an input holds no image.
        ConfigError: an input does not exist, or the folder was made with other settings.
    """
    model, inputs = _model(config)
    with run_folder.claim(config.out, command="predict", config=config, inputs=inputs) as folder:
        files.remove_temporary(config.out)
        outputs = Outputs(
            config.out.resolve(), config.cutout, config.overlay, max_pixels=config.max_pixels
        )
        sources, indexes = _open_shard_folders(config.images)
        found = collect(sources, masks=None, out=config.out)
        images = _with_checksums(found.images, indexes)
        failures = list(found.failures)
        todo = []
        for first in range(0, len(images), _SCAN_ROWS):
            for offset, picture in enumerate(_pictures(images.slice(first, _SCAN_ROWS))):
                if config.cutout and decode_key(picture.key).endswith(".cutout"):
                    detail = "with --cutout this name is that of another image's cut-out"
                    failures.append(failure(picture.key, picture.shown, "reserved_name", detail))
                elif not _is_done(picture, outputs):
                    todo.append(first + offset)
        num_new = 0
        if todo:
            new_failures = _predict(config, folder, model, outputs, images, todo)
            failures += new_failures
            num_new = len(todo) - len(new_failures)
        write_failures(config.out, failures)
        num_images = len(images) + len(found.failures)
        lost: dict[str, Any] = {"num_lost": found.num_lost, "lost_is_known": found.lost_is_known}
        for line in (*describe_skipped(found.skipped), *describe_lost(**lost)):
            print(f"predict: {line}")
        _summarise(config, num_images=num_images, num_new=num_new, failed=len(failures))
        rate, failed = config.max_failure_rate, len(failures)
        return 3 if over_limit(rate, failed=failed, total=num_images, **lost) else 0


def _model(config: PredictConfig) -> tuple[Model, dict[str, str]]:
    """Find the model, and what identifies it as an input."""
    if config.model == "rbd":
        return "rbd", {"baseline": "rbd"}
    model = SavedNetwork.find(config.model)
    return model, model.identity()


def _open_shard_folders(images: tuple[str, ...]) -> tuple[list[str], list[Index]]:
    """Replace each shard folder by its tars, and return the indexes of these folders.

    Raises:
        DataError: a shard folder is unfinished or damaged.
    """
    sources: list[str] = []
    indexes: list[Index] = []
    for source in images:
        if is_remote(source) or next(Path(source).glob("shard-*.json"), None) is None:
            sources.append(source)
            continue
        indexes.append(Index.load(Path(source)))
        sources += [str(shard.path) for shard in indexes[-1].shards]
    return sources, indexes


def _with_checksums(images: pa.Table, indexes: list[Index]) -> pa.Table:
    """Add a column `crc32`: the checksum of an image in a shard folder, else null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    crc32_N = np.full(len(images), -1, np.int64)
    for index in indexes:
        tars = [os.fsencode(os.path.abspath(shard.path)) for shard in index.shards]
        is_here_N = pc.is_in(images["path"], value_set=pa.array(tars, pa.large_binary()))
        row_N = index.rows_of(images["key"])
        found_N = is_here_N.to_numpy() & (row_N >= 0)
        crc32_N[found_N] = index.crc32_N[row_N[found_N]]
    return images.append_column("crc32", pa.array(crc32_N, mask=crc32_N < 0))


def _pictures(rows: pa.Table) -> list[Picture]:
    return [
        Picture(
            row["key"],
            Address(row["path"], row["offset"], row["size"]),
            row["member"] or row["path"].decode("utf-8", "backslashreplace"),
            row["crc32"],
        )
        for row in rows.select(_COLUMNS).to_pylist()
    ]


def _is_done(picture: Picture, outputs: Outputs) -> bool:
    """Whether the map is there and not older than the image (a tar's members have no date)."""
    try:
        written = outputs.paths(picture.key)["map"].stat().st_mtime_ns
        return not picture.address.is_file or Path(picture.shown).stat().st_mtime_ns <= written
    except OSError:
        return False


def _predict(
    config: PredictConfig,
    folder: run_folder.RunDir,
    model: Model,
    outputs: Outputs,
    images: pa.Table,
    todo: list[int],
) -> list[Failure]:
    """Predict the rows `todo`; return the failures."""

    def chunks() -> Iterator[list[Picture]]:
        for first in range(0, len(todo), config.batch_size):
            yield _pictures(images.take(todo[first : first + config.batch_size]))

    start = time.monotonic()
    workers = pool.resolve_workers(config.workers, len(todo), ray_address=config.ray_address)
    failures: list[Failure] = []
    with Progress(
        len(images), unit="images", name="predict", done=len(images) - len(todo)
    ) as progress:
        fn: Callable[..., Written] = predict_chunk
        common: tuple[object, ...] = (model, outputs)
        model_stage = None
        if workers != 0 and model != "rbd" and pool.has_gpu():
            # On CPUs every worker has its own network. With GPUs the networks are in actors on
            # the GPUs, and the workers enlarge, draw and compress.
            fn, common = write_chunk, (outputs,)
            load = functools.partial(load_step, model, config.max_pixels)
            model_stage = model_actors.ModelStage(load)
        results = pool.map_items(
            fn,
            chunks(),
            workers=workers,
            common=common,
            model_stage=model_stage,
            isolation=isolated,
            ray_address=config.ray_address,
            name=lambda pictures: f"predict: images from {pictures[0].key}",
            note=progress.note,
        )
        with closing(results):
            for written in results:
                failures += written.failures
                progress.update(written.num_written + len(written.failures))
    seconds = time.monotonic() - start
    folder.log(
        event="predicted",
        num_images=len(todo),
        failures=len(failures),
        workers=workers,
        wall_sec=round(seconds, 3),
        images_per_sec=round(len(todo) / seconds, 3),
    )
    return failures


def _summarise(config: PredictConfig, *, num_images: int, num_new: int, failed: int) -> None:
    kinds = ["maps", *(["cut-outs"] if config.cutout else []), *(["overlays"] * config.overlay)]
    done = num_images - failed
    state = f"{num_new:,} new" if num_new or failed else "done already, nothing new"
    print(f"predict: {done:,} images in {config.out} ({', '.join(kinds)}; {state})")
    if failed:
        print(
            f"predict: {failed:,} of {num_images:,} images failed ({failed / num_images:.2%}):"
            f" {config.out}/{FILE_NAME}; the same command retries them"
        )
    print(f"next: a2s evaluate --pred {config.out} --truth DIR --out scores/{config.out.name}")


# Errors of a file system about one name; any other error ends the run.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ)


@dataclass(frozen=True)
class Outputs:
    """Output folder, and what to write in addition to the map."""

    folder: Path
    cutout: bool
    overlay: bool
    max_pixels: int

    def paths(self, key: str) -> dict[str, Path]:
        """Output files of a key; the map is written last, so it means that all are there.

        Raises:
            DataError: the key is not a safe name.
        """
        name = decode_key(key)
        kinds = {"overlay": ".overlay.jpg", "cutout": ".cutout.png", "map": ".png"}
        wanted = {"overlay": self.overlay, "cutout": self.cutout, "map": True}
        return {
            kind: self.folder / f"{name}{suffix}" for kind, suffix in kinds.items() if wanted[kind]
        }


@dataclass
class Written:
    """Result of a chunk: number of images written, and failures."""

    num_written: int = 0
    failures: list[Failure] = field(default_factory=list)


def predict_chunk(pictures: list[Picture], model: Model, outputs: Outputs) -> Written:
    """Predict and write a chunk in one process, which keeps the network for the next one."""
    step = load_step(model, outputs.max_pixels)
    return write_chunk(pictures, step(pictures), outputs)


def write_chunk(pictures: list[Picture], answers: list[Answer], outputs: Outputs) -> Written:
    """Write the files of a chunk; failed images are listed, not raised."""
    written = Written()
    for picture, answer in zip(pictures, answers, strict=True):
        reason = ""
        try:
            if isinstance(answer, BadImage):
                raise answer
            _write(picture, answer, outputs)
            written.num_written += 1
        except BadImage as error:
            reason, detail = error.reason, error.detail
        except DataError as error:
            reason, detail = "unsafe_name", str(error)
        except OSError as error:
            if error.errno not in _NAME_ERRORS:
                raise
            reason, detail = "unwritable_name", f"{error.strerror}: {error.filename}"
        if reason:
            written.failures.append(failure(picture.key, picture.shown, reason, detail))
    return written


def _write(picture: Picture, answer: Logits | Probabilities, outputs: Outputs) -> None:
    paths = outputs.paths(picture.key)
    map_HW = to_map(answer)
    paths["map"].parent.mkdir(parents=True, exist_ok=True)
    if outputs.cutout or outputs.overlay:
        from PIL import Image

        from a2s.evaluation.pictures.overlay import cutout, overlay

        # Decode again: keeping a batch of large photographs would fill the memory.
        image_HW3 = decode(picture.read(), max_pixels=outputs.max_pixels)
        if outputs.overlay:
            with files.atomic_path(paths["overlay"]) as temporary:
                Image.fromarray(overlay(image_HW3, map_HW)).save(temporary, "JPEG", quality=90)
        if outputs.cutout:
            with files.atomic_path(paths["cutout"]) as temporary:
                Image.fromarray(cutout(image_HW3, map_HW)).save(temporary, "PNG", compress_level=3)
    files.atomic_write(paths["map"], encode_png(map_HW))
