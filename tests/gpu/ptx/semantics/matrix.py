"""Tensor-core instructions: ldmatrix, stmatrix and mma.sync."""

import re

import numpy as np

from ..faults import InactiveLane, UnknownInstruction
from ..memory import view
from ..values import bf16_to_f32, halves, pack, size
from .memory_ops import Address, SharedAccess
from .registry import op, vector

_LANE = np.arange(32)
_ROW, _COLUMN = _LANE // 4, _LANE % 4  # "groupID" and "threadID in group" of the PTX manual


def _whole_warps(machine, text):
    active = machine.mask.reshape(-1, 32)
    warps = active.any(1)
    if not active[warps].all():
        raise InactiveLane(f"the whole warp must take part: `{text}`")
    return machine.index.reshape(-1, 32)


@op("ldmatrix", mods="sync aligned m8n8 x1 x2 x4 trans shared")
def ldmatrix(machine, ins):
    targets = [machine.target(name, "b32") for name in vector(ins.operands[0])]
    address, shared = Address(machine, ins.operands[1]), SharedAccess(machine, 16, ins.text)

    def step():
        lanes = _whole_warps(machine, ins.text)
        used = lanes[:, : 8 * len(targets)]
        addresses = address().reshape(-1, 32)[:, : 8 * len(targets)]
        rows = shared.offsets(addresses.reshape(-1), "load", used.reshape(-1)) // 16
        words = view(machine.shared.bytes, 2, 8)[rows].reshape(len(lanes), len(targets), 8, 8)
        if "trans" in ins.mods:
            words = words.transpose(0, 1, 3, 2)
        for i, target in enumerate(targets):
            matrix = words[:, i]
            value = pack(matrix[:, _ROW, 2 * _COLUMN], matrix[:, _ROW, 2 * _COLUMN + 1])
            target[lanes.reshape(-1)] = value.reshape(-1)

    return step


@op("stmatrix", mods="sync aligned m8n8 x1 x2 x4 trans shared")
def stmatrix(machine, ins):
    sources = [machine.source(name, "b32") for name in vector(ins.operands[1])]
    address, shared = Address(machine, ins.operands[0]), SharedAccess(machine, 16, ins.text)

    def step():
        lanes = _whole_warps(machine, ins.text)
        used = lanes[:, : 8 * len(sources)]
        addresses = address().reshape(-1, 32)[:, : 8 * len(sources)]
        rows = shared.offsets(addresses.reshape(-1), "store", used.reshape(-1)) // 16
        matrices = np.empty((len(lanes), len(sources), 8, 8), np.uint16)
        for i, source in enumerate(sources):
            low, high = halves(np.broadcast_to(source, (machine.lanes,))[lanes])
            matrices[:, i, _ROW, 2 * _COLUMN], matrices[:, i, _ROW, 2 * _COLUMN + 1] = low, high
        if "trans" in ins.mods:
            matrices = matrices.transpose(0, 1, 3, 2)
        view(machine.shared.bytes, 2, 8)[rows] = matrices.reshape(-1, 8)

    return step


def _places(ptx_type, registers, columns_first):
    """Row and column, [registers, elements, 32 lanes], of the elements of an A, C or (columns first) B fragment."""
    rows, columns = [], []
    per_register = 4 // size(ptx_type) if size(ptx_type) < 4 else 1
    for i in range(registers):
        for k in range(per_register):
            if columns_first:
                rows.append((per_register * _COLUMN + k) + 4 * per_register * i)
                columns.append(_ROW)
            else:
                rows.append(_ROW + 8 * (i & 1))
                columns.append((per_register * _COLUMN + k) + 4 * per_register * (i >> 1))
    return np.array(rows), np.array(columns)


def _accumulator_places(registers, packed):
    """Row and column of the accumulator's elements, in register order."""
    rows, columns = [], []
    for element in range(registers * (2 if packed else 1)):
        rows.append(_ROW + 8 * (element >> 1))
        columns.append(2 * _COLUMN + (element & 1))
    return np.array(rows), np.array(columns)


def _elements(words, ptx_type):
    """Register bits [warps, 32] to a list of float arrays."""
    if ptx_type in ("f16", "bf16"):
        up = bf16_to_f32 if ptx_type == "bf16" else lambda bits: bits.view(np.float16).astype(np.float32)
        return [up(half) for half in halves(words)]
    if ptx_type == "tf32":  # the tensor core ignores the low 13 bits
        return [(words & np.uint32(0xFFFFE000)).view(np.float32)]
    return [words.view(np.float32 if ptx_type == "f32" else np.float64)]


_SHAPES = {"m16n8k16", "m16n8k8", "m16n8k4", "m8n8k4"}


@op("mma", mods=f"sync aligned row col {' '.join(_SHAPES)}")
def mma(machine, ins):
    shape = next(m for m in ins.mods if m in _SHAPES)
    m, n, k = map(int, re.findall(r"\d+", shape))
    d_type, a_type, b_type, c_type = ins.mods[-4:]
    if (
        a_type != b_type
        or c_type != d_type
        or (m == 8 and a_type != "f64")
        or "row" not in ins.mods
        or "col" not in ins.mods
    ):
        raise UnknownInstruction(f"no meaning for `{ins.text}`")
    if a_type not in ("f16", "bf16", "tf32", "f64"):
        raise UnknownInstruction(f"no meaning for `{ins.text}`")
    bits = "b64" if a_type == "f64" else "b32"
    d, a, b, c = (vector(operand) for operand in ins.operands)
    a_place, b_place = _places(a_type, len(a), False), _places(b_type, len(b), True)
    c_place = _accumulator_places(len(c), c_type == "f16")
    sources = [[machine.source(name, bits) for name in names] for names in (a, b, c)]
    targets = [machine.target(name, bits) for name in d]
    wide = np.float64 if a_type == "f64" else np.float32

    def fill(lanes, registers, place, ptx_type, shape):
        matrix = np.zeros((len(lanes), *shape), wide)
        parts = []
        for register in registers:
            parts += _elements(np.broadcast_to(register, (machine.lanes,))[lanes], ptx_type)
        for part, row, column in zip(parts, *place, strict=True):
            matrix[:, row, column] = part
        return matrix

    def step():
        lanes = _whole_warps(machine, ins.text)
        left = fill(lanes, sources[0], a_place, a_type, (m, k))
        right = fill(lanes, sources[1], b_place, b_type, (k, n))
        result = left @ right + fill(lanes, sources[2], c_place, c_type, (m, n))
        machine.counters["mma_flops"] += 2 * m * n * k * len(lanes)
        flat = lanes.reshape(-1)
        parts = [result[:, row, column].reshape(-1) for row, column in zip(*c_place, strict=True)]
        if c_type == "f16":
            bits16 = [part.astype(np.float16).view(np.uint16) for part in parts]
            parts = [pack(low, high) for low, high in zip(bits16[::2], bits16[1::2], strict=True)]
        for target, part in zip(targets, parts, strict=True):
            target[flat] = part if part.dtype == target.dtype else part.view(target.dtype)

    return step
