"""upfirdn2d as StyleGAN2 has it (blur and upsampling with 4x4 taps) and its augmentation (12 taps, separable).

The backward pass is upfirdn2d with the factors exchanged: that of up 2 is the kernel of down 2. The models' filters are
constants, so these are the gradients in x. Requested bytes hold the halos of the tiles; in Triton, which has no tile in
shared memory, every tap across for each group of four rows of the output, less what the L1 cache holds.
"""

from dataclasses import dataclass

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/upfirdn2d.h", "csrc/cuda/upfirdn2d*", "csrc/cuda/divider.h", "csrc/cuda/launch.h", "csrc/cuda/pack.cuh",
    "gankernels/triton/upfirdn2d.py",
)  # fmt: skip
SHAPES = {torch.contiguous_format: (1, 4, 128, 256), torch.channels_last: (1, 64, 48, 48)}  # of the larger of x and y


@dataclass(frozen=True)
class Call:
    """The taps and arguments of a call, and the most bytes requested over the floor, (forward, backward)."""

    taps: tuple
    kwargs: dict
    rows: tuple  # CUDA, NCHW
    pixels: tuple  # CUDA, NHWC
    triton: tuple


CALLS = {
    "blur": Call((4, 4), dict(padding=[2, 1, 2, 1]), (1.15, 1.15), (1.25, 1.25), (5.1, 5.1)),
    "up 2": Call((4, 4), dict(up=2, padding=[2, 1, 2, 1], gain=4), (1.1, 1.15), (1.15, 1.25), (3.3, 3.3)),
    "up 2, 12 taps": Call((12,), dict(up=2, padding=[6, 5, 6, 5], gain=4), (1.25, 1.35), (1.4, 2.2), (12.0, 13.0)),
}


def _prepare(call, x_shape, dtype, layout, backward):
    def prepare():
        x, f = torch.randn(x_shape).to(dtype).contiguous(memory_format=layout), torch.randn(call.taps)
        if not backward:
            return lambda: ops.upfirdn2d(x, f, **call.kwargs)
        y = ops.upfirdn2d(x.requires_grad_(), f, **call.kwargs)
        g = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, x, g)

    return prepare


def _limits(call, backend, layout, backward):
    last, long = layout == torch.channels_last, len(call.taps) == 1
    if backend == "cuda":  # 12 taps take registers, and tiles whose halos need shared memory
        kept = dict(registers=80, occupancy=0.25) if long else dict(registers=64, occupancy=0.5)
        return dict(requested=(call.pixels if last else call.rows)[backward], **kept)
    # In NCHW the taps of a pack are not aligned together: a number a lane. Where the pass goes down, lanes take every
    # second one: 2 times the sectors, and one more under half of the taps (2.25 in bfloat16, 2.125 in float32); numbers
    # of the filter, one sector for all lanes, and the store bring the mean below.
    goes_down = backward and call.kwargs.get("up", 1) > 1
    sectors = 1.01 if last else (2.05 if long else 1.87) if goes_down else 1.1
    return dict(requested=call.triton[backward], sectors=sectors, wide=last, registers=128, occupancy=0.25)


def cases():
    """Each pass reads a tensor and the filter and writes a tensor, in one launch."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout, shape in SHAPES.items():
                for name, call in CALLS.items():
                    up = call.kwargs.get("up", 1)
                    small = (*shape[:2], shape[2] // up, shape[3] // up)
                    x, y = (torch.Size(s).numel() * dtype.itemsize for s in (small, shape))
                    floor = x + y + 4 * torch.Size(call.taps).numel()
                    # PyTorch: inserts zeros, pads, and convolves, in two passes where the filter is separable.
                    plain = (x + y if up > 1 else 0) + (4 + 2 * (len(call.taps) == 1)) * y
                    what = f"{str(dtype)[6:]} {'NHWC' if layout == torch.channels_last else 'NCHW'}"
                    for backward in (False, True):
                        yield Case(
                            backend, f"{name}, {'backward' if backward else 'forward'} {what}",
                            _prepare(call, small, dtype, layout, backward), floor, plain, 1,
                            **_limits(call, backend, layout, backward),
                        )  # fmt: skip
