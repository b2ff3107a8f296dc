"""The address spaces: global memory as an arena of tensors with gaps, and byte arrays for shared and local."""

import numpy as np

from .faults import Misaligned, OutOfBounds
from .values import UNSIGNED

GLOBAL_BASE = 0x7F00_0000_0000
SHARED_WINDOW = 0x7E00_0000_0000  # generic addresses of shared memory
LOCAL_WINDOW = 0x7D00_0000_0000
PARAM_WINDOW = 0x7C00_0000_0000
WINDOW = 1 << 32
GAP = 4096
ALIGNMENT = 512  # what cudaMalloc gives


def view(buffer, width, count=1):
    """A byte buffer as rows of `count` words of `width` bytes."""
    words = buffer.view(UNSIGNED[width])
    return words.reshape(-1, count) if count > 1 else words


class Arena:
    """Global memory. `add` places a whole storage; `own` says which of its bytes a kernel may use."""

    def __init__(self):
        self.top = GAP
        self.items = []  # (name, offset, bytes)
        self.owned = []  # (item, relative start, shape, strides, element bytes)
        self.exact = True  # every owned region is its whole item
        self.bytes = None

    def add(self, name, data, own=True):
        """Places the bytes of `data` (uint8, 1-D) and returns the address of the first."""
        offset = -(-self.top // ALIGNMENT) * ALIGNMENT
        self.items.append((name, offset, data))
        self.top = offset + data.nbytes + GAP
        if own:
            self.owned.append((len(self.items), 0, (data.nbytes,), (1,), 1))
        return GLOBAL_BASE + offset

    def own(self, index, start, shape, strides, itemsize):
        """Marks a strided view (in bytes) of item `index` as part of the launch."""
        nbytes = self.items[index][2].nbytes
        dense = int(np.prod(shape)) * itemsize == nbytes
        self.exact &= dense
        self.owned.append((index + 1, start, tuple(shape), tuple(strides), itemsize))

    def finish(self):
        """Copies the tensors in. After this, `bytes` is the memory."""
        top = -(-self.top // 64) * 64
        self.bytes = np.zeros(top, np.uint8)
        self.owner = np.zeros(top, np.uint16)
        for _, offset, data in self.items:
            self.bytes[offset : offset + data.nbytes] = data
        for item, start, shape, strides, itemsize in self.owned:
            if 0 in shape:
                continue
            first = self.items[item - 1][1] + start
            region = np.lib.stride_tricks.as_strided(
                self.owner[first:], (*shape, itemsize), (*(2 * s for s in strides), 2)
            )
            region[...] = item

    def result(self, index):
        """The bytes of item `index` after a launch."""
        _, offset, data = self.items[index]
        return self.bytes[offset : offset + data.nbytes]

    def offsets(self, addresses, nbytes, text):
        """Checked byte offsets of an access of `nbytes` at each address (int64)."""
        if (addresses & (nbytes - 1)).any():
            bad = addresses[(addresses & (nbytes - 1)) != 0]
            raise Misaligned(f"{len(bad)} lanes, first at {self.describe(bad[0])}, {nbytes}-byte access: `{text}`")
        offsets = addresses - GLOBAL_BASE
        if offsets.min() < 0 or offsets.max() + nbytes > len(self.bytes):
            bad = (offsets < 0) | (offsets + nbytes > len(self.bytes))
            raise OutOfBounds(f"{int(bad.sum())} lanes, first at {self.describe(addresses[bad][0])}: `{text}`")
        owner = self.owner[offsets]
        wrong = owner == 0
        step = nbytes - 1 if self.exact else 1
        for byte in range(step, nbytes, step) if step else ():
            wrong |= self.owner[offsets + byte] != owner
        if wrong.any():
            raise OutOfBounds(f"{int(wrong.sum())} lanes, first at {self.describe(addresses[wrong][0])}: `{text}`")
        return offsets

    def describe(self, address):
        """An address in words: the nearest tensor and the byte in it."""
        offset = int(address) - GLOBAL_BASE
        if not 0 <= offset < self.top:
            return f"{int(address):#x} (no device address)"
        name, start, data = min(self.items, key=lambda item: _distance(item, offset))
        return f"byte {offset - start} of {name} ({data.nbytes} bytes)"


def _distance(item, offset):
    _, start, data = item
    return max(start - offset, offset - start - data.nbytes + 1, 0)


class Shared:
    """Shared memory of the blocks in flight, one after another."""

    def __init__(self, blocks, nbytes):
        self.nbytes = nbytes  # what a block may use
        self.stride = max(16, -(-nbytes // 16) * 16)
        self.bytes = np.zeros(blocks * self.stride, np.uint8)
        self.written = np.zeros(blocks * self.stride, bool)
        self.pending = np.zeros(blocks * self.stride, bool)  # cp.async destinations in flight
        self.in_flight = False

    def offsets(self, addresses, block, nbytes, text):
        if (addresses & (nbytes - 1)).any():
            raise Misaligned(f"shared, {nbytes}-byte access: `{text}`")
        if addresses.min() < 0 or addresses.max() + nbytes > self.nbytes:
            bad = addresses[(addresses < 0) | (addresses + nbytes > self.nbytes)]
            raise OutOfBounds(f"shared byte {int(bad[0])} of {self.nbytes}, {len(bad)} lanes: `{text}`")
        return addresses + block * self.stride


class Local:
    """Each thread's stack."""

    def __init__(self, lanes, nbytes):
        self.nbytes = nbytes
        self.stride = -(-nbytes // 16) * 16
        self.bytes = np.zeros(lanes * self.stride, np.uint8)

    def offsets(self, addresses, lanes, nbytes, text):
        if (addresses & (nbytes - 1)).any():
            raise Misaligned(f"local, {nbytes}-byte access: `{text}`")
        if addresses.min() < 0 or addresses.max() + nbytes > self.nbytes:
            raise OutOfBounds(f"local byte {int(addresses.max())} of {self.nbytes}: `{text}`")
        return addresses + lanes * self.stride
