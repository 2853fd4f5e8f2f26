"""Folder layouts of the common saliency benchmarks: as published, and as often repacked.

Folder names are matched case-insensitively, in the given folder and in subfolders, because archives
add levels (`ECSSD/ECSSD/images`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from a2s.data.file_tree import read_lines
from a2s.data.keys import encode_key
from a2s.errors import DataError
from a2s.storage.files import read_bytes

MAX_DEPTH = 4


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: candidate folders of images and masks, most likely first, and its source.

    `split` holds names of list files (`testImgSet`: the authors' .mat, .txt or .lst) if only a part
    is for testing. Images and masks in one folder are distinguished by their suffix.
    """

    name: str
    num_images: int
    folders: tuple[tuple[str, str], ...]
    source: str
    split: tuple[str, ...] = ()


_REPACKED = (
    ("Image", "Mask"),
    ("images", "masks"),
    ("Imgs", "GT"),
    ("imgs", "gt"),
    ("img", "gt"),
    ("image", "mask"),
    ("images", "segmentations"),
    ("images", "GT"),
)

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "ECSSD",
            1000,
            (("images", "ground_truth_mask"), *_REPACKED),
            "www.cse.cuhk.edu.hk/leojia/projects/hsaliency/dataset.html",
        ),
        Benchmark(
            "PASCAL-S",
            850,
            (("datasets/imgs/pascal", "datasets/masks/pascal"), *_REPACKED),
            "cbs.ic.gatech.edu/salobj (salObj.zip)",
        ),
        Benchmark(
            "HKU-IS",
            4447,
            (("imgs", "gt"), *_REPACKED),
            "i.cs.hku.hk/~gbli/deep_saliency.html",
        ),
        Benchmark(
            "DUTS-TE",
            5019,
            (("DUTS-TE-Image", "DUTS-TE-Mask"), *_REPACKED),
            "saliencydetection.net/duts",
        ),
        Benchmark(
            "DUT-OMRON",
            5168,
            (("DUT-OMRON-image", "pixelwiseGT-new-PNG"), *_REPACKED),
            "saliencydetection.net/dut-omron",
        ),
        Benchmark(
            "MSRA-B",
            2000,
            (("MSRA-B", "MSRA-B"), ("Imgs", "Imgs"), *_REPACKED),
            "mmcheng.net/msra10k (MSRA-B.zip); lists: people.cs.umass.edu/~hzjiang/drfi",
            split=("testImgSet", "msra_b_test", "test"),
        ),
    )
}


@dataclass(frozen=True)
class BenchmarkFolders:
    """Folders of a benchmark; `keys`: the images for testing (None: all)."""

    images: Path
    masks: Path
    keys: frozenset[str] | None


def find_benchmark(name: str, root: Path) -> BenchmarkFolders:
    """Find a benchmark below the folder that its archives were unpacked to.

    Raises:
        DataError: the folder is missing, matches no known layout, or lacks the list of its split.
    """
    benchmark = BENCHMARKS[name]
    if not root.is_dir():
        state = "is a file, not a folder" if root.exists() else "there is no such folder"
        raise DataError(f"{root}: {state}; give the folder that {name} was unpacked to")
    folders = {"": root} | dict(_folders(root, depth=MAX_DEPTH))
    for images, masks in benchmark.folders:
        pairs = list(product(_ending(folders, images), _ending(folders, masks)))
        if pairs:
            at_images, at_masks = min(pairs, key=_distance)
            keys = _split(benchmark, root, folders)
            return BenchmarkFolders(folders[at_images], folders[at_masks], keys)
    wanted = ", ".join(f"{images}/ + {masks}/" for images, masks in benchmark.folders[:3])
    raise DataError(
        f"{root}: not {name} as known: looked for {wanted} and other common names, "
        f"{MAX_DEPTH} folders deep; give the masks with --truth instead"
    )


def _folders(root: Path, *, depth: int, above: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the folders below `root` with their lower-case relative names, nearest first."""
    inner = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    named = [(f"{above}{path.name.lower()}", path) for path in inner if path.name != "__MACOSX"]
    yield from named
    if depth > 1:
        for name, path in named:
            yield from _folders(path, depth=depth - 1, above=f"{name}/")


def _ending(folders: dict[str, Path], wanted: str) -> list[str]:
    """Relative names of the folders that equal or end with `wanted`; the root's name is empty."""
    wanted = wanted.lower()
    found = [name for name in folders if name == wanted or name.endswith(f"/{wanted}")]
    return found or ([""] if folders[""].name.lower() == wanted else [])


def _distance(pair: tuple[str, str]) -> tuple[bool, int, tuple[str, str]]:
    """Sort key: sibling folders first, then folders nearer to the root."""
    parents = [name.rpartition("/")[0] for name in pair]
    return parents[0] != parents[1], sum(name.count("/") for name in pair), pair


def _split(benchmark: Benchmark, root: Path, folders: dict[str, Path]) -> frozenset[str] | None:
    if not benchmark.split:
        return None
    names = [f"{stem}{suffix}" for stem in benchmark.split for suffix in (".mat", ".txt", ".lst")]
    for name in names:
        for folder in folders.values():
            if (folder / name).is_file():
                return _listed(folder / name)
    raise DataError(
        f"{root}: no list of {benchmark.name}'s {benchmark.num_images:,} test images here "
        f"({', '.join(names[:3])}); put it there ({benchmark.source}), or give the masks of the "
        "test images with --truth"
    )


def _listed(file: Path) -> frozenset[str]:
    """Read the keys of the pictures in a list: one per line or cell, with or without suffix."""
    try:
        names = _cells(file) if file.suffix == ".mat" else _words(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    if not names:
        raise DataError(f"{file}: names no picture")
    keys = set()
    for name in names:
        last = name.replace("\\", "/").rpartition("/")[2]
        stem, dot, _ = last.rpartition(".")
        try:
            keys.add(encode_key(stem if dot else last))
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
    return frozenset(keys)


def _words(file: Path) -> list[str]:
    return [line.split()[0] for line in read_lines(file)]


def _cells(file: Path) -> list[str]:
    from scipy.io import loadmat

    data = read_bytes(file)
    try:
        content = loadmat(io.BytesIO(data), simplify_cells=True, variable_names=[file.stem])
        if file.stem not in content:
            raise DataError(f"{file}: holds no variable {file.stem}")
        return [str(name) for name in content[file.stem].ravel()]
    except DataError:
        raise
    except Exception as error:  # on arbitrary bytes this parser raises any exception
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file}: is not a MATLAB file that can be read ({why})") from error
