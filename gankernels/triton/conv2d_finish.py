"""What a convolution's Triton kernels do to a tile beside the products: numbers a sample, noise, bias, activation."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from gankernels.triton.activations import bias_act_derivative
from gankernels.triton.conv2d_tiles import first, second


@dataclass(frozen=True)
class Finish:
    """What comes after the convolution in its store: f(scale y + noise + bias)."""

    scale: Tensor | None = None  # [N, O]
    noise: Tensor | None = None  # [N or 1, 1, H, W]
    act: str | None = None
    alpha: float = 0.0
    gain: float = 1.0
    clamp: float = -1.0


@triton.jit
def scales(
    ptr, image, inside, channel, known, channels, ALONE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """The numbers [N, channels] of a tile: a line where it is of one image, `image` then being its number."""
    if ALONE:
        return second(tl.load(ptr + image * channels + channel, known, 0.0), LAST)
    else:
        ok = first(inside, LAST) & second(known, LAST)
        return tl.load(ptr + first(image * channels, LAST) + second(channel, LAST), ok, 0.0)


@triton.jit
def scaled(x, scale, WIDEN: tl.constexpr):
    """x times numbers in the dtype of sums; as x, on its way into a product, unless that is WIDEN."""
    y = x.to(scale.dtype) * scale
    return y if WIDEN else y.to(x.dtype)


@triton.jit
def finished(
    total, bias_ptr, scale_ptr, noise_ptr, channel, known, image, inside, pixel, channels, noise_pitch,
    alpha, gain, clamp, BIAS: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr, ALONE: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """The sums on their way to memory: f(scale total + noise + bias)."""
    if scale_ptr is not None:
        total *= scales(scale_ptr, image, inside, channel, known, channels, ALONE, LAST)
    if noise_ptr is not None:
        total += first(tl.load(noise_ptr + image * noise_pitch + pixel, inside, 0.0), LAST)
    if BIAS:
        total += second(tl.load(bias_ptr + channel, known, 0.0).to(total.dtype), LAST)
    if ACT is not None:
        t = total.dtype
        total = bias_act_derivative(total, total, alpha.to(t), gain.to(t), clamp.to(t), ACT, 0, CLAMP)
    return total
