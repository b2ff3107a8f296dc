"""grid_sample2d: an image sampled at the points of a grid, twice differentiable in the image and in the grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, grid_sample2d_op

_NAME = "grid_sample2d"
_AFFINE = "affine_grid_sample2d"
MODES = ("bilinear", "nearest")
PADDINGS = ("zeros", "border", "reflection")


def grid_sample2d(
    x: Tensor, grid: Tensor, *, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> Tensor:
    """Sample each image at the points of its grid: the values of `torch.nn.functional.grid_sample`.

    Args:
        x: [N, C, H, W], H and W at least 1; float16, bfloat16, float32 or float64.
        grid: [N, OH, OW, 2], points (x, y) that run from -1 to 1 over the image; dtype of x, or float32 where x is of
            16 bits.
        mode: "bilinear" or "nearest".
        padding_mode: what lies outside: "zeros", "border" (the nearest pixel) or "reflection".
        align_corners: -1 and 1 are the centres of the outermost pixels, not their outer edges.

    Returns: [N, C, OH, OW] in the dtype and memory format of x. Positions and sums are float32, or float64 for a
        float64 x. A NaN lies outside. Under autocast x keeps its dtype and a grid of fewer bits is
        widened to it. Differentiable to any order in x and grid; between pixels the derivative in the grid jumps, and
        "nearest" has none (zeros). On GPUs the gradient in x is summed by atomics: it raises under
        ``torch.use_deterministic_algorithms(True)``.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, for an unknown mode ("bicubic" is
        one), and for images of 2^31 pixels or more.

    Jaderberg et al. 2015, arXiv 1506.02025.
    """
    grid = _checked(_NAME, x, "grid", grid)
    _check.rank(_NAME, "grid", grid, 4, "[N, OH, OW, 2]")
    if grid.shape[0] != x.shape[0] or grid.shape[3] != 2:
        raise ValueError(f"{_NAME}: grid has shape {list(grid.shape)}, expected [{x.shape[0]}, OH, OW, 2]")
    size = [grid.shape[1], grid.shape[2]]
    settings = _settings(_NAME, x, size, mode, padding_mode, align_corners)
    return _backend.pick(_NAME, x)(x, grid, size, *settings)


def affine_grid_sample2d(
    x: Tensor,
    theta: Tensor,
    size: Sequence[int],
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Sample each image through an affine map: `grid_sample2d` at ``theta @ (u, v, 1)``, in one kernel without a grid.

    The values are those of `torch.nn.functional.affine_grid` and `grid_sample`. Where theta needs a gradient the grid
    is made, by PyTorch.

    Args:
        x: [N, C, H, W], H and W at least 1; float16, bfloat16, float32 or float64.
        theta: [N, 2, 3], from points (u, v, 1) of the result to points of x, both from -1 to 1; dtype of x, or float32
            where x is of 16 bits.
        size: [OH, OW] of the result.
        mode, padding_mode, align_corners: as in `grid_sample2d`, and for both grids.

    Returns: [N, C, OH, OW] in the dtype and memory format of x; precision, autocast and determinism as in
        `grid_sample2d`. Differentiable to any order in x and theta.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device.
    """
    theta = _checked(_AFFINE, x, "theta", theta)
    if theta.shape != (x.shape[0], 2, 3):
        raise ValueError(f"{_AFFINE}: theta has shape {list(theta.shape)}, expected [{x.shape[0]}, 2, 3]")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(_is_size(n) for n in size):
        raise ValueError(f"{_AFFINE}: size is {size!r}, expected [OH, OW], integers of 0 or more")
    settings = _settings(_AFFINE, x, size, mode, padding_mode, align_corners)
    return _backend.pick(_AFFINE, x)(x, theta, list(size), *settings)


def _is_size(n: object) -> bool:
    return isinstance(n, (int, torch.SymInt)) and not isinstance(n, bool) and n >= 0


def _checked(op: str, x: Tensor, name: str, grid: Tensor) -> Tensor:
    """The grid, after the checks of it and x and the autocast rule."""
    _check.floating(op, "x", x)
    _check.rank(op, "x", x, 4, "[N, C, H, W]")
    _check.channels(op, "x", x)
    if 0 in x.shape[2:]:
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected H and W of at least 1")
    _check.floating(op, name, grid)
    if _check.autocast_dtype(x) is not None and grid.dtype.itemsize < x.dtype.itemsize:
        grid = grid.to(x.dtype)
    if grid.dtype == torch.float32 and x.dtype.itemsize == 2:
        x = x.detach().float()[:0]  # what the grid has to be like
    _check.like(op, name, grid, x)
    return grid


def _settings(op: str, x: Tensor, size: Sequence[int], mode: str, padding_mode: str, align_corners: bool):
    for name, value, known in (("mode", mode, MODES), ("padding_mode", padding_mode, PADDINGS)):
        if value not in known:
            raise ValueError(f"{op}: {name} is {value!r}, expected one of {', '.join(known)}")
    if x.shape[2] * x.shape[3] >= 2**31 or size[0] * size[1] >= 2**31:
        raise ValueError(
            f"{op}: an image of {list(x.shape[2:])} to one of {list(size)}, expected fewer than 2^31 pixels; sample in "
            "parts"
        )
    return MODES.index(mode), PADDINGS.index(padding_mode), bool(align_corners)


def base_grid(size: Sequence[int], align: bool, like: Tensor) -> Tensor:
    """[OH, OW, 3]: the points (u, v, 1) of an affine grid."""

    def axis(n):
        i = torch.arange(n, device=like.device, dtype=like.dtype)
        return (2 * i - (n - 1)) / (max(n - 1, 1) if align else max(n, 1))

    v, u = torch.meshgrid(axis(size[0]), axis(size[1]), indexing="ij")
    return torch.stack([u, v, torch.ones_like(u)], -1)


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _affine_grid(theta: Tensor, size: Sequence[int], align: bool) -> Tensor:
    """[N, OH, OW, 2], at least float32."""
    theta = _wide(theta)
    base = base_grid(size, align, theta)
    # Not a matrix product: neither autocast nor TF32 may round positions.
    return (base[None, :, :, None] * theta[:, None, None]).sum(-1)


def _axis(g: Tensor, size: int, mode: int, padding: int, align: bool) -> tuple[list[Tensor], list[Tensor], list]:
    """The two pixels that coordinates lie between, the weights of their values, and which of them exist."""
    last = size - 1
    at = g * (last / 2 if align else size / 2) + last / 2
    if PADDINGS[padding] == "reflection":
        low, span = (0.0, last) if align else (-0.5, size)
        if span == 0:
            at = torch.where(at.isnan(), at, 0)
        else:
            away = (at - low).abs()
            turns = (away.detach() / span).floor()
            rest = away - turns * span
            at = torch.where(turns % 2 == 0, low + rest, low + span - rest)
    if PADDINGS[padding] != "zeros":
        # Like clamp, but without a gradient on the border itself.
        at = torch.where(at <= 0, 0, torch.where(at >= last, last, at))
    if MODES[mode] == "nearest":
        inside = (at.detach().round() >= 0) & (at.detach().round() <= last)
        pixel = torch.where(inside, at.detach().round(), 0).long()
        return [pixel], [torch.where(inside, 1 + 0 * torch.where(inside, at, 0), 0)], [inside]
    inside = (at >= -1) & (at < size)
    at = torch.where(inside, at, 0)
    below = at.detach().floor()
    pixels = [below.long(), below.long() + 1]
    exist = [inside & (p >= 0) & (p < size) for p in pixels]
    t = at - below
    weights = [torch.where(there, w, 0) for there, w in zip(exist, (1 - t, t), strict=True)]
    return [torch.where(there, p, 0) for there, p in zip(exist, pixels, strict=True)], weights, exist


def reference(x: Tensor, grid: Tensor, size: list[int], mode: int, padding: int, align: bool) -> Tensor:
    """A gather for each of the pixels around a point; `grid` may be the theta of an affine one."""
    n, c, h, w = x.shape
    grid = _affine_grid(grid, size, align) if grid.ndim == 3 else _wide(grid)
    columns = _axis(grid[..., 0], w, mode, padding, align)
    rows = _axis(grid[..., 1], h, mode, padding, align)
    flat = _wide(x).flatten(2)  # [N, C, H * W]
    y = flat.new_zeros((n, c, size[0] * size[1]))
    for row, row_weight, row_exists in zip(*rows, strict=True):
        for column, column_weight, column_exists in zip(*columns, strict=True):
            at = (row * w + column).flatten(1)[:, None].expand(-1, c, -1)  # [N, C, OH * OW]
            there = (row_exists & column_exists).flatten(1)[:, None]
            value = torch.where(there, flat.gather(2, at), 0)  # outside, not even an infinity counts
            y = y + value * (row_weight * column_weight).flatten(1)[:, None]
    return y.unflatten(2, tuple(size)).to(x.dtype).contiguous(memory_format=_check.kept_format(x))


def _native(x, grid, size, *settings):
    return torch.ops.gankernels_native.grid_sample2d(x, grid, None, size, *settings)


def _triton(x, grid, size, *settings):
    return grid_sample2d_op.sample(x, grid, None, size, settings)


def _affine(x, theta, size, mode, padding, align):
    grid = _affine_grid(theta, size, align) if theta.requires_grad else theta
    return _backend.pick(_NAME, x)(x, grid, size, mode, padding, align)


_backend.register(_NAME, reference=reference, cpu=_native, cuda=_native, triton=_triton)
_backend.register_compound(_AFFINE, _affine, _NAME)
_backend.register_plain(_NAME, lambda x, grid, along, size, *settings: reference(x, grid, size, *settings))
