"""Comparisons and selections."""

import numpy as np

from ..values import DTYPES, FLOATS, bf16_to_f32, halves
from .registry import elementwise, op, sources

_COMPARE = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
_UNORDERED = {"equ", "neu", "ltu", "leu", "gtu", "geu"}
_BOOLEANS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
_MODS = " ".join([*_COMPARE, *_UNORDERED, "num", "nan", "ftz", *_BOOLEANS])


def comparison(name, ptx_type):
    """The comparison of two operands of a type, as a function to bool."""
    if ptx_type in ("b16", "b32", "b64", "pred") and name not in ("eq", "ne"):
        raise KeyError(name)
    if ptx_type == "bf16":
        inner = comparison(name, "f32")
        return lambda a, b: inner(bf16_to_f32(a), bf16_to_f32(b))
    if ptx_type not in FLOATS:
        return _COMPARE[name]
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "ne":
        return lambda a, b: (a < b) | (a > b)
    if name in _UNORDERED:
        ordered = comparison(name[:-1], ptx_type)
        return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)
    return _COMPARE[name]


def _predicate(machine, operand):
    source = machine.source(operand.lstrip("!"), "pred")
    return (lambda: ~source) if operand.startswith("!") else (lambda: source)


@op("setp", mods=_MODS)
def setp(machine, ins):
    t = ins.type
    names = ins.operands[0].split("|")
    a, b = sources(machine, ins, t, 1, 2)
    compare = comparison(ins.mods[0], t)
    combine = next((_BOOLEANS[m] for m in ins.mods[1:-1] if m in _BOOLEANS), None)
    if t in ("f16x2", "bf16x2"):
        return _setp_pair(machine, ins, names, a, b)
    if combine is None and len(names) == 1:
        return elementwise(machine, names[0], "pred", compare, (a, b))
    third = _predicate(machine, ins.operands[3]) if combine else None
    targets = [machine.target(name, "pred") for name in names]

    def step():
        result = compare(a, b)
        for target, value in zip(targets, (result, ~result), strict=False):
            if target is not None:
                machine.put(target, combine(value, third()) if combine else value)

    return step


def _setp_pair(machine, ins, names, a, b):
    compare = comparison(ins.mods[0], ins.type[:-2])
    targets = [machine.target(name, "pred") for name in names]

    def step():
        for target, x, y in zip(targets, halves(a), halves(b), strict=False):
            if ins.type == "f16x2":
                x, y = x.view(np.float16), y.view(np.float16)
            machine.put(target, compare(x, y))

    return step


@op("set", mods=_MODS)
def set_value(machine, ins):
    result_type, t = ins.mods[-2], ins.type
    compare = comparison(ins.mods[0], t)
    if any(m in _BOOLEANS for m in ins.mods):
        raise KeyError("set with a predicate operand")
    dtype = np.dtype(DTYPES[result_type])
    true = np.ones(1, dtype) if dtype.kind == "f" else ~np.zeros(1, dtype)
    if result_type == "bf16":
        true = np.full(1, 0x3F80, np.uint16)
    zero = np.zeros(1, dtype)
    return elementwise(
        machine,
        ins.operands[0],
        result_type,
        lambda a, b: np.where(compare(a, b), true, zero),
        sources(machine, ins, t),
    )


@op("selp")
def selp(machine, ins):
    a, b = sources(machine, ins, ins.type, 1, 2)
    condition = machine.source(ins.operands[3], "pred")
    return elementwise(machine, ins.operands[0], ins.type, lambda a, b: np.where(condition, a, b), (a, b))


@op("slct", mods="ftz")
def slct(machine, ins):
    t = ins.mods[-2]
    a, b = sources(machine, ins, t, 1, 2)
    c = machine.source(ins.operands[3], ins.type)
    return elementwise(machine, ins.operands[0], t, lambda a, b: np.where(c >= 0, a, b), (a, b))
