"""Floating-point arithmetic. Approximate instructions are computed as IEEE ones."""

import numpy as np

from ..values import (
    bf16_to_f32,
    directed_f32,
    f32_to_bf16,
    f64_to_bf16,
    flush,
    halves,
    pack,
)
from .registry import elementwise, op, sources


def lift(ptx_type, function):
    """`function` on float arrays, as a function on the bits of a PTX type."""
    if ptx_type in ("f16", "f32", "f64"):
        return function
    if ptx_type == "bf16":
        return lambda *args: f32_to_bf16(function(*map(bf16_to_f32, args)))
    if ptx_type in ("f16x2", "bf16x2"):
        one = lift("bf16", function) if ptx_type == "bf16x2" else _on_f16_bits(function)

        def pairs(*args):
            low, high = zip(*map(halves, args), strict=True)
            return pack(one(*low), one(*high))

        return pairs
    if ptx_type == "f32x2":

        def twice(*args):
            parts = [np.ascontiguousarray(a).view(np.float32).reshape(-1, 2) for a in args]
            return np.ascontiguousarray(function(*parts).astype(np.float32)).view(np.uint64).reshape(-1)

        return twice
    if ptx_type in ("u16x2", "s16x2"):  # each half wraps by itself

        def both(*args):
            return function(*(np.ascontiguousarray(a).view(np.uint16) for a in args)).view(np.uint32)

        return both
    raise KeyError(ptx_type)


def _on_f16_bits(function):
    return lambda *args: function(*(a.view(np.float16) for a in args)).view(np.uint16)


def _modified(function, ins):
    """Applies .ftz, .sat, .relu and directed rounding to a float32 (or wider) function."""
    mode = next((m for m in ins.mods if m in ("rz", "rm", "rp")), None)
    if mode:
        if ins.type != "f32":
            raise KeyError(f"{mode} rounding of {ins.type}")
        inner = function

        def function(*args):
            return directed_f32(inner(*(a.astype(np.float64) for a in args)), mode)

    if "ftz" in ins.mods and ins.type == "f32":
        full = function

        def function(*args):
            return flush(full(*map(flush, args)))

    if "sat" in ins.mods:
        unbounded = function

        def function(*args):
            value = unbounded(*args)
            return np.where(np.isnan(value), value.dtype.type(0), np.clip(value, 0, 1)).astype(value.dtype)

    if "relu" in ins.mods:
        signed = function

        def function(*args):
            value = signed(*args)
            return np.where(np.isnan(value), value, np.maximum(value, value.dtype.type(0)))

    return function


def real_op(machine, ins, function):
    """A step for a float instruction whose operands all have its type."""
    function = _modified(function, ins)
    if ins.type not in ("f16", "f32", "f64"):
        function = lift(ins.type, function)
    return elementwise(machine, ins.operands[0], ins.type, function, sources(machine, ins, ins.type))


def fma_f64(a, b, c):
    """a * b + c from error-free product and sum: the error of one rounding, nearly always the fused result itself."""
    split = np.float64(134217729.0)
    product = a * b
    high_a = (t := split * a) - (t - a)
    high_b = (t := split * b) - (t - b)
    low_a, low_b = a - high_a, b - high_b
    lost = low_a * low_b - (product - high_a * high_b - low_a * high_b - high_a * low_b)
    total = product + c
    back = total - product
    lost_sum = (product - (total - back)) + (c - back)
    exact = total + (lost + lost_sum)
    return np.where(np.isfinite(exact), exact, total)


def _fma_through_f64(a, b, c):
    return a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)


def _fma_f16(a, b, c):
    return _fma_through_f64(a, b, c).astype(np.float16)


def _fma_f32(a, b, c):
    product = a.astype(np.float64)
    product = product * b
    product += c
    return product.astype(np.float32)


def _fma_bf16(a, b, c):
    return f64_to_bf16(_fma_through_f64(*map(bf16_to_f32, (a, b, c))))


def _fma_bf16x2(a, b, c):
    low, high = zip(*map(halves, (a, b, c)), strict=True)
    return pack(_fma_bf16(*low), _fma_bf16(*high))


@op("fma", mods="rn rz rm rp ftz sat relu")
def fma(machine, ins):
    t = ins.type
    args = sources(machine, ins, t)
    if t in ("bf16", "bf16x2"):
        if {"relu", "sat"} & set(ins.mods):
            raise KeyError("relu or sat of bf16")
        function = _fma_bf16 if t == "bf16" else _fma_bf16x2
    elif t == "f32" and {"rz", "rm", "rp"} & set(ins.mods):
        function = _modified(_fma_through_f64, ins)
    else:
        base = {"f64": fma_f64, "f16": _fma_f16, "f16x2": _fma_f16, "f32": _fma_f32, "f32x2": _fma_f32}[t]
        function = lift(t, _modified(base, ins))
    return elementwise(machine, ins.operands[0], t, function, args)


def _unary(name, function, mods="approx ftz rn rz rm rp"):
    op(name, mods=mods)(lambda machine, ins: real_op(machine, ins, function))


def _reciprocal(x):
    return x.dtype.type(1) / x


def _reciprocal_root(x):
    return (1 / np.sqrt(x.astype(np.float64))).astype(x.dtype)


def _through_f64(function):
    return lambda x: function(x.astype(np.float64)).astype(x.dtype)


_unary("rcp", _reciprocal)
_unary("sqrt", np.sqrt)
_unary("rsqrt", _reciprocal_root)
_unary("ex2", _through_f64(np.exp2))
_unary("lg2", _through_f64(np.log2))
_unary("sin", _through_f64(np.sin))
_unary("cos", _through_f64(np.cos))
_unary("tanh", _through_f64(np.tanh))


@op("copysign")
def copysign(machine, ins):
    return elementwise(
        machine, ins.operands[0], ins.type, lambda a, b: np.copysign(b, a), sources(machine, ins, ins.type)
    )


_TESTS = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "notanumber": np.isnan,
    "number": lambda x: ~np.isnan(x),
    "normal": lambda x: np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny),
    "subnormal": lambda x: (x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny),
}


@op("testp", mods=" ".join(_TESTS))
def testp(machine, ins):
    return elementwise(machine, ins.operands[0], "pred", _TESTS[ins.mods[0]], sources(machine, ins, ins.type))
