"""Each fault has a kernel with the bug, which must be reported as that fault, and the same kernel without it."""

import numpy as np
import pytest

from . import nvrtc, paths, ptx
from .ptx import faults
from .ptx_case import execute

SOURCE = paths.EXAMPLE / "faults.cuh"
INCLUDES = (paths.CSRC, paths.CSRC / "cuda")
BLOCKS, SIZE = 8, 1000  # the last block is not full

SEEDED = {
    "out_of_bounds": faults.OutOfBounds,
    "out_of_view": faults.OutOfBounds,
    "shared_out_of_bounds": faults.OutOfBounds,
    "misaligned": faults.Misaligned,
    "uninitialised": faults.Uninitialised,
    "partial_barrier": faults.BarrierFault,
    "early_exit": faults.BarrierFault,
    "two_barriers": faults.BarrierFault,
    "inactive_lane": faults.InactiveLane,
    "shared_race": faults.SharedRace,
    "shared_write_after_read": faults.SharedRace,
    "warp_race": faults.SharedRace,
    "block_race": faults.BlockRace,
    "last_block": faults.BlockRace,
    "global_race": faults.GlobalRace,
    "write_clash": faults.GlobalRace,
    "early_copy": faults.AsyncRace,
}


def run(name, bug):
    compiled = nvrtc.compile(SOURCE, f"gk::{name}<{'true' if bug else 'false'}>", "compute_80", INCLUDES)
    arena = ptx.Arena()
    x = np.arange(SIZE + 32, dtype=np.float32)
    first = arena.add("x", x.view(np.uint8), own=False)
    arena.own(0, 0, (SIZE,), (4,), 4)  # the storage goes on beyond the view
    out = arena.add("out", np.zeros(SIZE, np.float32).view(np.uint8))
    counter = arena.add("counter", np.zeros(4, np.uint8))
    params = np.array([first, out, counter, SIZE], np.uint64).tobytes()
    ptx.launch(ptx.parse(compiled.ptx, compiled.symbol), (BLOCKS,), (128,), [params], arena)
    return arena.result(1).view(np.float32)


@pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
@pytest.mark.parametrize("name", SEEDED)
def test_seeded_bug_is_reported_and_its_clean_twin_runs(name):
    with pytest.raises(SEEDED[name]) as caught:
        run(name, bug=True)
    assert type(caught.value) is SEEDED[name]
    assert f"{name}" in str(caught.value)
    out = run(name, bug=False)
    assert np.isfinite(out).all()
    assert out.any()


@pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
def test_the_last_block_sums_what_all_wrote():
    assert run("last_block", bug=False)[-1] == sum(range(1, BLOCKS + 1))


def test_gaps_lie_between_tensors():
    a = np.arange(32)
    for offset in (128, -4):
        body = f".reg .b64 %p;\nld.param.u64 %p, [p_a];\nld.global.u32 %d, [%p+{offset}];"
        with pytest.raises(faults.OutOfBounds, match="32 lanes"):
            execute(body, {"a": ("u32", a)}, {"d": "u32"})


def test_strided_views_own_only_their_elements():
    source = """.entry k(.param .u64 p, .param .u32 skip) { .reg .b64 %at; .reg .b32 %t, %s;
    mov.u32 %t, %tid.x; ld.param.u32 %s, [skip]; mul.lo.u32 %t, %t, %s;
    ld.param.u64 %at, [p]; mad.wide.u32 %at, %t, 4, %at; st.global.u32 [%at], %t; ret; }"""
    for skip, error in ((2, None), (1, faults.OutOfBounds)):
        arena = ptx.Arena()
        address = arena.add("columns", np.zeros(256, np.uint8), own=False)
        arena.own(0, 0, (32,), (8,), 4)
        args = [np.uint64(address), np.uint32(skip)]
        if error is None:
            ptx.launch(ptx.parse(source, "k"), (1,), (32,), args, arena)
        else:
            with pytest.raises(error):
                ptx.launch(ptx.parse(source, "k"), (1,), (32,), args, arena)


@pytest.mark.parametrize(
    ("grid", "block", "shared"),
    [((0,), (32,), 0), ((1, 70000), (32,), 0), ((1,), (1025,), 0), ((1,), (1, 1, 65), 0), ((1,), (32,), 240 << 10)],
)
def test_impossible_launches_are_refused(grid, block, shared):
    with pytest.raises(faults.BadLaunch):
        ptx.launch(ptx.parse(".entry k() { ret; }", "k"), grid, block, [], ptx.Arena(), shared_bytes=shared)


def test_launch_bounds_are_kept():
    kernel = ptx.parse(".entry k()\n.maxntid 64, 1, 1\n{ ret; }", "k")
    ptx.launch(kernel, (1,), (64,), [], ptx.Arena())
    with pytest.raises(faults.BadLaunch, match="compiled for 64"):
        ptx.launch(kernel, (1,), (65,), [], ptx.Arena())


def test_warps_may_store_one_number_to_one_place_but_not_two():
    body = """
    .reg .b32 %here;
    mov.u32 %here, buffer;
    st.shared.u32 [%here], %a;
    bar.sync 0;
    ld.shared.u32 %d, [%here];
    """
    (d,), _ = execute(body, {"a": ("u32", np.full(64, 7))}, {"d": "u32"}, shared=4)
    assert (d == 7).all()
    with pytest.raises(faults.SharedRace, match="different values"):
        execute(body, {"a": ("u32", np.arange(64) // 32)}, {"d": "u32"}, shared=4)


def test_shared_atomics_do_not_race_but_a_plain_read_beside_them_does():
    body = """
    .reg .b32 %here, %zero;
    .reg .pred %first;
    mov.u32 %here, buffer;
    mov.u32 %zero, 0;
    setp.eq.u32 %first, %t, 0;
    @%first st.shared.u32 [%here], %zero;
    bar.sync 0;
    red.shared.add.u32 [%here], %a;
    bar.sync 0;
    ld.shared.u32 %d, [%here];
    """
    a = np.arange(64)
    (d,), _ = execute(body, {"a": ("u32", a)}, {"d": "u32"}, shared=4)
    assert (d == a.sum()).all()
    without = body.replace("bar.sync 0;\n    ld", "ld")
    with pytest.raises(faults.SharedRace):
        execute(without, {"a": ("u32", a)}, {"d": "u32"}, shared=4)
    execute(without, {"a": ("u32", a)}, {"d": "u32"}, shared=4, check=False)
