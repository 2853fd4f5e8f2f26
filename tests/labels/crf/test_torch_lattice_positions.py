"""Position lattices: equal if built alone or together; size limit of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from a2s.labels.crf.torch_backend import lattice_positions


def test_position_lattices_are_equal_built_alone_or_together() -> None:
    sizes = [(40, 52), (1, 7), (33, 20), (1, 1), (200, 3), (52, 40)]
    device, dtype = torch.device("cpu"), torch.float32
    together = lattice_positions.build(sizes, 3.0, device, dtype)
    for size, lattice in zip(sizes, together, strict=True):
        (alone,) = lattice_positions.build([size], 3.0, device, dtype)
        for name, tensor in vars(alone).items():
            other = getattr(lattice, name)
            if name == "piece_starts":
                tensor = tensor[: len(other)]  # empty pieces follow
            assert torch.equal(tensor, other), (size, name)
        assert lattice.vertex_pieces[-1] == len(lattice.piece_starts) - 1


def test_cache_of_position_lattices_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    device, dtype, build = torch.device("cpu"), torch.float32, lattice_positions.build
    built: list[tuple[int, int]] = []

    def noted(sizes: Sequence[tuple[int, int]], *rest: Any) -> Any:
        built.extend(sizes)
        return build(sizes, *rest)

    def built_for(*sizes: tuple[int, int]) -> list[tuple[int, int]]:
        built.clear()
        lattice_positions.position_lattices(sizes, 3.0, device, dtype)
        return list(built)

    monkeypatch.setattr(lattice_positions, "build", noted)
    with monkeypatch.context() as patch:
        patch.setattr(lattice_positions, "KEEP_BYTES", 0)
        built_for((5, 5))
    assert built_for((5, 5)) == [(5, 5)], "nothing was kept"
    with monkeypatch.context() as patch:
        patch.setattr(lattice_positions, "KEEP_BYTES", 0)
        built_for((6, 6))
    assert built_for((9, 9), (8, 8)) == [(9, 9), (8, 8)]
    assert built_for((9, 9), (9, 9)) == []
    lattices = build([(9, 9), (8, 8)], 3.0, device, dtype)
    num_bytes = sum(tensor.nbytes for lattice in lattices for tensor in vars(lattice).values())
    monkeypatch.setattr(lattice_positions, "KEEP_BYTES", num_bytes)
    assert built_for((7, 7)) == [(7, 7)]
    assert built_for((9, 9), (7, 7)) == []
    assert built_for((8, 8)) == [(8, 8)], "it was used longest ago"
