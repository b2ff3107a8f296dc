"""What a compiled kernel is made of: registers, spills, shared memory, accesses, occupancy."""

import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import triton

from .. import nvrtc, paths

TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

# A multiprocessor: threads, blocks, bytes of shared memory, bytes reserved a block; it has 65536 registers.
MULTIPROCESSOR = {
    75: (1024, 16, 64 << 10, 0), 80: (2048, 32, 164 << 10, 1024), 86: (1536, 16, 100 << 10, 1024),
    89: (1536, 24, 100 << 10, 1024), 90: (2048, 32, 228 << 10, 1024), 100: (2048, 32, 228 << 10, 1024),
    120: (1536, 24, 100 << 10, 1024),
}  # fmt: skip

WAVES, SIMDS = 8, 4  # of a compute unit of gfx942; a SIMD has 512 registers a lane


@dataclass(frozen=True)
class Facts:
    """Of one kernel for one target. `wide` counts 128-bit accesses of global memory, `narrow` the others."""

    registers: int
    stack: int  # bytes a thread, spills included
    spills: int  # instructions
    shared: int  # bytes a block
    wide_loads: int
    narrow_loads: int
    wide_stores: int
    narrow_stores: int
    tensor_core: int
    instructions: int


def occupancy(cc, facts, threads):
    """The share of a multiprocessor's (a compute unit's) threads that fit at once."""
    if cc == "gfx942":
        a_lane = -(-facts.registers // 8) * 8
        waves = min(WAVES, 512 // a_lane) * SIMDS
        blocks = min(waves // (threads // 64), (64 << 10) // facts.shared if facts.shared else waves)
        return blocks * (threads // 64) / (WAVES * SIMDS)
    most_threads, most_blocks, shared, reserved = MULTIPROCESSOR[cc]
    warps = -(-threads // 32)
    a_warp = -(-facts.registers * 32 // 256) * 256
    blocks = min(most_blocks, most_threads // (warps * 32), 65536 // a_warp // warps)
    if facts.shared + reserved:
        blocks = min(blocks, shared // (-(-facts.shared // 128) * 128 + reserved))
    return blocks * warps * 32 / most_threads


def usage_of(text):
    """(registers, bytes of stack, of shared memory) from what cuobjdump says of a cubin that holds one kernel."""
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", text)
    if not usage:
        raise ValueError(f"cuobjdump named no registers: {text[:200]!r}")
    return tuple(map(int, usage.groups()))


def of_sass(text, dynamic_shared=0):
    """Facts from cuobjdump's listing of a cubin that holds one kernel."""
    registers, stack, shared = usage_of(text)
    target = re.search(r"code for sm_(\d+)", text)
    if target and int(target.group(1)) >= 90 and shared:
        shared -= 1024  # the driver's own, counted in from Hopper on
    ops = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", text, re.M)
    ops = [op for op in ops if op.split(".")[0] != "NOP"]

    def count(pattern):
        return sum(1 for op in ops if re.match(pattern, op))

    wide_loads, wide_stores = count(r"LDG\..*128|LDGSTS\..*128"), count(r"STG\..*128")
    return Facts(
        registers, stack, count(r"(LDL|STL)\b"), shared + dynamic_shared,
        wide_loads, count(r"LDG") - wide_loads, wide_stores, count(r"STG\b") - wide_stores,
        count(r"HMMA|HGMMA|UTC\w*MMA|QGMMA"), len(ops),
    )  # fmt: skip


def _listing(cubin, *options):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [TOOL, *options, "-res-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def of_cubin(cubin, dynamic_shared=0):
    """Facts of a cubin with one kernel; kept by its content."""
    kept = paths.cache() / f"facts-{paths.digest(Path(__file__), cubin)}.json"
    if not kept.exists():
        paths.replace(kept, json.dumps(asdict(of_sass(_listing(cubin, "-sass")))).encode())
    facts = Facts(**json.loads(kept.read_text()))
    return Facts(**{**asdict(facts), "shared": facts.shared + dynamic_shared})


def of_amd(text, shared):
    """Facts from the assembly that Triton makes for AMD; `stack` is its scratch memory."""

    def number(name):
        return int(re.search(rf"\.{name}:\s*(\d+)", text).group(1))

    ops = re.findall(r"^\t([a-z]\w+)", text, re.M)

    def count(pattern):
        return sum(1 for op in ops if re.match(pattern, op))

    wide_loads, wide_stores = count(r"(global|buffer)_load_dwordx4"), count(r"(global|buffer)_store_dwordx4")
    return Facts(
        number("vgpr_count"), number("private_segment_fixed_size"),
        number("vgpr_spill_count"), shared,  # scalar registers spill to lanes of vector ones; to memory, it is stack
        wide_loads, count(r"(global|buffer)_load") - wide_loads,
        wide_stores, count(r"(global|buffer)_store") - wide_stores, count(r"v_mfma"), len(ops),
    )  # fmt: skip


def of_triton(compiled):
    """Facts of a kernel that Triton compiled."""
    if "amdgcn" in compiled.asm:
        return of_amd(compiled.asm["amdgcn"], compiled.metadata.shared)
    return of_cubin(compiled.asm["cubin"], compiled.metadata.shared)


def _cubin(op, name, cc):
    includes = (paths.CSRC, paths.CSRC / "cuda")
    return nvrtc.compile(paths.CSRC / "cuda" / f"{op}.cuh", name, f"sm_{cc}", includes).cubin


def of_cuda(op, name, cc, dynamic_shared=0):
    """Facts of an instantiation in csrc/cuda/<op>.cuh, as NVRTC compiles it."""
    return of_cubin(_cubin(op, name, cc), dynamic_shared)


def stack_of_cuda(op, name, cc):
    """(registers, bytes of stack) of an instantiation: without the listing of its code, which takes longer than the
    compiler. What is spilled is on the stack."""
    return usage_of(_listing(_cubin(op, name, cc)))[:2]
