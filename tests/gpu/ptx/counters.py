"""What a launch did, counted: instructions, memory requests, sectors, shared-memory wavefronts, flops."""

from collections import Counter

import numpy as np

SECTOR = 32
_NOTHING = np.int64(np.iinfo(np.int64).max)


class Counters(Counter):
    """Keys: warp_instructions, thread_instructions, divergent_branches, barriers, mma_flops, atomics;
    {load,store,atomic}_{requests,sectors,ideal_sectors,bytes} of global memory;
    shared_{requests,wavefronts,ideal_wavefronts}; local_bytes; cp_async_bytes; "op:<opcode>" warp instructions."""

    def global_access(self, kind, lanes, offsets, nbytes, total):
        """One warp-wide request a warp: `offsets` are the bytes that `lanes` of `total` touch."""
        sectors = per_warp(lanes, offsets // SECTOR, total)
        warps = sectors[:, 0] != _NOTHING
        self[f"{kind}_requests"] += int(warps.sum())
        self[f"{kind}_sectors"] += int(distinct(sectors).sum())
        active = (sectors != _NOTHING).sum(1)
        self[f"{kind}_ideal_sectors"] += int((-(-active * nbytes // SECTOR)).sum())
        self[f"{kind}_bytes"] += len(offsets) * nbytes

    def shared_access(self, lanes, offsets, nbytes, total):
        """Wavefronts of a shared request: each serves one 4-byte word a bank, 128 bytes at most."""
        rows = max(1, nbytes // 4)  # 8-byte accesses go half a warp at a time, 16-byte ones a quarter
        words = per_warp(lanes, offsets // 4, total, sort=False).reshape(-1, 32 // rows)
        words.sort(1)
        real = words != _NOTHING
        real[:, 1:] &= words[:, 1:] != words[:, :-1]
        group, column = np.nonzero(real)
        if not len(group):
            return
        first = words[group, column]
        load = np.zeros(len(words) * 32, np.int64)
        for word in range(rows):
            load += np.bincount(group * 32 + (first + word) % 32, minlength=len(load))
        used = real.any(1)
        self["shared_wavefronts"] += int(load.reshape(-1, 32).max(1)[used].sum())
        self["shared_ideal_wavefronts"] += int(used.sum())
        self["shared_requests"] += int(used.reshape(-1, rows).any(1).sum())


def per_warp(lanes, values, total, sort=True):
    """Values of the active lanes as one sorted row of 32 a warp; the rest is a sentinel at the end."""
    table = np.full(total, _NOTHING)
    table[lanes] = values
    table = table.reshape(-1, 32)
    if sort:
        table.sort(1)
    return table


def distinct(table):
    """How many different values each sorted row has."""
    real = table != _NOTHING
    real[:, 1:] &= table[:, 1:] != table[:, :-1]
    return real.sum(1)
