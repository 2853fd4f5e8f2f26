"""Lattices of positions: built together as alone, and kept within a budget."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

from a2s.labels.crf.torch_backend import lattice_positions


def test_lattices_of_positions_are_the_same_built_alone_or_together() -> None:
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


def test_lattices_of_positions_are_kept_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lattice_positions, "_kept", OrderedDict())
    device, dtype = torch.device("cpu"), torch.float32

    def kept(*sizes: tuple[int, int]) -> list[tuple[int, int]]:
        lattice_positions.position_lattices(sizes, 3.0, device, dtype)
        return [size for size, *_ in lattice_positions._kept]

    assert kept((9, 9), (8, 8)) == [(9, 9), (8, 8)]
    assert kept((9, 9), (9, 9)) == [(8, 8), (9, 9)]
    num_bytes = sum(map(lattice_positions._num_bytes, lattice_positions._kept.values()))
    monkeypatch.setattr(lattice_positions, "KEEP_BYTES", num_bytes)
    assert kept((7, 7)) == [(9, 9), (7, 7)]
