"""atom and red: lanes take their turn in lane order."""

import numpy as np

from ..faults import UnknownInstruction
from ..memory import SHARED_WINDOW, view
from ..values import DTYPES, UNSIGNED, bf16_to_f32, f32_to_bf16, size
from .memory_ops import Address, GlobalAccess, SharedAccess, space_of
from .real import lift
from .registry import op, vector

_MODS = (
    "global shared relaxed acquire release acq_rel gpu cta sys cluster noftz v2 v4 v8 L2::cache_hint "
    "add min max and or xor exch cas inc dec"
)


def _increment(old, bound):
    return np.where(old >= bound, old.dtype.type(0), old + old.dtype.type(1))


def _decrement(old, bound):
    return np.where((old == 0) | (old > bound), bound, old - old.dtype.type(1))


_OPERATIONS = {
    "add": np.add, "min": np.fmin, "max": np.fmax, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "exch": lambda old, new: new, "inc": _increment, "dec": _decrement,
}  # fmt: skip


def combine(name, ptx_type):
    """The operation of an atomic on the bits of a type."""
    function = _OPERATIONS[name]
    if ptx_type in ("f16x2", "bf16x2"):
        return lift(ptx_type, function)
    if ptx_type == "bf16":
        return lambda old, new: f32_to_bf16(function(bf16_to_f32(old), bf16_to_f32(new)))
    dtype = np.dtype(DTYPES[ptx_type])
    return lambda old, new: function(old.view(dtype), new.view(dtype)).astype(dtype).view(old.dtype)


def turns(rows):
    """Groups of lanes with distinct locations, such that lanes of one location keep their order."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    by_rank = order[np.argsort(rank, kind="stable")]
    return np.split(by_rank, np.cumsum(np.bincount(rank))[:-1])


def _atomic(machine, ins, result, address_operand, values):
    t = ins.type if ins.type in DTYPES else next(m for m in ins.mods if m in DTYPES)
    name = next(m for m in ins.mods if m in (*_OPERATIONS, "cas"))
    members = vector(values[0])
    width, count = size(t), len(members)
    dtype = UNSIGNED[width]
    data = [machine.source(member, f"u{8 * width}") for member in members]
    swap = machine.source(values[1], f"u{8 * width}") if name == "cas" else None
    targets = [
        None if r is None else machine.target(r, f"u{8 * width}")
        for r in (vector(result) if result else [None] * count)
    ]
    address, space = Address(machine, address_operand), space_of(ins)
    nbytes = width * count
    glob, shared = GlobalAccess(machine, nbytes, ins.text), SharedAccess(machine, nbytes, ins.text)
    function = None if name == "cas" else combine(name, t)
    if space not in ("global", "shared", "generic"):
        raise UnknownInstruction(f"no meaning for `{ins.text}`")

    def step():
        addresses, index = address(), machine.index
        in_shared = space == "shared" or (space == "generic" and (addresses < SHARED_WINDOW + (1 << 32)).all())
        if in_shared:
            addresses = np.where(addresses >= SHARED_WINDOW, addresses - SHARED_WINDOW, addresses)
            offsets, buffer = shared.offsets(addresses, "atomic"), machine.shared.bytes
        else:
            blocks = np.unique(machine.blocks[machine.block_of[index]])
            machine.sync.atomic(blocks, bool({"acq_rel", "release"} & set(ins.mods)))
            offsets, buffer = glob.offsets(addresses, "atomic"), machine.arena.bytes
        machine.counters["atomics"] += len(index)
        words, rows = view(buffer, width), offsets // width
        groups = turns(rows)
        for i, source in enumerate(data):
            new = np.broadcast_to(source if len(source) == 1 or machine.full else source[index], rows.shape).astype(
                dtype
            )
            old = np.empty(len(rows), dtype)
            for lanes in groups:
                place = rows[lanes] + i
                old[lanes] = words[place]
                if function is None:
                    other = np.broadcast_to(swap if len(swap) == 1 or machine.full else swap[index], rows.shape)[lanes]
                    words[place] = np.where(old[lanes] == new[lanes], other.astype(dtype), old[lanes])
                else:
                    words[place] = function(old[lanes], new[lanes])
            if targets[i] is not None:
                targets[i][index] = old

    return step


@op("atom", mods=_MODS)
def atom(machine, ins):
    return _atomic(machine, ins, ins.operands[0], ins.operands[1], ins.operands[2:])


@op("red", mods=_MODS)
def red(machine, ins):
    return _atomic(machine, ins, None, ins.operands[0], ins.operands[1:])
