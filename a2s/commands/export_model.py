"""`a2s export-model`: write a detector as ONNX or as a graph of torch.export."""

from __future__ import annotations

from a2s.config.export import ExportModelConfig
from a2s.errors import CheckpointError, ConfigError
from a2s.models.bundled import find_model
from a2s.models.saved import SavedNetwork
from a2s.storage.files import atomic_write, remove_abandoned


def run(config: ExportModelConfig) -> int:
    """Export one detector, unless that is done already; return 0.

    Raises:
        CheckpointError: the model cannot be read, or is no detector.
        ConfigError: the output exists and was made from something else, or the network cannot be
            exported.
    """
    (saved, _), out = find_model(config.model), config.out
    assert saved != "rbd"
    metadata = _metadata(saved)
    if out.exists():
        _refuse_another(config, metadata)
        print(f"export-model: done already: {out} was made from {saved.file}")
        return 0
    # Imported here, so that errors of the settings need no torch.
    from a2s.models.detector import Detector
    from a2s.models.export import export

    network = saved.load()
    assert isinstance(network, Detector)
    data, difference = export(network, out.suffix, metadata=metadata)
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned([out])
    atomic_write(out, data)
    print(
        f"export-model: {out} takes RGB [batch, 3, height, width] in 0..1 and gives saliency "
        f"[batch, 1, height, width] in 0..1; at most {difference:.0e} from the original"
    )
    return 0


def _metadata(saved: SavedNetwork) -> dict[str, str]:
    """What the file says about itself: among others the size and filter of its images."""
    if saved.kind != "detector":
        raise CheckpointError(
            f"export-model: {saved.file} is of kind {saved.kind}; only detectors (a2s stage2) are "
            "exported, since the sign of a map of stage 1 may turn with the last bit"
        )
    return {**saved.metadata, **saved.identity()}


def _refuse_another(config: ExportModelConfig, metadata: dict[str, str]) -> None:
    from a2s.models.export import made_from

    if made_from(config.out) != metadata:
        raise ConfigError(
            f"export-model: {config.out} exists and was made from something else; use another --out"
        )
