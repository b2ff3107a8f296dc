"""One launch of a kernel: its checks, its parameter space, and the grid run chunk by chunk."""

import numpy as np

from . import semantics
from .counters import Counters
from .faults import BadLaunch
from .machine import Machine
from .shadow import Shadow, Sync
from .values import size

LANES = 1 << 14  # lanes in flight, about: what keeps registers in cache
REGISTER_BYTES = 96 << 20
SHARED_BYTES = 24 << 20


class Touched:
    """Which granules of global memory were read and written in the launch."""

    def __init__(self, nbytes, granule):
        self.granule = granule
        self.read = np.zeros(nbytes // granule + 1, bool)
        self.written = np.zeros(nbytes // granule + 1, bool)

    def note(self, table, offsets, nbytes):
        first = offsets // self.granule
        for i in range(max(1, nbytes // self.granule)):
            table[first + i] = True

    def unique_bytes(self):
        return int(self.read.sum()) * self.granule, int(self.written.sum()) * self.granule


class Launch:
    """One launch: what its chunks share, and afterwards what it did (`counters`, `touched`)."""

    def __init__(self, kernel, grid, block, params, arena, shared_bytes, check, count):
        self.kernel, self.arena, self.check, self.count = kernel, arena, check, count
        self.grid, self.block = (tuple(int(v) for v in (*shape, 1, 1)[:3]) for shape in (grid, block))
        self.threads = int(np.prod(self.block))
        self.padded = -(-self.threads // 32) * 32
        self.static_bytes, self.dynamic_bytes = kernel.shared_bytes, shared_bytes
        self.shared_bytes = kernel.shared_bytes + shared_bytes
        self._check_launch()
        self.params, self.param_offsets = params
        self.constants = {
            name: arena.add(name, np.frombuffer(data, np.uint8)) for name, data in kernel.constants.items()
        }
        arena.finish()
        self.leaders = set(kernel.labels.values())
        granule, self.shared_granule = semantics.granules(kernel)
        self.counters = Counters()
        self.sync = Sync(int(np.prod(self.grid)), self.padded)
        self.touched = Touched(len(arena.bytes), granule)
        self.races = Shadow(len(arena.bytes), granule, self.sync, False) if check else None
        self.steps = 0

    def _check_launch(self):
        grid, block = self.grid, self.block
        if min(grid) < 1 or grid[0] > 2**31 - 1 or max(grid[1:]) > 65535:
            raise BadLaunch(f"grid {grid}: expected 1 to 2^31-1, 65535, 65535")
        if min(block) < 1 or self.threads > 1024 or block[2] > 64:
            raise BadLaunch(f"block {block}: expected 1 to 1024 threads, at most 64 in z")
        if self.threads > self.kernel.max_threads:
            raise BadLaunch(f"block {block}: the kernel was compiled for {self.kernel.max_threads} threads")
        if self.static_bytes > 48 << 10 or self.shared_bytes > 227 << 10:
            raise BadLaunch(f"{self.static_bytes} static + {self.dynamic_bytes} dynamic bytes of shared memory")

    def run(self):
        blocks = int(np.prod(self.grid))
        per_lane = sum(1 if t == "pred" else size(t) for t in self.kernel.registers.values()) + self.kernel.local_bytes
        lanes = min(LANES, max(1, REGISTER_BYTES // max(1, per_lane)))
        chunk = max(1, min(lanes // self.padded, SHARED_BYTES // max(1, self.shared_bytes)))
        with np.errstate(all="ignore"):
            for first in range(0, blocks, chunk):
                Machine(self, np.arange(first, min(blocks, first + chunk))).run()
        return self


def _pack_params(kernel, args):
    """Parameter space as bytes, and each parameter's offset in it."""
    space, offsets = bytearray(), {}
    if len(args) != len(kernel.params):
        raise ValueError(f"{kernel.name} takes {len(kernel.params)} parameters, got {len(args)}")
    for (name, nbytes, alignment), value in zip(kernel.params, args, strict=True):
        space += bytes(-len(space) % alignment)
        offsets[name] = len(space)
        data = value if isinstance(value, bytes) else np.asarray(value).tobytes()
        if len(data) > nbytes:
            raise ValueError(f"{kernel.name}: parameter {name} has {nbytes} bytes, got {len(data)}")
        space += data.ljust(nbytes, b"\0")
    space += bytes(-len(space) % 16 + 16)
    return np.frombuffer(bytes(space), np.uint8), offsets


def launch(kernel, grid, block, args, arena, *, shared_bytes=0, check=True, count=True):
    """Runs `kernel` on an `Arena`; returns the `Launch` with its counters.

    `args` are bytes or numpy scalars, one a kernel parameter. `check=False` leaves out race detection,
    `count=False` the counters; bounds, alignment, initialisation and barriers are always checked.
    """
    return Launch(kernel, grid, block, _pack_params(kernel, args), arena, shared_bytes, check, count).run()
