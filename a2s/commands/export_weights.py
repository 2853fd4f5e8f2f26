"""`a2s export-weights`: a model of ours becomes a checkpoint as the paper's authors name it."""

from __future__ import annotations

from a2s.config.commands import ExportWeightsConfig
from a2s.models import saved
from a2s.storage import hashing
from a2s.storage.tensors import is_written, write


def run(config: ExportWeightsConfig) -> int:
    """Export one model, or find that it has been; return 0.

    Raises:
        CheckpointError: the model cannot be read, or the authors' network is another.
        ConfigError: the output is there and was made from something else.
    """
    model, out = saved.resolve_model(config.model), config.out
    provenance = {"format": "pt", "model_sha256": hashing.sha256_file(model)}
    if is_written(out, provenance):
        print(f"export-weights: done already: {out} was made from {model}")
        return 0
    # Here, so that a finished export is recognised without torch.
    from a2s.models.authors_checkpoint import to_released

    network, metadata = saved.load_model(model)
    tensors = to_released(network, saved.load_unused(model))
    write(out, tensors, metadata=provenance)
    print(
        f"export-weights: {out} holds the {metadata['kind']} network of {model}, {len(tensors)} "
        "tensors by the authors' names"
    )
    return 0
