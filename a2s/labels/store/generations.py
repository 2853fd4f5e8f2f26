"""Label generations: an epoch reads generation g and writes generation g + 1 (Eqn 13, 14).

    labels/00003/s00000000-r0001-00000.rows    row file of rank 1, which starts at step 0
    labels/generation-00003-s00000412.json     partial manifest: row files of the steps before 412
    labels/generation-00003.json               manifest: all row files, checksum of the table
    labels/generation-00003.table              int32[2, index rows]: file and position of a row

Rank 0 writes the manifests. A run's commit names at most one manifest and one partial manifest.
Files that no kept commit refers to are left over from a crash or from older generations; `clean`
removes them. Files are never overwritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from a2s.errors import LabelError
from a2s.labels.store.fixed_point import from_u16
from a2s.labels.store.rows import (
    DTYPE,
    RowFile,
    cure,
    read_header,
    read_row,
    row_file_name,
)
from a2s.storage.files import atomic_write, read_json, write_json
from a2s.storage.hashing import sha256_file
from a2s.storage.parsing import first_problem

VERSION = 1
_MAX_SIDE = 65_535
_NAME = r"generation-\d{5}(-s\d{8})?\.(json|table)|s\d{8}-r\d{4}-\d{5}\.rows"
_PART = re.compile(r"generation-\d{5,}-s\d{8,}\.json")
_ROW_FILE = re.compile(r"\d{5,}/[\w-]+\.rows", re.ASCII)
_FOLDER = re.compile(r"\d{5}")
_STORE_FILE = re.compile(rf"({_NAME})|\.({_NAME})\..*\.tmp")
Table = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Generation:
    """A published generation of labels.

    Shape: table_2N int32: file number, and position in the file, of each row of the data's index;
    -1 for a row without a label.
    """

    folder: Path
    number: int
    height: int
    width: int
    files: tuple[RowFile, ...]
    table_2N: Table

    @classmethod
    def load(cls, folder: Path, number: int) -> Generation:
        """Open a published generation.

        Raises: LabelError if manifest or table is missing or damaged.
        """
        path = folder / generation_name(number)
        manifest = _read_manifest(path)
        files = tuple(manifest.files)
        if manifest.table is None or manifest.table.name != f"{path.stem}.table":
            raise LabelError(f"{path} is not the manifest of a whole generation{cure(folder)}")
        shape = (2, manifest.num_rows)
        height, width = manifest.height, manifest.width
        table_path, sha256 = folder / manifest.table.name, manifest.table.sha256
        try:
            found = sha256_file(table_path)
        except OSError as error:
            text = f"{table_path}, named by {path.name}, cannot be read{cure(folder)}"
            raise LabelError(text) from error
        if found != sha256:
            raise LabelError(f"{table_path} does not match {path.name} (sha256){cure(folder)}")
        if not 0 < table_path.stat().st_size == 8 * manifest.num_rows:
            raise LabelError(f"{table_path} has not the size that {path.name} says{cure(folder)}")
        table_2N = np.memmap(table_path, dtype="<i4", mode="r", shape=shape)
        if int(table_2N[0].max()) >= len(files):
            raise LabelError(f"{table_path} names files that {path.name} does not{cure(folder)}")
        return cls(folder, number, height, width, files, table_2N)

    @property
    def has_label_N(self) -> npt.NDArray[np.bool_]:
        """Which rows of the index have a label."""
        return np.asarray(self.table_2N[0] >= 0)

    def read_u16(self, row_index: int) -> npt.NDArray[np.uint16]:
        """Read the encoded label of a row.

        Raises: LabelError if the row has no label or its file is damaged.
        """
        file, position = (int(value) for value in self.table_2N[:, row_index])
        if file < 0:
            raise LabelError(
                f"{self.folder}: generation {self.number} has no label for row {row_index}"
            )
        return read_row(self.folder, self.files[file], position, row_index=row_index)

    def read(self, row_index: int) -> npt.NDArray[np.float32]:
        """Read the label of a row.

        Shape: float32[height, width]. Range: [0, 1].
        Raises: LabelError if the row has no label or its file is damaged.
        """
        return from_u16(self.read_u16(row_index))


def check_whole(folder: Path, number: int) -> None:
    """Read every byte of a generation.

    Raises: LabelError if its manifest, its table, or one of its labels is missing or damaged.
    """
    _check_files(folder, Generation.load(folder, number).files)


def check_part(folder: Path, name: str) -> None:
    """Read every byte of the row files that a partial manifest names.

    Raises: LabelError if the manifest or one of its labels is missing or damaged.
    """
    _check_files(folder, load_part(folder, name))


def _check_files(folder: Path, files: Iterable[RowFile]) -> None:
    for file in files:
        for position, row in enumerate(read_header(folder, file.name).rows_N.tolist()):
            read_row(folder, file, position, row_index=row)


def collect(
    folder: Path, *, generation: int, step: int, num_files_by_rank: Sequence[int]
) -> list[RowFile]:
    """Return the row files that all ranks wrote from `step` on, given their number per rank.

    Raises: LabelError if one of them is missing or damaged.
    """
    names = (
        row_file_name(generation=generation, step=step, rank=rank, number=number)
        for rank, num_files in enumerate(num_files_by_rank)
        for number in range(num_files)
    )
    return [read_header(folder, name).file for name in names]


def generation_name(generation: int) -> str:
    """Name of a generation's manifest."""
    return f"generation-{generation:05d}.json"


def part_name(generation: int, *, step: int) -> str:
    """Name of the partial manifest of a generation's labels before `step`."""
    return f"generation-{generation:05d}-s{step:08d}.json"


def publish_part(folder: Path, *, generation: int, step: int, files: Sequence[RowFile]) -> str:
    """Write the partial manifest of the steps before `step`; return its name, for the commit."""
    name = part_name(generation, step=step)
    write_json(folder / name, {"version": VERSION, "files": [asdict(file) for file in files]})
    return name


def load_part(folder: Path, name: str) -> list[RowFile]:
    """Read the row files that a partial manifest names.

    Raises: LabelError if it is missing or damaged.
    """
    if not _PART.fullmatch(name):
        raise LabelError(f"{folder}: {name!r} is not the name of a partial manifest")
    return _read_manifest(folder / name).files


def publish(
    folder: Path,
    *,
    generation: int,
    files: Sequence[RowFile],
    keep_N: npt.NDArray[np.bool_],
    height: int,
    width: int,
) -> str:
    """Write table and manifest of a complete generation; return the manifest's name.

    `keep_N` selects the rows of the index that must have exactly one label each.
    Raises: LabelError if a row is missing, duplicate, or of another size.
    """
    table_2N = np.full((2, len(keep_N)), -1, "<i4")
    num_labels = 0
    for number, file in enumerate(files):
        header = read_header(folder, file.name)
        if header.file != file or (header.height, header.width) != (height, width):
            raise LabelError(f"{folder / file.name} is not the file that this run wrote")
        table_2N[0, header.rows_N] = number
        table_2N[1, header.rows_N] = np.arange(file.count)
        num_labels += file.count
    wrong_N = (table_2N[0] >= 0) != keep_N
    if wrong_N.any() or num_labels != int(keep_N.sum()):
        raise LabelError(
            f"{folder}: generation {generation} does not have exactly one label per image "
            f"({num_labels} labels for {int(keep_N.sum())} images, {int(wrong_N.sum())} rows "
            "differ): not published"
        )
    table_name = f"generation-{generation:05d}.table"
    atomic_write(folder / table_name, table_2N.tobytes())
    name = generation_name(generation)
    manifest = {
        "version": VERSION,
        "generation": generation,
        "height": height,
        "width": width,
        "dtype": DTYPE,
        "num_rows": len(keep_N),
        "num_labels": num_labels,
        "table": {"name": table_name, "sha256": sha256_file(folder / table_name)},
        "files": [asdict(file) for file in files],
    }
    write_json(folder / name, manifest)
    return name


def contents(folder: Path) -> list[Path]:
    """List all files and folders of the store."""
    return sorted(folder.rglob("*"))


def clean(folder: Path, *, keep: Iterable[str], found: Sequence[Path] | None = None) -> int:
    """Delete all files of the store that the kept manifests do not name; return their number.

    Call it only after the commit that names these manifests is durable. No rank may be writing,
    unless `found` is given: the `contents` of the store at a time when no rank was writing.
    """
    found = contents(folder) if found is None else found
    kept: set[str] = set()
    for name in keep:
        manifest = _read_manifest(folder / name)
        kept.add(name)
        kept.update(file.name for file in manifest.files)
        if manifest.table is not None:
            kept.add(manifest.table.name)
    num_removed = 0
    for path in found:
        name = path.relative_to(folder).as_posix()
        is_file = path.is_file() or path.is_symlink()
        if is_file and _STORE_FILE.fullmatch(path.name) and name not in kept:
            path.unlink()
            num_removed += 1
    for path in found:
        is_generation_folder = (
            path.parent == folder and _FOLDER.fullmatch(path.name) and path.is_dir()
        )
        if is_generation_folder and not any(path.iterdir()):
            path.rmdir()
    return num_removed


def _of_the_store(file: RowFile) -> RowFile:
    if not _ROW_FILE.fullmatch(file.name):
        raise ValueError(f"{file.name!r} is not the name of a row file")
    return file


class _Table(BaseModel):
    """Manifest entry of a table."""

    name: str
    sha256: str


class _Manifest(BaseModel):
    """A manifest, whole or partial; all names are of files of the store."""

    version: Literal[1]
    files: list[Annotated[RowFile, AfterValidator(_of_the_store)]]
    table: _Table | None = None
    num_rows: int = Field(0, ge=0)
    height: int = Field(0, ge=0, le=_MAX_SIDE)
    width: int = Field(0, ge=0, le=_MAX_SIDE)


def _read_manifest(path: Path) -> _Manifest:
    try:
        return _Manifest.model_validate(read_json(path))
    except ValidationError as error:
        raise LabelError(
            f"{path} is not a manifest of labels of version {VERSION} ({first_problem(error)})"
            f"{cure(path.parent)}"
        ) from None
    except (OSError, ValueError) as error:
        raise LabelError(
            f"{path}: a manifest of labels cannot be read ({error}){cure(path.parent)}"
        ) from error
