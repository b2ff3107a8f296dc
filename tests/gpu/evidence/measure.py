"""What a case's launches did in the emulator, and the least time that an H100 could take for it: a model, no speed."""

from dataclasses import dataclass

import torch

import gankernels

from ..fixtures import accepting, cuda_device, triton_device
from ..triton_device import compile_only
from . import SOURCE_OF, static

# An H100 SXM: bytes a second of DRAM and of L2, multiprocessors, clock, and a warp instruction a clock and scheduler.
DRAM, L2, MULTIPROCESSORS, CLOCK, SCHEDULERS = 3.35e12, 5.5e12, 132, 1.755e9, 4
MMA_FLOPS = 989e12


@dataclass(frozen=True)
class Traffic:
    """Of all launches of a case together; bytes of global memory."""

    launches: int
    read: int  # distinct bytes, each launch on its own
    written: int
    requested: int
    sectors: int
    ideal_sectors: int
    wavefronts: int
    ideal_wavefronts: int
    warp_instructions: int
    mma_flops: int

    @property
    def unique(self):
        return self.read + self.written

    def model(self):
        """(seconds, what limits) on an H100, launch overhead left out."""
        bounds = {
            "DRAM": self.unique / DRAM,
            "L2": self.sectors * 32 / L2,
            "issue": self.warp_instructions / (MULTIPROCESSORS * SCHEDULERS * CLOCK),
            "shared memory": self.wavefronts / (MULTIPROCESSORS * CLOCK),
            "tensor cores": self.mma_flops / MMA_FLOPS,
        }
        limit = max(bounds, key=bounds.get)
        return bounds[limit], limit


def run(case, cc=90):
    """The log of a case's launches on an emulated GPU."""
    torch.manual_seed(0)
    device = triton_device(cc, check=False) if case.backend == "triton" else cuda_device(cc, check=False)
    with device as log, gankernels.backend(case.backend):
        call = case.prepare()
        log.launches.clear()
        call()
    return log.launches


def traffic(launches):
    """The sum over the launches of a log."""

    def total(*keys):
        return sum(launch.counters[key] for launch in launches for key in keys)

    unique = [launch.run.touched.unique_bytes() for launch in launches]
    kinds = ("load", "store", "atomic")
    return Traffic(
        len(launches), sum(u[0] for u in unique), sum(u[1] for u in unique),
        total(*(f"{kind}_bytes" for kind in kinds)),
        total(*(f"{kind}_sectors" for kind in kinds)), total(*(f"{kind}_ideal_sectors" for kind in kinds)),
        total("shared_wavefronts"), total("shared_ideal_wavefronts"), total("warp_instructions"), total("mma_flops"),
    )  # fmt: skip


def compiled(op, case, cc, launches):
    """[(kernel, threads, Facts)] of a case for a target; `launches` tell the CUDA instantiations."""
    if case.backend == "cuda":
        found = {}
        for launch in launches:
            x, y, z = launch.arguments["block"]
            facts = static.of_cuda(SOURCE_OF.get(op, op), launch.name, cc, launch.arguments["shared_bytes"])
            found[launch.name] = (launch.name.removeprefix("gk::"), x * y * z, facts)
        return list(found.values())
    with compile_only(cc) as log, accepting("triton"), gankernels.backend("triton"):
        call = case.prepare()
        log.launches.clear()
        log.trials.clear()
        call()
    warp = 32 if isinstance(cc, int) else 64
    return [
        (launch.name, launch.compiled.metadata.num_warps * warp, static.of_triton(launch.compiled))
        for launch in [*log.launches, *log.trials]
    ]
