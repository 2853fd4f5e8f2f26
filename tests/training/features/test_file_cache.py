"""The feature cache: it may change the time a run takes, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_encoder import CHANNELS, SIZE, SLOT_BYTES, Encoder, not_left_out
from torch import Tensor

from a2s.errors import ConfigError, DataError
from a2s.models.encoders import build_encoder
from a2s.training.features import file_cache
from a2s.training.features.file_cache import FeatureCache, fingerprint_tensors


def make_cache(folder: Path, **changed: object) -> FeatureCache:
    settings: dict[str, object] = {
        "made_from": {"data": "d", "encoder": "e"},
        "num_images": 4,
        "image_size": SIZE,
        "channels": CHANNELS,
        "dtype": torch.float16,
        "budget_bytes": 1 << 20,
        **changed,
    }
    return FeatureCache(folder, **settings)  # type: ignore[arg-type]


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


def fetch(cache: FeatureCache, images: Tensor, encode: Encoder, rows: list[int]) -> list[Tensor]:
    picked = torch.stack([images[row] if row >= 0 else images[0] * 0 for row in rows])
    mirrored = [row % 2 == 1 for row in rows]
    return list(
        cache.fetch(picked, rows=rows, mirrored=mirrored, encode=encode, read_image=not_left_out)
    )


@pytest.mark.parametrize("slots", [0, 3, 8])
def test_results_do_not_depend_on_the_budget(tmp_path: Path, images: Tensor, slots: int) -> None:
    budget = slots * (SLOT_BYTES + 8)
    cache, encode = make_cache(tmp_path / "c", budget_bytes=budget), Encoder()
    assert cache.capacity == slots
    assert ("recomputed" in cache.describe()) == (slots < 8)
    plain = make_cache(tmp_path / "n", budget_bytes=0)
    assert not (tmp_path / "n").exists()
    expected = fetch(plain, images, Encoder(), [0, 1, 2, 3, -1])
    for repetition in range(2):
        got = fetch(cache, images, encode, [0, 1, 2, 3, -1])
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True)), repetition
    # Rows 0..3 use the slots 0, 3, 4, 7.
    cached = sum(slot < slots for slot in (0, 3, 4, 7))
    assert encode.images == 4 + (4 - cached)
    assert all((feature[4] == 0).all() for feature in expected)
    assert expected[0].dtype == torch.float32
    assert not torch.equal(expected[0], Encoder()(images)[0]), "nothing was rounded"


def test_an_image_that_the_loader_left_out_is_read_when_its_features_went(
    tmp_path: Path, images: Tensor
) -> None:
    cache = make_cache(tmp_path)
    expected = fetch(cache, images, Encoder(), [2])
    assert cache.path is not None
    with cache.path.open("r+b") as file:  # another process has the data half written
        file.seek(cache._data_start + 4 * cache.slot_bytes)
        file.write(b"\xff")
    later = make_cache(tmp_path)
    left_out, settings = images[2:3] * 0, {"rows": [2], "mirrored": [False], "encode": Encoder()}
    got = later.fetch(left_out, **settings, read_image=lambda row: images[row])
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_mirror_images_are_kept_apart(tmp_path: Path, images: Tensor) -> None:
    cache, encode = make_cache(tmp_path), Encoder()
    one = images[:1]
    straight = cache.fetch(one, rows=[0], mirrored=[False], encode=encode, read_image=not_left_out)[
        0
    ]
    mirror = cache.fetch(one, rows=[0], mirrored=[True], encode=encode, read_image=not_left_out)[0]
    assert not torch.equal(straight, mirror)
    again = cache.fetch(
        one.flip(-1), rows=[1], mirrored=[True], encode=encode, read_image=not_left_out
    )[0]
    assert torch.equal(again, straight)


def test_two_processes_share_one_file_and_a_later_one_finds_it(
    tmp_path: Path, images: Tensor
) -> None:
    first, second = make_cache(tmp_path), make_cache(tmp_path)
    encode = Encoder()
    child = os.fork()
    if child == 0:
        fetch(first, images, encode, [0, 1])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    expected = fetch(make_cache(tmp_path, budget_bytes=0), images, Encoder(), [0, 1])
    got = fetch(second, images * 0, encode, [0, 1])
    assert encode.images == 0
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["no_mark", "torn_data"])
def test_a_writer_killed_in_the_middle_leaves_no_wrong_features(
    tmp_path: Path, images: Tensor, damage: str
) -> None:
    """Data without its mark, and (after a power cut) a mark without its data."""
    cache = make_cache(tmp_path)
    expected = fetch(cache, images, Encoder(), [2])
    assert cache.path is not None
    with cache.path.open("r+b") as file:
        if damage == "no_mark":
            file.seek(file_cache.HEADER_BYTES + 4 * file_cache.MARK_BYTES)
            file.write(bytes(8))
        else:
            file.seek(2 * 4096 + 4 * SLOT_BYTES + 7)
            file.write(b"\xff\x13")
    encode = Encoder()
    fresh = make_cache(tmp_path)
    assert not fresh.has(2, mirrored=False)
    got = fetch(fresh, images, encode, [2])
    assert encode.images == 1
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert make_cache(tmp_path).has(2, mirrored=False)


@pytest.mark.parametrize(
    "changed",
    [
        {"made_from": {"data": "other", "encoder": "e"}},
        {"made_from": {"data": "d", "encoder": "other"}},
        {"image_size": 64},
        {"dtype": torch.float32},
    ],
)
def test_a_stale_file_is_never_used(
    tmp_path: Path, images: Tensor, changed: dict[str, object]
) -> None:
    cache = make_cache(tmp_path)
    fetch(cache, images, Encoder(), [0])
    assert cache.has(0, mirrored=False)
    assert not make_cache(tmp_path, **changed).has(0, mirrored=False)


def test_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    path = make_cache(tmp_path).path
    assert path is not None
    with path.open("r+b") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match="delete it"):
        make_cache(tmp_path)


def test_a_full_disk_only_costs_time(
    tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, encode = make_cache(tmp_path), Encoder()

    def no_room(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_room)
    first = fetch(cache, images, encode, [0, 1])
    second = fetch(cache, images, encode, [0, 1])
    assert cache.full
    assert encode.images == 4
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_features_that_do_not_fit_are_an_error(tmp_path: Path, images: Tensor) -> None:
    def huge(image_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e3, e4, e5 = Encoder()(image_B3SS)
        return e3, e4 * 1e6, e5

    cache = make_cache(tmp_path)
    with pytest.raises(DataError, match="--cache-dtype float32"):
        cache.fetch(images[:1], rows=[0], mirrored=[False], encode=huge, read_image=not_left_out)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_real_encoders_give_an_image_the_same_bits_in_any_batch(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name).eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)

    @torch.no_grad()
    def encode(image_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e3, e4, e5 = encoder(image_B3SS.float() / 255)[2:]
        return e3, e4, e5

    cache = make_cache(tmp_path, channels=encoder.channels[2:], dtype=torch.float32, budget_bytes=0)
    together = cache.fetch(
        images, rows=[0, 1, 2], mirrored=[False] * 3, encode=encode, read_image=not_left_out
    )
    for row in range(3):
        alone = cache.fetch(
            images[row : row + 1],
            rows=[row],
            mirrored=[False],
            encode=encode,
            read_image=not_left_out,
        )
        assert all(torch.equal(a[row], b[0]) for a, b in zip(together, alone, strict=True))


def test_the_fingerprint_follows_the_weights() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2")
    before = fingerprint_tensors(encoder)
    assert fingerprint_tensors(encoder) == before
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += np.float32(1e-7)
    assert fingerprint_tensors(encoder) != before
