"""What the convolutions' Triton kernels share: the axes of a tile, how its products are formed, and the tile sizes."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbers that only enter index arithmetic: a kernel is not compiled anew for an even one.
GEOMETRY = (
    "batch", "groups", "large_height", "large_width", "small_height", "x_height", "x_width", "y_height",
    "kernel_y", "kernel_x", "stride_y", "stride_x", "pad_y", "pad_x", "dilation_y", "dilation_x",
    "common_y", "common_x", "inverse_y", "inverse_x", "size_class", "splits",
)  # fmt: skip


@triton.jit
def first(v, LAST: tl.constexpr):
    """A vector along axis 0 of a tile; of NCHW tensors every tile is transposed."""
    return v[:, None] if LAST else v[None, :]


@triton.jit
def second(v, LAST: tl.constexpr):
    """A vector along axis 1 of a tile, 0 where transposed."""
    return v[None, :] if LAST else v[:, None]


@triton.jit
def within(v, size):
    """0 <= v < size in one comparison; |v| is below 2^31."""
    return v.to(tl.uint32) < size.to(tl.uint32)


class Products:
    """How a tile's products are formed.

    half: float16 and bfloat16 on tensor cores. tf32: float32 on tensor cores, where PyTorch's switches allow it.
    plain: IEEE float32, also of 16-bit tensors on GPUs before sm_80, whose 16-bit dots Triton does not give to the
    tensor cores. double: float64.
    """

    # Block of the summed axis; then tiles of (pixels, channels, warps, stages), the last for small problems.
    BLOCK = {"half": 32, "tf32": 16, "plain": 16, "double": 16}
    TILES = {
        "half": ((128, 128, 8, 3), (128, 64, 4, 3), (64, 64, 4, 3), (128, 32, 4, 3), (128, 16, 4, 3), (32, 32, 4, 3)),
        "tf32": ((128, 128, 8, 3), (128, 64, 4, 3), (64, 64, 4, 3), (128, 32, 4, 3), (128, 16, 4, 3), (32, 32, 4, 3)),
        "plain": ((64, 64, 4, 2), (64, 32, 4, 2), (128, 16, 4, 2), (32, 32, 4, 2)),
        "double": ((32, 32, 4, 2),),
    }


def allows_tf32() -> bool:
    """Whether PyTorch is told to use TF32: for products of matrices, where it is off by default, and convolutions."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    return all(switch.fp32_precision == "tf32" for switch in switches)


def products(dtype: torch.dtype) -> str:
    if dtype == torch.float64:
        return "double"
    target = triton.runtime.driver.active.get_current_target()
    old = target.backend == "cuda" and target.arch < 80
    if dtype == torch.float32:
        return "tf32" if target.backend == "cuda" and not old and allows_tf32() else "plain"
    return "plain" if old else "half"


def constants(how: str, dtype: torch.dtype) -> dict:
    return {
        "WIDEN": how == "plain" and dtype != torch.float32,
        "PRECISION": "tf32" if how == "tf32" else "ieee",
    }


def size_class(pixels: int) -> int:
    """Problems of like size share a tuned configuration."""
    return (pixels - 1).bit_length()


def few(channels: int, taps: int, block: int) -> bool:
    """Whether blocks of channels alone would be mostly empty."""
    return 2 * channels < block and triton.cdiv(channels * taps, block) < taps


def _suiting(configs, arguments, **_):
    """The tiles that fit a problem's channels and pixels."""
    channels = min(128, max(16, triton.next_power_of_2(arguments["out_channels"])))
    pixels = 1 << arguments["size_class"]
    fit = [
        c
        for c in configs
        if channels // 2 <= c.kwargs["BLOCK_C"] <= channels and min(64, pixels) <= c.kwargs["BLOCK_P"] <= pixels
    ]
    return fit or configs[-1:]


@cache
def tuned(kernel, how: str, keys: tuple[str, ...]):
    """`kernel` with the configurations of `how`; they differ in no order of summation, so in no bit of the result."""
    configs = [
        triton.Config({"BLOCK_P": p, "BLOCK_C": c}, num_warps=warps, num_stages=stages)
        for p, c, warps, stages in Products.TILES[how]
    ]
    return triton.autotune(configs, key=list(keys), prune_configs_by={"early_config_prune": _suiting})(kernel)


def needs_64_bit(*tensors: Tensor) -> bool:
    """Whether an offset into one of the tensors, or its number of elements, may pass 2^31 within a tile."""
    limit = 2**31 - 2**16
    return any(
        max(t.numel(), sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))) > limit for t in tensors
    )
