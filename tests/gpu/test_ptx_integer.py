"""Integer, logic and bit instructions against Python's unbounded integers."""

import re
from pathlib import Path

import numpy as np
import pytest

from .ptx import faults
from .ptx.semantics import BUILDERS
from .ptx.values import DTYPES, is_signed, size
from .ptx_case import execute

LANES = 256
RNG = np.random.default_rng(7)


def operands(ptx_type, count):
    """Random values of every magnitude, and the corners."""
    bits = 8 * size(ptx_type)
    values = [int(v) >> int(s) for v, s in zip(RNG.integers(0, 2**63, LANES), RNG.integers(0, 63, LANES), strict=True)]
    corners = [0, 1, 2, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 31, 32, 33, bits, bits + 1]
    result = []
    for _ in range(count):
        mixed = np.array(values + corners * 8, object)[RNG.permutation(LANES + 88)[:LANES]]
        unsigned = np.array([v % 2**bits for v in mixed], np.uint64).astype(f"u{size(ptx_type)}")
        result.append(unsigned.view(DTYPES[ptx_type]))
    return result


def wrap(value, ptx_type):
    bits = 8 * size(ptx_type)
    value %= 2**bits
    return value - 2**bits if is_signed(ptx_type) and value >= 2 ** (bits - 1) else value


def truncated(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def cases(instructions, types, function, result=None):
    return [(name, t, function, result or t) for name in instructions.split() for t in types.split()]


BINARY = [
    *cases("add", "u16 s16 u32 s32 u64 s64", lambda a, b: a + b),
    *cases("sub", "u16 s16 u32 s32 u64 s64", lambda a, b: a - b),
    *cases("mul.lo", "u16 s16 u32 s32 u64 s64", lambda a, b: a * b),
    *cases("mul.hi", "u16 s16", lambda a, b: a * b >> 16),
    *cases("mul.hi", "u32 s32", lambda a, b: a * b >> 32),
    *cases("mul.hi", "u64 s64", lambda a, b: a * b >> 64),
    *cases("mul.wide", "u16", lambda a, b: a * b, "u32"),
    *cases("mul.wide", "s16", lambda a, b: a * b, "s32"),
    *cases("mul.wide", "u32", lambda a, b: a * b, "u64"),
    *cases("mul.wide", "s32", lambda a, b: a * b, "s64"),
    *cases("mul24.lo", "u32", lambda a, b: (a % 2**24) * (b % 2**24)),
    *cases("min", "u16 s16 u32 s32 u64 s64", min),
    *cases("max", "u16 s16 u32 s32 u64 s64", max),
    *cases("and", "b16 b32 b64", lambda a, b: a & b),
    *cases("or", "b16 b32 b64", lambda a, b: a | b),
    *cases("xor", "b16 b32 b64", lambda a, b: a ^ b),
    *cases("add.sat", "s32", lambda a, b: min(max(a + b, -(2**31)), 2**31 - 1)),
    *cases("sub.sat", "s32", lambda a, b: min(max(a - b, -(2**31)), 2**31 - 1)),
]


@pytest.mark.parametrize(("name", "t", "function", "result"), BINARY, ids=lambda v: v if isinstance(v, str) else "")
def test_binary(name, t, function, result):
    a, b = operands(t, 2)
    (out,), _ = execute(f"{name}.{t} %d, %a, %b;", {"a": (t, a), "b": (t, b)}, {"d": result})
    assert out.tolist() == [wrap(function(int(x), int(y)), result) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("t", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", ["div", "rem"])
def test_division(name, t):
    a, b = operands(t, 2)
    b[b == 0] = 3
    if is_signed(t):
        b[b == -1] = 5  # the least value over -1 has no result
    (out,), _ = execute(f"{name}.{t} %d, %a, %b;", {"a": (t, a), "b": (t, b)}, {"d": t})
    quotients = [truncated(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    remainders = [int(x) - q * int(y) for x, y, q in zip(a, b, quotients, strict=True)]
    assert out.tolist() == (quotients if name == "div" else remainders)


UNARY = [
    *cases("neg", "s16 s32 s64", lambda a: -a),
    *cases("abs", "s16 s32 s64", abs),
    *cases("not", "b16 b32 b64", lambda a: ~a),
    *cases("cnot", "b16 b32 b64", lambda a: a == 0),
    *cases("popc", "b32 b64", lambda a: bin(a).count("1"), "u32"),
    *cases("clz", "b32", lambda a: 32 - a.bit_length(), "u32"),
    *cases("clz", "b64", lambda a: 64 - a.bit_length(), "u32"),
    *cases("brev", "b32", lambda a: int(f"{a:032b}"[::-1], 2)),
    *cases("brev", "b64", lambda a: int(f"{a:064b}"[::-1], 2)),
    *cases("bfind", "u32 u64", lambda a: a.bit_length() - 1, "u32"),
    *cases("bfind", "s32 s64", lambda a: (~a if a < 0 else a).bit_length() - 1, "u32"),
    *cases("bfind.shiftamt", "u32", lambda a: 32 - a.bit_length() if a else -1, "u32"),
]


@pytest.mark.parametrize(("name", "t", "function", "result"), UNARY, ids=lambda v: v if isinstance(v, str) else "")
def test_unary(name, t, function, result):
    (a,) = operands(t, 1)
    (out,), _ = execute(f"{name}.{t} %d, %a;", {"a": (t, a)}, {"d": result})
    assert out.tolist() == [wrap(int(function(int(x))), result) for x in a]


@pytest.mark.parametrize("t", ["b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64"])
def test_shifts(t):
    (a,), (n,) = operands(t, 1), operands("u32", 1)
    bits = 8 * size(t)
    (left_out, right_out), _ = execute(
        f"shl.b{bits} %l, %a, %n;\nshr.{t} %r, %a, %n;", {"a": (t, a), "n": ("u32", n)}, {"l": t, "r": t}
    )
    assert left_out.tolist() == [wrap(int(x) << min(int(s), bits), t) for x, s in zip(a, n, strict=True)]
    assert right_out.tolist() == [wrap(int(x) >> min(int(s), bits), t) for x, s in zip(a, n, strict=True)]


@pytest.mark.parametrize("mode", ["l.wrap", "l.clamp", "r.wrap", "r.clamp"])
def test_funnel_shift(mode):
    low, high, n = operands("u32", 3)
    (out,), _ = execute(
        f"shf.{mode}.b32 %d, %a, %b, %n;", {"a": ("u32", low), "b": ("u32", high), "n": ("u32", n)}, {"d": "u32"}
    )

    def expected(a, b, s):
        s = s % 32 if "wrap" in mode else min(s, 32)
        both = a | b << 32
        return (both << s >> 32 if mode[0] == "l" else both >> s) % 2**32

    assert out.tolist() == [expected(int(a), int(b), int(s)) for a, b, s in zip(low, high, n, strict=True)]


@pytest.mark.parametrize("t", ["u32", "s32", "u64", "s64"])
def test_extract_field(t):
    (a,) = operands(t, 1)
    start, length = RNG.integers(0, 70, LANES), RNG.integers(0, 70, LANES)
    (out,), _ = execute(f"bfe.{t} %d, %a, %s, %l;", {"a": (t, a), "s": ("u32", start), "l": ("u32", length)}, {"d": t})
    bits = 8 * size(t)

    def expected(x, s, n):
        if n == 0:
            return 0
        sign = (x >> min(s + n - 1, bits - 1)) & 1 if is_signed(t) else 0
        digits = [(x >> (s + i)) & 1 if i < n and s + i < bits else sign for i in range(bits)]
        return wrap(sum(d << i for i, d in enumerate(digits)), t)

    assert out.tolist() == [expected(int(x), int(s), int(n)) for x, s, n in zip(a, start, length, strict=True)]


@pytest.mark.parametrize("t", ["b32", "b64"])
def test_insert_field(t):
    a, b = operands(t, 2)
    bits = 8 * size(t)
    start, length = RNG.integers(0, bits + 4, LANES), RNG.integers(0, bits + 4, LANES)
    (out,), _ = execute(
        f"bfi.{t} %d, %a, %b, %s, %l;",
        {"a": (t, a), "b": (t, b), "s": ("u32", start), "l": ("u32", length)},
        {"d": t},
    )

    def expected(x, y, s, n):
        for i in range(n):
            if s + i < bits:
                y = y & ~(1 << (s + i)) | ((x >> i) & 1) << (s + i)
        return y

    rows = zip(a, b, start, length, strict=True)
    assert out.tolist() == [expected(int(x), int(y), int(s), int(n)) for x, y, s, n in rows]


@pytest.mark.parametrize("ptx_type", ["u16x2", "s16x2"])
def test_pairs_wrap_by_halves(ptx_type):
    a, b = operands("u32", 2)
    (total, difference), _ = execute(
        f"add.{ptx_type} %s, %a, %b;\nsub.{ptx_type} %d, %a, %b;",
        {"a": ("u32", a), "b": ("u32", b)},
        {"s": "u32", "d": "u32"},
    )
    for x, y, plus, minus in zip(*(v.tolist() for v in (a, b, total, difference)), strict=True):
        for shift in (0, 16):
            assert plus >> shift & 0xFFFF == (x >> shift) + (y >> shift) & 0xFFFF
            assert minus >> shift & 0xFFFF == (x >> shift) - (y >> shift) & 0xFFFF


@pytest.mark.parametrize("table", [0x80, 0xFE, 0x96, 0x2A, 0xE4, 0x1D])
def test_lop3(table):
    a, b, c = operands("b32", 3)
    ins = {"a": ("b32", a), "b": ("b32", b), "c": ("b32", c)}
    (out,), _ = execute(f"lop3.b32 %d, %a, %b, %c, {table};", ins, {"d": "b32"})

    def expected(x, y, z):
        rows = ((x >> i & 1) << 2 | (y >> i & 1) << 1 | (z >> i & 1) for i in range(32))
        return sum((table >> row & 1) << i for i, row in enumerate(rows))

    assert out.tolist() == [expected(int(x), int(y), int(z)) for x, y, z in zip(a, b, c, strict=True)]


def test_byte_permute():
    a, b, s = operands("b32", 3)
    (out,), _ = execute("prmt.b32 %d, %a, %b, %s;", {"a": ("b32", a), "b": ("b32", b), "s": ("b32", s)}, {"d": "b32"})

    def expected(x, y, selector):
        pool = (x | y << 32).to_bytes(8, "little")
        chosen = []
        for i in range(4):
            choice = selector >> 4 * i & 15
            byte = pool[choice & 7]
            chosen.append((255 if byte & 128 else 0) if choice & 8 else byte)
        return int.from_bytes(bytes(chosen), "little")

    assert out.tolist() == [expected(int(x), int(y), int(z)) for x, y, z in zip(a, b, s, strict=True)]


@pytest.mark.parametrize("t", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_multiply_add(t):
    a, b, c = operands(t, 3)
    bits = 8 * size(t)
    ins = {"a": (t, a), "b": (t, b), "c": (t, c)}
    (low, high), _ = execute(f"mad.lo.{t} %l, %a, %b, %c;\nmad.hi.{t} %h, %a, %b, %c;", ins, {"l": t, "h": t})
    rows = [(int(x), int(y), int(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert low.tolist() == [wrap(x * y + z, t) for x, y, z in rows]
    assert high.tolist() == [wrap((x * y >> bits) + z, t) for x, y, z in rows]


@pytest.mark.parametrize(("t", "wide"), [("u16", "u32"), ("s16", "s32"), ("u32", "u64"), ("s32", "s64")])
def test_multiply_add_wide(t, wide):
    (a, b), (c,) = operands(t, 2), operands(wide, 1)
    (out,), _ = execute(f"mad.wide.{t} %d, %a, %b, %c;", {"a": (t, a), "b": (t, b), "c": (wide, c)}, {"d": wide})
    assert out.tolist() == [wrap(int(x) * int(y) + int(z), wide) for x, y, z in zip(a, b, c, strict=True)]


def test_carry_chains():
    a0, a1, b0, b1 = operands("u32", 4)
    body = """
    add.cc.u32 %s0, %a0, %b0;
    addc.u32 %s1, %a1, %b1;
    sub.cc.u32 %d0, %a0, %b0;
    subc.u32 %d1, %a1, %b1;
    mad.lo.cc.u32 %m0, %a0, %b0, %a1;
    madc.hi.u32 %m1, %a0, %b0, %b1;
    """
    names = ["s0", "s1", "d0", "d1", "m0", "m1"]
    ins = {"a0": ("u32", a0), "a1": ("u32", a1), "b0": ("u32", b0), "b1": ("u32", b1)}
    outs, _ = execute(body, ins, dict.fromkeys(names, "u32"))
    s0, s1, d0, d1, m0, m1 = (o.tolist() for o in outs)
    for i in range(LANES):
        x0, x1, y0, y1 = (int(v[i]) for v in (a0, a1, b0, b1))
        a, b = x0 | x1 << 32, y0 | y1 << 32
        assert s0[i] | s1[i] << 32 == (a + b) % 2**64
        assert d0[i] | d1[i] << 32 == (a - b) % 2**64
        assert m0[i] | m1[i] << 32 == (x0 * y0 + x1 + (y1 << 32)) % 2**64


def test_absolute_difference():
    a, b, c = operands("s32", 3)
    (out,), _ = execute("sad.s32 %d, %a, %b, %c;", {"a": ("s32", a), "b": ("s32", b), "c": ("s32", c)}, {"d": "s32"})
    assert out.tolist() == [wrap(int(z) + abs(int(x) - int(y)), "s32") for x, y, z in zip(a, b, c, strict=True)]


COMPARISONS = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


COMPARED = [
    *((name, t) for name in COMPARISONS for t in ("u16", "s16", "u32", "s32", "u64", "s64")),
    *((name, t) for name in UNSIGNED_NAMES for t in ("u16", "u32", "u64")),
]


@pytest.mark.parametrize(("name", "t"), COMPARED)
def test_compare(name, t):
    a, b = operands(t, 2)
    b[::5] = a[::5]
    body = f"""
    .reg .pred %p, %q, %r;
    setp.{name}.{t} %p|%q, %a, %b;
    setp.{name}.and.{t} %r, %a, %b, !%q;
    selp.b32 %d, 1, 0, %p;
    selp.b32 %e, 1, 0, %q;
    selp.b32 %f, 1, 0, %r;
    set.{name}.u32.{t} %g, %a, %b;
    """
    outs, _ = execute(body, {"a": (t, a), "b": (t, b)}, dict.fromkeys("defg", "u32"))
    truth = [COMPARISONS[UNSIGNED_NAMES.get(name, name)](int(x), int(y)) for x, y in zip(a, b, strict=True)]
    assert outs[0].tolist() == truth
    assert outs[1].tolist() == [not v for v in truth]
    assert outs[2].tolist() == truth
    assert outs[3].tolist() == [0xFFFFFFFF * v for v in truth]


def test_select():
    a, b = operands("b64", 2)
    (c,) = operands("s32", 1)
    body = "slct.b64.s32 %d, %a, %b, %c;"
    (out,), _ = execute(body, {"a": ("b64", a), "b": ("b64", b), "c": ("s32", c)}, {"d": "b64"})
    assert out.tolist() == np.where(c >= 0, a, b).tolist()


def test_moves_split_and_join():
    (a,) = operands("b64", 1)
    body = """
    .reg .b32 %x, %y;
    .reg .b16 %h0, %h1, %h2, %h3;
    mov.b64 {%x, %y}, %a;
    mov.b64 %swapped, {%y, %x};
    mov.b64 {%h0, %h1, %h2, %h3}, %a;
    mov.b64 %reversed, {%h3, %h2, %h1, %h0};
    mov.b32 %pair, {%h1, %h2};
    """
    (swapped, reverse, pair), _ = execute(body, {"a": ("b64", a)}, {"swapped": "b64", "reversed": "b64", "pair": "b32"})
    words = a.view(np.uint32).reshape(-1, 2)
    parts = a.view(np.uint16).reshape(-1, 4)
    assert swapped.tolist() == np.ascontiguousarray(words[:, ::-1]).view(np.uint64).reshape(-1).tolist()
    assert reverse.tolist() == np.ascontiguousarray(parts[:, ::-1]).view(np.uint64).reshape(-1).tolist()
    assert pair.tolist() == np.ascontiguousarray(parts[:, 1:3]).view(np.uint32).reshape(-1).tolist()


def test_predicate_logic_and_guards():
    a, b = operands("u32", 2)
    body = """
    .reg .pred %p, %q, %r;
    setp.lt.u32 %p, %a, %b;
    setp.gt.u32 %q, %a, 1000;
    and.pred %r, %p, %q;
    not.pred %r, %r;
    mov.u32 %d, 7;
    @%r mov.u32 %d, 8;
    @!%p add.u32 %d, %d, 100;
    """
    (out,), _ = execute(body, {"a": ("u32", a), "b": ("u32", b)}, {"d": "u32"})
    p = a < b
    assert out.tolist() == (np.where(~(p & (a > 1000)), 8, 7) + 100 * ~p).tolist()


def test_unknown_instructions_raise_by_name():
    a = np.arange(32)
    with pytest.raises(faults.UnknownInstruction, match="frobnicate"):
        execute("frobnicate.b32 %d, %a;", {"a": ("u32", a)}, {"d": "u32"})
    with pytest.raises(faults.UnknownInstruction, match=r"wgmma\.mma_async"):
        execute("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 %d, %a;", {"a": ("u32", a)}, {"d": "u32"})
    with pytest.raises(faults.UnknownInstruction, match="bizarre"):
        execute("add.bizarre.u32 %d, %a, 1;", {"a": ("u32", a)}, {"d": "u32"})
    with pytest.raises(faults.UnknownInstruction, match="%pm0"):
        execute("mov.u32 %d, %pm0;", {"a": ("u32", a)}, {"d": "u32"})


def test_every_instruction_has_a_test():
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_ptx_*.py"))
    words = set(re.findall(r"[a-z][a-z0-9]*", tests.replace(r"\n", " ")))
    assert sorted(set(BUILDERS) - words) == []
