"""The limits: each breach in words."""

from . import static


def breaches(case, traffic):
    """What a case's launches did beyond its limits."""
    found = []
    if traffic.launches != case.launches:
        found.append(f"{traffic.launches} launches, expected {case.launches}")
    for what, value, limit in (
        ("distinct bytes over the floor", traffic.unique / case.floor, case.unique),
        ("requested bytes over the floor", traffic.requested / case.floor, case.requested),
        ("sectors over the ideal", traffic.sectors / max(1, traffic.ideal_sectors), case.sectors),
        ("shared wavefronts over the ideal", traffic.wavefronts / max(1, traffic.ideal_wavefronts), case.wavefronts),
    ):
        if value > limit:
            found.append(f"{what}: {value:.3f}, at most {limit}")
    return found


def static_breaches(case, cc, kernel, threads, facts):
    """What a compiled kernel has beyond its limits."""
    found = []
    if facts.stack or facts.spills:
        found.append(f"{facts.stack} bytes of stack, {facts.spills} spills")
    if case.dot and cc != 75 and not facts.tensor_core:
        found.append("no tensor core instruction")
    if cc in static.MULTIPROCESSOR:  # AMD's wavefronts are twice as wide: the same tile is 64 bits a lane there
        if case.loads_wide(kernel) and not facts.wide_loads:
            found.append("no 128-bit load")
        if case.stores_wide(kernel) and not facts.wide_stores:
            found.append("no 128-bit store")
        if facts.registers > case.registers:
            found.append(f"{facts.registers} registers, at most {case.registers}")
    if (share := static.occupancy(cc, facts, threads)) < case.occupancy:
        found.append(f"occupancy {share:.2f}, at least {case.occupancy}")
    return found
