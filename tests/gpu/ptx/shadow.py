"""Race detection: a stamp for the last write and the last read of every granule of a memory.

A stamp packs the thread, the block's barrier count and the warp's synchronisation count at the access. Two accesses
of different threads, one of them a write, race unless a barrier (or, in a warp, a warp synchronisation) lies between.
"""

import numpy as np

from .faults import BlockRace, GlobalRace, SharedRace

THREAD_SHIFT = 32
EPOCH_SHIFT = 16
FIELD = 0xFFFF
THREADS = (1 << 27) - 1
MANY_LANES = np.int64(1 << 60)  # readers: several lanes of one warp
MANY_WARPS = np.int64(1 << 61)
MANY_BLOCKS = np.int64(1 << 62)
ATOMIC = np.int64(1 << 59)  # the last write was an atomic
NONE = np.int64(-1)


class Sync:
    """Barrier counts, and which blocks have published (fence, then atomic) and observed what."""

    def __init__(self, blocks, lanes_per_block):
        self.lanes_per_block = lanes_per_block
        warps = lanes_per_block // 32
        self.epoch = np.zeros(blocks, np.int64)
        self.warp = np.zeros(blocks * warps, np.int64)
        self.fenced = np.full(blocks, -1, np.int64)  # barrier count at the last fence
        self.released = np.full(blocks, -1, np.int64)  # ... that an atomic then published
        self.released_at = np.zeros(blocks, np.int64)
        self.acquired_at = np.full(blocks, -1, np.int64)
        self.clock = 0

    def barrier(self, blocks):
        self.epoch[blocks] += 1
        self.warp.reshape(len(self.epoch), -1)[blocks] += 1

    def fence(self, blocks):
        self.fenced[blocks] = self.epoch[blocks]

    def atomic(self, blocks, releases):
        if releases:
            self.fence(blocks)
        self.clock += 1
        ready = blocks[self.fenced[blocks] >= 0]
        self.released[ready] = self.fenced[ready]
        self.released_at[ready] = self.clock
        self.acquired_at[blocks] = self.clock

    def stamp(self, threads):
        return (
            (threads << THREAD_SHIFT)
            | (self.epoch[threads // self.lanes_per_block] & FIELD) << EPOCH_SHIFT
            | (self.warp[threads >> 5] & FIELD)
        )

    def ordered(self, writer_block, writer_epoch, block):
        """Whether a write of one block is visible to another through fence and atomic."""
        published = (self.released[writer_block] & FIELD) >= writer_epoch
        published &= self.released[writer_block] >= 0
        return published & (self.acquired_at[block] >= self.released_at[writer_block])


class Shadow:
    """Stamps of one memory. `thread` below is the lane's number in the whole grid."""

    def __init__(self, nbytes, granule, sync, is_shared):
        self.granule, self.sync, self.is_shared = granule, sync, is_shared
        self.writes = np.full(nbytes // granule + 1, NONE)
        self.reads = np.full(nbytes // granule + 1, NONE)

    def _slots(self, offsets, nbytes):
        first = offsets // self.granule
        return [first + i for i in range(max(1, nbytes // self.granule))]

    def _check(self, old, mine, threads, what, text, skip_atomic=False):
        """Raises where the access `old` (stamps) conflicts with one by `threads` now."""
        other = (old >= 0) & ((old >> THREAD_SHIFT) & THREADS != threads)
        if skip_atomic:
            other &= (old & ATOMIC) == 0
        if not other.any():
            return
        old, mine, threads = old[other], mine[other], threads[other]
        per_block = self.sync.lanes_per_block
        writer = (old >> THREAD_SHIFT) & THREADS
        same_block = writer // per_block == threads // per_block
        same_epoch = ((old ^ mine) >> EPOCH_SHIFT) & FIELD == 0
        same_warp = writer >> 5 == threads >> 5
        same_sync = (old ^ mine) & FIELD == 0
        race = same_block & same_epoch & (~same_warp | same_sync)
        if race.any():
            kind = SharedRace if self.is_shared else GlobalRace
            raise kind(f"{what} by another thread without a barrier, {int(race.sum())} lanes: `{text}`")
        if not self.is_shared and not same_block.all():
            far = ~same_block
            epoch = (old[far] >> EPOCH_SHIFT) & FIELD
            loose = ~self.sync.ordered(writer[far] // per_block, epoch, threads[far] // per_block)
            if loose.any():
                raise BlockRace(f"{what} by another block, {int(loose.sum())} lanes: `{text}`")

    def read(self, offsets, nbytes, threads, text):
        mine = self.sync.stamp(threads)
        for slots in self._slots(offsets, nbytes):
            self._check(self.writes[slots], mine, threads, "read after a write", text)
            self._note_read(slots, mine)

    def _note_read(self, slots, mine):
        old = self.reads[slots]
        new = mine | np.where(old >= 0, self._peers(old, mine), 0)
        self.reads[slots] = new
        back = self.reads[slots]
        lost = (back ^ new) & ~(MANY_LANES | MANY_WARPS | MANY_BLOCKS) != 0
        if lost.any():
            flags = self._peers(back[lost], new[lost]) | (new[lost] & MANY_BLOCKS)
            for flag in (MANY_LANES, MANY_WARPS, MANY_BLOCKS):
                where = slots[lost][(flags & flag) != 0]
                if len(where):
                    self.reads[where] = self.reads[where] | flag

    def _peers(self, old, mine):
        """Which "several readers" flags hold after `mine` joins `old`."""
        per_block = self.sync.lanes_per_block
        a, b = (old >> THREAD_SHIFT) & THREADS, (mine >> THREAD_SHIFT) & THREADS
        far = a // per_block != b // per_block
        epoch = ~far & ((old ^ mine) >> EPOCH_SHIFT & FIELD == 0)
        flags = np.where(far, MANY_BLOCKS, np.int64(0)) | (old & MANY_BLOCKS)
        warps = epoch & ((a >> 5 != b >> 5) | (old & MANY_WARPS != 0))
        lanes = epoch & (a >> 5 == b >> 5) & ((old ^ mine) & FIELD == 0) & ((a != b) | (old & MANY_LANES != 0))
        return flags | np.where(warps, MANY_WARPS, 0) | np.where(lanes, MANY_LANES, 0)

    def write(self, offsets, nbytes, threads, text, atomic=False, compared=False):
        """`compared`: the caller sees to it that threads which write one place at once write the same."""
        mine = self.sync.stamp(threads)
        for slots in self._slots(offsets, nbytes):
            self._check(self.writes[slots], mine, threads, "write after a write", text, skip_atomic=atomic)
            self._check_readers(self.reads[slots], mine, threads, text)
            self.writes[slots] = mine | (ATOMIC if atomic else 0)
            if not (atomic or compared):
                self._check_peers(self.writes[slots], mine, threads, text)

    def _check_peers(self, back, mine, threads, text):
        """Lanes of different warps that wrote one location in the same instruction."""
        self._check(np.where(back >> THREAD_SHIFT >> 5 == mine >> THREAD_SHIFT >> 5, NONE, back), mine, threads,
                    "write beside a write", text)  # fmt: skip

    def _check_readers(self, old, mine, threads, text):
        if not (old >= 0).any():
            return
        self._check(old, mine, threads, "write after a read", text)
        seen = old >= 0
        same_epoch = seen & (((old ^ mine) >> EPOCH_SHIFT) & FIELD == 0)
        per_block = self.sync.lanes_per_block
        same_block = (old >> THREAD_SHIFT & THREADS) // per_block == threads // per_block
        many = (
            same_block
            & same_epoch
            & ((old & MANY_WARPS != 0) | ((old & MANY_LANES != 0) & ((old ^ mine) & FIELD == 0)))
        )
        if many.any():
            kind = SharedRace if self.is_shared else GlobalRace
            raise kind(f"write after other threads' reads without a barrier, {int(many.sum())} lanes: `{text}`")
        if not self.is_shared and (seen & (old & MANY_BLOCKS != 0)).any():
            raise BlockRace(f"write after other blocks' reads: `{text}`")
