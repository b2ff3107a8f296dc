"""PTX types as numpy dtypes, and the roundings that numpy lacks."""

import re
from functools import lru_cache

import numpy as np

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

# bf16 has no numpy dtype: its bits travel as uint16; packed pairs and tf32 as uint32.
DTYPES = {
    "pred": np.bool_,
    "b8": np.uint8, "u8": np.uint8, "s8": np.int8,
    "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "f16": np.float16, "bf16": np.uint16,
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32,
    "tf32": np.uint32, "f16x2": np.uint32, "bf16x2": np.uint32, "u16x2": np.uint32, "s16x2": np.uint32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64, "f32x2": np.uint64,
}  # fmt: skip

FLOATS = {"f16", "bf16", "f32", "f64"}


def size(ptx_type):
    """Bytes of one element of a PTX type."""
    return np.dtype(DTYPES[ptx_type]).itemsize


def is_signed(ptx_type):
    return ptx_type[0] == "s"


def bf16_to_f32(bits):
    """float32 values of bfloat16 bits, exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(values):
    """bfloat16 bits of float32 values, to nearest, ties to even; NaN becomes 0x7fff as on the GPU."""
    values = np.ascontiguousarray(values, np.float32)
    u = values.view(np.uint32)
    bits = ((u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        bits[nan] = 0x7FFF
    return bits


def f32_to_bf16_toward_zero(values):
    values = np.ascontiguousarray(values, np.float32)
    bits = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    bits[np.isnan(values)] = 0x7FFF
    return bits


def f64_to_bf16(values):
    """bfloat16 bits of float64 values with a single rounding (through float32 rounded to odd)."""
    values = np.asarray(values, np.float64)
    near = values.astype(np.float32)
    u = near.view(np.uint32).copy()
    back = near.astype(np.float64)
    finite = np.isfinite(near)
    u -= ((np.abs(back) > np.abs(values)) & finite).astype(np.uint32)
    u |= ((back != values) & finite).astype(np.uint32)
    return f32_to_bf16(u.view(np.float32))


def f32_to_tf32(values):
    """tf32 bits of float32 values, to nearest, ties away from zero (cvt.rna)."""
    u = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.where(np.isfinite(values), (u + np.uint32(0x1000)) & np.uint32(0xFFFFE000), u)


def directed_f32(values, mode):
    """float64 values to float32, rounding toward zero ("rz"), down ("rm") or up ("rp")."""
    near = np.asarray(values, np.float64).astype(np.float32)
    back = near.astype(np.float64)
    low = np.nextafter(near, np.float32(-np.inf))
    high = np.nextafter(near, np.float32(np.inf))
    down = np.where(back > values, low, near)
    up = np.where(back < values, high, near)
    if mode == "rm":
        return down
    if mode == "rp":
        return up
    return np.where(values < 0, up, down)


def flush(values):
    """Subnormals to zero of the same sign (.ftz); float32 only."""
    tiny = np.abs(values) < np.float32(1.1754943508222875e-38)
    return np.where(tiny, np.copysign(np.float32(0), values), values)


def halves(packed):
    """The low and high 16 bits of packed pairs."""
    return (packed & np.uint32(0xFFFF)).astype(np.uint16), (packed >> np.uint32(16)).astype(np.uint16)


def pack(low, high):
    """Packed pairs of 16-bit patterns."""
    return low.astype(np.uint32) | (high.astype(np.uint32) << np.uint32(16))


@lru_cache(maxsize=4096)
def immediate(text, ptx_type):
    """A constant operand as a one-element array."""
    dtype = np.dtype(DTYPES[ptx_type])
    if match := re.fullmatch(r"(-?)0[fF]([0-9a-fA-F]{8})", text):
        bits = np.array([int(match[2], 16)], np.uint32)
        value = -bits.view(np.float32) if match[1] else bits.view(np.float32)
        return value.astype(dtype) if dtype.kind == "f" else value.view(np.uint32).astype(dtype)
    if match := re.fullmatch(r"(-?)0[dD]([0-9a-fA-F]{16})", text):
        value = np.array([int(match[2], 16)], np.uint64).view(np.float64)
        value = -value if match[1] else value
        return value.astype(dtype) if dtype.kind == "f" else value.view(np.uint64).astype(dtype)
    if dtype.kind == "b":
        return np.array([int(text, 0) != 0])
    if "." in text:
        return np.array([float(text)], dtype)
    if dtype.kind == "f" and not text.lower().lstrip("-").startswith("0x"):
        raise ValueError(f"decimal constant {text!r} used as {ptx_type}")
    value = int(text.rstrip("U"), 0) & (2 ** (8 * dtype.itemsize) - 1)
    return np.array([value], UNSIGNED[dtype.itemsize]).view(dtype)
