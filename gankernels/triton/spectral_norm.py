"""spectral_norm in Triton: all weights in one packed tensor, a table telling each program its part.

A half iteration (W v, or W^T u) is one launch, the division by sigma another: lengths travel as sums of squares of each
program's numbers, which the next launch adds up and divides by. Derivatives: spectral_norm_gradients.py.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _WIDE = 4, 256  # the tile of W v: whole rows, in steps of _WIDE columns
_TALL, _COLUMNS = 16, 64  # the tile of W^T u: all rows, in steps of _TALL
_TILE, SPAN = 8192, 1024  # elements of a program elsewhere, and of its step


@triton.jit
def sum_of_parts(parts_ptr, first, count, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    return tl.sum(tl.load(parts_ptr + first + at, at < count, 0.0), 0)


@triton.jit
def _longer(squares, eps):
    length = tl.sqrt(squares)
    return tl.where(length < eps, eps, length)


@triton.jit
def _along_rows(w_ptr, v_ptr, rows, columns, ROWS: tl.constexpr, WIDE: tl.constexpr):
    acc = v_ptr.dtype.element_ty
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, WIDE), acc)
    for start in range(0, columns, WIDE):
        column = start + tl.arange(0, WIDE)
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        w = tl.load(w_ptr + row[:, None] * columns + column[None, :], mask, 0.0).to(acc)
        total += w * tl.load(v_ptr + column, column < columns, 0.0)[None, :]
    return tl.sum(total, 1)


@triton.jit
def _rows(
    w_ptr, v_ptr, u_ptr, s_ptr, t_parts_ptr, parts_ptr, jobs_ptr, eps: tl.float64,
    RAW: tl.constexpr, ALONG: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    # s = W v; RAW: v is not normalised yet. Parts: squares of s, or ALONG u products with it.
    acc = s_ptr.dtype.element_ty
    job = jobs_ptr + tl.program_id(0) * 7
    at, rows, columns, u_at = (
        tl.load(job),
        tl.load(job + 1).to(tl.int32),
        tl.load(job + 2).to(tl.int32),
        tl.load(job + 3),
    )
    v = v_ptr + tl.load(job + 4)
    if (at % 8 == 0) & (columns % 8 == 0):
        s = _along_rows(w_ptr + at // 8 * 8, v, rows, columns // 8 * 8, ROWS, WIDE)
    else:
        s = _along_rows(w_ptr + at, v, rows, columns, ROWS, WIDE)
    if RAW:
        s /= _longer(sum_of_parts(t_parts_ptr, tl.load(job + 5), tl.load(job + 6), PARTS), eps.to(acc))
    row = tl.arange(0, ROWS)
    tl.store(s_ptr + u_at + row, s, row < rows)
    other = s
    if ALONG:
        other = tl.load(u_ptr + u_at + row, row < rows, 0.0)
    tl.store(parts_ptr + tl.program_id(0), tl.sum(s * other, 0))


@triton.jit
def _along_columns(w_ptr, u_ptr, rows, count, columns, TALL: tl.constexpr, COLUMNS: tl.constexpr):
    acc = u_ptr.dtype.element_ty
    column = tl.arange(0, COLUMNS)
    total = tl.zeros((TALL, COLUMNS), acc)
    for start in range(0, rows, TALL):
        row = start + tl.arange(0, TALL)
        mask = (row < rows)[:, None] & (column < count)[None, :]
        w = tl.load(w_ptr + row[:, None] * columns + column[None, :], mask, 0.0).to(acc)
        total += w * tl.load(u_ptr + row, row < rows, 0.0)[:, None]
    return tl.sum(total, 0)


@triton.jit
def _columns(
    w_ptr, u_ptr, t_ptr, s_parts_ptr, parts_ptr, jobs_ptr, eps: tl.float64,
    RAW: tl.constexpr, PARTS: tl.constexpr, TALL: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # t = W^T u; RAW: u is not normalised yet.
    acc = t_ptr.dtype.element_ty
    job = jobs_ptr + tl.program_id(0) * 8
    at, rows, count = tl.load(job), tl.load(job + 1).to(tl.int32), tl.load(job + 2).to(tl.int32)
    columns, u, v_at = tl.load(job + 3).to(tl.int32), u_ptr + tl.load(job + 4), tl.load(job + 5)
    if (at % 8 == 0) & (columns % 8 == 0):  # count is then a multiple of 8 too
        t = _along_columns(w_ptr + at // 8 * 8, u, rows, count // 8 * 8, columns // 8 * 8, TALL, COLUMNS)
    else:
        t = _along_columns(w_ptr + at, u, rows, count, columns, TALL, COLUMNS)
    if RAW:
        t /= _longer(sum_of_parts(s_parts_ptr, tl.load(job + 6), tl.load(job + 7), PARTS), eps.to(acc))
    column = tl.arange(0, COLUMNS)
    tl.store(t_ptr + v_at + column, t, column < count)
    tl.store(parts_ptr + tl.program_id(0), tl.sum(t * t, 0))


@triton.jit
def _normalized(from_ptr, to_ptr, count, length, BLOCK: tl.constexpr):
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        tl.store(to_ptr + at, tl.load(from_ptr + at, at < count, 0.0) / length, at < count)


@triton.jit
def _divided(w_ptr, y_ptr, count, sigma, STEP: tl.constexpr):
    for start in range(0, count, STEP):
        at = start + tl.arange(0, STEP)
        w = tl.load(w_ptr + at, at < count, 0.0).to(sigma.dtype)
        y = w / sigma if sigma.dtype == tl.float64 else tl.math.div_rn(w, sigma)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), at < count)


@triton.jit
def _divide(
    w_ptr, y_ptr, s_ptr, t_ptr, u_ptr, v_ptr, sigma_ptr, s_parts_ptr, t_parts_ptr, jobs_ptr, eps: tl.float64,
    S: tl.constexpr, T: tl.constexpr, LAST_T: tl.constexpr, ALONG: tl.constexpr,
    S_PARTS: tl.constexpr, T_PARTS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # y = W / sigma. The first program of a weight also writes sigma, and with S u = s / |s|, with T v = t / |t|.
    acc = sigma_ptr.dtype.element_ty
    least = eps.to(acc)
    job = jobs_ptr + tl.program_id(0) * 14
    at, begin, count = tl.load(job), tl.load(job + 1), tl.load(job + 2).to(tl.int32)
    rows, columns, u_at, v_at = tl.load(job + 3), tl.load(job + 4), tl.load(job + 5), tl.load(job + 6)
    s_squares, t_squares = tl.zeros((), acc), tl.zeros((), acc)
    if S or ALONG:
        s_squares = sum_of_parts(s_parts_ptr, tl.load(job + 8), tl.load(job + 9), S_PARTS)
    if T:
        t_squares = sum_of_parts(t_parts_ptr, tl.load(job + 10), tl.load(job + 11), T_PARTS)
    squares = t_squares if LAST_T else s_squares
    sigma = squares if ALONG else squares / _longer(squares, least)
    if begin == 0:
        tl.store(sigma_ptr + tl.load(job + 7), sigma)
        if S:
            _normalized(s_ptr + u_at, u_ptr + u_at, rows, _longer(s_squares, least), STEP)
        if T:
            _normalized(t_ptr + v_at, v_ptr + v_at, columns, _longer(t_squares, least), STEP)
    if (at % 8 == 0) & (count % 8 == 0):
        aligned = at // 8 * 8
        _divided(w_ptr + aligned, y_ptr + aligned, count // 8 * 8, sigma, STEP)
    else:
        _divided(w_ptr + at, y_ptr + at, count, sigma, STEP)


class Jobs:
    """The tables: what each program of a launch does, by the shapes of the weights."""

    def __init__(self, rows: tuple[int, ...], columns: tuple[int, ...], device: torch.device) -> None:
        along, across, tiles = [], [], []
        spans = []  # of each weight: its programs in the three tables, as (first, count)
        at = u_at = v_at = 0
        for r, c in zip(rows, columns, strict=True):
            span = (len(along), triton.cdiv(r, _ROWS)), (len(across), triton.cdiv(c, _COLUMNS))
            spans.append((*span, (len(tiles), triton.cdiv(r * c, _TILE))))
            along += [(at + i * c, min(_ROWS, r - i), c, u_at + i, v_at, *span[1]) for i in range(0, r, _ROWS)]
            across += [(at + i, r, min(_COLUMNS, c - i), c, u_at, v_at + i, *span[0]) for i in range(0, c, _COLUMNS)]
            flat = [item for pair in spans[-1] for item in pair]
            tiles += [
                (at + i, i, min(_TILE, r * c - i), r, c, u_at, v_at, len(spans) - 1, *flat)
                for i in range(0, r * c, _TILE)
            ]
            at, u_at, v_at = at + r * c, u_at + r, v_at + c
        self.programs = len(along), len(across), len(tiles)
        self.most = [triton.next_power_of_2(max(span[i][1] for span in spans)) for i in range(3)]
        self.columns = v_at
        self.rows_table, self.columns_table, self.tiles_table = (
            torch.tensor(table, dtype=torch.int64).to(device) for table in (along, across, tiles)
        )


jobs_of = functools.lru_cache(maxsize=64)(Jobs)


def spectral_norm(w: Tensor, u: Tensor, v: Tensor | None, rows, columns, iterations: int, eps: float):
    jobs = jobs_of(tuple(rows), tuple(columns), w.device)
    along, across, tiles = jobs.programs
    w, u = w.contiguous(), u.contiguous()
    classic = v is None
    v = u.new_empty(jobs.columns) if classic else v.contiguous()
    s, t = torch.empty_like(u), torch.empty_like(v)
    s_parts, t_parts = u.new_empty(along), u.new_empty(across)
    most_s, most_t, _ = jobs.most

    def to_u(v, raw: bool, product: bool = False) -> None:
        _rows[(along,)](
            w, v, u, s, t_parts, s_parts, jobs.rows_table, eps,
            RAW=raw, ALONG=product, PARTS=most_t, ROWS=_ROWS, WIDE=_WIDE, num_warps=4,
        )  # fmt: skip

    def to_v(u, raw: bool) -> None:
        _columns[(across,)](
            w, u, t, s_parts, t_parts, jobs.columns_table, eps,
            RAW=raw, PARTS=most_s, TALL=_TALL, COLUMNS=_COLUMNS, num_warps=4,
        )  # fmt: skip

    if classic:
        to_v(u, False)
    for i in range(iterations):
        to_u(t if classic or i else v, classic or i > 0)
        if not classic or i + 1 < iterations:
            to_v(s, True)
    product = not classic and iterations == 0
    if product:
        to_u(v, False, True)
    y, sigma = torch.empty_like(w), u.new_empty(len(rows))
    new_u = torch.empty_like(u) if iterations else u.clone()
    new_v = v.clone() if product else torch.empty_like(v)
    _divide[(tiles,)](
        w, y, s, t, new_u, new_v, sigma, s_parts, t_parts, jobs.tiles_table, eps,
        S=iterations > 0, T=not product, LAST_T=not product and not (classic and iterations), ALONG=product,
        S_PARTS=most_s, T_PARTS=most_t, STEP=SPAN, num_warps=4,
    )  # fmt: skip
    return y, new_u, new_v, sigma
