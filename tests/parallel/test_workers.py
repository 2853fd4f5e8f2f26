"""How many workers the pool takes, and what works without Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest
from repository import REPO

from a2s.errors import ConfigError
from a2s.parallel import pool


def test_resolve_workers() -> None:
    assert pool.resolve_workers("auto", 63) == 0
    assert pool.resolve_workers("auto", 64) == pool.num_cpus() >= 1
    assert pool.resolve_workers(3, 1) == 3
    with pytest.raises(ConfigError, match="-1"):
        pool.resolve_workers(-1, 100)


def test_two_cpus_have_threads_for_what_is_done_before_ray_pays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "num_cpus", lambda: 2)
    assert pool.resolve_workers("auto", 4_999, has_threads=True) == 0
    assert pool.resolve_workers("auto", 5_000, has_threads=True) == 2
    assert pool.resolve_workers("auto", 64) == 2
    assert pool.resolve_workers(2, 100, has_threads=True) == 2
    assert pool.resolve_workers("auto", 100, ray_address="a:1", has_threads=True) is None
    monkeypatch.setattr(pool, "num_cpus", lambda: 3)
    assert pool.resolve_workers("auto", 64, has_threads=True) == 3


def test_without_ray_auto_is_zero_and_a_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert pool.resolve_workers("auto", 1000) == 0
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install 'ray"):
        list(pool.map_items(abs, [1], workers=1))


def test_zero_workers_never_import_ray() -> None:
    code = (
        "import sys; from a2s.parallel import pool\n"
        "assert list(pool.map_items(abs, [-1, -2], workers=0)) == [1, 2]\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('ray', 'torch')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
