"""`Detector`: a network of either stage, ready to predict.

from a2s import Detector

prediction = Detector.load().predict("photo.jpg")
prediction.cutout().save("photo.cutout.png")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, overload

from huggingface_hub import ModelHubMixin, hf_hub_download

from a2s.api.command import run_command
from a2s.api.prediction import Prediction
from a2s.api.readable import readable
from a2s.api.sources import Source, named, to_picture
from a2s.data.images import MAX_PIXELS, BadImage
from a2s.errors import CheckpointError
from a2s.evaluation.pictures.outputs import Style, pictures_of
from a2s.models.bundled import ModelName, find_model
from a2s.models.predict import Picture, new_step, to_map
from a2s.models.saved import Model, SavedNetwork

FILE = "model.safetensors"
"""The network in a folder of `save_pretrained`, or in a repository of the Hugging Face hub."""
_CARD = """---
{{ card_data }}
---

A network of [a2s](https://arxiv.org/abs/2112.03650), "Activation to Saliency": it finds what stands
out in a photograph. `config.json` says how it is built and used.

```python
from a2s import Detector

Detector.from_pretrained("REPOSITORY OR FOLDER").predict("photo.jpg").cutout().save("cutout.png")
```
"""


class Detector(
    ModelHubMixin,
    library_name="a2s",
    tags=["saliency", "background-removal"],
    pipeline_tag="image-segmentation",
    model_card_template=_CARD,
):
    """Predicts saliency maps, as `a2s predict` does, on the GPU if there is one.

    `load` finds a model on this machine, `from_pretrained` also one of the Hugging Face hub;
    `save_pretrained(folder)` and `push_to_hub(repository)` write one.
    """

    def __init__(self, network: Model) -> None:
        self.network = network
        # Becomes config.json. The mixin has put the constructor's arguments there.
        self._hub_mixin_config = None if network == "rbd" else dict(network.metadata)
        self._step = new_step(network, MAX_PIXELS)

    @classmethod
    def load(cls, model: str | os.PathLike[str] = "bundled") -> Detector:
        """Load a network.

        `model` is as `--model` of `a2s predict`: `bundled`, the detector inside the package;
        `bundled-activation`, its network of stage 1; a run folder of either stage (its last
        commit) or a `.safetensors` file, also as a URL; or `rbd`, a baseline without network.

        Raises:
            CheckpointError: there is no such model, or it is damaged.
            StorageError: the store of its URL cannot be read.
            ConfigError: its encoder needs timm, which is not installed.
        """
        return cls(_find(model))

    @overload
    def predict(  # type: ignore[overload-overlap]  # A path is a sequence of paths to mypy.
        self, images: Source, *, refine: bool = ..., batch_size: int = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self, images: Sequence[Source], *, refine: bool = ..., batch_size: int = ...
    ) -> list[Prediction]: ...
    def predict(
        self, images: Source | Sequence[Source], *, refine: bool = False, batch_size: int = 8
    ) -> Prediction | list[Prediction]:
        """Predict one image, or a list of them.

        An image is a path, a URL, a PIL image, an array (uint8, [H, W, 3] RGB, [H, W, 4] RGBA or
        [H, W] grey) or a tensor ([3, H, W], uint8 or floating point in 0..1, not normalised). Of
        files the EXIF orientation is applied; PIL images are taken as they are. A list or tuple of
        these gives a list of predictions in the same order; the images may differ in size. Of a
        batch [B, 3, H, W] give `list(batch)`.

        `refine` moves the map's edges to those of the image (dense CRF). `batch_size` images go
        through the network together on a GPU; on a CPU they go one by one, which is faster there.

        All predictions are in memory; for a folder of many images use `a2s predict`.

        Raises:
            DataError: an image cannot be used; the message names it.
            StorageError: a download broke off.
        """
        if not isinstance(images, list | tuple):
            return self._predict([to_picture(images, name="the image")], refine=refine)[0]
        found: list[Prediction] = []
        for first in range(0, len(images), batch_size):
            chunk = images[first : first + batch_size]
            pictures = [
                to_picture(image, name=f"image {number}")
                for number, image in enumerate(chunk, start=first)
            ]
            found += self._predict(pictures, refine=refine)
        return found

    def _predict(self, pictures: list[Picture], *, refine: bool) -> list[Prediction]:
        found = []
        for picture, answer in zip(pictures, self._step(pictures), strict=True):
            if isinstance(answer, BadImage):
                raise named(answer, picture)
            map_HW = to_map(answer)
            if refine:
                (drawing,) = pictures_of(picture, map_HW, ("map",), Style(refine=True))
                map_HW = drawing.pixels
            found.append(Prediction(map_HW, picture))
        return found

    def export(self, file: str | os.PathLike[str]) -> Path:
        """Write the detector as `.onnx` or `.pt2`, as `a2s export-model` does; return the path.

        Raises:
            CheckpointError, ConfigError: as `a2s export-model`.
        """
        saved = self._saved("export")
        run_command("export-model", {"model": saved.file, "out": Path(file)})
        return Path(file)

    def _saved(self, purpose: str) -> SavedNetwork:
        if self.network == "rbd":
            raise CheckpointError(f"{purpose}: rbd is a baseline without a network")
        return self.network

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write `model.safetensors`; the mixin adds config.json and a card."""
        from a2s.storage import tensors

        saved = self._saved("save_pretrained")
        # What is not in the file itself: the encoder of the bundled network of stage 1.
        whole = {**saved.load().state_dict(), **tensors.read(saved.file)}
        tensors.write(save_directory / FILE, whole, metadata=saved.metadata)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,
    ) -> Detector:
        """Load `model.safetensors` of a folder, or of a repository of the hub."""
        file = os.path.join(model_id, FILE)
        if not os.path.isdir(model_id):
            file = hf_hub_download(
                model_id,
                FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return cls(SavedNetwork.find(Path(file)))


def _find(model: str | os.PathLike[str]) -> Model:
    name = next((name for name in get_args(ModelName) if name == model), None)
    network, _ = find_model(name or readable(model))
    return network
