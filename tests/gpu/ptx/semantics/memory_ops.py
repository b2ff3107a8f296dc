"""Loads and stores of every address space."""

import re

import numpy as np

from ..faults import AsyncRace, BlockRace, GlobalRace, OutOfBounds, SharedRace, Uninitialised, UnknownInstruction
from ..memory import LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW, view
from ..values import DTYPES, size
from .registry import op, vector

_HINTS = (
    "volatile weak relaxed acquire release gpu cta sys cluster nc ca cg cs lu cv wb wt "
    "L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last L1::no_allocate "
    "L2::evict_first L2::evict_last L2::evict_normal L2::cache_hint L2::64B L2::128B L2::256B unified v2 v4 v8 entry"
)
SPACES = ("global", "shared", "local", "param", "const")
_ADDRESS = re.compile(r"\[\s*([%\w$.@]+)\s*(?:\+\s*(-?\w+))?\s*\]$")
_ALL_WRITTEN = {1: 0x01, 2: 0x0101, 4: 0x01010101, 8: 0x0101010101010101}


def granules(kernel):
    """The narrowest global and shared access of a kernel in bytes: what races and coverage are tracked by."""
    narrowest = {"global": 16, "shared": 16}
    for ins in kernel.instructions:
        if ins.opcode not in ("ld", "st", "atom", "red", "cp", "ldmatrix", "stmatrix"):
            continue
        if ins.opcode == "cp":
            width = int(ins.operands[2], 0) if len(ins.operands) > 2 else 16
        elif "matrix" in ins.opcode:
            width = 16
        else:
            width = size(ins.type) if ins.type in DTYPES else 1
        for space in ("global", "shared"):
            other = "shared" if space == "global" else "global"
            if ins.opcode == "cp" or other not in ins.mods:
                narrowest[space] = min(narrowest[space], width)
    return narrowest["global"], narrowest["shared"]


class Address:
    """The address operand `[base + offset]` of an instruction; calling it gives those of the active lanes."""

    def __init__(self, machine, operand):
        match = _ADDRESS.match(operand)
        if not match:
            raise UnknownInstruction(f"address {operand}")
        self.machine, self.offset = machine, int(match[2] or "0", 0)
        if match[1] in machine.kernel.registers:
            storage = machine.storage(match[1])
            self.base = storage.view(np.int64) if storage.itemsize == 8 else storage
        else:
            self.base = machine.source(match[1], "u64").astype(np.int64)

    def __call__(self):
        base, machine = self.base, self.machine
        if len(base) == 1:
            return np.full(len(machine.index), base[0] + self.offset)
        chosen = base if machine.full else base[machine.index]
        return chosen.astype(np.int64) + self.offset


class GlobalAccess:
    """Checked, counted access to global memory by the active lanes (or by `lanes`)."""

    def __init__(self, machine, nbytes, text):
        self.machine, self.nbytes, self.text = machine, nbytes, text

    def offsets(self, addresses, kind, lanes=None):
        m = self.machine
        lanes = m.index if lanes is None else lanes
        offsets = m.arena.offsets(addresses, self.nbytes, self.text)
        if m.state.count:
            m.counters.global_access(kind, lanes, offsets, self.nbytes, m.lanes)
            m.touched.note(m.touched.read if kind != "store" else m.touched.written, offsets, self.nbytes)
            if kind == "atomic":
                m.touched.note(m.touched.written, offsets, self.nbytes)
        if m.races:
            threads = m.thread_of[lanes]
            if kind == "load":
                m.races.read(offsets, self.nbytes, threads, self.text)
            else:
                m.races.write(offsets, self.nbytes, threads, self.text, atomic=kind == "atomic")
        return offsets


class SharedAccess:
    """Checked, counted access to the shared memory of the active lanes' blocks."""

    def __init__(self, machine, nbytes, text):
        self.machine, self.nbytes, self.text = machine, nbytes, text

    def offsets(self, addresses, kind, lanes=None, count=True, compared=False):
        m, nbytes = self.machine, self.nbytes
        lanes = m.index if lanes is None else lanes
        offsets = m.shared.offsets(addresses, m.block_of[lanes], nbytes, self.text)
        if count and m.state.count:
            m.counters.shared_access(lanes, offsets, nbytes, m.lanes)
        if m.shared.in_flight and self._rows(m.shared.pending)[offsets // nbytes].any():
            raise AsyncRace(f"shared memory that a cp.async still fills is used before its wait: `{self.text}`")
        width = min(nbytes, 8)
        written = view(m.shared.written.view(np.uint8), width, nbytes // width)
        if kind != "store" and (written[offsets // nbytes] != _ALL_WRITTEN[width]).any():
            raise Uninitialised(f"shared memory read before it is written: `{self.text}`")
        if m.shared_races:
            threads = m.thread_of[lanes]
            if kind == "load":
                m.shared_races.read(offsets, nbytes, threads, self.text)
            else:
                m.shared_races.write(offsets, nbytes, threads, self.text, kind == "atomic", compared)
        if kind == "store":
            written[offsets // nbytes] = _ALL_WRITTEN[width]
        return offsets

    def _rows(self, flags):
        width = min(self.nbytes, 8)
        return view(flags.view(np.uint8), width, self.nbytes // width)


def space_of(ins):
    """The state space of an instruction; "generic" when it names none."""
    return next((m for m in ins.mods if m in SPACES), "generic")


def _resolve(machine, ins, addresses):
    """Generic addresses: the space all active lanes point into, and addresses within it."""
    for space, base in (("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW), ("param", PARAM_WINDOW)):
        inside = (addresses >= base) & (addresses < base + WINDOW)
        if inside.all() and len(inside):
            return space, addresses - base
        if inside.any():
            raise UnknownInstruction(f"lanes in different address spaces: `{ins.text}`")
    return "global", addresses


def _assign(machine, target, values, ptx_type):
    if target is None:
        return
    values = values.view(DTYPES[ptx_type]) if values.dtype.itemsize == size(ptx_type) else values
    if machine.full:
        target[...] = values
    else:
        target[machine.index] = values


def _param_offsets(machine, addresses, nbytes, text):
    if addresses.min() < 0 or addresses.max() + nbytes > len(machine.state.params):
        raise OutOfBounds(f"parameter byte {int(addresses.max())}: `{text}`")
    return addresses


@op("ld", mods=f"{' '.join(SPACES)} {_HINTS}")
def ld(machine, ins):
    t, names = ins.type, vector(ins.operands[0])
    width, count = size(t), len(names)
    nbytes = width * count
    targets = [machine.target(name, t) for name in names]
    address, space = Address(machine, ins.operands[1]), space_of(ins)
    glob, shared = GlobalAccess(machine, nbytes, ins.text), SharedAccess(machine, nbytes, ins.text)

    def step():
        where, addresses = space, address()
        if where == "generic":
            where, addresses = _resolve(machine, ins, addresses)
        if where in ("global", "const"):
            offsets, buffer = glob.offsets(addresses, "load"), machine.arena.bytes
        elif where == "shared":
            addresses = addresses - SHARED_WINDOW if addresses[0] >= SHARED_WINDOW else addresses
            offsets, buffer = shared.offsets(addresses, "load"), machine.shared.bytes
        elif where == "local":
            offsets, buffer = machine.local.offsets(addresses, machine.index, nbytes, ins.text), machine.local.bytes
            machine.counters["local_bytes"] += nbytes * len(offsets)
        else:
            offsets, buffer = _param_offsets(machine, addresses, nbytes, ins.text), machine.state.params
            if (offsets % nbytes).any() or len(buffer) % nbytes:
                raise UnknownInstruction(f"unaligned parameter: `{ins.text}`")
        words = view(buffer, width, count)[offsets // nbytes]
        if "acquire" in ins.mods:
            machine.sync.atomic(np.unique(machine.blocks[machine.block_of[machine.index]]), False)
        for i, target in enumerate(targets):
            _assign(machine, target, words[:, i] if count > 1 else words, t)

    return step


@op("st", mods=f"{' '.join(SPACES)} {_HINTS}")
def st(machine, ins):
    t, names = ins.type, vector(ins.operands[1])
    width, count = size(t), len(names)
    nbytes = width * count
    values = [machine.source(name, f"u{8 * width}") for name in names]
    address, space = Address(machine, ins.operands[0]), space_of(ins)
    glob, shared = GlobalAccess(machine, nbytes, ins.text), SharedAccess(machine, nbytes, ins.text)

    def step():
        where, addresses = space, address()
        if where == "generic":
            where, addresses = _resolve(machine, ins, addresses)
        index = machine.index
        if "release" in ins.mods:
            machine.sync.atomic(np.unique(machine.blocks[machine.block_of[index]]), True)
        if where == "global":
            offsets, buffer = glob.offsets(addresses, "store"), machine.arena.bytes
        elif where == "shared":
            # Triton's conversions of layouts store a number from every warp that has it: below they are compared.
            offsets, buffer = shared.offsets(addresses, "store", compared=True), machine.shared.bytes
        elif where == "local":
            offsets, buffer = machine.local.offsets(addresses, index, nbytes, ins.text), machine.local.bytes
            machine.counters["local_bytes"] += nbytes * len(offsets)
        else:
            raise UnknownInstruction(f"store to {where} space: `{ins.text}`")
        words, rows = view(buffer, width, count), offsets // nbytes
        chosen = [value if len(value) == 1 or machine.full else value[index] for value in values]
        data = (
            np.stack(np.broadcast_arrays(*chosen, rows)[:-1], 1)
            if count > 1
            else np.broadcast_to(chosen[0], rows.shape)
        )
        data = data.astype(words.dtype, copy=False)
        words[rows] = data
        if machine.state.check and where != "local" and (words[rows] != data).any():
            raise _clash(machine, where, rows, words[rows] != data)(
                f"several threads store different values to one location at once: `{ins.text}`"
            )

    return step


def _clash(machine, where, rows, lost):
    if where == "shared":
        return SharedRace
    lost = lost.any(1) if lost.ndim > 1 else lost
    same = np.isin(rows, rows[lost])
    return BlockRace if len(np.unique(machine.block_of[machine.index[same]])) > 1 else GlobalRace


@op("prefetch", mods=f"{' '.join(SPACES)} L1 L2 {_HINTS}")
def prefetch(machine, ins):
    return lambda: None


@op("membar", "fence", mods="gl cta sys gpu cluster acq_rel acquire release sc proxy async")
def fence(machine, ins):
    if "cta" in ins.mods:
        return lambda: None
    return lambda: machine.sync.fence(np.unique(machine.blocks[machine.block_of[machine.index]]))


@op("nanosleep")
def nanosleep(machine, ins):
    return lambda: None
