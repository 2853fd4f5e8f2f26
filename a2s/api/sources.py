"""What `Detector.predict` takes: paths, URLs, images, arrays and tensors become pictures.

All of them become the bytes of an image file, so that limits, orientation, transparency and colour
modes are handled in one place (`data/images.py`).
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

from a2s.data.images import BadImage
from a2s.data.open_files import Address, Held
from a2s.errors import DataError
from a2s.models.predict import Picture
from a2s.storage.remote import download, is_remote

if TYPE_CHECKING:
    from torch import Tensor

Source: TypeAlias = Union[str, os.PathLike[str], Image.Image, npt.NDArray[Any], "Tensor"]
"""One image: path, http(s), s3 or gs URL, PIL image, array [H, W], [H, W, 3] or [H, W, 4], or
tensor [3, H, W] or [1, H, W]."""
_MODES = ("1", "L", "LA", "RGB", "RGBA", "CMYK", "I", "I;16", "F")
"""Modes that are taken as they are, some of them to be refused by `data/images.py`."""
MAX_BYTES = 256 * 2**20
MAX_SEC = 300.0
"""Limits of a download."""


def to_picture(source: Any, *, name: str) -> Picture:
    """Read one image; `name` is what messages call it if it is no path.

    Raises:
        DataError: it cannot be read, or is of a type, shape or range that images do not have.
        StorageError: a download broke off.
    """
    if isinstance(source, str | os.PathLike):
        shown = os.fspath(source)
        return Picture(name, Held(_read(shown)), shown)
    if isinstance(source, Image.Image):
        return Picture(name, Held(_encode(source, name)), name)
    # Nobody has a tensor who has not imported torch.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        source = _pixels_of(source, name)
    if isinstance(source, np.ndarray):
        return Picture(name, Held(_encode(Image.fromarray(_checked(source, name)), name)), name)
    raise DataError(
        f"predict: {name} is a {type(source).__name__}; give a path, a URL, a PIL image, an array "
        "or a tensor"
    )


def _read(path: str) -> bytes:
    if is_remote(path):
        return download(path, max_bytes=MAX_BYTES, max_sec=MAX_SEC)
    file = path.removeprefix("file://")
    if Path(file).is_dir():
        raise DataError(
            f"predict: {path} is a folder; give a list of its files, or use a2s predict"
        )
    try:
        return Address(file).read()
    except OSError as error:
        raise DataError(f"predict: {path} cannot be read ({error.strerror})") from None


def _encode(image: Image.Image, name: str) -> bytes:
    """Encode without loss and without metadata: the pixels are taken as they are.

    TIFF without compression, because it holds every mode and takes hardly any time.
    """
    try:
        if image.mode == "La":
            image = image.convert("LA")
        elif "transparency" in image.info or image.mode in ("PA", "RGBa"):
            image = image.convert("RGBA")
        elif image.mode not in _MODES:
            image = image.convert("RGB")
        plain = Image.frombytes(image.mode, image.size, image.tobytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"predict: {name} cannot be read ({error})") from None
    profile = image.info.get("icc_profile")
    buffer = io.BytesIO()
    plain.save(buffer, "TIFF", **({"icc_profile": profile} if profile else {}))
    return buffer.getvalue()


def _checked(pixels: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Check shape and type of an array. Shape: H W, H W 1, H W 3 or H W 4, uint8."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not is_image or 0 in pixels.shape:
        raise DataError(
            f"predict: {name} is an array of shape {list(pixels.shape)}; give [H, W], [H, W, 3] "
            "(RGB), [H, W, 4] (RGBA), or a list of these"
        )
    if pixels.dtype != np.uint8:
        raise DataError(
            f"predict: {name} is an array of {pixels.dtype}; give uint8 (0 to 255), for example "
            "(255 * values).round().astype('uint8') of values in 0..1"
        )
    return np.ascontiguousarray(pixels)


def _pixels_of(tensor: Tensor, name: str) -> npt.NDArray[np.uint8]:
    """Pixels of a tensor: uint8 as they are, floating point 0..1 as 0 to 255.

    Shape: [C, H, W] or [H, W] -> [H, W, C] or [H, W]
    """
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4)):
        raise DataError(
            f"predict: {name} is a tensor of shape {list(tensor.shape)}; give [3, H, W] (RGB), "
            "[4, H, W] (RGBA), [1, H, W], or a list of these"
        )
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()
        low, high = (float(value) for value in tensor.aminmax()) if tensor.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"predict: {name} is a tensor with values from {low:g} to {high:g}; give 0..1, or "
                "uint8, not yet normalised"
            )
        tensor = (tensor * 255).round().byte()
    pixels: npt.NDArray[np.uint8] = tensor.numpy()
    return pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, 2)


def named(error: BadImage, picture: Picture) -> DataError:
    """The error of one image, with its name."""
    return DataError(f"predict: {picture.shown}: {error.reason} ({error.detail})")
