"""spectral_norm's derivatives in Triton: parts of the sums over each weight, then a launch that combines them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.triton.spectral_norm import SPAN, Jobs, jobs_of, sum_of_parts


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
        c = sum_of_parts(parts_ptr + 2 * programs, first, parts, PARTS)
        r = -c * over
    if KIND != 0:
        a = sum_of_parts(parts_ptr, first, parts, PARTS)
        q = -a * over
    if KIND == 2:
        b = sum_of_parts(parts_ptr + programs, first, parts, PARTS)
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


def _parts(h, g, w, u, v, jobs: Jobs, a: bool, b: bool, c: bool) -> Tensor:
    programs = jobs.programs[2]
    parts = torch.empty((3, programs), dtype=torch.float64, device=g.device)
    _dots[(programs,)](
        h, g, w, u, v, parts, jobs.tiles_table, programs, A=a, B=b, C=c, STEP=SPAN, num_warps=4,
    )  # fmt: skip
    return parts


def _combined(kind: int, x, y, u, v, sigma, parts: Tensor, jobs: Jobs) -> Tensor:
    out = torch.empty_like(x)
    programs = jobs.programs[2]
    _combine[(programs,)](
        x, y, out, u, v, sigma, parts, jobs.tiles_table, programs,
        KIND=kind, PARTS=jobs.most[2], STEP=SPAN, num_warps=4,
    )  # fmt: skip
    return out


def backward(g: Tensor, w: Tensor, u: Tensor, v: Tensor, sigma: Tensor, rows, columns) -> Tensor:
    jobs = jobs_of(tuple(rows), tuple(columns), w.device)
    g, w, u, v, sigma = (t.contiguous() for t in (g, w, u, v, sigma))
    parts = _parts(g, g, w, u, v, jobs, False, False, True)
    return _combined(0, g, g, u, v, sigma, parts, jobs)


def double_backward(h, g, w, u, v, sigma, rows, columns, wanted) -> tuple[Tensor, Tensor]:
    jobs = jobs_of(tuple(rows), tuple(columns), w.device)
    h, g, w, u, v, sigma = (t.contiguous() for t in (h, g, w, u, v, sigma))
    parts = _parts(h, g, w, u, v, jobs, True, wanted[1], wanted[1])
    return (
        _combined(1, h, w, u, v, sigma, parts, jobs) if wanted[0] else w.new_empty(0),
        _combined(2, g, w, u, v, sigma, parts, jobs) if wanted[1] else w.new_empty(0),
    )
