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
    sectors: float = 1.01  # most sectors of requests, over the fewest for their bytes
    wide: bool = True  # loads and stores of 128 bits
    registers: int = 64  # most a thread on NVIDIA
    occupancy: float = 0.5  # least share of a multiprocessor's threads
    dot: bool = False  # a 16-bit dot, which must use tensor cores
