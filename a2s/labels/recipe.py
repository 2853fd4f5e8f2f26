"""What `label` and `estimate` decide before they start: who computes the CRF, with what recipe."""

from __future__ import annotations

from typing import Literal

from a2s.config.base import RefineConfig
from a2s.labels.crf.backends import choose_backend, crf_of, is_batched
from a2s.labels.crf.energy import CrfParams, energy_of
from a2s.labels.refine import Recipe
from a2s.parallel import pool


def with_backend(
    refine: RefineConfig, *, ray_address: str | None, recorded: str | None = None
) -> RefineConfig:
    """Settings in which `auto` is what was `recorded`, else what fits the device."""
    backend: str = refine.backend
    if backend == "auto":
        backend = recorded or choose_backend(backend, on_gpu=pool.has_gpu(ray_address))
    return refine.model_copy(update={"backend": backend})


def crf_is_batched(settings: RefineConfig) -> bool:
    """Whether the CRF of resolved settings runs beside a network, on its GPU, in batches.

    Raises:
        ConfigError: the backend's library is not installed.
    """
    assert settings.backend != "auto"
    return is_batched(settings.backend)


def recipe_of(
    settings: RefineConfig, *, crf_input: Literal["hard", "soft"] = "hard", sign_tie: int = 1
) -> Recipe:
    """What refines a map, from resolved settings and the sign rule of its model.

    Raises:
        ConfigError: the backend's library is not installed.
    """
    assert settings.backend != "auto"
    return Recipe(
        energy=energy_of(crf_input),
        crf=crf_of(settings.backend),
        params=CrfParams(iterations=settings.iterations),
        median=settings.median,
        max_side=settings.max_side,
        sign_tie=sign_tie,
    )
