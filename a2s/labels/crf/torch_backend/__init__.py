"""torch backend of the dense CRF: batches of images of any sizes, on a GPU or (slowly) a CPU."""

from a2s.labels.crf.torch_backend.inference import crf, foreground_probability

__all__ = ["IS_BATCHED", "crf", "foreground_probability"]

IS_BATCHED = True
