"""filtered_lrelu as StyleGAN3 has it: 12 taps up and down by 2, and 24 taps up by 4; the radial one of StyleGAN3-R.

Forward is with the bits kept, as in training; the backward pass is the same kernel with the bits read. The floor is x,
y, bias, filters and bits. Requested bytes hold the halo of the tiles (11 samples each way, beside 16 to 32 of NCHW and
4 to 8 of NHWC in CUDA); in Triton each sample for every tap across, which the L1 cache holds, and the taps by every
thread. Those of the radial filter are 144, which beside the rows under way do not fit registers, and Triton has no
number of shared memory that a program could ask for by itself: each is read, from L1, for every sample that it
multiplies, four bytes for each of 32 lanes at one address. So many bytes are asked for as the sums have products; one
sector serves a warp. One warp instead of two, of more outputs each, makes ptxas spill; a second row of outputs would
halve the requests and double the code. The work is in the sums, about a hundred products an output: accesses are of one
number a lane, neighbours by neighbours, not 128 bits wide. In CUDA a
warp reads or writes the bits of 32 columns in a few rows of the image, 8 bytes in each, and tiles begin at any byte of
a row: each 8 bytes are a sector or two of 32. The L2 cache puts them together; the model of the worst has an eighth of
its time there and the rest in the sums.
"""

from dataclasses import dataclass

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/filtered_lrelu.h", "csrc/cuda/filtered_lrelu*", "csrc/upfirdn2d.h", "csrc/cuda/upfirdn2d_params.h",
    "csrc/cuda/upfirdn2d_any.cuh", "csrc/cuda/divider.h", "csrc/cuda/launch.h", "csrc/cuda/pack.cuh",
    "gankernels/triton/filtered_lrelu*.py", "gankernels/triton/upfirdn2d.py",
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A call, and its limits (forward, backward) of bytes requested and of sectors, over the least of each."""

    shape: tuple
    up: tuple
    down: tuple
    kwargs: dict
    cuda: tuple
    cuda_sectors: tuple
    triton: tuple
    registers: int


LAST = torch.channels_last
CALLS = {
    ("up 2 down 2", torch.contiguous_format): Call(
        (1, 4, 64, 116), (12,), (12,), dict(up=2, down=2, padding=[11, 10, 11, 10]),
        (1.3, 1.3), (1.85, 1.95), (9.0, 9.8), 96,
    ),
    ("up 4 down 2", torch.contiguous_format): Call(
        (1, 4, 36, 36), (24,), (12,), dict(up=4, down=2, padding=[17, 16, 17, 16]),
        (1.35, 2.4), (2.2, 2.55), (15.5, 19.0), 128,
    ),
    ("up 2 down 2, radial", torch.contiguous_format): Call(
        (1, 2, 36, 52), (12,), (12, 12), dict(up=2, down=2, padding=[11, 10, 11, 10]),
        (1.6, 2.4), (1.25, 1.3), (310.0, 360.0), 64,
    ),
    ("up 2 down 2", LAST): Call(
        (1, 32, 24, 24), (12,), (12,), dict(up=2, down=2, padding=[11, 10, 11, 10]),
        (3.5, 3.6), (1.9, 2.0), (28.0, 31.0), 96,
    ),
}  # fmt: skip


def _prepare(call, dtype, layout, backward):
    def prepare():
        x = torch.randn(call.shape).to(dtype).contiguous(memory_format=layout).requires_grad_()
        fu, fd = torch.rand(call.up) / call.up[0], torch.rand(call.down) / call.down[0]
        bias = torch.randn(call.shape[1]).to(dtype)
        if not backward:
            return lambda: ops.filtered_lrelu(x, fu, fd, bias, **call.kwargs)
        y = ops.filtered_lrelu(x, fu, fd, bias, **call.kwargs)
        g = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, x, g)

    return prepare


def _floor(call, dtype, backward):
    """(The least bytes, those of the composition: zeros, padding, two resamplings and the activation of the image.)"""
    n, c, h, w = call.shape
    up, down = call.kwargs["up"], call.kwargs["down"]
    pads = sum(call.kwargs["padding"][:2])
    mh, mw = (size * up + pads - call.up[0] + 1 for size in (h, w))
    out = [(size - call.down[0] + down) // down for size in (mh, mw)]
    numbers = n * c * (h * w + out[0] * out[1])
    filters = 4 * (torch.Size(call.up).numel() + torch.Size(call.down).numel()) + (
        0 if backward else c * dtype.itemsize
    )
    least = numbers * dtype.itemsize + n * c * mh * -(-mw // 4) + filters
    return least, (numbers + 8 * n * c * mh * mw) * dtype.itemsize


def cases():
    """Each pass is one launch."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for (name, layout), call in CALLS.items():
                what = f"{str(dtype)[6:]} {'NHWC' if layout == LAST else 'NCHW'}"
                for backward in (False, True):
                    floor, plain = _floor(call, dtype, backward)
                    cuda = backend == "cuda"
                    yield Case(
                        backend, f"{name}, {'backward' if backward else 'forward'} {what}",
                        _prepare(call, dtype, layout, backward), floor, plain, 1,
                        requested=(call.cuda if cuda else call.triton)[backward],
                        sectors=call.cuda_sectors[backward] if cuda else 1.01, wide=False,
                        registers=call.registers if cuda else 168, occupancy=0.18,
                    )  # fmt: skip
