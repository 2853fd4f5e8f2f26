"""Guarded updates, deferred readings, copies: nothing waits, and nothing bad is kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from a2s.training.optimizer import GuardedSGD, pack_momentum, unpack_momentum
from a2s.training.step import DeferredMetrics, copy_to_host

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


def network(device: str) -> nn.Module:
    """With kernels whose memory format is not told by their strides: pointwise and depthwise."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
    return nn.Sequential(*layers).to(device).to(memory_format=torch.channels_last)


def loss_of(model: nn.Module, number: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    image = torch.randn(2, 3, 12, 12, generator=generator).to(device)
    return model(image.contiguous(memory_format=torch.channels_last)).square().mean()


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    momentum = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    return [tensor.detach().clone() for tensor in (*model.parameters(), *momentum)]


@pytest.mark.parametrize("device", DEVICES)
def test_finite_steps_are_those_of_plain_sgd(device: str) -> None:
    states = []
    for make in (GuardedSGD, torch.optim.SGD):
        model = network(device)
        optimizer = make([{"params": list(model.parameters())}], **SETTINGS)
        for number in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, number, device)
            loss.backward()
            if isinstance(optimizer, GuardedSGD):
                optimizer.step_if(loss.isfinite())
            else:
                optimizer.step()
        states.append(state(model, optimizer))
    for mine, plain in zip(*states, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad_step", [0, 2])
def test_from_a_bad_step_on_nothing_changes(bad_step: int, device: str) -> None:
    model = network(device)
    optimizer = GuardedSGD([{"params": list(model.parameters())}], **SETTINGS)
    before = state(model, optimizer)
    for number in range(4):
        if number <= bad_step:
            before = state(model, optimizer)
        optimizer.zero_grad()
        loss = loss_of(model, number, device) * (math.nan if number == bad_step else 1)
        loss.backward()
        optimizer.step_if(loss.isfinite())
    for tensor, expected in zip(state(model, optimizer), before, strict=True):
        assert torch.equal(tensor, expected)
        assert tensor.isfinite().all()


def test_momentum_comes_back_in_the_memory_format_of_its_parameter() -> None:
    model = network("cpu")
    optimizer = GuardedSGD([{"params": list(model.parameters())}], **SETTINGS)
    loss_of(model, 0, "cpu").backward()
    optimizer.step_if(torch.tensor(True))
    parameters = dict(model.named_parameters())
    packed = pack_momentum(optimizer, parameters)
    packed = {name: tensor.contiguous() for name, tensor in packed.items()}
    again = GuardedSGD([{"params": list(model.parameters())}], **SETTINGS)
    unpack_momentum(again, parameters, tensors=packed)
    for parameter in model.parameters():
        buffer = again.state[parameter]["momentum_buffer"]
        assert buffer.stride() == parameter.stride()
        assert torch.equal(buffer, optimizer.state[parameter]["momentum_buffer"])


def test_readings_are_given_once_and_in_order() -> None:
    readings = DeferredMetrics()
    assert readings.read() == []
    for step in (3, 4):
        readings.add(step, torch.full((2,), float(step), requires_grad=True))
    read = readings.read()
    assert [(step, values.tolist()) for step, values in read] == [(3, [3, 3]), (4, [4, 4])]
    assert readings.read() == []


@pytest.mark.parametrize("device", DEVICES)
def test_a_copy_holds_what_the_tensor_held(device: str) -> None:
    tensor = torch.arange(1 << 16, device=device)
    host, wait = copy_to_host(tensor)
    if device == "cuda":
        tensor.zero_()
    wait()
    assert host.device.type == "cpu"
    assert torch.equal(host, torch.arange(1 << 16))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_that_overflowed_is_noticed(device: str, bad: float) -> None:
    model = network(device)
    optimizer = GuardedSGD([{"params": list(model.parameters())}], **SETTINGS)
    loss_of(model, 1, device).backward()
    assert bool(optimizer.finite_gradients())
    gradient = model[1].weight.grad
    assert gradient is not None
    gradient[0, 0] = bad
    assert not bool(optimizer.finite_gradients())
