"""`a2s export-weights`: a model of ours becomes a checkpoint as the paper's authors name it."""

from __future__ import annotations

from a2s import checkpoint, rundir, tensorfile
from a2s.config import ExportWeightsConfig


def run(config: ExportWeightsConfig) -> int:
    """Export one model, or find that it has been; return 0.

    Raises:
        CheckpointError: the model cannot be read, or the authors' network is another.
        ConfigError: the output is there and was made from something else.
    """
    model, out = checkpoint.resolve_model(config.model), config.out
    provenance = {"format": "pt", "model_sha256": rundir.sha256_file(model)}
    if tensorfile.is_written(out, provenance):
        print(f"export-weights: done already: {out} was made from {model}")
        return 0
    # Here, so that a finished export is recognised without torch.
    from a2s.models.released import to_released

    network, metadata = checkpoint.load_model(model)
    tensors = to_released(network, checkpoint.load_unused(model))
    tensorfile.write(out, tensors, metadata=provenance)
    print(
        f"export-weights: {out} holds the {metadata['kind']} network of {model}, {len(tensors)} "
        "tensors by the authors' names"
    )
    return 0
