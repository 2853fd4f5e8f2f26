"""Names that settings offer are those of what they choose; settings may not import it."""

from __future__ import annotations

from typing import get_args

from a2s.config.base import BackendName, BenchmarkName, DetectorName, EncoderName
from a2s.config.training import Stage1Parity
from a2s.data.images import RESIZE_FILTERS
from a2s.evaluation.benchmarks import BENCHMARKS
from a2s.labels.crf.backends import BACKENDS
from a2s.models.boundary import BOUNDARIES
from a2s.models.detector import DETECTORS
from a2s.models.encoders import ENCODERS
from a2s.models.published_weights import REGISTRY


def test_settings_offer_what_there_is() -> None:
    assert set(get_args(EncoderName)) == set(ENCODERS)
    assert {source.encoder for source in REGISTRY.values()} <= set(ENCODERS)
    assert get_args(DetectorName) == DETECTORS
    assert set(get_args(BackendName)) == {"auto", *BACKENDS}
    assert set(get_args(BenchmarkName)) == set(BENCHMARKS)
    # The boundary `trained` is that of heads with labels; nobody chooses it.
    boundaries = set(BOUNDARIES) - {"trained"}
    for name, known in {"boundary": boundaries, "resize_filter": RESIZE_FILTERS}.items():
        assert set(get_args(Stage1Parity.model_fields[name].annotation)) == set(known)
