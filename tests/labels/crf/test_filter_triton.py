"""Triton kernels: interpreted on the CPU, compiled for Hopper, run on a GPU if there is one."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from repository import REPO
from torch import Tensor

from a2s.labels.crf.energy import CrfParams
from a2s.labels.crf.torch_backend.filter import TORCH_KERNELS
from a2s.labels.crf.torch_backend.inference import (
    BYTES_PER_PIXEL,
    bilateral_packing,
    flat,
    marginals,
)

pytest.importorskip("triton", reason="this build of torch comes without triton")
PARAMS = CrfParams()
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def batch(sizes: list[tuple[int, int]], device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Make noise, photograph-like and flat images in turn, with random logits."""
    rng = np.random.default_rng(0)
    images, logits = [], []
    for index, size in enumerate(sizes):
        image = rng.integers(0, 256, (*size, 3)) // (1, 16, 256)[index % 3]
        images.append(torch.tensor(image.astype(np.uint8), device=device))
        logits.append(torch.tensor(rng.normal(size=size).astype(np.float32), device=device))
    return images, logits


def check(device: str, sizes: list[tuple[int, int]]) -> None:
    """Compare embeddings bit for bit, and marginals up to the rounding of products."""
    from a2s.labels.crf.torch_backend.filter_triton import KERNELS

    images, logits = batch(sizes, device)
    pixels, packed = flat(images), bilateral_packing(sizes, PARAMS)
    for ours, plain in zip(
        KERNELS.corners(pixels, PARAMS, packed),
        TORCH_KERNELS.corners(pixels, PARAMS, packed),
        strict=True,
    ):
        assert torch.equal(ours, plain)
    found, expected = (
        marginals(images, logits, PARAMS, kernels=kernels) for kernels in (KERNELS, TORCH_KERNELS)
    )
    # Rounding errors grow most in noise images: at most 0.0013, at one pixel, was observed.
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)
    for ours, plain in zip(found, expected, strict=True):
        assert (ours - plain).abs().mean() < 1e-4


def test_interpreted_kernels_equal_torch() -> None:
    code = (
        "from test_filter_triton import check\n"
        "check('cpu', [(13, 17), (24, 20), (30, 11), (1, 5), (1, 1)])\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(REPO / "tests" / "helpers"), str(REPO)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", ["fp32", "bf16"])
def test_kernels_compile_for_hopper_without_a_gpu(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from a2s.labels.crf.torch_backend import filter_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pair = f"*{value} *i32 *{value} fp32"
    signatures = {
        kernels.sum_pieces_kernel: f"*fp32 *{value} *i32 *i32 *fp32 i32",
        kernels.sum_vertices_kernel: f"*fp32 *i32 *{value} i32",
        kernels.blur_kernel: f"*{value} *i32 *i32 *{value} i32",
        kernels.update_kernel: f"*fp32 {pair} {pair} *fp32 i32",
        kernels.embed_kernel: "*u8 *i32 *i64 *i64 *i64 *i64 *fp32 i32" + " fp32" * 8,
    }
    constants = {"BLOCK": kernels.BLOCK, "CORNERS0": 6, "CORNERS1": 3}
    for kernel, types in signatures.items():
        given = dict(zip(kernel.arg_names, types.split(), strict=False))
        fixed = {name: constants[name] for name in kernel.arg_names if name in constants}
        source = ASTSource(kernel, given | dict.fromkeys(fixed, "constexpr"), fixed)
        exact = {"enable_fp_fusion": False} if kernel is kernels.embed_kernel else {}
        ptx = compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=exact).asm["ptx"]
        assert "atom." not in ptx
        assert "red.global" not in ptx
        if exact:
            assert "fma.rn.f32" not in ptx
            assert "div.full" not in ptx


@pytest.mark.gpu
@GPU
def test_kernels_equal_torch_on_the_gpu() -> None:
    check("cuda", [(131, 217), (240, 320), (1, 5), (97, 64), (1, 1), (320, 320), (240, 320)])


@pytest.mark.gpu
@GPU
def test_bfloat16_on_the_gpu_keeps_the_masks() -> None:
    from a2s.labels.crf.torch_backend.filter_triton import KERNELS

    images, logits = batch([(240, 320), (320, 320), (200, 133)], "cuda")
    found, plain, exactly = (
        torch.cat([s.flatten() > 0 for s in marginals(images, logits, PARAMS, **how)])
        for how in (
            {"dtype": torch.bfloat16, "kernels": KERNELS},
            {"dtype": torch.bfloat16, "kernels": TORCH_KERNELS},
            {"kernels": KERNELS},
        )
    )
    assert (found != plain).float().mean() < 0.01
    assert (found != exactly).float().mean() < 0.02


@pytest.mark.gpu
@GPU
def test_gpu_masks_equal_cpu_masks_in_every_run_and_batch() -> None:
    images, logits = batch([(240, 320), (320, 320), (200, 133), (240, 320)], "cuda")
    first = marginals(images, logits, PARAMS)
    for _ in range(3):
        again = marginals(images, logits, PARAMS)
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
    for image, logit, s in zip(images, logits, first, strict=True):
        assert torch.equal(marginals([image], [logit], PARAMS)[0], s)
        on_cpu = marginals([image.cpu()], [logit.cpu()], PARAMS)[0]
        assert ((s.cpu() > 0) != (on_cpu > 0)).float().mean() < 1e-3


@pytest.mark.gpu
@GPU
def test_a_batch_synchronises_once_and_stays_within_its_memory() -> None:
    images, logits = batch([(320, 320)] * 8, "cuda")
    noise = [images[0]] * 8
    marginals(noise, logits, PARAMS)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with warnings.catch_warnings(record=True) as waits:
        # Setting the mode warns as well.
        warnings.simplefilter("always")
        try:
            torch.cuda.set_sync_debug_mode("warn")
            marginals(noise, logits, PARAMS)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [wait for wait in waits if "prototype" not in str(wait.message)]
    assert len([wait for wait in waits if "synchroniz" in str(wait.message)]) == 1
    assert torch.cuda.max_memory_allocated() - before <= BYTES_PER_PIXEL * 8 * 320 * 320
