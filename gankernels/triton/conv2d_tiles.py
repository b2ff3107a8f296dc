"""What the convolutions' Triton kernels share: the axes of a tile, how its products are formed, and the tile sizes."""

from __future__ import annotations

from functools import cache
from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

# No number is specialised by Triton: what a kernel must know of them it is told by units, see `unit`.
NUMBERS = (
    "batch", "groups", "in_channels", "out_channels", "x_height", "x_width", "y_height", "y_width",
    "x_n", "x_c", "x_y", "x_x", "w_in", "w_out", "w_group", "w_y", "w_x", "y_n", "y_c", "y_y", "y_x",
    "small_height", "small_width", "large_height", "large_width", "small_n", "small_c", "small_y", "small_x",
    "large_n", "large_c", "large_y", "large_x", "out_split", "out_o", "out_i", "out_y", "out_x",
    "kernel_y", "kernel_x", "stride_y", "stride_x", "pad_y", "pad_x", "dilation_y", "dilation_x",
    "common_y", "common_x", "inverse_y", "inverse_x", "size_class", "splits", "noise_pitch",
)  # fmt: skip


def unit(itemsize: int, stride: int, *numbers: int) -> int:
    """How many elements, 16 bytes at most, a lane may access at once along an axis of that stride: 1 unless it is 1.

    `numbers` are the other strides, and the size of the axis where it is masked.
    """
    return gcd(16 // itemsize, *numbers) if stride == 1 else 1


@triton.jit
def multiple(v, UNIT: tl.constexpr):
    """`v`, a multiple of UNIT, in a form that tells the compiler so."""
    return v // UNIT * UNIT if UNIT > 1 else v


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


# How a tile's products are formed. half: 16-bit on tensor cores. tf32: float32 on tensor cores, where PyTorch's
# switches allow it. plain: IEEE float32, also of 16-bit tensors on GPUs before sm_80, whose 16-bit dots Triton does not
# give to tensor cores. double: float64.

# The block of the summed axis: one number for each, so that the choice of a tile changes no order of summation.
BLOCK = {"half": 32, "tf32": 16, "plain": 16, "double": 16}

# (pixels, channels, warps, stages, registers); the last serves small problems. Left to itself ptxas spills a few
# registers to reach the next step of occupancy.
_TENSOR_CORE = (
    (128, 128, 8, 3, 168), (128, 64, 8, 3, 168), (64, 64, 4, 3, 168), (128, 32, 4, 3, 168), (128, 16, 4, 3, 168),
    (32, 32, 4, 3, 128),
)  # fmt: skip
TILES = {
    "half": _TENSOR_CORE,
    "tf32": _TENSOR_CORE,
    "plain": ((64, 64, 8, 1, 168), (64, 32, 4, 1, 168), (128, 16, 4, 1, 168), (32, 32, 4, 1, 168)),
    # Where one operand's summed axis is innermost. Without tensor cores a thread has 4 by 4 results, or 2 by 2 where it
    # has fewer than 16: a warp of 32 of them side by side reads one row of that operand at once, two lie in one bank.
    "plain rows": ((128, 64, 8, 1, 168), (128, 32, 8, 1, 168), (128, 16, 4, 1, 168), (32, 32, 4, 1, 168)),
    "plain channels": (
        (64, 128, 8, 1, 168),
        (64, 64, 16, 1, 128),
        (64, 32, 4, 1, 168),
        (128, 16, 4, 1, 168),
        (32, 32, 4, 1, 168),
    ),
    "double": ((32, 32, 4, 2, 128),),
}


def allows_tf32() -> bool:
    """Whether PyTorch is told to use TF32: for products of matrices, where it is off by default, and convolutions."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    return all(switch.fp32_precision == "tf32" for switch in switches)


class Plan:
    """How the products of one dtype are formed on the current GPU."""

    def __init__(self, dtype: torch.dtype):
        target = triton.runtime.driver.active.get_current_target()
        self.backend = target.backend
        old = target.backend == "cuda" and target.arch < 80
        if dtype == torch.float64:
            self.how = "double"
        elif dtype == torch.float32:
            self.how = "tf32" if target.backend == "cuda" and not old and allows_tf32() else "plain"
        else:
            self.how = "plain" if old else "half"
        self.block = BLOCK[self.how]
        self.constants = {
            "WIDEN": self.how == "plain" and dtype != torch.float32,
            "PRECISION": "tf32" if self.how == "tf32" else "ieee",
            "BLOCK_K": self.block,
        }

    def tuned(self, kernel, keys: tuple[str, ...], scaled: bool, last: bool | None = None):
        """The kernel with its tiles; `last` where the summed axis is innermost in x, or, if false, in the weight."""
        innermost = self.how == "plain" and last is not None
        tiles = f"plain {'channels' if last else 'rows'}" if innermost else self.how
        return tuned(kernel, tiles, keys, self.backend, scaled)


def size_class(pixels: int) -> int:
    """Problems of like size share a tuned configuration."""
    return (pixels - 1).bit_length()


def few(channels: int, taps: int, block: int) -> bool:
    """Whether blocks of channels alone would be mostly empty."""
    return 2 * channels < block and triton.cdiv(channels * taps, block) < taps


def _suiting(configs, arguments, **constants):
    """The tiles that fit a problem's channels and pixels."""
    channels = min(128, max(16, triton.next_power_of_2(arguments["out_channels"])))
    pixels = 1 << arguments["size_class"]
    # Without tensor cores warps of NHWC lie along channels, see TILES: in a tile of fewer they would share banks.
    alike = constants["LAST"] and constants["PRECISION"] == "ieee" and constants["BLOCK_K"] == BLOCK["plain"]
    least = min(64, channels) if alike else channels // 2
    fit = [
        c
        for c in configs
        if least <= c.kwargs["BLOCK_C"] <= channels and min(64, pixels) <= c.kwargs["BLOCK_P"] <= pixels
    ]
    # What leaves too few registers: addresses of a transposed convolution in NCHW, and numbers for each pixel.
    strided = constants.get("TRANSPOSED") and not constants["LAST"]
    scaled = arguments.get("x_scale_ptr") is not None
    together = (scaled or arguments.get("y_scale_ptr") is not None) and not constants["ALONE"]
    most = 512 if strided and together else 1024 if strided or together or (scaled and not constants["LAST"]) else 2048
    fit = [c for c in fit if c.kwargs["BLOCK_P"] * c.kwargs["BLOCK_C"] <= most * c.num_warps]
    if scaled and not constants["LAST"]:  # lanes lie along pixels: more of them a warp, and each has all taps' places
        fit = [c for c in fit if c.kwargs["BLOCK_P"] <= 16 * c.num_warps] or fit
    if strided:  # a phase has one of stride x stride taps of the weight's lines: many pixels are to share them
        fit = [c for c in fit if c.kwargs["BLOCK_P"] >= 128] or fit
    return fit or configs[-1:]


@cache
def tuned(kernel, how: str, keys: tuple[str, ...], backend: str, scaled: bool):
    """`kernel` with the tiles of `how`; an operand that is `scaled` on its way in passes through registers."""
    configs = [
        triton.Config(
            {"BLOCK_P": pixels, "BLOCK_C": channels},
            num_warps=warps,
            num_stages=stages,
            maxnreg=None if backend != "cuda" else 255 if scaled else registers,
        )
        for pixels, channels, warps, stages, registers in TILES[how]
    ]
    return triton.autotune(configs, key=list(keys), prune_configs_by={"early_config_prune": _suiting})(kernel)


def needs_64_bit(*tensors: Tensor) -> bool:
    """Whether an offset into one of the tensors, or its number of elements, may pass 2^31 within a tile."""
    limit = 2**31 - 2**16
    return any(
        max(t.numel(), sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))) > limit for t in tensors
    )
