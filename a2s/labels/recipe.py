"""From settings to a refinement recipe: choose the CRF backend and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from a2s.config.base import RefineConfig
from a2s.labels.crf.backends import BACKENDS, choose_backend, crf_of, is_batched
from a2s.labels.crf.energy import CrfParams, energy_of
from a2s.labels.quality import NO_OBJECT_PEAK, WEIGHTS, Source
from a2s.labels.refine import Recipe


def with_backend(
    refine: RefineConfig, *, on_gpu: Callable[[], bool], recorded: object = None
) -> RefineConfig:
    """Replace the backend `auto` by the `recorded` one, or else by the one for this device.

    `on_gpu` is asked only then, since the answer may need torch.
    """
    backend: str = refine.backend
    if backend == "auto":
        # Settings may be damaged: another name is no backend, and `claim` refuses it.
        is_known = recorded in BACKENDS
        backend = str(recorded) if is_known else choose_backend(backend, on_gpu=on_gpu())
    return refine.model_copy(update={"backend": backend})


def crf_is_batched(settings: RefineConfig) -> bool:
    """Whether the CRF of resolved settings runs in batches on the network's GPU.

    Raises:
        ConfigError: the backend's library is not installed.
    """
    assert settings.backend != "auto"
    return is_batched(settings.backend)


def recipe_of(
    settings: RefineConfig,
    *,
    crf_input: Literal["hard", "soft"] = "hard",
    sign_tie: int | None = 1,
    source: Source = "head",
) -> Recipe:
    """Build the recipe from resolved settings and what is known of the model's maps (`Recipe`).

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
        # How high RBD's maps rise says nothing.
        no_object_peak=0.0 if source == "rbd" else NO_OBJECT_PEAK,
        quality=WEIGHTS[source],
    )
