"""Moves, conversions and address-space casts."""

import numpy as np

from ..memory import GLOBAL_BASE, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW
from ..values import (
    DTYPES,
    FLOATS,
    UNSIGNED,
    bf16_to_f32,
    directed_f32,
    f32_to_bf16,
    f32_to_bf16_toward_zero,
    f32_to_tf32,
    f64_to_bf16,
    flush,
    pack,
    size,
)
from .registry import elementwise, op, sources, vector


@op("mov")
def mov(machine, ins):
    targets, values = vector(ins.operands[0]), vector(ins.operands[1])
    t = ins.type
    if len(targets) == 1 and len(values) == 1:
        return elementwise(machine, targets[0], t, lambda a: a, [machine.source(values[0], t)])
    if len(values) > 1:
        part = size(t) // len(values)
        parts = [machine.source(v, f"u{8 * part}") for v in values]
        dtype = UNSIGNED[size(t)]

        def join(*parts):
            result = parts[0].astype(dtype)
            for i, value in enumerate(parts[1:], 1):
                result = result | value.astype(dtype) << dtype(8 * part * i)
            return result

        return elementwise(machine, targets[0], f"b{8 * size(t)}", join, parts)
    part = size(t) // len(targets)
    whole = machine.source(values[0], f"u{8 * size(t)}")
    places = [(machine.target(name, f"u{8 * part}"), 8 * part * i) for i, name in enumerate(targets)]

    def split():
        copy = whole.copy()  # a target may be the source itself
        for target, shift in places:
            if target is not None:
                machine.put(target, (copy >> copy.dtype.type(shift)).astype(UNSIGNED[part]))

    return split


def _to_integer(value, ptx_type):
    """Float values, already rounded, to an integer type: saturating, NaN to zero."""
    info = np.iinfo(DTYPES[ptx_type])
    value = np.where(np.isnan(value), 0, value.astype(np.float64))
    inside = np.clip(value, float(info.min), float(info.max))
    if info.bits == 64:  # the bounds are not representable: place them by hand
        result = np.where(value >= float(info.max), 0, inside).astype(DTYPES[ptx_type])
        return np.where(value >= float(info.max), info.max, result).astype(DTYPES[ptx_type])
    return inside.astype(DTYPES[ptx_type])


_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _from_f32_pair(ins):
    down = {"bf16x2": f32_to_bf16, "f16x2": lambda x: x.astype(np.float16).view(np.uint16)}[ins.mods[-2]]
    if "rz" in ins.mods:
        if ins.mods[-2] != "bf16x2":
            raise KeyError("rz to f16x2")
        down = f32_to_bf16_toward_zero
    clamp = (
        (lambda x: np.where(x > 0, x, np.where(np.isnan(x), x, np.float32(0)))) if "relu" in ins.mods else (lambda x: x)
    )
    return lambda high, low: pack(down(clamp(low)), down(clamp(high)))


def _float_result(value, target_type, mode):
    """Float values (any width) rounded to a PTX float type, as its bits or values."""
    if target_type == "bf16":
        if mode == "rz":
            return f32_to_bf16_toward_zero(value)
        return f64_to_bf16(value) if value.dtype == np.float64 else f32_to_bf16(value)
    if mode in ("rz", "rm", "rp") and target_type == "f32" and value.dtype.itemsize > 4:
        return directed_f32(value, mode)
    if mode in ("rz", "rm", "rp") and np.dtype(DTYPES[target_type]).itemsize < value.dtype.itemsize:
        raise KeyError(f"{mode} to {target_type}")
    return value.astype(DTYPES[target_type])


def _converter(ins):
    to, source = ins.mods[-2], ins.type
    mode = next((m for m in ins.mods if m in ("rn", "rz", "rm", "rp", "rna")), None)
    integral = next((_INTEGRAL[m] for m in ins.mods if m in _INTEGRAL), None)
    if to == "tf32":
        if mode != "rna":
            raise KeyError(f"{mode} to tf32")
        return f32_to_tf32

    def convert(value):
        if source == "bf16":
            value = bf16_to_f32(value)
        if "ftz" in ins.mods and source == "f32":
            value = flush(value)
        if source in FLOATS:
            if integral:
                value = integral(value)
            if to not in FLOATS:
                return _to_integer(value, to)
        elif to in FLOATS:
            if to in ("f32", "f16", "f64") and mode in (None, "rn"):
                return _sat(value.astype(DTYPES[to]), ins)
            value = value.astype(np.float64)
        if to in FLOATS:
            if "relu" in ins.mods:
                value = np.where(value < 0, value.dtype.type(0), value)
            result = _float_result(_sat(value, ins), to, mode)
            return flush(result) if "ftz" in ins.mods and to == "f32" else result
        if "sat" in ins.mods:
            info, have = np.iinfo(DTYPES[to]), np.iinfo(value.dtype)
            value = np.clip(value, max(info.min, have.min), min(info.max, have.max))
        return value.astype(DTYPES[to])

    return convert


def _sat(value, ins):
    if "sat" not in ins.mods:
        return value
    return np.where(np.isnan(value), value.dtype.type(0), np.clip(value, 0, 1)).astype(value.dtype)


@op("cvt", mods="rn rz rm rp rna rni rzi rmi rpi ftz sat relu")
def cvt(machine, ins):
    to, source = ins.mods[-2], ins.type
    if to in ("bf16x2", "f16x2"):
        return elementwise(machine, ins.operands[0], to, _from_f32_pair(ins), sources(machine, ins, "f32"))
    return elementwise(machine, ins.operands[0], to, _converter(ins), sources(machine, ins, source))


_WINDOWS = {"global": 0, "const": 0, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAM_WINDOW}


@op("cvta", mods="to global shared local const param")
def cvta(machine, ins):
    """Generic addresses of shared, local and parameter space lie in windows of their own."""
    space = next(m for m in ins.mods if m in _WINDOWS)
    shift = np.array([_WINDOWS[space]], np.uint64)
    function = np.subtract if "to" in ins.mods else np.add
    return elementwise(machine, ins.operands[0], "u64", function, (machine.source(ins.operands[1], "u64"), shift))


@op("isspacep", mods="global shared local param")
def isspacep(machine, ins):
    base = np.uint64(_WINDOWS[ins.mods[0]] or GLOBAL_BASE)
    end = base + np.uint64(1 << 40 if base == GLOBAL_BASE else WINDOW)
    address = machine.source(ins.operands[1], "u64")
    return elementwise(machine, ins.operands[0], "pred", lambda a: (a >= base) & (a < end), (address,))
