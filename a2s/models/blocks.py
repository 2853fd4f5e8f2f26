"""Building blocks of both networks: gated convolutions, attention, efficient upsampling.

Shape suffixes: B images, C channels, H W the output's size, h w a smaller map's size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a2s.models.boundary import weighted_sum

Size = tuple[int, int]


def upsample(x_BChw: Tensor, size: Size) -> Tensor:
    """Resize bilinearly with `align_corners=False`, the only resampling in the A2S networks.

    Shape: [B, C, h, w] -> [B, C, *size]
    """
    # An exported graph may not depend on whether the sizes are equal.
    if not torch.compiler.is_exporting() and x_BChw.shape[-2:] == torch.Size(size):
        return x_BChw
    return F.interpolate(x_BChw, size=size, mode="bilinear", align_corners=False)


def conv3x3_of_upsampled(
    maps: Sequence[Tensor], weight_OI33: Tensor, bias_O: Tensor, *, size: Size
) -> Tensor:
    """Compute `conv3x3(concat(upsample(m) for m in maps))` without the large concatenation.

    Mixing channels commutes with resizing, so each of the nine kernel taps first mixes the channels
    of the small maps. Two small dense products then resize, shift and add the results: along the
    width, then along the height for all maps and kernel rows at once. It is the same sum in another
    order. From strides 8, 16, 32 to stride 2 it takes about a fifth of the multiplications. A map
    that already has the output's size would gain nothing and is convolved directly.

    Shape: maps [B, C_i, h_i, w_i] with sum(C_i) = I -> [B, O, *size]
    """
    assert sum(m.shape[1] for m in maps) == weight_OI33.shape[1], "channels of maps and kernel"
    batch, num_out = maps[0].shape[0], weight_OI33.shape[0]
    if _is_inference_on_cpu(weight_OI33):
        outs = [
            _conv3x3_on_cpu([m[i : i + 1] for m in maps], weight_OI33, bias_O, size=size)
            for i in range(batch)
        ]
        return torch.cat(outs) if batch > 1 else outs[0]
    out_BOHW: Tensor = bias_O.repeat(batch).view(batch, num_out, 1, 1)
    widened, heights, start = [], [], 0
    for map_BChw in maps:
        weight_OC33 = weight_OI33[:, start : start + map_BChw.shape[1]]
        start += map_BChw.shape[1]
        if map_BChw.shape[-2:] == torch.Size(size):
            out_BOHW = out_BOHW + F.conv2d(map_BChw, weight_OC33, padding=1)
        else:
            widened.append(_taps_along_width(map_BChw, weight_OC33, width=size[1]))
            heights.append(map_BChw.shape[2])
    if widened:
        taps_NKW = torch.cat(widened, dim=1)
        along_HK = torch.cat([_resize_matrix(h, size[0], like=taps_NKW) for h in heights]).T
        along_NHK = along_HK.expand(taps_NKW.shape[0], -1, -1)
        out_BOHW = torch.baddbmm(out_BOHW.flatten(0, 1), along_NHK, taps_NKW)
        out_BOHW = out_BOHW.view(batch, num_out, *size)
    return out_BOHW


def _taps_along_width(map_BChw: Tensor, weight_OC33: Tensor, *, width: int) -> Tensor:
    """Mix the channels once per kernel tap, then resize, shift and add along the width.

    Shape: [B, C, h, w] -> [B * O, 3 * h, width], the rows ordered (kernel row, map row)
    """
    batch, channels, h, w = map_BChw.shape
    num_out = weight_OC33.shape[0]
    pointwise = weight_OC33.permute(0, 2, 3, 1).reshape(num_out * 9, channels)
    mixed = F.conv2d(map_BChw.contiguous(), pointwise[:, :, None, None])
    rows = mixed.view(batch, num_out, 3, 3, h, w).transpose(3, 4).reshape(-1, 3 * w)
    resized = rows @ _resize_matrix(w, width, like=rows)
    return resized.view(batch * num_out, 3 * h, width)


def _resize_matrix(n: int, m: int, *, like: Tensor) -> Tensor:
    """Weights of a bilinear resize from n to m samples, shifted by each of the three taps.

    Shape: [3 * n, m]; row (k, i), column j: the weight of input i in resized sample j + k - 1. It
    is zero if j + k - 1 lies outside: the zero padding of the convolution.
    """
    identity_1nn = torch.eye(n, dtype=like.dtype, device=like.device)[None]
    resized_nm = F.interpolate(identity_1nn, size=m, mode="linear", align_corners=False)[0]
    return F.pad(resized_nm, (1, 1)).unfold(1, m, 1).transpose(0, 1).reshape(3 * n, m)


def _is_inference_on_cpu(weight_OI33: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and torch.is_inference_mode_enabled()
        and weight_OI33.device.type == "cpu"
        and weight_OI33.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _conv3x3_on_cpu(
    maps: Sequence[Tensor], weight_OI33: Tensor, bias_O: Tensor, *, size: Size
) -> Tensor:
    """Compute `conv3x3_of_upsampled` of one image with operations that are fast on a CPU.

    Maps are resized along the width only and convolved with each kernel row by oneDNN. A product
    with a sparse matrix then combines the resulting rows to rows of the output: in channels-last
    layout each output row is a sum of few long vectors. Dense products of these shapes, as in
    `conv3x3_of_upsampled`, take more than twice as long on one core.

    Shape: maps [1, C_i, h_i, w_i] with sum(C_i) = I -> [1, O, *size]
    """
    height, width = size
    num_out, start = weight_OI33.shape[0], 0
    out_HX = bias_O.repeat(height * width).view(height, width * num_out)
    for map_1Chw in maps:
        weight_OC33 = weight_OI33[:, start : start + map_1Chw.shape[1]]
        start += map_1Chw.shape[1]
        h = map_1Chw.shape[2]
        wide_1ChW = upsample(map_1Chw, (h, width)).contiguous(memory_format=torch.channels_last)
        for row, along_Hh in enumerate(_resize_matrices(h, height)):
            weight_OC13 = weight_OC33[:, :, row : row + 1]
            taps_1OhW = torch.mkldnn_convolution(
                wide_1ChW, weight_OC13, None, (0, 1), (1, 1), (1, 1), 1
            )
            out_HX.addmm_(along_Hh, taps_1OhW.permute(0, 2, 3, 1).reshape(h, -1))
    return out_HX.view(1, height, width, num_out).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=64)
def _resize_matrices(n: int, m: int) -> tuple[Tensor, ...]:
    """Sparse weights of a bilinear resize from n to m samples, for each of the three taps.

    Shape: three of [m, n]
    """
    matrix = _resize_matrix(n, m, like=torch.empty(0))
    return tuple(along_nm.T.to_sparse() for along_nm in matrix.view(3, n, m))


class ConvGNReLU(nn.Sequential):
    """3x3 convolution, group normalisation with two channels per group, ReLU.

    Shape: [B, C_in, H, W] -> [B, C_out, H, W]
    Reference: Eqn 8
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            nn.GroupNorm(channels_out // 2, channels_out),
            nn.ReLU(inplace=True),
        )


class SEBlock(nn.Module):
    """Squeeze-and-excitation without the bottleneck: channels are gated by their means.

    Shape: [B, C_in, H, W] -> [B, C_out, H, W]
    Reference: Sec. III-A, Eqn 1
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.GroupNorm(1, channels_out)
        self.gate = nn.Conv2d(channels_out, channels_out, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve, normalise and gate."""
        x_BCHW, _, gate_BC11 = self._factors(self.conv(x_BCHW))
        return x_BCHW * gate_BC11

    def activation_of_upsampled(
        self,
        maps: Sequence[Tensor],
        *,
        size: Size,
        weigh: Callable[[Tensor], Tensor] = torch.ones_like,
    ) -> Tensor:
        """Sum `self(concat(upsample(m, size) for m in maps))` over its channels, at lower cost.

        One product gates and sums the features, so gated features are never written to memory.
        `weigh` turns their means [B, C], which are known before, into weights of the channels.

        Shape: maps [B, C_i, h_i, w_i] -> [B, 1, *size]
        """
        bias_O = self.conv.bias
        assert bias_O is not None
        x_BCHW, mean_BC11, gate_BC11 = self._factors(
            conv3x3_of_upsampled(maps, self.conv.weight, bias_O, size=size)
        )
        gate_BC = gate_BC11.flatten(1)
        return weighted_sum(x_BCHW, gate_BC * weigh(gate_BC * mean_BC11.flatten(1)))

    def _factors(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the features before the gate, their means over the image, and the gate."""
        x_BCHW = F.relu(self.norm(x_BCHW), inplace=True)
        # The gradient of `sum` is a view; the gradient of `mean` would write a whole map.
        mean_BC11 = x_BCHW.sum((2, 3), keepdim=True) / x_BCHW[0, 0].numel()
        return x_BCHW, mean_BC11, self.gate(mean_BC11).sigmoid()


class RAM(nn.Module):
    """Residual attention module: weights two levels by their difference from the global context.

    With `attention=False` the levels are concatenated unweighted (the † rows of Table VII).

    Shape: [B, C, H, W], [B, C, h, w], [B, C, h', w'] -> [B, C, H, W]
    Reference: Eqn 9-10, Fig. 6
    """

    def __init__(self, width: int, *, attention: bool) -> None:
        super().__init__()
        self.context = ConvGNReLU(width, width)
        if attention:
            self.attention_a = nn.Conv2d(width, width, 3, padding=1)
            self.attention_b = nn.Conv2d(width, width, 3, padding=1)
        self.attention = attention
        self.fuse = nn.Conv2d(3 * width, width, 3, padding=1)

    def forward(self, fine_BCHW: Tensor, coarse_BChw: Tensor, context_BChw: Tensor) -> Tensor:
        """Weight both levels by their difference from the context, at the size of the finer one."""
        size = (fine_BCHW.shape[2], fine_BCHW.shape[3])
        a, b = fine_BCHW, upsample(coarse_BChw, size)
        context = upsample(self.context(context_BChw), size)
        if self.attention:
            a = a * self.attention_a(a - context).sigmoid()
            b = b * self.attention_b(b - context).sigmoid()
        fused: Tensor = self.fuse(torch.cat((a, b, context), dim=1))
        return fused
