"""docs/gpu-evidence.md: the tables, and the hash of the sources that they hold for."""

import importlib
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor

import triton

from .. import host, nvrtc, paths
from . import AMD_TARGETS, OPERATORS, TARGETS, check, measure, static

DOCUMENT = paths.ROOT / "docs" / "gpu-evidence.md"
COMMAND = "cd tests && python -m gpu.evidence"

HEAD = f"""# What the GPU kernels compile to, and what they touch

Written by `{COMMAND}`; do not edit. No GPU is involved: Triton and NVRTC compile for each
target, and the PTX runs instruction by instruction on the CPU.

- *Distinct*, *requested*: bytes of global memory touched, and asked for, over the floor: each input read once and each
  output written once. *Sectors*, *wavefronts*: 32-byte sectors of global requests and wavefronts of shared memory, over
  the fewest for the same bytes (below 1 where lanes read one address).
- *Launches* are of our own kernels; the sums of Triton's reductions are added up by PyTorch.
- *Model*: the least time on an H100 by the counted DRAM bytes, L2 sectors, warp instructions, shared-memory wavefronts
  and tensor-core flops, and which of them it is. It is a model, **not a speed**: it knows no latency and no launch
  overhead, and data that fit the cache of an H100 may move faster. *Unfused*: the same for the DRAM bytes of the
  composition of PyTorch operators.
- Compiled kernels: registers a thread (VGPRs on AMD) / bytes of shared memory / occupancy. No kernel here has a stack
  or a spill but those listed under *Limits broken*, for which the command fails.
"""


def module_of(op):
    return importlib.import_module(f"gpu.evidence.{op}")


def digest(op):
    """A hash of what an operator's tables depend on: its sources, its calls, and how they are measured."""
    module = module_of(op)
    others = {f"{name}.py" for name in (*OPERATORS, "__init__", "__main__", "report") if name != op}
    found = {path for pattern in (*module.SOURCES, "tests/gpu/evidence/*.py") for path in paths.ROOT.glob(pattern)}
    files = (path for path in found if path.is_file() and not (path.parent.name == "evidence" and path.name in others))
    return paths.digest(*sorted(files), repr((TARGETS, AMD_TARGETS)))


def recorded(op):
    """The hash that the document was written for, or None."""
    found = re.search(rf"<!-- {op}: (\w+) -->", _section(op))
    return found.group(1) if found else None


def _section(op):
    """What the document has of an operator, or nothing."""
    text = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    found = re.search(rf"^## {op}\n.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found.group() if found else ""


def _table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _traffic_row(case, traffic):
    seconds, limit = traffic.model()
    wavefronts = f"{traffic.wavefronts / traffic.ideal_wavefronts:.2f}" if traffic.wavefronts else "none"
    return (
        case.backend, case.name, str(traffic.launches), f"{case.floor / 1e6:.1f}", f"{traffic.unique / case.floor:.3f}",
        f"{traffic.requested / case.floor:.3f}", f"{traffic.sectors / traffic.ideal_sectors:.2f}", wavefronts,
        f"{seconds * 1e6:.1f} ({limit})", f"{case.plain / measure.DRAM * 1e6:.1f}",
    )  # fmt: skip


TRAFFIC = (
    "backend", "call", "launches", "floor MB", "distinct", "requested", "sectors", "wavefronts", "model us",
    "unfused us",
)  # fmt: skip


def operator(op, targets=(*TARGETS, *AMD_TARGETS), note=print):
    """(Markdown section, breaches) of one operator."""
    traffic_rows, kernels, failures = [], {}, []
    for case in module_of(op).cases():
        launches = measure.run(case)
        traffic = measure.traffic(launches)
        traffic_rows.append(_traffic_row(case, traffic))
        failures += [f"{op}, {case.backend} {case.name}: {breach}" for breach in check.breaches(case, traffic)]
        for cc in targets:
            if case.backend == "cuda" and cc in AMD_TARGETS:
                continue
            for name, threads, facts in measure.compiled(op, case, cc, launches):
                row = name if case.backend == "cuda" else f"{name}, {case.name}"
                kernels.setdefault((case.backend, row), {})[cc] = (threads, facts)
                found = check.static_breaches(case, cc, name, threads, facts)
                failures += [f"{op}, {case.backend} {row} for {cc}: {breach}" for breach in found]
        note(f"{op}: {case.backend} {case.name}")
    rows = []
    for (backend, name), by_target in kernels.items():
        facts = by_target[90][1]
        cells = [
            f"{by_target[cc][1].registers} / {by_target[cc][1].shared} / "
            f"{static.occupancy(cc, by_target[cc][1], by_target[cc][0]):.0%}"
            if cc in by_target
            else "not for AMD"
            for cc in targets
        ]
        mix = (
            f"{facts.wide_loads} + {facts.narrow_loads}", f"{facts.wide_stores} + {facts.narrow_stores}",
            str(facts.tensor_core), str(facts.instructions),
        )  # fmt: skip
        rows.append((backend, f"`{name}`", *cells, *mix))
    header = ["backend", "kernel", *(f"sm_{cc}" if isinstance(cc, int) else cc for cc in targets)]
    header += ["loads, 128-bit + other", "stores", "tensor core", "instructions"]
    section = f"## {op}\n\n<!-- {op}: {digest(op)} -->\n{module_of(op).__doc__}\n\n{broken(op, failures)}"
    section += _table(TRAFFIC, traffic_rows) + "\nThe instruction counts are of sm_90, every path of the code.\n\n"
    return section + _table(header, rows), failures


def broken(op, failures):
    """The limits that an operator breaks, for its section."""
    return (
        "".join(["Limits broken:\n", *(f"- {f.removeprefix(op + ', ')}\n" for f in failures), "\n"]) if failures else ""
    )


def every(ops=OPERATORS, targets=TARGETS, note=print):
    """Compiles every CUDA instantiation of operators; returns those with a stack or spills."""
    failures = []
    for op in ops:
        entries = paths.CSRC / "cuda" / f"{op}_entries.cpp"
        for name in host.build(entries, (paths.CSRC, paths.CSRC / "cuda")).kernels if entries.exists() else ():
            for cc in targets:
                registers, stack = static.stack_of_cuda(op, name, cc)
                note(f"{name} for sm_{cc}: {registers} registers")
                if stack:
                    failures.append(f"{name} for sm_{cc}: {stack} bytes of stack")
    return failures


def write(ops=(), anew=False):
    """Measures what has changed since the document was written, or all, or `ops`, and writes it; returns breaches."""
    versions = f"Triton {triton.__version__}, NVRTC {nvrtc.version()}.\n"
    whole = not DOCUMENT.exists() or versions not in DOCUMENT.read_text()
    changed = [op for op in OPERATORS if whole or (op in ops if ops else anew or recorded(op) != digest(op))]
    parts, failures = [f"{HEAD}\n{versions}"], []
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {op: pool.submit(operator, op) for op in reversed(changed)}
        for op in OPERATORS:
            section, found = running[op].result() if op in running else (_section(op), [])
            parts.append(section.rstrip() + "\n")
            failures += found
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text("\n".join(parts))
    return failures
