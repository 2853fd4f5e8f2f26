"""SGD that stops updating at the first step that is not finite; its momentum for checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def pack_momentum(optimizer: Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """SGD's momentum buffers as flat tensors, by parameter name."""
    return {
        f"momentum_buffer/{name}": optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in parameters.items()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }


def unpack_momentum(
    optimizer: Optimizer, parameters: dict[str, nn.Parameter], *, tensors: dict[str, Tensor]
) -> None:
    """Give SGD back the buffers that `pack_momentum` took.

    Raises:
        ValueError: the buffers are not those of these parameters, or not finite.
    """
    names = {key: key.removeprefix("momentum_buffer/") for key in tensors}
    kept = {name for name, one in parameters.items() if "momentum_buffer" in optimizer.state[one]}
    if missing := sorted(kept - set(names.values())):
        raise ValueError(f"it has no tensor momentum_buffer/{missing[0]}")
    for key, tensor in tensors.items():
        parameter = parameters.get(names[key])
        if parameter is None or (parameter.shape, parameter.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{key} fits no parameter")
        if not tensor.isfinite().all():
            raise ValueError(f"{key} is not finite")
        # In the parameter's memory format: a fused update goes through both address by address.
        buffer = torch.empty_like(parameter.detach()).copy_(tensor)
        optimizer.state[parameter]["momentum_buffer"] = buffer


class GuardedSGD(torch.optim.SGD):
    """SGD that stops updating at the first step whose loss or gradient is not finite.

    Weights and momentum stay as the last good step left them.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        # The fused kernel updates all tensors at once, and none if `found_inf` on the device is 1.
        super().__init__(
            groups,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov and momentum > 0,
            fused=True,
        )
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.found_inf = torch.zeros((), device=parameters[0].device)
        if momentum > 0:
            # Zeros give the same first step, and a skipped first step leaves no missing buffer.
            for parameter in parameters:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.detach())

    def finite_gradients(self) -> Tensor:
        """Whether all gradients are finite, which a finite loss does not tell (on the device)."""
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        found = [gradient for gradient in gradients if gradient is not None]
        return torch.nn.utils.get_total_norm(found).isfinite()

    def step_if(self, finite: Tensor) -> None:
        """Update, unless this step or one before it was not `finite` (a boolean, on the device)."""
        torch.maximum(self.found_inf, (~finite).to(self.found_inf.dtype), out=self.found_inf)
        self.step()
