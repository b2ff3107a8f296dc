"""spectral_norm in Triton: all weights in one packed tensor, a table telling each program its part.

A half iteration (W v, or W^T u) is one launch, the division by sigma another: lengths travel as sums of squares of each
program's numbers, which the next launch adds up and divides by.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _WIDE = 4, 256  # the tile of W v: whole rows, in steps of _WIDE columns
_TALL, _COLUMNS = 16, 64  # the tile of W^T u: all rows, in steps of _TALL
_TILE, _STEP = 8192, 1024  # elements of a program elsewhere, and of its step


@triton.jit
def _total(parts_ptr, first, count, BLOCK: tl.constexpr):
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
        s /= _longer(_total(t_parts_ptr, tl.load(job + 5), tl.load(job + 6), PARTS), eps.to(acc))
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
        t /= _longer(_total(s_parts_ptr, tl.load(job + 6), tl.load(job + 7), PARTS), eps.to(acc))
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
        s_squares = _total(s_parts_ptr, tl.load(job + 8), tl.load(job + 9), S_PARTS)
    if T:
        t_squares = _total(t_parts_ptr, tl.load(job + 10), tl.load(job + 11), T_PARTS)
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


@triton.jit
def _outer(u_ptr, v_ptr, first, i, mask, columns, TOGETHER: tl.constexpr, STEP: tl.constexpr):
    """(u[row], v[column]) of elements i from `first` on. TOGETHER: rows are of whole fours, and four of v lie together:
    they are read by lanes side by side, in a shape of their own, as else lanes take as many as they do of a weight."""
    if TOGETHER:
        four = first // 4 * 4 + tl.arange(0, STEP // 4) * 4
        each = tl.arange(0, 4)[None, :]
        ok = tl.reshape(mask, (STEP // 4, 4))
        v = tl.load(v_ptr + (four % columns)[:, None] + each, ok, 0.0)
        u = tl.load(u_ptr + four // columns, tl.max(ok.to(tl.int32), 1) > 0, 0.0)
        u = tl.broadcast_to(u[:, None], (STEP // 4, 4))
        return tl.reshape(u, (STEP,)), tl.reshape(v, (STEP,))
    else:
        at = first + i
        return tl.load(u_ptr + at // columns, mask, 0.0), tl.load(v_ptr + at % columns, mask, 0.0)


@triton.jit
def _products(
    h_ptr, g_ptr, w_ptr, u_ptr, v_ptr, at, begin, count, columns, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
    TOGETHER: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # Products of different numbers cancel: they are summed in float64.
    a, b, c = (tl.zeros((STEP,), tl.float64), tl.zeros((STEP,), tl.float64), tl.zeros((STEP,), tl.float64))
    for start in range(0, count, STEP):
        i = tl.arange(0, STEP)
        mask = start + i < count
        if A or B:
            h = tl.load(h_ptr + at + start + i, mask, 0.0).to(tl.float64)
        if A:
            u, v = _outer(u_ptr, v_ptr, begin + start, i, mask, columns, TOGETHER, STEP)
            a += h * (u.to(tl.float64) * v.to(tl.float64))
        if B or C:
            g = tl.load(g_ptr + at + start + i, mask, 0.0).to(tl.float64)
        if B:
            b += h * g
        if C:
            c += g * tl.load(w_ptr + at + start + i, mask, 0.0).to(tl.float64)
    return tl.sum(a, 0), tl.sum(b, 0), tl.sum(c, 0)


@triton.jit
def _dots(
    h_ptr, g_ptr, w_ptr, u_ptr, v_ptr, parts_ptr, jobs_ptr, programs,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # parts [3, programs]: u^T h v, <h, g>, <g, W>
    pid = tl.program_id(0)
    job = jobs_ptr + pid * 14
    at, begin, count = tl.load(job), tl.load(job + 1).to(tl.int32), tl.load(job + 2).to(tl.int32)
    columns, u, v_at = tl.load(job + 4).to(tl.int32), u_ptr + tl.load(job + 5), tl.load(job + 6)
    if (at % 8 == 0) & (count % 8 == 0):
        at = at // 8 * 8
        count = count // 8 * 8
        if A and (columns % 4 == 0) & (v_at % 4 == 0):
            v = v_ptr + v_at // 4 * 4
            a, b, c = _products(h_ptr, g_ptr, w_ptr, u, v, at, begin, count, columns // 4 * 4, A, B, C, True, STEP)
        else:
            a, b, c = _products(h_ptr, g_ptr, w_ptr, u, v_ptr + v_at, at, begin, count, columns, A, B, C, False, STEP)
    else:
        a, b, c = _products(h_ptr, g_ptr, w_ptr, u, v_ptr + v_at, at, begin, count, columns, A, B, C, False, STEP)
    tl.store(parts_ptr + pid, a)
    tl.store(parts_ptr + programs + pid, b)
    tl.store(parts_ptr + 2 * programs + pid, c)


@triton.jit
def _sums_of(
    x_ptr, y_ptr, out_ptr, u_ptr, v_ptr, begin, count, columns, p, q, r, Y: tl.constexpr, TOGETHER: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    for start in range(0, count, STEP):
        i = tl.arange(0, STEP)
        mask = start + i < count
        value = p * tl.load(x_ptr + start + i, mask, 0.0).to(p.dtype)
        if Y:
            value += q * tl.load(y_ptr + start + i, mask, 0.0).to(p.dtype)
        else:
            u, v = _outer(u_ptr, v_ptr, begin + start, i, mask, columns, TOGETHER, STEP)
            value += (r * u) * v
        tl.store(out_ptr + start + i, value.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def _combine(
    x_ptr, y_ptr, out_ptr, u_ptr, v_ptr, sigma_ptr, parts_ptr, jobs_ptr, programs,
    KIND: tl.constexpr, PARTS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # KIND 0: x / sigma - c / sigma^2 u v^T; 1: x / sigma - a / sigma^2 y; 2: -a / sigma^2 x + (2 a c / sigma - b) /
    # sigma^2 u v^T
    job = jobs_ptr + tl.program_id(0) * 14
    at, begin, count = tl.load(job), tl.load(job + 1).to(tl.int32), tl.load(job + 2).to(tl.int32)
    columns, u, v_at = tl.load(job + 4).to(tl.int32), u_ptr + tl.load(job + 5), tl.load(job + 6)
    sigma = tl.load(sigma_ptr + tl.load(job + 7)).to(tl.float64)
    first, parts = tl.load(job + 12), tl.load(job + 13)
    over = 1 / (sigma * sigma)
    acc = sigma_ptr.dtype.element_ty
    p, q, r = 1 / sigma, tl.zeros((), tl.float64), tl.zeros((), tl.float64)
    if KIND != 1:
        c = _total(parts_ptr + 2 * programs, first, parts, PARTS)
        r = -c * over
    if KIND != 0:
        a = _total(parts_ptr, first, parts, PARTS)
        q = -a * over
    if KIND == 2:
        b = _total(parts_ptr + programs, first, parts, PARTS)
        p, r = q, (2 * a * c / sigma - b) * over
    p, q, r = p.to(acc), q.to(acc), r.to(acc)
    v = v_ptr + v_at
    x, y, out = x_ptr + at, y_ptr + at, out_ptr + at
    if (at % 8 == 0) & (count % 8 == 0):
        at = at // 8 * 8
        count = count // 8 * 8
        x, y, out = x_ptr + at, y_ptr + at, out_ptr + at
        if KIND != 1 and (columns % 4 == 0) & (v_at % 4 == 0):
            v = v_ptr + v_at // 4 * 4
            _sums_of(x, y, out, u, v, begin, count, columns // 4 * 4, p, q, r, KIND == 1, True, STEP)
        else:
            _sums_of(x, y, out, u, v, begin, count, columns, p, q, r, KIND == 1, False, STEP)
    else:
        _sums_of(x, y, out, u, v, begin, count, columns, p, q, r, KIND == 1, False, STEP)


class _Jobs:
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


_jobs = functools.lru_cache(maxsize=64)(_Jobs)


def spectral_norm(w: Tensor, u: Tensor, v: Tensor | None, rows, columns, iterations: int, eps: float):
    jobs = _jobs(tuple(rows), tuple(columns), w.device)
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
        S_PARTS=most_s, T_PARTS=most_t, STEP=_STEP, num_warps=4,
    )  # fmt: skip
    return y, new_u, new_v, sigma


def _parts(h, g, w, u, v, jobs: _Jobs, a: bool, b: bool, c: bool) -> Tensor:
    programs = jobs.programs[2]
    parts = torch.empty((3, programs), dtype=torch.float64, device=g.device)
    _dots[(programs,)](
        h, g, w, u, v, parts, jobs.tiles_table, programs, A=a, B=b, C=c, STEP=_STEP, num_warps=4,
    )  # fmt: skip
    return parts


def _combined(kind: int, x, y, u, v, sigma, parts: Tensor, jobs: _Jobs) -> Tensor:
    out = torch.empty_like(x)
    programs = jobs.programs[2]
    _combine[(programs,)](
        x, y, out, u, v, sigma, parts, jobs.tiles_table, programs,
        KIND=kind, PARTS=jobs.most[2], STEP=_STEP, num_warps=4,
    )  # fmt: skip
    return out


def spectral_norm_backward(g: Tensor, w: Tensor, u: Tensor, v: Tensor, sigma: Tensor, rows, columns) -> Tensor:
    jobs = _jobs(tuple(rows), tuple(columns), w.device)
    g, w, u, v, sigma = (t.contiguous() for t in (g, w, u, v, sigma))
    parts = _parts(g, g, w, u, v, jobs, False, False, True)
    return _combined(0, g, g, u, v, sigma, parts, jobs)


def spectral_norm_double_backward(h, g, w, u, v, sigma, rows, columns, wanted) -> tuple[Tensor, Tensor]:
    jobs = _jobs(tuple(rows), tuple(columns), w.device)
    h, g, w, u, v, sigma = (t.contiguous() for t in (h, g, w, u, v, sigma))
    parts = _parts(h, g, w, u, v, jobs, True, wanted[1], wanted[1])
    return (
        _combined(1, h, w, u, v, sigma, parts, jobs) if wanted[0] else w.new_empty(0),
        _combined(2, g, w, u, v, sigma, parts, jobs) if wanted[1] else w.new_empty(0),
    )
