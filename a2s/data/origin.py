"""Whether labels were made of the images with which they shall be used.

A label shard has the name of the data shard that it was made of, and its manifest the SHA-256 of
that shard's tar. Keys alone would pair labels with the images of any data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from a2s.data.index import Index
from a2s.data.shards import read_manifest
from a2s.errors import DataError
from a2s.storage.files import read_text
from a2s.storage.parsing import parse_yaml


def refuse_other_images(labels: Index, data: Index, *, command: str) -> None:
    """Raise DataError if labels were made of other images than those of `data`.

    Labels that do not say of what they were made are taken: those of older versions and of other
    programs.
    """
    _compare(
        *(labels.folder, {shard.name: shard.made_of for shard in labels.shards}),
        *(data.folder, {shard.name: shard.sha256 for shard in data.shards}),
        command=command,
    )


def refuse_folders_of_other_images(labels: Path, data: Path, *, command: str) -> None:
    """As `refuse_other_images`, for folders of which nothing may be finished.

    Manifests that cannot be read say nothing; nor do folders without shards.
    """
    made_of = _manifests(labels, lambda manifest: manifest.get("data_sha256"))
    hashes = _manifests(data, lambda manifest: manifest["tar_sha256"])
    if hashes:
        _compare(labels, made_of, data, hashes, command=command)


def _manifests(
    folder: Path, entry: Callable[[dict[str, Any]], str | None]
) -> dict[str, str | None]:
    found = {}
    for path in sorted(folder.glob("shard-*.json")):
        try:
            found[path.stem] = entry(read_manifest(path))
        except (OSError, ValueError):
            continue
    return found


def _compare(
    labels: Path,
    made_of: Mapping[str, str | None],
    data: Path,
    hashes: Mapping[str, str | None],
    *,
    command: str,
) -> None:
    for name, sha256 in made_of.items():
        if sha256 is not None and sha256 != hashes.get(name):
            raise DataError(
                f"{command}: {labels} holds no labels of {data} ({name} was made of other images, "
                f"or of these before they were packed anew); give the data with which they were "
                f"made{_recorded_data(labels)}, or label these images: a2s label --data {data} "
                "--out NEW"
            )


def _recorded_data(labels: Path) -> str:
    """The data folder of a2s label, as its settings name it, in brackets; "" if they do not."""
    try:
        name = parse_yaml(read_text(labels / "config.yaml"))["label"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" ({name})" if isinstance(name, str) else ""
