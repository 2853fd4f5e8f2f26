"""Inputs that fuzzers began from, and those that have broken something once, break nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_targets import TARGETS, first_inputs

SEEDS = Path(__file__).parent / "seeds"


@pytest.mark.parametrize("name", TARGETS)
def test_no_seed_breaks_anything(name: str) -> None:
    stored = [path.read_bytes() for path in sorted((SEEDS / name).glob("*"))]
    for data in (*first_inputs(name), *stored):
        TARGETS[name](data)


def test_every_stored_seed_belongs_to_a_target() -> None:
    folders = {path.name for path in SEEDS.iterdir()} if SEEDS.is_dir() else set()
    assert folders <= TARGETS.keys()


def test_first_inputs_are_read() -> None:
    """Else a fuzzer would begin where everything is refused at once."""
    from a2s.data.images import probe

    for data in first_inputs("image")[:-1]:
        assert probe(data).width == 8
