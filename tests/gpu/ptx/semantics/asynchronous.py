"""cp.async: the data arrives at the wait, not before; until then its destination is out of bounds for everyone."""

import numpy as np

from ..faults import AsyncRace, UnknownInstruction
from .memory_ops import Address, GlobalAccess, SharedAccess
from .registry import op


class AsyncGroups:
    """Copies in flight, and how many groups each thread has committed."""

    def __init__(self, machine):
        self.machine = machine
        self.committed = np.zeros(machine.lanes, np.int64)
        self.copies = []  # (lanes, shared offsets, bytes [n, size], group)

    def issue(self, lanes, offsets, data):
        pending = self.machine.shared.pending
        columns = offsets[:, None] + np.arange(data.shape[1])
        if pending[columns].any():
            raise AsyncRace("two cp.async in flight have one destination")
        pending[columns] = True
        self.machine.shared.in_flight = True
        self.copies.append((lanes, offsets, data, self.committed[lanes].copy()))

    def commit(self, lanes):
        self.committed[lanes] += 1

    def wait(self, lanes, allowed, text):
        """Completes the copies of `lanes` but for each one's `allowed` newest groups (None: all, committed or not)."""
        m = self.machine
        waiting = np.zeros(m.lanes, bool)
        waiting[lanes] = True
        remaining = []
        for owner, offsets, data, group in self.copies:
            done = waiting[owner]
            if allowed is not None:
                done = done & (group < self.committed[owner] - allowed)
            if done.any():
                self._land(owner[done], offsets[done], data[done], text)
            if not done.all():
                keep = ~done
                remaining.append((owner[keep], offsets[keep], data[keep], group[keep]))
        self.copies = remaining
        m.shared.in_flight = bool(remaining)

    def _land(self, lanes, offsets, data, text):
        m = self.machine
        columns = offsets[:, None] + np.arange(data.shape[1])
        m.shared.bytes[columns] = data
        m.shared.pending[columns] = False
        m.shared.written[columns] = True
        if m.shared_races:
            m.shared_races.write(offsets, data.shape[1], m.thread_of[lanes], text)


@op("cp", mods="async ca cg shared global L2::64B L2::128B L2::256B L2::cache_hint commit_group wait_group wait_all")
def cp(machine, ins):
    groups = machine.async_groups
    if ins.mods[:1] != ("async",):
        raise UnknownInstruction(f"no meaning for `{ins.text}`")
    if "commit_group" in ins.mods:
        return lambda: groups.commit(machine.index)
    if "wait_group" in ins.mods:
        return lambda: groups.wait(machine.index, int(ins.operands[0], 0), ins.text)
    if "wait_all" in ins.mods:
        return lambda: groups.wait(machine.index, None, ins.text)
    nbytes = int(ins.operands[2], 0)
    target, source = Address(machine, ins.operands[0]), Address(machine, ins.operands[1])
    has_size = len(ins.operands) > (4 if "L2::cache_hint" in ins.mods else 3)
    amount = machine.source(ins.operands[3], "u32") if has_size else None
    glob, shared = GlobalAccess(machine, nbytes, ins.text), SharedAccess(machine, nbytes, ins.text)

    def step():
        index = machine.index
        data = np.zeros((len(index), nbytes), np.uint8)
        keep = np.full(len(index), nbytes)
        if amount is not None:
            keep = np.broadcast_to(amount if len(amount) == 1 or machine.full else amount[index], keep.shape).astype(
                np.int64
            )
            if (keep > nbytes).any():
                raise UnknownInstruction(f"source size past the copy's: `{ins.text}`")
        reads = keep > 0
        if reads.any():
            offsets = glob.offsets(source()[reads], "load", index[reads])
            data[reads] = machine.arena.bytes.reshape(-1, nbytes)[offsets // nbytes]
            data[np.arange(nbytes) >= keep[:, None]] = 0
        machine.counters["cp_async_bytes"] += int(keep.sum())
        groups.issue(index, shared.offsets(target(), "store"), data)

    return step
