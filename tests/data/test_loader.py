"""Data loader: each rank's part of the global batches, with any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from processes import pack

from a2s.data import images
from a2s.data.batch import Batch
from a2s.data.epoch_plan import make_plan
from a2s.data.index import Index
from a2s.data.loader import Images, PlanSampler, batches, make_loader
from a2s.data.transforms import draw_flip, draw_keep_words
from a2s.errors import DataError
from a2s.storage.hashing import key_hash


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.train, tmp_path_factory.mktemp("loader") / "data")


def label_of(row: int, epoch: int) -> np.ndarray:
    return np.full((32, 32), 100 * epoch + row, dtype=np.float32)


def only_even(row: int, mirrored: bool) -> bool:
    return row % 2 == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_together_read_the_global_batches(data: Path, workers: int) -> None:
    index = Index.load(data)
    dataset = Images(index, image_size=32, seed=0, read_label=label_of)
    for world in (1, 3):
        columns = [PlanSampler(rank=rank, world=world) for rank in range(world)]
        loaders = [make_loader(dataset, share, workers=workers) for share in columns]
        # The same persistent workers serve both epochs, so each request must carry its epoch.
        for epoch in (1, 2):
            plan = make_plan(index.shard_sizes, batch_size=6, seed=0, epoch=epoch)
            for share in columns:
                share.set(plan, epoch=epoch, start_step=epoch - 1)
            steps = list(zip(*(batches(loader) for loader in loaders), strict=True))
            assert len(steps) == plan.num_steps - (epoch - 1)
            for step, shares in enumerate(steps, start=epoch - 1):
                rows = torch.cat([share.row_B for share in shares])
                assert rows.tolist() == plan.batch(step).tolist()
                valid = torch.cat([share.valid_B for share in shares])
                assert torch.equal(valid, rows >= 0)
                labels = torch.cat([share.label_B1SS for share in shares])[:, 0, 0, 0]
                expected = torch.where(valid, 100 * epoch + rows, 0)
                assert labels.tolist() == expected.tolist()


def test_tensors_of_a_batch_share_one_buffer(data: Path) -> None:
    index, sides = Index.load(data), [(32, 32), (4, 4)]
    windows = {"crops": 0.5, "last_crop_epoch": 1}
    dataset = Images(index, image_size=32, seed=0, read_label=label_of, keep_sides=sides, **windows)
    columns = PlanSampler(rank=0, world=1)
    columns.set(make_plan(index.shard_sizes, batch_size=3, seed=0, epoch=1), epoch=1)
    requests = list(columns)
    came = list(batches(make_loader(dataset, columns, workers=1)))
    assert len(came) == len(requests)
    for batch, request in zip(came, requests, strict=True):
        expected = dataset.__getitems__(request)
        tensors = {name: value for name, value in vars(batch).items() if name[0] != "_"}
        assert set(tensors) == set(Batch.__annotations__)
        for name, tensor in tensors.items():
            assert torch.equal(tensor, getattr(expected, name)), name
            assert tensor.data_ptr() % 64 == 0
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 1
        on_device = batch.to(torch.device("cpu"))
        assert torch.equal(on_device.image_B3SS, batch.image_B3SS)
        assert on_device.image_B3SS.is_contiguous(memory_format=torch.channels_last)


def test_images_are_decoded_and_resized(data: Path) -> None:
    index = Index.load(data)
    batch = Images(index, image_size=32, seed=0).__getitems__([(2, 1), (-1, 1)])
    expected = images.resize_rgb(images.decode(index.read(2)), height=32, width=32)
    assert torch.equal(batch.image_B3SS[0].permute(1, 2, 0), torch.from_numpy(expected.copy()))
    hash_B = torch.tensor([key_hash(index.key(2)), 0])
    assert torch.equal(batch.flip_B, draw_flip(seed=0, epoch=1, key_hash_B=hash_B))
    assert torch.equal(batch.image_B3SS[1], batch.image_B3SS[0]), "padding is no black square"
    assert batch.label_B1SS is None
    assert batch.keep_BW is None


def test_draws_depend_on_seed_epoch_and_key(data: Path) -> None:
    index, sides = Index.load(data), [(32, 32), (4, 4)]
    dataset = Images(index, image_size=32, seed=5, keep_sides=sides)
    batch = dataset.__getitems__([(row, 3) for row in range(8)])
    hash_B = torch.tensor([key_hash(index.key(row)) for row in range(8)])
    assert torch.equal(batch.flip_B, draw_flip(seed=5, epoch=3, key_hash_B=hash_B))
    expected = draw_keep_words(seed=5, epoch=3, key_hash_B=hash_B, sides=sides)
    assert torch.equal(batch.keep_BW, expected)


def test_flip_once_holds_for_the_whole_run(data: Path) -> None:
    index = Index.load(data)
    dataset = Images(index, image_size=8, seed=5, flip_once=True)
    drawn = [
        dataset.__getitems__([(row, epoch) for row in range(len(index))]).flip_B
        for epoch in (1, 2, 9)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert 0 < drawn[0].sum() < len(index)
    other_seed = Images(index, image_size=8, seed=6, flip_once=True)
    of_other_seed = other_seed.__getitems__([(row, 1) for row in range(len(index))]).flip_B
    assert not torch.equal(drawn[0], of_other_seed)


def test_images_that_are_not_needed_are_not_decoded(data: Path) -> None:
    dataset = Images(Index.load(data), image_size=32, seed=0, needs_image=only_even)
    batch = dataset.__getitems__([(0, 1), (1, 1)])
    assert batch.image_B3SS[0].sum() > 0
    assert batch.image_B3SS[1].sum() == 0
    assert batch.valid_B.all()
    none = dataset.__getitems__([(1, 1), (3, 1)])
    assert none.image_B3SS.shape == (2, 3, 0, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_sample_raises_one_clear_error(data: Path, tmp_path: Path, workers: int) -> None:
    for path in data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = Index.load(tmp_path)
    shard = index.shards[1]
    content = bytearray(shard.path.read_bytes())
    start = int(index.offset_N[shard.start])
    content[start + 20 : start + 60] = bytes(40)
    shard.path.write_bytes(content)
    columns = PlanSampler(rank=0, world=1)
    columns.set(make_plan(index.shard_sizes, batch_size=4, seed=0, epoch=1), epoch=1)
    loader = make_loader(Images(index, image_size=32, seed=0), columns, workers=workers)
    with pytest.raises(DataError) as caught:
        list(batches(loader))
    assert str(shard.path) in str(caught.value)
    assert index.key(shard.start) in str(caught.value)
    assert "Traceback" not in str(caught.value)
