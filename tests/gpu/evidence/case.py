"""One call of an operator whose kernels are measured, and the limits that it must keep."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`prepare()` makes the tensors and returns the call to be measured, a function without arguments.

    Bytes are those of the call alone. `floor` must move whatever the kernel does: every input once, every output once;
    `plain` is what the same composed of PyTorch's operators moves.
    """

    backend: str  # "triton" or "cuda"
    name: str
    prepare: Callable[[], Callable[[], object]]
    floor: int
    plain: int
    launches: int
    requested: float = 1.05  # most bytes asked for, over the floor
    unique: float = 1.05  # most bytes touched, over the floor
    sectors: float = 1.01  # most 32-byte sectors, over the fewest for the bytes asked for
    wavefronts: float = 1.1  # most of shared memory, over the fewest
    wide: bool = True  # 128-bit loads and stores are expected of a kernel without a dot
    registers: int = 64  # most a thread on NVIDIA
    occupancy: float = 0.5  # least share of a multiprocessor's threads
    dot: bool = False  # a 16-bit dot, which must use tensor cores
    sums: tuple[str, ...] = ()  # parts of the names of kernels that write nothing but sums, whose stores are narrow
    few: tuple[str, ...] = ()  # of kernels over partial sums or over a plane a sample, whose accesses are

    def loads_wide(self, kernel):
        """Whether a kernel is to read tensors by 128-bit loads."""
        return self.wide and not self.dot and not any(part in kernel for part in self.few)

    def stores_wide(self, kernel):
        """Whether a kernel is to write tensors by 128-bit stores."""
        return self.loads_wide(kernel) and not any(part in kernel for part in self.sums)
