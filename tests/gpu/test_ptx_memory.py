"""Loads, stores, atomics, cp.async, special registers and control flow."""

import numpy as np
import pytest

from . import ptx
from .ptx import faults
from .ptx.semantics.atomics import turns
from .ptx_case import execute

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_shared_round_trip(width):
    a = RNG.integers(0, 2**width, 64, dtype=np.uint64).astype(f"u{width // 8}")
    body = f"""
    .reg .b32 %mine, %other;
    mul.lo.u32 %mine, %t, {width // 8};
    mov.u32 %other, buffer;
    add.u32 %mine, %mine, %other;
    st.shared.b{width} [%mine], %a;
    bar.sync 0;
    xor.b32 %other, %t, 33;
    mul.lo.u32 %other, %other, {width // 8};
    ld.shared.b{width} %d, [%other];
    """
    (out,), run = execute(body, {"a": (f"b{width}", a)}, {"d": f"b{width}"}, shared=512)
    np.testing.assert_array_equal(out, a[np.arange(64) ^ 33])
    assert run.counters["barriers"] == 1


def test_sign_and_zero_extension():
    a = np.arange(-16, 16)
    body = """
    .reg .b32 %mine;
    mov.u32 %mine, buffer;
    add.u32 %mine, %mine, %t;
    st.shared.b8 [%mine], %a;
    ld.shared.s8 %s, [%mine];
    ld.shared.u8 %u, [%mine];
    """
    (s, u), _ = execute(body, {"a": ("b32", a)}, {"s": "s32", "u": "u32"}, shared=64)
    np.testing.assert_array_equal(s, a)
    np.testing.assert_array_equal(u, a % 256)


def test_vectors_local_and_generic_addresses():
    a = RNG.integers(0, 2**32, 64, dtype=np.uint64)
    body = """
    .local .align 16 .b8 stack[32];
    .reg .b64 %sp, %shared;
    .reg .b32 %x, %y, %z, %w, %mine;
    mov.u64 %sp, stack;
    cvt.u32.u64 %x, %a;
    add.u32 %y, %x, 1;
    st.local.v4.b32 [%sp], {%x, %y, %x, %y};
    ld.local.v2.b32 {%z, %w}, [%sp+8];
    cvta.local.u64 %sp, %sp;
    ld.u32 %fromlocal, [%sp+4];
    mov.u32 %mine, buffer;
    mad.lo.u32 %mine, %t, 16, %mine;
    st.shared.v4.u32 [%mine], {%z, %w, %z, %w};
    cvt.u64.u32 %shared, %mine;
    cvta.shared.u64 %shared, %shared;
    ld.v2.u32 {%p, _}, [%shared+8];
    .reg .pred %is;
    isspacep.shared %is, %shared;
    selp.u32 %space, 1, 0, %is;
    isspacep.global %is, %shared;
    @%is add.u32 %space, %space, 2;
    """
    outs = {"fromlocal": "u32", "p": "u32", "space": "u32"}
    (local, p, space), run = execute(body, {"a": ("b64", a)}, outs, shared=1024)
    np.testing.assert_array_equal(local, (a + 1).astype(np.uint32))
    np.testing.assert_array_equal(p, a.astype(np.uint32))
    assert (space == 1).all()
    assert run.counters["local_bytes"] == 64 * (16 + 8 + 4)


def reduce_in_turn(name, start, values):
    """What an atomic leaves behind, and what each lane gets back."""
    functions = {
        "add": lambda o, v: (o + v) % 2**32, "min": min, "max": max, "and": lambda o, v: o & v,
        "or": lambda o, v: o | v, "xor": lambda o, v: o ^ v, "exch": lambda o, v: v,
        "inc": lambda o, v: 0 if o >= v else o + 1,
        "dec": lambda o, v: v if o == 0 or o > v else o - 1,
    }  # fmt: skip
    got = []
    for value in values:
        got.append(start)
        start = functions[name](start, value)
    return start, got


@pytest.mark.parametrize("name", ["add", "min", "max", "and", "or", "xor", "exch", "inc", "dec"])
@pytest.mark.parametrize("space", ["global", "shared"])
def test_atomics(name, space):
    a = RNG.integers(0, 50, 64)
    t = "b32" if name in ("and", "or", "xor", "exch") else "u32"
    body = f"""
    .reg .b64 %place;
    .reg .b32 %here, %slot, %zero;
    .reg .pred %few;
    mov.u32 %zero, 5;
    and.b32 %slot, %t, 3;
    mov.u32 %here, buffer;
    mad.lo.u32 %here, %slot, 4, %here;
    ld.param.u64 %place, [p_total];
    mad.wide.u32 %place, %slot, 4, %place;
    setp.lt.u32 %few, %t, 4;
    @%few st.{space}.u32 [{"%place" if space == "global" else "%here"}], %zero;
    bar.sync 0;
    atom.{space}.{name}.{t} %old, [{"%place" if space == "global" else "%here"}], %a;
    bar.sync 0;
    mov.u32 %total, 0;
    @%few ld.{space}.u32 %total, [{"%place" if space == "global" else "%here"}];
    """
    (old, total), run = execute(body, {"a": ("u32", a)}, {"old": "u32", "total": "u32"}, shared=16)
    for slot in range(4):
        end, got = reduce_in_turn(name, 5, a[slot::4].tolist())
        assert total[slot] == end
        assert old[slot::4].tolist() == got
    assert run.counters["atomics"] == 64


@pytest.mark.parametrize(
    ("t", "dtype"),
    [("f32", np.float32), ("f64", np.float64), ("f16", np.float16), ("s32", np.int32), ("u64", np.uint64)],
)
def test_typed_reductions(t, dtype):
    a = RNG.integers(-8, 8, 64) if t != "u64" else RNG.integers(0, 8, 64)
    op = f"add.noftz.{t}" if t == "f16" else f"add.{t}"
    arena = ptx.Arena()
    pointers = [np.uint64(arena.add("a", a.astype(dtype).view(np.uint8)))]
    pointers.append(np.uint64(arena.add("total", np.zeros(8, np.uint8))))
    size = np.dtype(dtype).itemsize
    source = f""".entry k(.param .u64 p_a, .param .u64 p_total) {{
    .reg .b64 %at; .reg .b32 %t; .reg .b{8 * size} %a;
    mov.u32 %t, %tid.x;
    ld.param.u64 %at, [p_a];
    mad.wide.u32 %at, %t, {size}, %at;
    ld.global.b{8 * size} %a, [%at];
    ld.param.u64 %at, [p_total];
    red.relaxed.gpu.global.{op} [%at], %a;
    ret; }}"""
    run = ptx.launch(ptx.parse(source, "k"), (2,), (32,), pointers, arena)
    got = arena.result(1).view(dtype)[0]
    assert got == a[:32].astype(dtype).sum() * 2
    assert run.counters["atomics"] == 64


def test_compare_and_swap():
    a = np.arange(64) % 4
    body = """
    .reg .b64 %place;
    ld.param.u64 %place, [p_old];
    .reg .pred %first;
    setp.eq.u32 %first, %t, 0;
    .reg .b32 %zero;
    mov.u32 %zero, 0;
    mov.u32 %here, buffer;
    @%first st.shared.u32 [%here], %zero;
    bar.sync 0;
    add.u32 %next, %a, 1;
    atom.shared.cas.b32 %old, [%here], %a, %next;
    """
    body = ".reg .b32 %here, %next;\n" + body
    (old,), _ = execute(body, {"a": ("u32", a)}, {"old": "u32"}, shared=4)
    state, got = 0, []
    for value in a.tolist():
        got.append(state)
        state = value + 1 if state == value else state
    assert old.tolist() == got


def test_turns_keep_the_order_of_each_location():
    rows = RNG.integers(0, 5, 100)
    groups = turns(rows)
    assert all(len(set(rows[g])) == len(g) for g in groups)
    order = np.concatenate(groups)
    for row in range(5):
        mine = order[rows[order] == row]
        assert (np.diff(mine) > 0).all()
    assert sorted(order) == list(range(100))


COPY = """
    .reg .b32 %mine, %other, %n16;
    .reg .b64 %from;
    ld.param.u64 %from, [p_a];
    mad.wide.u32 %from, %t, 16, %from;
    mov.u32 %mine, buffer;
    mad.lo.u32 %mine, %t, 16, %mine;
    xor.b32 %other, %t, 1;
    mad.lo.u32 %other, %other, 16, 0;
"""


def copied(body, lanes=32, shared=1024):
    a = RNG.integers(0, 2**32, (64, 4), dtype=np.uint64).astype(np.uint32)
    source = f""".entry k(.param .u64 p_a, .param .u64 p_d) {{
    .reg .b32 %t, %d; .reg .b64 %at;
    .shared .align 16 .b8 buffer[{shared}];
    mov.u32 %t, %tid.x;
    {COPY}
    {body}
    ld.param.u64 %at, [p_d];
    mad.wide.u32 %at, %t, 4, %at;
    st.global.u32 [%at], %d;
    ret; }}"""
    arena = ptx.Arena()
    args = [np.uint64(arena.add("a", a.reshape(-1).view(np.uint8))), np.uint64(arena.add("d", np.zeros(256, np.uint8)))]
    run = ptx.launch(ptx.parse(source, "k"), (1,), (lanes,), args, arena)
    return a, arena.result(1).view(np.uint32)[:lanes], run


def test_cp_async_arrives_at_its_wait():
    body = """
    cp.async.cg.shared.global [%mine], [%from], 16;
    cp.async.commit_group;
    cp.async.wait_group 0;
    bar.sync 0;
    ld.shared.u32 %d, [%other+4];
    """
    a, d, run = copied(body)
    np.testing.assert_array_equal(d, a[np.arange(32) ^ 1, 1])
    assert run.counters["cp_async_bytes"] == 32 * 16
    assert run.counters["load_bytes"] == 32 * 16


def test_cp_async_groups_complete_in_order():
    body = """
    cp.async.cg.shared.global [%mine], [%from], 16;
    cp.async.commit_group;
    cp.async.cg.shared.global [%mine+512], [%from+512], 16;
    cp.async.commit_group;
    cp.async.wait_group 1;
    bar.sync 0;
    ld.shared.u32 %d, [%other+4];
    """
    a, d, _ = copied(body)
    np.testing.assert_array_equal(d, a[np.arange(32) ^ 1, 1])
    with pytest.raises(faults.AsyncRace):
        copied(body.replace("[%other+4]", "[%other+516]"))
    with pytest.raises(faults.AsyncRace):
        copied(body.replace("wait_group 1", "wait_group 2"))
    _, d, _ = copied(body.replace("wait_group 1", "wait_all").replace("[%other+4]", "[%other+516]"))
    assert len(d) == 32


def test_cp_async_fills_the_rest_with_zeros():
    body = """
    mov.u32 %n16, 8;
    cp.async.cg.shared.global [%mine], [%from], 16, %n16;
    cp.async.wait_all;
    ld.shared.u32 %d, [%mine+4];
    .reg .b32 %e;
    ld.shared.u32 %e, [%mine+8];
    mad.lo.u32 %d, %e, 77, %d;
    """
    a, d, _ = copied(body)
    np.testing.assert_array_equal(d, a[:32, 1])


def test_threads_and_blocks_in_three_dimensions():
    names = [f"{r}.{c}" for r in ("%tid", "%ctaid", "%ntid", "%nctaid") for c in "xyz"]
    registers = [n.strip("%").replace(".", "") for n in names]
    stores = "\n".join(
        f"mov.u32 %v, {name}; st.global.u32 [%at+{4 * i}], %v;" for i, name in enumerate([*names, "%laneid", "%warpid"])
    )
    source = f""".entry k(.param .u64 p) {{
    .reg .b32 %v, %b, %i; .reg .b32 %m<8>; .reg .b64 %at;
    mov.u32 %m0, %ctaid.z; mov.u32 %m1, %nctaid.y; mov.u32 %m2, %ctaid.y; mad.lo.u32 %b, %m0, %m1, %m2;
    mov.u32 %m1, %nctaid.x; mov.u32 %m2, %ctaid.x; mad.lo.u32 %b, %b, %m1, %m2;
    mov.u32 %m0, %ntid.z; mov.u32 %m2, %tid.z; mad.lo.u32 %b, %b, %m0, %m2;
    mov.u32 %m0, %ntid.y; mov.u32 %m2, %tid.y; mad.lo.u32 %b, %b, %m0, %m2;
    mov.u32 %m0, %ntid.x; mov.u32 %m2, %tid.x; mad.lo.u32 %b, %b, %m0, %m2;
    ld.param.u64 %at, [p]; mad.wide.u32 %at, %b, 56, %at;
    {stores}
    ret; }}"""
    grid, block = (3, 2, 2), (5, 4, 3)
    arena = ptx.Arena()
    args = [np.uint64(arena.add("p", np.zeros(4 * 14 * 12 * 60, np.uint8)))]
    ptx.launch(ptx.parse(source, "k"), grid, block, args, arena)
    got = arena.result(0).view(np.uint32).reshape(2, 2, 3, 3, 4, 5, 14)
    cz, cy, cx, tz, ty, tx = np.indices((2, 2, 3, 3, 4, 5))
    linear = (tz * 4 + ty) * 5 + tx
    values = [tx, ty, tz, cx, cy, cz, 5, 4, 3, 3, 2, 2, linear % 32, linear // 32]
    for i, value in enumerate(values):
        np.testing.assert_array_equal(got[..., i], np.broadcast_to(value, got.shape[:-1]), err_msg=str(registers[:i]))


def test_loops_reconverge():
    a = RNG.integers(0, 20, 96)
    body = """
    .reg .pred %more, %odd;
    .reg .b32 %k, %bit, %sum2;
    mov.u32 %d, 0;
    mov.u32 %k, %a;
    TOP:
    setp.eq.u32 %more, %k, 0;
    @%more bra DONE;
    and.b32 %bit, %k, 1;
    setp.eq.u32 %odd, %bit, 1;
    @%odd bra ODD;
    add.u32 %d, %d, 1;
    bra.uni NEXT;
    ODD:
    add.u32 %d, %d, 1000;
    NEXT:
    sub.u32 %k, %k, 1;
    bra.uni TOP;
    DONE:
    shfl.sync.bfly.b32 %s, %d, 1, 31, 0xffffffff;
    """
    (d, s), run = execute(body, {"a": ("u32", a)}, {"d": "u32", "s": "u32"})
    expected = np.array([sum(1000 if k % 2 else 1 for k in range(1, v + 1)) for v in a])
    np.testing.assert_array_equal(d, expected)
    np.testing.assert_array_equal(s, expected[np.arange(96) ^ 1])
    assert run.counters["divergent_branches"] > 0


def test_branch_table_and_early_exit():
    a = np.arange(64) % 4
    body = """
    table: .branchtargets ZERO, ONE, TWO, THREE;
    mov.u32 %d, 99;
    brx.idx %a, table;
    ZERO: mov.u32 %d, 10; bra END;
    ONE: mov.u32 %d, 11; bra END;
    TWO: ret;
    THREE: mov.u32 %d, 13;
    END:
    """
    (d,), _ = execute(body, {"a": ("u32", a)}, {"d": "u32"})
    np.testing.assert_array_equal(d, np.array([10, 11, 0, 13])[a])  # those that left stored nothing


def test_trap_and_endless_loops(monkeypatch):
    from .ptx import machine

    with pytest.raises(faults.Fault, match="trap"):
        execute("trap;\nmov.u32 %d, 0;", {"a": ("u32", np.arange(32))}, {"d": "u32"})
    monkeypatch.setattr(machine, "STEPS", 1000)
    with pytest.raises(faults.Endless):
        execute("mov.u32 %d, 0;\nL: bra L;", {"a": ("u32", np.arange(32))}, {"d": "u32"})


def test_hints_do_nothing():
    a = np.arange(32)
    body = "membar.gl;\nfence.acq_rel.gpu;\nnanosleep.u32 20;\nprefetch.global.L2 [%at];\nmov.u32 %d, %a;"
    (d,), _ = execute(body, {"a": ("u32", a)}, {"d": "u32"})
    np.testing.assert_array_equal(d, a)


def test_module_constants_and_parameter_structs():
    source = """
    .global .align 4 .b8 table[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    .const .align 4 .u32 numbers[2] = {100, 200};
    .entry k(.param .align 8 .b8 k_param_0[24]) {
    .reg .b64 %at, %p; .reg .b32 %x, %y, %t; .reg .b32 %z;
    mov.u32 %t, %tid.x;
    ld.param.u64 %at, [k_param_0+8];
    mad.wide.u32 %at, %t, 4, %at;
    mov.u64 %p, table;
    ld.global.u32 %x, [%p+4];
    ld.const.u32 %y, [numbers+4];
    add.u32 %x, %x, %y;
    ld.param.u32 %z, [k_param_0+16];
    add.u32 %x, %x, %z;
    st.global.u32 [%at], %x;
    ret; }"""
    arena = ptx.Arena()
    address = arena.add("d", np.zeros(128, np.uint8))
    params = np.array([0, address, 1000], np.uint64).tobytes()
    ptx.launch(ptx.parse(source, "k"), (1,), (32,), [params], arena)
    assert (arena.result(0).view(np.uint32) == 0x08070605 + 200 + 1000).all()
