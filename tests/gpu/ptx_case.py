"""Runs a few PTX instructions on arrays, one element a thread."""

import numpy as np

from . import ptx
from .ptx.values import DTYPES, size

_HEADER = ".version 8.4\n.target sm_90\n.address_size 64\n"


def storage_type(ptx_type):
    """The type that memory and registers hold a PTX type as."""
    return f"b{8 * size(ptx_type)}"


def kernel(body, inputs, outputs, shared=0):
    """PTX of a kernel in which `body` computes registers %<output> from registers %<input>, thread by thread."""
    names = [*inputs, *outputs]
    lines = [_HEADER, ".visible .entry k(", ",\n".join(f".param .u64 p_{name}" for name in names), ")\n{"]
    lines += [".reg .b32 %i, %t, %n, %ctaid0;", ".reg .b64 %at, %base;"]
    if shared:
        lines.append(f".shared .align 16 .b8 buffer[{shared}];")
    for name, ptx_type in {**inputs, **outputs}.items():
        lines.append(f".reg .{storage_type(ptx_type)} %{name};")
    lines += ["mov.u32 %t, %tid.x;", "mov.u32 %n, %ntid.x;", "mov.u32 %ctaid0, %ctaid.x;"]
    lines += ["mad.lo.u32 %i, %ctaid0, %n, %t;"]
    for name, ptx_type in inputs.items():
        lines += [f"ld.param.u64 %base, [p_{name}];", f"mad.wide.u32 %at, %i, {size(ptx_type)}, %base;"]
        lines.append(f"ld.global.{storage_type(ptx_type)} %{name}, [%at];")
    lines.append(body)
    for name, ptx_type in outputs.items():
        lines += [f"ld.param.u64 %base, [p_{name}];", f"mad.wide.u32 %at, %i, {size(ptx_type)}, %base;"]
        lines.append(f"st.global.{storage_type(ptx_type)} [%at], %{name};")
    return "\n".join([*lines, "ret;", "}"])


def execute(body, inputs, outputs, *, shared=0, blocks=1, check=True):
    """Runs `body` over arrays: `inputs` maps a name to (PTX type, array), `outputs` a name to its PTX type.

    Returns the outputs' arrays, in order, and the launch.
    """
    arrays = {name: np.ascontiguousarray(array, DTYPES[ptx_type]) for name, (ptx_type, array) in inputs.items()}
    types = {name: ptx_type for name, (ptx_type, _) in inputs.items()}
    lanes = len(next(iter(arrays.values()))) if arrays else 32 * blocks
    for name, ptx_type in outputs.items():
        arrays[name] = np.zeros(lanes, DTYPES[ptx_type])
    arena = ptx.Arena()
    args = [np.uint64(arena.add(name, array.view(np.uint8))) for name, array in arrays.items()]
    parsed = ptx.parse(kernel(body, types, outputs, shared), "k")
    run = ptx.launch(parsed, (blocks,), (lanes // blocks,), args, arena, check=check)
    first = len(inputs)
    return [arena.result(first + i).view(DTYPES[t]).copy() for i, t in enumerate(outputs.values())], run
