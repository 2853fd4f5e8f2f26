"""`a2s export-weights`: convert a model to a checkpoint in the layout of the paper's authors."""

from __future__ import annotations

from a2s.config.commands import ExportWeightsConfig
from a2s.models import saved
from a2s.storage import hashing
from a2s.storage.tensors import is_written, write


def run(config: ExportWeightsConfig) -> int:
    """Export one model, unless that is done already; return 0.

    Raises:
        CheckpointError: the model cannot be read, or differs from the authors' network.
        ConfigError: the output exists and was made from something else.
    """
    model, out = saved.resolve_model(config.model), config.out
    provenance = {"format": "pt", "model_sha256": hashing.sha256_file(model)}
    if is_written(out, provenance):
        print(f"export-weights: done already: {out} was made from {model}")
        return 0
    # Imported here, so that a finished export needs no torch.
    from a2s.models.authors_checkpoint import to_released

    network, metadata = saved.load_model(model)
    tensors = to_released(network, saved.load_unused(model))
    write(out, tensors, metadata=provenance)
    print(
        f"export-weights: {out} holds the {metadata['kind']} network of {model}, {len(tensors)} "
        "tensors by the authors' names"
    )
    return 0
