"""Logic, shifts, bit fields and byte permutation."""

import numpy as np

from ..values import UNSIGNED, is_signed, size
from .registry import elementwise, op, sources


def _bits(ptx_type):
    return 8 * size(ptx_type)


def _logic(name, function):
    op(name)(
        lambda machine, ins: elementwise(machine, ins.operands[0], ins.type, function, sources(machine, ins, ins.type))
    )


_logic("and", np.bitwise_and)
_logic("or", np.bitwise_or)
_logic("xor", np.bitwise_xor)
_logic("not", np.invert)
_logic("cnot", lambda a: (a == 0).astype(a.dtype))


@op("lop3")
def lop3(machine, ins):
    table = int(ins.operands[4], 0)

    def apply(a, b, c):
        result = np.zeros_like(a | b | c)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return elementwise(machine, ins.operands[0], "b32", apply, sources(machine, ins, "b32", 1, 3))


def _shift(name, function):
    def build(machine, ins):
        bits = _bits(ins.type)
        value, amount = machine.source(ins.operands[1], ins.type), machine.source(ins.operands[2], "u32")

        def apply(value, amount):
            return function(value, np.minimum(amount, np.uint32(bits)).astype(value.dtype))

        return elementwise(machine, ins.operands[0], ins.type, apply, (value, amount))

    op(name)(build)


_shift("shl", np.left_shift)
_shift("shr", np.right_shift)


@op("shf", mods="l r wrap clamp")
def shf(machine, ins):
    low, high_part, amount = sources(machine, ins, "u32")

    def apply(low, high_part, amount):
        n = (amount & np.uint32(31) if "wrap" in ins.mods else np.minimum(amount, np.uint32(32))).astype(np.uint64)
        both = low.astype(np.uint64) | high_part.astype(np.uint64) << np.uint64(32)
        shifted = both << n >> np.uint64(32) if "l" in ins.mods else both >> n
        return shifted.astype(np.uint32)

    return elementwise(machine, ins.operands[0], "b32", apply, (low, high_part, amount))


@op("bfe")
def bfe(machine, ins):
    t = ins.type
    bits = _bits(t)
    value = machine.source(ins.operands[1], f"u{bits}")
    start, length = machine.source(ins.operands[2], "u32"), machine.source(ins.operands[3], "u32")

    def apply(value, start, length):
        position, count = start.astype(np.int64) & 255, length.astype(np.int64) & 255
        result = np.zeros(np.broadcast_shapes(value.shape, position.shape, count.shape), value.dtype)
        top = np.minimum(position + count - 1, bits - 1)
        sign = value >> top.astype(value.dtype) & value.dtype.type(1) if is_signed(t) else value.dtype.type(0)
        sign = np.where(count == 0, value.dtype.type(0), sign)
        for bit in range(bits):
            source = np.where(
                position + bit < bits, value >> np.minimum(position + bit, bits - 1).astype(value.dtype), sign
            )
            source = np.where(bit < count, source, sign) & value.dtype.type(1)
            result |= source.astype(value.dtype) << value.dtype.type(bit)
        return result

    return elementwise(machine, ins.operands[0], f"u{bits}", apply, (value, start, length))


@op("bfi")
def bfi(machine, ins):
    bits = _bits(ins.type)
    dtype = UNSIGNED[bits // 8]
    field, base = sources(machine, ins, f"u{bits}", 1, 2)

    def apply(field, base, start, length):
        position = np.minimum(start & np.uint32(255), np.uint32(bits)).astype(dtype)
        count = np.minimum(length & np.uint32(255), np.uint32(bits)).astype(dtype)
        mask = (~(np.left_shift(~dtype(0), count)) << position).astype(dtype)
        return (base & ~mask) | (field << position & mask)

    return elementwise(machine, ins.operands[0], f"u{bits}", apply, (field, base, *sources(machine, ins, "u32", 3, 2)))


def _leading_zeros(value):
    bits = 8 * value.dtype.itemsize
    count = np.zeros(value.shape, np.uint32)
    seen = np.zeros(value.shape, bool)
    for bit in range(bits - 1, -1, -1):
        seen = seen | (value >> value.dtype.type(bit) & value.dtype.type(1) != 0)
        count += ~seen
    return count


@op("clz")
def clz(machine, ins):
    value = machine.source(ins.operands[1], f"u{ins.type[1:]}")
    return elementwise(machine, ins.operands[0], "u32", _leading_zeros, (value,))


@op("bfind", mods="shiftamt")
def bfind(machine, ins):
    bits = _bits(ins.type)
    value = machine.source(ins.operands[1], ins.type)

    def apply(value):
        u = (np.where(value < 0, ~value, value) if is_signed(ins.type) else value).astype(UNSIGNED[bits // 8])
        zeros = _leading_zeros(u)
        place = zeros if "shiftamt" in ins.mods else np.uint32(bits - 1) - zeros
        return np.where(zeros == bits, np.uint32(0xFFFFFFFF), place)

    return elementwise(machine, ins.operands[0], "u32", apply, (value,))


@op("popc")
def popc(machine, ins):
    value = machine.source(ins.operands[1], f"u{ins.type[1:]}")
    return elementwise(machine, ins.operands[0], "u32", lambda a: np.bitwise_count(a).astype(np.uint32), (value,))


@op("brev")
def brev(machine, ins):
    def apply(a):
        one = a.dtype.type(1)
        bits = 8 * a.dtype.itemsize
        result = np.zeros_like(a)
        for bit in range(bits):
            result |= (a >> a.dtype.type(bit) & one) << a.dtype.type(bits - 1 - bit)
        return result

    return elementwise(machine, ins.operands[0], ins.type, apply, sources(machine, ins, ins.type))


@op("prmt")
def prmt(machine, ins):
    def apply(a, b, selector):
        both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
        result = np.zeros(np.broadcast_shapes(both.shape, selector.shape), np.uint32)
        for i in range(4):
            choice = (selector >> np.uint32(4 * i)).astype(np.uint64)
            byte = both >> (choice & np.uint64(7)) * np.uint64(8) & np.uint64(255)
            sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
            byte = np.where(choice & np.uint64(8), sign, byte)
            result |= byte.astype(np.uint32) << np.uint32(8 * i)
        return result

    return elementwise(machine, ins.operands[0], "b32", apply, sources(machine, ins, "u32"))
