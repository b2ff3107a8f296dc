"""Floating-point instructions and conversions against numpy in higher precision."""

import numpy as np
import pytest

from .ptx import values
from .ptx.values import DTYPES
from .ptx_case import execute

LANES = 512
RNG = np.random.default_rng(11)
CORNERS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, np.inf, -np.inf, np.nan, 3.4e38, 65504.0, 1e-30, 6e-8, -2.5, 1.5, 0.1]


def reals(ptx_type, corners=True):
    """Values of a float type, as float64 that the type holds exactly."""
    x = RNG.standard_normal(LANES) * 2.0 ** RNG.integers(-10, 10, LANES)
    if corners:
        x[: 8 * len(CORNERS)] = CORNERS * 8
        RNG.shuffle(x)
    return decode(encode(x, ptx_type), ptx_type)


def encode(x, ptx_type):
    with np.errstate(all="ignore"):
        x = np.asarray(x, np.float64)
        return values.f64_to_bf16(x) if ptx_type == "bf16" else x.astype(DTYPES[ptx_type])


def decode(bits, ptx_type):
    return (values.bf16_to_f32(bits) if ptx_type == "bf16" else bits).astype(np.float64)


def same(got, expected):
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(got[~np.isnan(got)], expected[~np.isnan(got)])


def bf16_by_definition(x):
    """The bfloat16 nearest to each value, ties to even, found among its neighbours by exact comparison."""
    out = []
    for value in x:
        low = values.f32_to_bf16_toward_zero(np.array([value], np.float32))[0]
        pair = [low, low + np.uint16(1)]
        distance = [abs(values.bf16_to_f32(np.array([p], np.uint16)).astype(np.float64)[0] - value) for p in pair]
        even = pair[0] if pair[0] % 2 == 0 else pair[1]
        out.append(even if distance[0] == distance[1] else pair[int(distance[1] < distance[0])])
    return np.array(out, np.uint16)


def test_bf16_rounding_is_exact():
    x = (RNG.standard_normal(2000) * 100).astype(np.float32)
    ties = (x.view(np.uint32) & np.uint32(0xFFFF0000) | np.uint32(0x8000)).view(np.float32)
    for sample in (x, ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e30))):
        np.testing.assert_array_equal(values.f32_to_bf16(sample), bf16_by_definition(sample.astype(np.float64)))
    close = ties.astype(np.float64)
    for sample in (close, np.nextafter(close, 0), np.nextafter(close, 1e30)):
        np.testing.assert_array_equal(values.f64_to_bf16(sample), bf16_by_definition(sample))


OPERATIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.fmin, "max": np.fmax}


@pytest.mark.parametrize("t", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_arithmetic(name, t):
    a, b = reals(t), reals(t)
    (out,), _ = execute(f"{name}.{t} %d, %a, %b;", {"a": (t, encode(a, t)), "b": (t, encode(b, t))}, {"d": t})
    with np.errstate(all="ignore"):
        wide = OPERATIONS[name](a, b) if t == "f64" else OPERATIONS[name](a.astype(np.longdouble), b).astype(np.float64)
        same(decode(out, t), decode(encode(wide, t), t))


@pytest.mark.parametrize("t", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["add", "mul", "max", "fma.rn"])
def test_packed_pairs(name, t):
    a, b, c = ([reals(t, corners=False), reals(t, corners=False)] for _ in range(3))
    ins = {
        n: (f"{t}x2", values.pack(encode(v[0], t).view(np.uint16), encode(v[1], t).view(np.uint16)))
        for n, v in (("a", a), ("b", b), ("c", c))
    }
    extra = ", %c" if name == "fma.rn" else ""
    (out,), _ = execute(f"{name}.{t}x2 %d, %a, %b{extra};", ins, {"d": f"{t}x2"})
    for half, x, y, z in zip(values.halves(out), a, b, c, strict=True):
        wide = x * y + z if extra else OPERATIONS[name](x, y)
        same(decode(half.view(DTYPES[t]), t), decode(encode(wide, t), t))


@pytest.mark.parametrize("t", ["f16", "bf16", "f32", "f64"])
def test_fma(t):
    a, b, c = reals(t, corners=False), reals(t, corners=False), reals(t, corners=False)
    c[::3] = -decode(encode(a * b, t), t)[::3]  # cancellation shows whether the product was rounded
    ins = {n: (t, encode(v, t)) for n, v in (("a", a), ("b", b), ("c", c))}
    (out,), _ = execute(f"fma.rn.{t} %d, %a, %b, %c;", ins, {"d": t})
    if t != "f64":
        exact = (a.astype(np.longdouble) * b + c).astype(np.float64)
        return same(decode(out, t), decode(encode(exact, t), t))
    from fractions import Fraction

    exact = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c, strict=True)]
    np.testing.assert_array_max_ulp(out, np.array(exact), 1)
    return None


@pytest.mark.parametrize("t", ["f32", "f64"])
def test_division_and_roots(t):
    a, b = reals(t), reals(t)
    kind = "rn" if t == "f64" else "full"
    body = f"div.{kind}.{t} %q, %a, %b;\nsqrt.rn.{t} %s, %a;\nrcp.rn.{t} %r, %a;\nrsqrt.approx.{t} %x, %a;"
    outs, _ = execute(body, {"a": (t, a), "b": (t, b)}, dict.fromkeys("qsrx", t))
    with np.errstate(all="ignore"):
        for got, expected in zip(outs, (a / b, np.sqrt(a), 1 / a, 1 / np.sqrt(a)), strict=True):
            same(got.astype(np.float64), expected.astype(DTYPES[t]).astype(np.float64))


@pytest.mark.parametrize(
    ("name", "function"),
    [("ex2", np.exp2), ("lg2", np.log2), ("sin", np.sin), ("cos", np.cos), ("tanh", np.tanh)],
)
def test_approximations_are_ieee(name, function):
    a = reals("f32")
    (out,), _ = execute(f"{name}.approx.f32 %d, %a;", {"a": ("f32", a)}, {"d": "f32"})
    with np.errstate(all="ignore"):
        same(out.astype(np.float64), function(a).astype(np.float32).astype(np.float64))


def test_sign_operations():
    a, b = reals("f32"), reals("f32")
    body = "neg.f32 %n, %a;\nabs.f32 %p, %a;\ncopysign.f32 %c, %a, %b;"
    (n, p, c), _ = execute(body, {"a": ("f32", a), "b": ("f32", b)}, dict.fromkeys("npc", "f32"))
    same(n.astype(np.float64), -a)
    same(p.astype(np.float64), np.abs(a))
    same(c.astype(np.float64), np.copysign(b, a))


def test_modifiers():
    tiny = np.full(32, 1e-40, np.float32)
    a = np.linspace(-2, 2, 32, dtype=np.float32)
    nan = np.where(np.arange(32) % 2, np.nan, a).astype(np.float32)
    body = """
    add.ftz.f32 %flushed, %tiny, %tiny;
    add.f32 %kept, %tiny, %tiny;
    mul.ftz.f32 %product, %tiny, 0f60AD78EC;
    add.sat.f32 %sat, %nan, 0f00000000;
    fma.rn.relu.f16x2 %relu, %pair, %one, %zero;
    min.NaN.f32 %poison, %nan, %a;
    min.f32 %number, %nan, %a;
    """
    pair = values.pack(a.astype(np.float16).view(np.uint16), a.astype(np.float16).view(np.uint16))
    ins = {
        "tiny": ("f32", tiny), "a": ("f32", a), "nan": ("f32", nan), "pair": ("b32", pair),
        "one": ("b32", np.full(32, 0x3C003C00)), "zero": ("b32", np.zeros(32)),
    }  # fmt: skip
    outs = {
        "flushed": "f32",
        "kept": "f32",
        "product": "f32",
        "sat": "f32",
        "relu": "b32",
        "poison": "f32",
        "number": "f32",
    }
    (flushed, kept, product, sat, relu, poison, number), _ = execute(body, ins, outs)
    np.testing.assert_array_equal(np.stack([flushed, kept, product]), np.stack([0 * tiny, tiny + tiny, 0 * tiny]))
    np.testing.assert_array_equal(sat, np.where(np.isnan(nan), 0, np.clip(nan, 0, 1)))
    np.testing.assert_array_equal(values.halves(relu)[0].view(np.float16), np.maximum(a, 0).astype(np.float16))
    np.testing.assert_array_equal(np.isnan(poison), np.isnan(nan))
    np.testing.assert_array_equal(number, np.where(np.isnan(nan), a, np.minimum(nan, a)))


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
def test_directed_rounding(mode):
    a, b = reals("f32", corners=False), reals("f32", corners=False)
    (out, product), _ = execute(
        f"add.{mode}.f32 %d, %a, %b;\nmul.{mode}.f32 %m, %a, %b;",
        {"a": ("f32", a), "b": ("f32", b)},
        {"d": "f32", "m": "f32"},
    )
    for got, exact in ((out, a + b), (product, a * b)):
        got = got.astype(np.float64)
        step = np.abs(np.spacing(got.astype(np.float32))).astype(np.float64)
        assert (np.abs(got - exact) < step).all()
        bounds = {"rz": np.abs(got) <= np.abs(exact), "rm": got <= exact, "rp": got >= exact}
        assert bounds[mode].all()


@pytest.mark.parametrize("t", ["f16", "bf16", "f32", "f64"])
def test_comparisons(t):
    a, b = reals(t), reals(t)
    b[::4] = a[::4]
    table = {
        "eq": a == b, "ne": (a < b) | (a > b), "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b,
        "equ": ~((a < b) | (a > b)), "neu": a != b, "ltu": ~(a >= b),
        "leu": ~(a > b), "gtu": ~(a <= b), "geu": ~(a < b),
        "num": ~(np.isnan(a) | np.isnan(b)), "nan": np.isnan(a) | np.isnan(b),
    }  # fmt: skip
    body = ".reg .pred %p;\n" + "\n".join(f"setp.{n}.{t} %p, %a, %b;\nselp.u32 %{n}, 1, 0, %p;" for n in table)
    outs, _ = execute(body, {"a": (t, encode(a, t)), "b": (t, encode(b, t))}, dict.fromkeys(table, "u32"))
    for got, (name, expected) in zip(outs, table.items(), strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=name)


def test_classes():
    a = reals("f32")
    a[0] = 1e-40
    a = a.astype(np.float32)
    table = {
        "finite": np.isfinite(a), "infinite": np.isinf(a), "notanumber": np.isnan(a), "number": ~np.isnan(a),
        "normal": np.isfinite(a) & (np.abs(a) >= 2.0**-126), "subnormal": (np.abs(a) < 2.0**-126) & (a != 0),
    }  # fmt: skip
    body = ".reg .pred %p;\n" + "\n".join(f"testp.{n}.f32 %p, %a;\nselp.u32 %{n}, 1, 0, %p;" for n in table)
    outs, _ = execute(body, {"a": ("f32", a)}, dict.fromkeys(table, "u32"))
    for got, (name, expected) in zip(outs, table.items(), strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=name)


@pytest.mark.parametrize("source", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("to", ["f16", "bf16", "f32", "f64"])
def test_float_conversions(source, to):
    a = reals(source)
    wider = (
        np.finfo({"bf16": np.float32}.get(to, DTYPES[to])).bits >= {"bf16": 16, "f16": 16, "f32": 32, "f64": 64}[source]
    )
    rounding = "" if wider and (source, to) not in (("f32", "bf16"), ("f16", "bf16"), ("bf16", "f16")) else ".rn"
    (out,), _ = execute(f"cvt{rounding}.{to}.{source} %d, %a;", {"a": (source, encode(a, source))}, {"d": to})
    same(decode(out, to), decode(encode(a, to), to))


def test_pair_conversions():
    a, b = reals("f32", corners=False), reals("f32", corners=False)
    body = "cvt.rn.f16x2.f32 %h, %a, %b;\ncvt.rn.bf16x2.f32 %w, %a, %b;\ncvt.rn.relu.bf16x2.f32 %r, %a, %b;"
    (h, w, r), _ = execute(body, {"a": ("f32", a), "b": ("f32", b)}, dict.fromkeys("hwr", "b32"))
    np.testing.assert_array_equal(
        h, values.pack(b.astype(np.float16).view(np.uint16), a.astype(np.float16).view(np.uint16))
    )
    np.testing.assert_array_equal(w, values.pack(encode(b, "bf16"), encode(a, "bf16")))
    np.testing.assert_array_equal(r, values.pack(encode(np.maximum(b, 0), "bf16"), encode(np.maximum(a, 0), "bf16")))


def test_tf32_rounds_to_nearest_away():
    a = reals("f32", corners=False).astype(np.float32)
    a[::2] = (a[::2].view(np.uint32) & np.uint32(0xFFFFE000) | np.uint32(0x1000)).view(np.float32)  # ties
    (out,), _ = execute("cvt.rna.tf32.f32 %d, %a;", {"a": ("f32", a)}, {"d": "b32"})
    got = out.view(np.float32).astype(np.float64)
    scale = 2.0 ** (np.floor(np.log2(np.abs(a.astype(np.float64)))) - 10)
    units = a.astype(np.float64) / scale
    np.testing.assert_array_equal(got / scale, np.copysign(np.floor(np.abs(units) + 0.5), units))


@pytest.mark.parametrize("t", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize(
    ("mode", "function"), [("rzi", np.trunc), ("rni", np.rint), ("rmi", np.floor), ("rpi", np.ceil)]
)
def test_float_to_integer(t, mode, function):
    a = reals("f32").astype(np.float32)
    (out,), _ = execute(f"cvt.{mode}.{t}.f32 %d, %a;", {"a": ("f32", a)}, {"d": t})
    info = np.iinfo(DTYPES[t])

    def expected(x):
        if np.isnan(x):
            return 0
        if np.isinf(x):
            return info.max if x > 0 else info.min
        return min(max(int(function(x)), info.min), info.max)

    assert out.tolist() == [expected(float(x)) for x in a]


@pytest.mark.parametrize("t", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("to", ["f16", "bf16", "f32", "f64"])
def test_integer_to_float(t, to):
    info = np.iinfo(DTYPES[t])
    a = RNG.integers(info.min, info.max, 128, dtype=DTYPES[t], endpoint=True)
    (out,), _ = execute(f"cvt.rn.{to}.{t} %d, %a;", {"a": (t, a)}, {"d": to})
    if to == "f32":
        expected = np.array([np.float32(int(v)) for v in a])
    elif to == "f64":
        expected = np.array([float(int(v)) for v in a])
    else:
        expected = encode(a.astype(np.float64), to)
    same(decode(out, to), decode(expected, to))


@pytest.mark.parametrize("to", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("t", ["s8", "u16", "s32", "u64"])
def test_integer_conversions(t, to):
    info, target = np.iinfo(DTYPES[t]), np.iinfo(DTYPES[to])
    a = RNG.integers(info.min, info.max, 128, dtype=DTYPES[t], endpoint=True)
    a[:4] = [0, 1, info.min, info.max]
    (plain, sat), _ = execute(f"cvt.{to}.{t} %d, %a;\ncvt.sat.{to}.{t} %s, %a;", {"a": (t, a)}, {"d": to, "s": to})
    wrapped = [(int(v) - target.min) % 2**target.bits + target.min for v in a]
    assert plain.tolist() == wrapped
    assert sat.tolist() == [min(max(int(v), target.min), target.max) for v in a]


def test_integral_rounding_of_floats():
    a = reals("f32")
    (out,), _ = execute("cvt.rmi.f32.f32 %d, %a;", {"a": ("f32", a)}, {"d": "f32"})
    same(out.astype(np.float64), np.floor(a))


def test_pairs_of_float32():
    a, b, c = (RNG.standard_normal((64, 2)).astype(np.float32) for _ in range(3))
    ins = {n: ("b64", np.ascontiguousarray(v).view(np.uint64).reshape(-1)) for n, v in (("a", a), ("b", b), ("c", c))}
    (s, f), _ = execute("add.f32x2 %s, %a, %b;\nfma.rn.f32x2 %f, %a, %b, %c;", ins, {"s": "b64", "f": "b64"})
    np.testing.assert_array_equal(s.view(np.float32).reshape(-1, 2), a + b)
    exact = (a.astype(np.longdouble) * b + c).astype(np.float32)
    np.testing.assert_array_equal(f.view(np.float32).reshape(-1, 2), exact)
