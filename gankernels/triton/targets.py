"""What a launch says of the target that it is for."""

from __future__ import annotations

import triton


def registers(most: int, *targets: int) -> dict[str, int]:
    """Room for `most` registers a thread on NVIDIA, or on `targets` (100 is sm_100) alone: where ptxas by itself allots
    a few too few and spills them. AMD's compiler takes no such bound."""
    target = triton.runtime.driver.active.get_current_target()
    return {"maxnreg": most} if target.backend == "cuda" and (not targets or target.arch in targets) else {}
