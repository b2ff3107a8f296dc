"""Arithmetic on integers; for float types of the same instructions it defers to `real`."""

import numpy as np

from ..faults import UnknownInstruction
from ..values import is_signed, size
from .real import real_op
from .registry import elementwise, op, sources

INTEGERS = {"u16", "s16", "u32", "s32", "u64", "s64", "b16", "b32", "b64"}
_WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def _carry(machine):
    if not hasattr(machine, "carry"):
        machine.carry = np.zeros(machine.lanes, bool)
    return machine.carry


def _with_carry(machine, ins, function):
    """add/sub/mad with .cc or a carry in: `function(carry, *sources)` returns the result and the carry out."""
    t = f"u{ins.type[1:]}"
    args, carry = sources(machine, ins, t), _carry(machine)
    target = machine.target(ins.operands[0], t)

    def step():
        result, out = function(carry, *args)
        machine.put(target, result)
        if "cc" in ins.mods:
            machine.put(carry, out)

    return step


def _add_carry(carry_in):
    def add(carry, a, b):
        partial = a + b
        result = partial + (carry if carry_in else carry & False)
        return result, (partial < a) | (result < partial)

    return add


def _sub_borrow(carry_in):
    def sub(carry, a, b):
        partial = a - b
        result = partial - (carry if carry_in else carry & False)
        return result, (partial > a) | (result > partial)

    return sub


@op("add", mods="sat ftz rn rz rm rp cc")
def add(machine, ins):
    if "cc" in ins.mods:
        return _with_carry(machine, ins, _add_carry(False))
    if ins.type not in INTEGERS:
        return real_op(machine, ins, np.add)
    if "sat" in ins.mods:
        if ins.type != "s32":
            raise UnknownInstruction(f"no meaning for `{ins.text}`")
        return _saturated(machine, ins, np.add)
    return elementwise(machine, ins.operands[0], ins.type, np.add, sources(machine, ins, ins.type))


@op("sub", mods="sat ftz rn rz rm rp cc")
def sub(machine, ins):
    if "cc" in ins.mods:
        return _with_carry(machine, ins, _sub_borrow(False))
    if ins.type not in INTEGERS:
        return real_op(machine, ins, np.subtract)
    if "sat" in ins.mods:
        return _saturated(machine, ins, np.subtract)
    return elementwise(machine, ins.operands[0], ins.type, np.subtract, sources(machine, ins, ins.type))


def _saturated(machine, ins, function):
    def saturated(a, b):
        return np.clip(function(a.astype(np.int64), b.astype(np.int64)), -(2**31), 2**31 - 1).astype(np.int32)

    return elementwise(machine, ins.operands[0], "s32", saturated, sources(machine, ins, "s32"))


@op("addc", mods="cc")
def addc(machine, ins):
    return _with_carry(machine, ins, _add_carry(True))


@op("subc", mods="cc")
def subc(machine, ins):
    return _with_carry(machine, ins, _sub_borrow(True))


def high(a, b):
    """The upper half of an integer product."""
    bits = 8 * a.dtype.itemsize
    if bits < 64:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
        return (a.astype(wide) * b.astype(wide) >> wide.type(bits)).astype(a.dtype)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    u, v = a.view(np.uint64), b.view(np.uint64)
    low, cross = (u & mask) * (v & mask), (u >> half) * (v & mask)
    middle = (u & mask) * (v >> half) + (cross & mask) + (low >> half)
    top = (u >> half) * (v >> half) + (cross >> half) + (middle >> half)
    if a.dtype.kind == "i":
        top = top - np.where(a < 0, v, np.uint64(0)) - np.where(b < 0, u, np.uint64(0))
    return top.view(a.dtype)


@op("mul", mods="lo hi wide ftz sat rn rz rm rp")
def mul(machine, ins):
    t = ins.type
    if t not in INTEGERS:
        return real_op(machine, ins, np.multiply)
    args = sources(machine, ins, t)
    if "wide" in ins.mods:
        wide = _WIDE[t]
        dtype = np.dtype(f"{'i' if is_signed(t) else 'u'}{size(wide)}")
        return elementwise(machine, ins.operands[0], wide, lambda a, b: a.astype(dtype) * b.astype(dtype), args)
    return elementwise(machine, ins.operands[0], t, high if "hi" in ins.mods else np.multiply, args)


@op("mad", mods="lo hi wide cc ftz sat rn")
def mad(machine, ins):
    t = ins.type
    if t not in INTEGERS:
        raise UnknownInstruction(f"no meaning for `{ins.text}`")
    if "cc" in ins.mods:
        product = high if "hi" in ins.mods else np.multiply
        return _with_carry(machine, ins, lambda carry, a, b, c: _add_carry(False)(carry, product(a, b), c))
    a, b = sources(machine, ins, t, 1, 2)
    if "wide" in ins.mods:
        wide = _WIDE[t]
        c = machine.source(ins.operands[3], wide)
        return elementwise(
            machine, ins.operands[0], wide, lambda a, b, c: a.astype(c.dtype) * b.astype(c.dtype) + c, (a, b, c)
        )
    c = machine.source(ins.operands[3], t)
    product = high if "hi" in ins.mods else np.multiply
    return elementwise(machine, ins.operands[0], t, lambda a, b, c: product(a, b) + c, (a, b, c))


@op("madc", mods="lo hi cc")
def madc(machine, ins):
    product = high if "hi" in ins.mods else np.multiply
    return _with_carry(machine, ins, lambda carry, a, b, c: _add_carry(True)(carry, product(a, b), c))


@op("mul24", mods="lo")
def mul24(machine, ins):
    def low24(a):
        return (a << a.dtype.type(8)) >> a.dtype.type(8)

    args = sources(machine, ins, ins.type)
    return elementwise(machine, ins.operands[0], ins.type, lambda a, b: low24(a) * low24(b), args)


@op("div", mods="rn rz rm rp approx full ftz")
def div(machine, ins):
    if ins.type not in INTEGERS:
        return real_op(machine, ins, np.divide)
    args = sources(machine, ins, ins.type)
    return elementwise(machine, ins.operands[0], ins.type, lambda a, b: (a - np.fmod(a, b)) // b, args)


@op("rem")
def rem(machine, ins):
    return elementwise(machine, ins.operands[0], ins.type, np.fmod, sources(machine, ins, ins.type))


def _select(name, ordered, nan_aware):
    def build(machine, ins):
        if ins.type not in INTEGERS:
            return real_op(machine, ins, nan_aware if "NaN" in ins.mods else ordered)
        return elementwise(machine, ins.operands[0], ins.type, ordered, sources(machine, ins, ins.type))

    op(name, mods="ftz NaN")(build)


_select("min", np.fmin, np.minimum)
_select("max", np.fmax, np.maximum)


@op("neg", mods="ftz")
def neg(machine, ins):
    if ins.type not in INTEGERS:
        return real_op(machine, ins, np.negative)
    return elementwise(machine, ins.operands[0], ins.type, np.negative, sources(machine, ins, ins.type))


@op("abs", mods="ftz")
def absolute(machine, ins):
    if ins.type not in INTEGERS:
        return real_op(machine, ins, np.abs)
    return elementwise(machine, ins.operands[0], ins.type, np.abs, sources(machine, ins, ins.type))


@op("sad")
def sad(machine, ins):
    def apply(a, b, c):
        return c + np.where(a > b, a - b, b - a)

    return elementwise(machine, ins.operands[0], ins.type, apply, sources(machine, ins, ins.type))
