"""`a2s predict`: saliency maps, cut-outs and overlays at the images' own size.

A map is written after its cut-out and overlay, so an image whose map is there is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2s.config.commands import PredictConfig
from a2s.data.inputs import collect
from a2s.data.isolation import isolated
from a2s.data.left_out import describe_lost, describe_skipped, over_limit
from a2s.data.tar_inputs import STAGING
from a2s.errors import ConfigError, DataError
from a2s.evaluation.pictures import files as pictures
from a2s.evaluation.pictures.outputs import (
    ChunkResult,
    Format,
    Kind,
    Outputs,
    Style,
    draw_chunk,
    given_up,
    merged,
    predict_chunk,
    write_chunk,
)
from a2s.evaluation.pictures.pending import (
    open_shard_folders,
    pending,
    pictures_in,
    refuse_foreign,
    with_checksums,
)
from a2s.models.bundled import find_model
from a2s.models.predict import Picture, load_step
from a2s.models.saved import Model
from a2s.parallel import model_actors, pool
from a2s.parallel.progress import Progress, say, say_error, say_next
from a2s.storage import files, places, run_folder
from a2s.storage.failures import FILE_NAME, Failure, write_failures
from a2s.storage.remote import is_remote
from a2s.storage.written import WrittenFiles

if TYPE_CHECKING:
    import pyarrow as pa


def run(config: PredictConfig) -> int:
    """Predict every image that lacks a file; return 0, or 3 when too many failed.

    Raises:
        CheckpointError: the model is missing or damaged.
        DataError: an input holds no image, or the only image cannot be used.
        ConfigError: an input does not exist, the output overlaps with the inputs or holds files of
            others, or the folder was made with other settings.
    """
    model, identity = find_model(config.model)
    if config.out is None or str(config.out) == pictures.STANDARD or pictures.format_of(config.out):
        return _to_files(config, model)
    return _to_folder(config, config.out, model, identity)


def _kinds(config: PredictConfig) -> tuple[Kind, ...]:
    """What is drawn, in the order in which it is written: the map is last and says it is done."""
    asked: dict[Kind, bool] = {"overlay": config.overlay, "cutout": config.cuts_out, "map": True}
    return tuple(kind for kind, is_asked in asked.items() if is_asked)


def _to_files(config: PredictConfig, model: Model) -> int:
    """Write pictures to a named file, to standard output, or beside the images."""
    # Somebody who asks for a cut-out wants no mask beside it.
    kinds = _kinds(config)[:-1] or ("map",)
    given = pictures.without_repeats(config.images)
    sources = pictures.without_results(given)
    if num_results := len(given) - len(sources):
        say(f"predict: {num_results:,} inputs are left out, a2s wrote them beside images")
    targets = pictures.plan(sources, config.out, kinds, config.format)
    pictures.check(targets, is_opaque=config.background is not None)
    files.remove_abandoned(target.path for target in targets if target.path is not None)
    style = _style(config, targets[0].format)
    failures: list[Failure] = []
    num_images = len(sources)
    with contextlib.ExitStack() as stack:
        stack.enter_context(isolated())
        bar = None
        if num_images > 1:
            bar = stack.enter_context(Progress(num_images, unit="images", name="predict"))
        for problem in pictures.write(targets, model, style):
            failures += [problem] if problem else []
            if bar is not None:
                bar.update()
    lines = [
        f"{problem['path']}: {problem['reason']} ({problem['detail']})" for problem in failures
    ]
    if lines and num_images == 1:
        raise DataError(f"predict: {lines[0]}")
    for line in lines:
        say_error(f"predict: {line}")
    if lines:
        say_error(f"predict: {_share(len(lines), num_images)} failed")
    failed = {problem["path"] for problem in failures}
    for target in targets:
        if target.path is not None and target.source not in failed:
            print(f"predict: wrote {target.path}")
    return 3 if len(failures) > config.max_failure_rate * num_images else 0


def _style(config: PredictConfig, picture_format: Format) -> Style:
    return Style(
        refine=config.refine,
        crop=config.crop,
        background=config.background,
        format=picture_format,
        max_pixels=config.max_pixels,
    )


def _to_folder(config: PredictConfig, out: Path, model: Model, identity: dict[str, str]) -> int:
    """Write maps and pictures into a folder that remembers what it holds."""
    outputs = Outputs(out.resolve(), _kinds(config), _style(config, config.format or "png"))
    with tempfile.TemporaryDirectory(dir=places.temporary()) as downloads:
        sources, indexes = open_shard_folders(_fetched(config.images, Path(downloads)))
        refuse_foreign(out, sources, outputs)
        with run_folder.claim(out, command="predict", config=config, inputs=identity) as folder:
            files.remove_temporary(out)
            found = collect(sources, masks=None, out=out, may_overlap=False)
            images = with_checksums(found.images, indexes)
            written = WrittenFiles(out)
            failures = list(found.failures)
            todo = pending(images, outputs, written)
            if "cutout" in outputs.kinds:
                _same_cutouts(folder, outputs.style)
            if text := todo.remove_changed(outputs.folder):
                say(f"predict: {text}; they are made again")
            written.finish(todo.to_list)
            failures += todo.reserved
            num_new = 0
            for kinds, rows in todo.lacking.items():
                wanted = dataclasses.replace(outputs, kinds=kinds)
                new_failures = _predict(config, folder, model, wanted, images, rows, written)
                failures += new_failures
                num_new += len(rows) - len(new_failures)
            # Workers that were killed, while the command lived, have left some.
            files.remove_temporary(out)
            shutil.rmtree(out / STAGING, ignore_errors=True)
            write_failures(out, failures)
    num_images = len(images) + len(found.failures)
    lost: dict[str, Any] = {"num_lost": found.num_lost, "lost_is_known": found.lost_is_known}
    for line in (*describe_skipped(found.skipped), *describe_lost(**lost)):
        print(f"predict: {line}")
    _summarise(out, outputs, num_images=num_images, num_new=num_new, failed=len(failures))
    rate, failed = config.max_failure_rate, len(failures)
    return 3 if over_limit(rate, failed=failed, total=num_images, **lost) else 0


def _fetched(sources: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Replace URLs of images and standard input by files in a folder."""
    local = []
    for number, source in enumerate(sources):
        if source == pictures.STANDARD or (is_remote(source) and pictures.is_image(source)):
            file = folder / str(number) / pictures.name_of(source)
            file.parent.mkdir()
            file.write_bytes(pictures.read(source).read())
            # A download is never newer than its map.
            os.utime(file, (0, 0))
            source = str(file)
        local.append(source)
    return tuple(local)


def _same_cutouts(folder: run_folder.RunDir, style: Style) -> None:
    """Check that the cut-outs of a folder are all of one kind.

    Raises:
        ConfigError: earlier ones were made with other settings.
    """
    now = {"crop": style.crop, "background": style.background, "format": style.format}
    there = folder.resolve_once(
        "cutout",
        lambda: now,
        is_valid=lambda stored: isinstance(stored, dict) and stored.keys() == now.keys(),
    )
    differing = [
        f"{name}: {there[name]} there, {now[name]} now" for name in now if there[name] != now[name]
    ]
    if differing:
        raise ConfigError(
            f"predict: the cut-outs in {folder.path} were made with other settings "
            f"({'; '.join(differing)}); use another --out, or the old settings"
        )


def _predict(
    config: PredictConfig,
    folder: run_folder.RunDir,
    model: Model,
    outputs: Outputs,
    images: pa.Table,
    todo: list[int],
    written: WrittenFiles,
) -> list[Failure]:
    """Write what `outputs` asks for of the rows `todo`; return the failures."""
    is_new = {kind: ~written.lists(kind, images["key"]) for kind in outputs.kinds}

    def chunks() -> Iterator[list[Picture]]:
        for first in range(0, len(todo), config.batch_size):
            rows = todo[first : first + config.batch_size]
            pictures = pictures_in(images.take(rows))
            written.add(
                (kind, picture.key)
                for row, picture in zip(rows, pictures, strict=True)
                for kind in outputs.kinds
                if is_new[kind][row]
            )
            yield pictures

    start = time.monotonic()
    workers = pool.resolve_workers(config.workers, len(todo), ray_address=config.ray_address)
    failures: list[Failure] = []
    with Progress(
        len(images), unit="images", name="predict", done=len(images) - len(todo)
    ) as progress:
        fn: Callable[..., ChunkResult] = predict_chunk
        common: tuple[object, ...] = (model, outputs)
        model_stage = None
        if "map" not in outputs.kinds:
            fn, common = draw_chunk, (outputs,)
        elif workers != 0 and model != "rbd" and pool.has_gpu():
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
            division=pool.Division(pool.halves, merged, given_up),
            ray_address=config.ray_address,
            name=lambda pictures: f"predict: images from {pictures[0].key}",
            note=progress.note,
        )
        with contextlib.closing(results):
            for done in results:
                failures += done.failures
                written.finish(done.files)
                progress.update(done.num_written + len(done.failures))
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


def _share(failed: int, num_images: int) -> str:
    return f"{failed:,} of {num_images:,} images ({failed / num_images:.2%})"


def _summarise(out: Path, outputs: Outputs, *, num_images: int, num_new: int, failed: int) -> None:
    names: dict[Kind, str] = {"map": "maps", "cutout": "cut-outs", "overlay": "overlays"}
    kinds = [names[kind] for kind in names if kind in outputs.kinds]
    done = num_images - failed
    state = f"{num_new:,} new" if num_new or failed else "done already, nothing new"
    print(f"predict: {done:,} images in {out} ({', '.join(kinds)}; {state})")
    if failed:
        say_error(
            f"predict: {_share(failed, num_images)} failed: {out}/{FILE_NAME}; the same command "
            "retries them"
        )
    words = ["--pred", str(out), "--truth", "DIR", "--out", f"scores/{out.name}"]
    say_next(shlex.join(["a2s", "evaluate", *words]))
