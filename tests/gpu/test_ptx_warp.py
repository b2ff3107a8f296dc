"""Shuffles, votes, reductions and tensor-core instructions against numpy."""

import numpy as np
import pytest

from . import ptx
from .ptx import faults, values
from .ptx_case import execute

RNG = np.random.default_rng(5)
LANES = 96
FULL = "0xffffffff"


def rows(array):
    return array.reshape(-1, 32)


@pytest.mark.parametrize("width", [32, 16, 8])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffle(mode, width):
    a, b = RNG.integers(0, 2**32, LANES, dtype=np.uint64), RNG.integers(0, 32, LANES)
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
    body = f".reg .pred %p;\nshfl.sync.{mode}.b32 %d|%p, %a, %b, {clamp}, {FULL};\nselp.u32 %v, 1, 0, %p;"
    (d, v), _ = execute(body, {"a": ("u32", a), "b": ("u32", b)}, {"d": "u32", "v": "u32"})
    for i in range(LANES):
        lane, offset = i % 32, int(b[i])
        start = lane // width * width
        source = {"up": lane - offset, "down": lane + offset, "bfly": lane ^ offset, "idx": start + offset % width}[
            mode
        ]
        inside = source >= start if mode == "up" else source < start + width
        assert v[i] == inside
        assert d[i] == a[i - lane + (source if inside else lane)]


def test_votes_and_masks():
    a = RNG.integers(0, 4, LANES)
    a[:32] = 1
    body = f"""
    .reg .pred %p, %q;
    setp.ne.u32 %p, %a, 0;
    vote.sync.ballot.b32 %ballot, %p, {FULL};
    vote.sync.all.pred %q, %p, {FULL};
    selp.u32 %all, 1, 0, %q;
    vote.sync.any.pred %q, !%p, {FULL};
    selp.u32 %any, 1, 0, %q;
    vote.sync.uni.pred %q, %p, {FULL};
    selp.u32 %uni, 1, 0, %q;
    activemask.b32 %active;
    mov.u32 %lt, %lanemask_lt;
    match.any.sync.b32 %same, %a, {FULL};
    match.all.sync.b32 %every|%q, %a, {FULL};
    elect.sync %leader|%q, {FULL};
    selp.u32 %elected, 1, 0, %q;
    bar.warp.sync {FULL};
    """
    names = ["ballot", "all", "any", "uni", "active", "lt", "same", "every", "leader", "elected"]
    outs, _ = execute(body, {"a": ("u32", a)}, dict.fromkeys(names, "u32"))
    got = dict(zip(names, outs, strict=True))
    flags = rows(a) != 0
    bits = 1 << np.arange(32, dtype=np.uint64)
    expected = {
        "ballot": (flags * bits).sum(1), "all": flags.all(1), "any": (~flags).any(1),
        "uni": flags.all(1) | ~flags.any(1),
        "active": np.full(3, 2**32 - 1), "leader": np.zeros(3), "every": np.array([2**32 - 1, 0, 0]),
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_array_equal(rows(got[name]), np.repeat(value[:, None], 32, 1), err_msg=name)
    lane = np.arange(LANES) % 32
    np.testing.assert_array_equal(got["lt"], (1 << lane) - 1)
    np.testing.assert_array_equal(got["elected"], lane == 0)
    same = [int((bits * (rows(a)[i // 32] == a[i])).sum()) for i in range(LANES)]
    assert got["same"].tolist() == same


@pytest.mark.parametrize(
    ("name", "t", "function"),
    [("add", "u32", np.sum), ("min", "s32", np.min), ("max", "s32", np.max), ("and", "b32", np.bitwise_and.reduce),
     ("or", "b32", np.bitwise_or.reduce), ("xor", "b32", np.bitwise_xor.reduce)],
)  # fmt: skip
def test_warp_reduction(name, t, function):
    a = RNG.integers(-1000, 1000, LANES).astype(np.int32)
    source = a.view(np.uint32) if t[0] != "s" else a
    (d,), _ = execute(f"redux.sync.{name}.{t} %d, %a, {FULL};", {"a": (t, source)}, {"d": t})
    expected = [function(row) for row in rows(source)]
    np.testing.assert_array_equal(rows(d), np.repeat(np.array(expected).astype(d.dtype)[:, None], 32, 1))


def test_barrier_reductions():
    a = (np.arange(64) % 7 == 3).astype(np.uint32)
    body = """
    .reg .pred %p, %q;
    setp.ne.u32 %p, %a, 0;
    barrier.red.popc.u32 %count, 0, %p;
    bar.red.or.pred %q, 0, %p;
    selp.u32 %or, 1, 0, %q;
    bar.red.and.pred %q, 0, %p;
    selp.u32 %and, 1, 0, %q;
    """
    outs, _ = execute(body, {"a": ("u32", a)}, {"count": "u32", "or": "u32", "and": "u32"})
    assert [set(o.tolist()) for o in outs] == [{int(a.sum())}, {1}, {0}]


def fragment_words(matrix, kind):
    """A [16, k] A-matrix or [k, 8] B-matrix as mma registers, straight from the tables of the PTX manual."""
    lane = np.arange(32)
    group, member = lane // 4, lane % 4
    registers = []
    if kind == "A16":  # a0..a7 of 16-bit elements, two a register
        for i in range(matrix.shape[1] // 4):
            row = group + (8 if i % 2 else 0)
            column = member * 2 + (8 if i >= 2 else 0)
            registers.append((matrix[row, column], matrix[row, column + 1]))
    elif kind == "B16":
        for i in range(matrix.shape[0] // 8):
            registers.append((matrix[member * 2 + 8 * i, group], matrix[member * 2 + 1 + 8 * i, group]))
    elif kind == "A32":
        for i in range(matrix.shape[1] // 2):
            registers.append(matrix[group + (8 if i % 2 else 0), member + (4 if i >= 2 else 0)])
    elif kind == "B32":
        registers += [matrix[member + 4 * i, group] for i in range(matrix.shape[0] // 4)]
    return registers


def accumulators(outs):
    """c0..c3 of 32 lanes as the [16, 8] matrix."""
    lane = np.arange(32)
    result = np.empty((16, 8), outs[0].dtype)
    for i, values_ in enumerate(outs):
        result[lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2] = values_
    return result


def to_bits(x, t):
    return values.f32_to_bf16(x) if t == "bf16" else x.astype(np.float16).view(np.uint16)


@pytest.mark.parametrize("k", [8, 16])
@pytest.mark.parametrize("t", ["f16", "bf16"])
def test_mma_16_bit(t, k):
    a, b = RNG.integers(-8, 8, (16, k)).astype(np.float32), RNG.integers(-8, 8, (k, 8)).astype(np.float32)
    c = RNG.standard_normal((16, 8)).astype(np.float32)
    lane = np.arange(32)
    ins = {}
    for name, matrix, kind in (("a", a, "A16"), ("b", b, "B16")):
        for i, (low, high) in enumerate(fragment_words(matrix, kind)):
            ins[f"{name}{i}"] = ("b32", values.pack(to_bits(low, t), to_bits(high, t)))
    for i in range(4):
        ins[f"c{i}"] = ("f32", c[lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2])
    group = ", ".join("{" + ", ".join(f"%{x}" for x in ins if x[0] == n) + "}" for n in "abc")
    body = f"mma.sync.aligned.m16n8k{k}.row.col.f32.{t}.{t}.f32 {{%d0, %d1, %d2, %d3}}, {group};"
    outs, run = execute(body, ins, {f"d{i}": "f32" for i in range(4)})
    np.testing.assert_allclose(accumulators(outs), a @ b + c, rtol=1e-6, atol=1e-5)
    assert run.counters["mma_flops"] == 2 * 16 * 8 * k


def test_mma_f16_accumulators():
    a, b = RNG.integers(-4, 4, (16, 16)).astype(np.float32), RNG.integers(-4, 4, (16, 8)).astype(np.float32)
    ins = {}
    for name, matrix, kind in (("a", a, "A16"), ("b", b, "B16")):
        for i, (low, high) in enumerate(fragment_words(matrix, kind)):
            ins[f"{name}{i}"] = ("b32", values.pack(to_bits(low, "f16"), to_bits(high, "f16")))
    ins["c0"] = ins["c1"] = ("b32", values.pack(*[to_bits(np.full(32, 0.5), "f16")] * 2))
    body = "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%d0, %d1}, {%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1};"
    outs, _ = execute(body, ins, {"d0": "b32", "d1": "b32"})
    parts = [half.view(np.float16).astype(np.float32) for out in outs for half in values.halves(out)]
    np.testing.assert_array_equal(accumulators(parts), (a @ b + 0.5).astype(np.float16))


@pytest.mark.parametrize("k", [4, 8])
def test_mma_tf32(k):
    a, b = RNG.standard_normal((16, k)).astype(np.float32), RNG.standard_normal((k, 8)).astype(np.float32)
    ins = {f"a{i}": ("f32", r) for i, r in enumerate(fragment_words(a, "A32"))}
    ins |= {f"b{i}": ("f32", r) for i, r in enumerate(fragment_words(b, "B32"))}
    group = ", ".join("{" + ", ".join(f"%{x}" for x in ins if x[0] == n) + "}" for n in "ab")
    ins["z"] = ("f32", np.zeros(32))
    body = f"mma.sync.aligned.m16n8k{k}.row.col.f32.tf32.tf32.f32 {{%d0, %d1, %d2, %d3}}, {group}, {{%z, %z, %z, %z}};"
    outs, _ = execute(body, ins, {f"d{i}": "f32" for i in range(4)})
    cut = [(m.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64) for m in (a, b)]
    np.testing.assert_allclose(accumulators(outs), cut[0] @ cut[1], rtol=1e-5, atol=1e-6)
    assert np.abs(accumulators(outs) - a.astype(np.float64) @ b).max() > 1e-5


def test_mma_f64():
    a, b, c = (RNG.standard_normal(s) for s in ((8, 4), (4, 8), (8, 8)))
    lane = np.arange(32)
    ins = {
        "a": ("f64", a[lane // 4, lane % 4]), "b": ("f64", b[lane % 4, lane // 4]),
        "c0": ("f64", c[lane // 4, lane % 4 * 2]), "c1": ("f64", c[lane // 4, lane % 4 * 2 + 1]),
    }  # fmt: skip
    body = "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d0, %d1}, {%a}, {%b}, {%c0, %c1};"
    (d0, d1), _ = execute(body, ins, {"d0": "f64", "d1": "f64"})
    expected = a @ b + c
    np.testing.assert_allclose(d0, expected[lane // 4, lane % 4 * 2], rtol=1e-14)
    np.testing.assert_allclose(d1, expected[lane // 4, lane % 4 * 2 + 1], rtol=1e-14)


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrix_loads_and_stores(count, trans):
    words = np.arange(32 * 8, dtype=np.uint16)  # 32 rows of 8
    ins = {f"w{i}": ("b32", words.view(np.uint32).reshape(32, 4)[:, i].copy()) for i in range(4)}
    names = ", ".join(f"%d{i}" for i in range(count))
    body = f"""
    .reg .b32 %mine;
    mov.u32 %mine, buffer;
    mad.lo.u32 %mine, %t, 16, %mine;
    st.shared.v4.b32 [%mine], {{%w0, %w1, %w2, %w3}};
    bar.sync 0;
    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{names}}}, [%mine];
    bar.sync 0;
    stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%mine], {{{names}}};
    bar.sync 0;
    ld.shared.v4.b32 {{%v0, %v1, %v2, %v3}}, [%mine];
    """
    outs, run = execute(
        body, ins, {f"d{i}": "b32" for i in range(count)} | {f"v{i}": "b32" for i in range(4)}, shared=512
    )
    lane = np.arange(32)
    for i in range(count):
        matrix = words.reshape(4, 8, 8)[i]
        matrix = matrix.T if trans else matrix
        np.testing.assert_array_equal(
            outs[i], values.pack(matrix[lane // 4, lane % 4 * 2], matrix[lane // 4, lane % 4 * 2 + 1])
        )
    np.testing.assert_array_equal(np.stack(outs[count:], 1).reshape(-1).view(np.uint16), words)
    assert run.counters["shared_wavefronts"] == run.counters["shared_ideal_wavefronts"]


@pytest.mark.parametrize("instruction", ["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "ldmatrix"])
def test_tensor_core_instructions_need_the_whole_warp(instruction):
    body = ".reg .pred %p; .reg .b32 %m;\nsetp.lt.u32 %p, %t, 16;\nmov.u32 %m, buffer;\nmov.b32 %d, 0;\n"
    if instruction == "ldmatrix":
        body += "@%p ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%d}, [%m];"
    else:
        body += f"@%p {instruction} {{%d, %d, %d, %d}}, {{%a, %a, %a, %a}}, {{%a, %a}}, {{%a, %a, %a, %a}};"
    with pytest.raises(faults.InactiveLane):
        execute(body, {"a": ("b32", np.zeros(32))}, {"d": "b32"}, shared=512)


def test_shared_bank_conflicts_are_counted():
    def wavefronts(stride, nbytes):
        kind = {4: "b32", 8: "v2.b32", 16: "v4.b32"}[nbytes]
        data = {4: "%a", 8: "{%a, %a}", 16: "{%a, %a, %a, %a}"}[nbytes]
        body = f".reg .b32 %m;\nmov.u32 %m, buffer;\nmad.lo.u32 %m, %t, {stride}, %m;\nmov.b32 %d, 0;\n"
        body += f"st.shared.{kind} [%m], {data};"
        _, run = execute(body, {"a": ("b32", np.zeros(32))}, {"d": "b32"}, shared=32 * stride + 16)
        return run.counters["shared_wavefronts"], run.counters["shared_ideal_wavefronts"]

    assert wavefronts(4, 4) == (1, 1)
    assert wavefronts(8, 4) == (2, 1)
    assert wavefronts(128, 4) == (32, 1)
    assert wavefronts(132, 4) == (1, 1)
    assert wavefronts(8, 8) == (2, 2)
    assert wavefronts(16, 16) == (4, 4)
    assert wavefronts(32, 16) == (8, 4)


def test_sectors_are_counted():
    def loads(stride):
        source = f""".entry k(.param .u64 p) {{ .reg .b64 %at; .reg .b32 %t, %v; mov.u32 %t, %tid.x;
        ld.param.u64 %at, [p]; mad.wide.u32 %at, %t, {stride}, %at; ld.global.u32 %v, [%at]; ret; }}"""
        arena = ptx.Arena()
        args = [np.uint64(arena.add("p", np.zeros(64 * stride + 4, np.uint8)))]
        run = ptx.launch(ptx.parse(source, "k"), (1,), (64,), args, arena)
        return run.counters["load_requests"], run.counters["load_sectors"], run.touched.unique_bytes()[0]

    assert loads(4) == (2, 8, 256)
    assert loads(32) == (2, 64, 256)
    assert loads(0) == (2, 2, 4)
