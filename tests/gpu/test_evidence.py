"""The kernels keep their limits on sm_80 and sm_90, and docs/gpu-evidence.md is of these sources."""

from dataclasses import replace

import pytest

from . import nvrtc
from .evidence import OPERATORS, bias_act, check, measure, report, static

pytestmark = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))

# The sample: one dtype; the command runs the rest.
CASES = [(op, case) for op in OPERATORS for case in report.module_of(op).cases() if "bfloat16" in case.name]


@pytest.mark.parametrize("op", OPERATORS)
def test_the_document_is_of_these_sources(op):
    assert report.recorded(op) == report.digest(op), f"{report.DOCUMENT} is stale: {report.COMMAND}"


@pytest.mark.parametrize(("op", "case"), CASES, ids=lambda p: getattr(p, "name", p))
def test_limits(op, case):
    launches = measure.run(case)
    assert not check.breaches(case, measure.traffic(launches))
    for cc in (80, 90):
        for name, threads, facts in measure.compiled(op, case, cc, launches):
            assert not check.static_breaches(case, cc, name, threads, facts), f"{name} for sm_{cc}"


GOOD = static.Facts(40, 0, 0, 0, 2, 1, 1, 0, 0, 100)
CASE = next(iter(bias_act.cases()))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"stack": 8}, "8 bytes of stack"),
        ({"spills": 2}, "2 spills"),
        ({"wide_loads": 0}, "no 128-bit load"),
        ({"registers": 200}, "200 registers"),
        ({"shared": 100 << 10}, "occupancy"),
    ],
)
def test_a_bad_kernel_is_found(change, what):
    assert not check.static_breaches(CASE, 80, "kernel", 256, GOOD)
    assert what in "; ".join(check.static_breaches(CASE, 80, "kernel", 256, replace(GOOD, **change)))


def test_a_kernel_of_sums_needs_wide_loads_but_no_wide_stores():
    facts, case = replace(GOOD, wide_stores=0), replace(CASE, sums=("_reduce",), few=("_fill",))
    assert check.static_breaches(case, 80, "op_apply<float>", 256, facts) == ["no 128-bit store"]
    assert not check.static_breaches(case, 80, "op_reduce<float>", 256, facts)
    facts = replace(facts, wide_loads=0)
    assert check.static_breaches(case, 80, "op_reduce<float>", 256, facts) == ["no 128-bit load"]
    assert not check.static_breaches(case, 80, "op_fill<float>", 256, facts)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"launches": 2}, "2 launches"),
        ({"read": 2 * CASE.floor}, "distinct bytes"),
        ({"requested": 9 * CASE.floor}, "requested bytes"),
        ({"sectors": 20}, "sectors"),
        ({"wavefronts": 20}, "wavefronts"),
    ],
)
def test_wasted_traffic_is_found(change, what):
    good = measure.Traffic(1, CASE.floor, 0, CASE.floor, 10, 10, 10, 10, 1, 0)
    assert not check.breaches(CASE, good)
    assert what in "; ".join(check.breaches(CASE, replace(good, **change)))


def test_a_listing_is_read():
    listing = """ Function k:
  REG:42 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:400
        /*0010*/                   LDG.E.128 R4, [R2.64] ;   /* 0x0 */
        /*0020*/              @!P0 LDG.E.U16 R5, [R2.64] ;   /* 0x0 */
        /*0030*/                   STL [R1], R5 ;            /* 0x0 */
        /*0040*/                   HMMA.16816.F32 R4, R4, R8, R12 ;
        /*0050*/              @P1  STG.E.128 [R2.64], R4 ;
        /*0060*/                   NOP;
"""
    assert static.of_sass(listing, 32) == static.Facts(42, 16, 1, 1056, 1, 1, 1, 0, 1, 5)
    assert static.of_sass("code for sm_90a\n" + listing).shared == 0


@pytest.mark.parametrize(
    ("cc", "registers", "shared", "threads", "share"),
    [(80, 64, 0, 256, 0.5), (90, 32, 0, 256, 1.0), (86, 40, 48 << 10, 128, 256 / 1536), (75, 65, 0, 256, 0.75),
     ("gfx942", 64, 0, 256, 1.0), ("gfx942", 128, 0, 256, 0.5)],
)  # fmt: skip
def test_occupancy(cc, registers, shared, threads, share):
    assert static.occupancy(cc, replace(GOOD, registers=registers, shared=shared), threads) == pytest.approx(share)
