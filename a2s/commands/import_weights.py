"""`a2s import-weights`: convert a checkpoint of the paper's authors to a model."""

from __future__ import annotations

import shlex

from a2s.config.commands import ImportWeightsConfig
from a2s.errors import WeightsError
from a2s.models import saved
from a2s.storage import hashing, tensors


def run(config: ImportWeightsConfig) -> int:
    """Import one checkpoint, unless that is done already; return 0.

    Raises:
        WeightsError: it cannot be read, or does not hold exactly a network of the authors.
        ConfigError: the output exists and was made from something else.
    """
    file, out = config.file, config.out
    if not file.is_file():
        raise WeightsError(f"weights: {file} is not a file")
    provenance = {"preset": "official", "source_sha256": hashing.sha256_file(file)}
    if tensors.is_written(out, provenance):
        kind = tensors.read_metadata(out)["kind"]
        print(f"import-weights: done already: {out} was made from {file}")
    else:
        # Imported here, so that a finished import needs no torch.
        from a2s.models.authors_checkpoint import IMAGE_SIZE, from_released
        from a2s.models.encoder_weights import read_entries

        released = from_released(read_entries(file), source=str(file))
        state, spec = released.network.state_dict(), released.network.spec()
        kind = spec["kind"]
        unused = {saved.UNUSED + name: value for name, value in released.unused.items()}
        # Pillow's default, by which the authors' code resizes images.
        input_spec = {"image_size": str(IMAGE_SIZE), "resize_filter": "bicubic"}
        metadata = {**spec, **input_spec, **provenance}
        tensors.write(out, state | unused, metadata=metadata)
        print(
            f"import-weights: {out} holds the {kind} network of {file}, {len(state)} tensors; not "
            f"read by it, kept for the way back: {', '.join(released.unused)}"
        )
    if kind == "activation":
        words = ["label", "--model", str(out), "--data", "DATA", "--out", f"labels/{out.stem}"]
    else:
        words = ["predict", "IMAGES", "--model", str(out), "--out", f"preds/{out.stem}"]
    print(f"next: {shlex.join(['a2s', *words])}")
    return 0
