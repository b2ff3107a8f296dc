"""What each instruction does. A builder takes (machine, instruction) and returns a closure that does it once."""

from . import asynchronous, atomics, bits, compare, convert, integer, matrix, memory_ops, real, warp
from .asynchronous import AsyncGroups as AsyncGroups
from .memory_ops import granules as granules
from .registry import BUILDERS as BUILDERS
from .warp import barrier_reduction as barrier_reduction
from .warp import require_lanes as require_lanes
from .warp import special_register as special_register

MODULES = (asynchronous, atomics, bits, compare, convert, integer, matrix, memory_ops, real, warp)
