"""Features in device memory: the same numbers as without a cache, encoded once."""

from __future__ import annotations

import pytest
import torch
from feature_encoder import CHANNELS, SIZE, SLOT_BYTES, Encoder, not_left_out
from torch import Tensor

from a2s.errors import DataError
from a2s.training.features.file_cache import FeatureCache
from a2s.training.features.gpu_cache import CHUNK, GpuFeatureCache, open_cache

CPU = torch.device("cpu")
BUDGET = 1 << 20
ROWS = [0, 1, 2, 3, -1]


def make(**changed: object) -> GpuFeatureCache:
    settings: dict[str, object] = {
        "num_images": 4,
        "image_size": SIZE,
        "channels": CHANNELS,
        "dtype": torch.float16,
        "budget_bytes": BUDGET,
        **changed,
    }
    return GpuFeatureCache(CPU, **settings)  # type: ignore[arg-type]


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


def fetch(cache: GpuFeatureCache | FeatureCache, images: Tensor, encode: Encoder) -> list[Tensor]:
    picked = torch.stack([images[row] if row >= 0 else images[0] * 0 for row in ROWS])
    mirrored = [row % 2 == 1 for row in ROWS]
    return list(
        cache.fetch(picked, rows=ROWS, mirrored=mirrored, encode=encode, read_image=not_left_out)
    )


@pytest.mark.parametrize("slots", [0, 3, 8])
def test_results_are_those_of_the_file_for_any_budget(images: Tensor, slots: int) -> None:
    shape = {"num_images": 4, "image_size": SIZE, "channels": CHANNELS, "dtype": torch.float16}
    plain = open_cache(CPU, None, made_from={}, budget_bytes=0, **shape)
    assert isinstance(plain, FeatureCache)
    expected = fetch(plain, images, Encoder())
    cache, encode = make(budget_bytes=slots * SLOT_BYTES), Encoder()
    assert cache.capacity == slots
    assert ("recomputed" in cache.describe()) == (slots < 8)
    for _ in range(2):
        got = fetch(cache, images, encode)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        cache.check()
    # Rows 0..3 use the slots 0, 3, 4, 7; images are encoded in chunks of one size.
    assert [cache.has(row, mirrored=row % 2 == 1) for row in range(4)] == [
        slot < slots for slot in (0, 3, 4, 7)
    ]
    assert encode.images == CHUNK * (1 if slots == 8 else 2)


def test_nobody_needs_the_images_whose_features_are_here(images: Tensor) -> None:
    cache, encode = make(), Encoder()
    expected = fetch(cache, images, encode)
    empty = torch.zeros(len(ROWS), 3, 0, 0, dtype=torch.uint8)
    mirrored = [row % 2 == 1 for row in ROWS]
    encode.images = 0
    again = cache.fetch(empty, rows=ROWS, mirrored=mirrored, encode=encode, read_image=not_left_out)
    assert encode.images == 0
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))
    assert not cache.has(2, mirrored=True)


def test_features_that_do_not_fit_are_told_when_asked(images: Tensor) -> None:
    def huge(image_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e3, e4, e5 = Encoder()(image_B3SS)
        return e3, e4 * 1e6, e5

    cache = make()
    cache.fetch(images[:1], rows=[0], mirrored=[False], encode=huge, read_image=not_left_out)
    with pytest.raises(DataError, match="--cache-dtype float32"):
        cache.check()
