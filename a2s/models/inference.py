"""The one way to run a saved network: on a CPU image by image, on a GPU in batches that fit.

    model = on_gpu_or_cpu(SavedNetwork.find(path), batch_size=8)
    maps_Bhw = model.call(lambda: model.maps(image_BSS3))

Shape suffixes: B images, H W their size (S S for squares), h w a map's.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from a2s.errors import A2SError
from a2s.models.activation_net import ActivationNet
from a2s.models.boundary import sign
from a2s.models.prepare import as_input, prepare_for_inference
from a2s.models.saved import SavedNetwork
from a2s.parallel.gpu_memory import FULL
from a2s.parallel.gpu_thread import DeviceThread, device_thread

R = TypeVar("R")
BatchShapes = Literal["few", "one", "any"]
"""How many shapes of batches a GPU sees; it takes time to plan its kernels for each of them.

`few`: the last batch of a call is filled up to a power of two images; `one`: to `batch_size`. The
copies of its last image change nothing for the others. `any`: batches stay as they are, for images
of any size, by kernels that need no plan.
"""


@dataclass
class InferenceModel:
    """A network on a device, ready to run; cheap to copy with another batch size."""

    network: nn.Module
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 1
    """Becomes smaller when memory runs out."""
    batch_shapes: BatchShapes = "few"
    thread: DeviceThread | None = None
    """Where the device's work is done; None: in the thread that asks for it."""

    def call(self, function: Callable[[], R]) -> R:
        """Call a function that uses the device, in the thread that does all its work."""
        return function() if self.thread is None else self.thread(function)

    @torch.inference_mode()
    def forward(self, image_BHW3: Tensor) -> Tensor:
        """Theta (Eqn 3) or the vote's log-odds of a stage-1 network, logits of a detector.

        The images' bytes go to the device and are normalised there; the host does not wait.

        Shape: uint8 B H W 3 on any device -> float32 B h w on the network's
        """
        image_B3HW = as_input(self.network, image_BHW3)
        if isinstance(self.network, ActivationNet):
            map_B1hw = self.network.saliency(image_B3HW)
        else:
            map_B1hw = self.network(image_B3HW)
        map_Bhw: Tensor = map_B1hw[:, 0].float()
        return map_Bhw

    def maps(self, image_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Theta (Eqn 3) or the vote's log-odds of a stage-1 network, logits of a detector.

        Shape: B H W 3 -> B h w

        Raises:
            A2SError: not even one image fits into memory.
        """
        parts = self._in_batches(torch.from_numpy(image_BHW3), _on_host)
        return np.concatenate(parts)

    def saliency_logits(self, image_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What is above 0 is salient: logits of a detector, theta times its sign (Eqn 5).

        Shape: B H W 3 -> B h w

        Raises:
            A2SError: as `maps`.
        """

        def signed(map_Bhw: Tensor) -> NDArray[np.float32]:
            if isinstance(self.network, ActivationNet) and not self.network.votes:
                map_B1hw = map_Bhw[:, None]
                map_Bhw = (map_B1hw * sign(map_B1hw, tie=self.network.sign_tie))[:, 0]
            return _on_host(map_Bhw)

        return np.concatenate(self._in_batches(torch.from_numpy(image_BHW3), signed))

    def saliency(self, image_BHW3: Tensor) -> NDArray[np.float32]:
        """Saliency by a detector, of images that may lie on its device; the host waits at the end.

        Shape: B H W 3 -> B H W. Range: 0..1

        Raises:
            A2SError: as `maps`.
        """
        return _on_host(torch.cat(self._in_batches(image_BHW3, torch.sigmoid)))

    def _in_batches(self, image_BHW3: Tensor, finish: Callable[[Tensor], R]) -> list[R]:
        """Finished maps of batches that fit; when memory runs out (others use it too), smaller."""
        parts: list[R] = []
        first = 0
        while first < len(image_BHW3):
            batch_BHW3 = image_BHW3[first : first + self.batch_size]
            num_images = len(batch_BHW3)
            try:
                with self._kernels():
                    map_Bhw = self.forward(self._filled_up(batch_BHW3))[:num_images]
                parts.append(finish(map_Bhw))
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise A2SError(FULL) from None
                self.batch_size //= 2
                torch.cuda.empty_cache()
                continue
            first += num_images
        return parts

    def _filled_up(self, image_BHW3: Tensor) -> Tensor:
        num_images = len(image_BHW3)
        size = {
            "few": min(1 << (num_images - 1).bit_length(), self.batch_size),
            "one": self.batch_size,
            "any": num_images,
        }[self.batch_shapes]
        if size == num_images:
            return image_BHW3
        copy_BHW3 = image_BHW3[-1:].expand(size - num_images, -1, -1, -1)
        return torch.cat([image_BHW3, copy_BHW3])

    def _kernels(self) -> contextlib.AbstractContextManager[None]:
        if self.batch_shapes == "any":
            return torch.backends.cudnn.flags(enabled=False, allow_tf32=False)
        return contextlib.nullcontext()


def _on_host(map_Bhw: Tensor) -> NDArray[np.float32]:
    return map_Bhw.cpu().numpy()


def load_prepared(saved: SavedNetwork, device: str) -> nn.Module:
    """Load a network onto a device for inference and nothing else.

    Raises:
        CheckpointError: as `SavedNetwork.load`.
    """
    network = saved.load()
    prepare_for_inference(network, device)
    return network


_kept = functools.cache(load_prepared)


def on_cpu(saved: SavedNetwork) -> InferenceModel:
    """A network on this process's CPU, loaded once per process; the calling thread runs it.

    One image at a time: it has the same map whatever shares its batch.

    Raises:
        CheckpointError: as `SavedNetwork.load`.
    """
    return InferenceModel(_kept(saved, "cpu"))


def on_gpu_or_cpu(
    saved: SavedNetwork, *, batch_size: int, batch_shapes: BatchShapes = "few"
) -> InferenceModel:
    """A network on this process's GPU, else its CPU, loaded once per process; one thread runs it.

    On a CPU one image at a time, as `on_cpu`.

    Raises:
        CheckpointError: as `SavedNetwork.load`.
    """
    device = local_device()
    network = _kept(saved, device.type)
    batch_size = batch_size if device.type == "cuda" else 1
    return InferenceModel(network, device, batch_size, batch_shapes, device_thread())


def local_device() -> torch.device:
    """This process's GPU, else its CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
