"""Breaks kernels on purpose, one at a time in a copy of the sources, and sees the tests catch each.

    cd tests && python -m gpu.mutations [name ...]

prints, for every mutation, the test that failed and why. One that passes is a hole in the tests, and an error here.
All of them together write docs/gpu-mutations.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .paths import ROOT


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` at its only place in `file`; `tests` are arguments for pytest, of which one must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _mutation(name: str, file: str, old: str, new: str, op: str, which: str) -> Mutation:
    return Mutation(name, file, old, new, (f"tests/test_{op}_gpu.py", "-k", which))


MUTATIONS = (
    _mutation(
        "mask off by one",
        "gankernels/triton/bias_act.py",
        "mask = None if EVEN else at < numel",
        "mask = None if EVEN else at <= numel",
        "bias_act", "triton and values",
    ),
    _mutation(
        "a bias read by the wrong stride",
        "gankernels/triton/bias_act.py",
        "channel = (group * VEC // inner % channels)[:, None]",
        "channel = (group * VEC // channels % channels)[:, None]",
        "bias_act", "triton and values",
    ),
    _mutation(
        "a missing barrier in a reduction",
        "csrc/cuda/bias_act.cuh",
        "    __syncthreads();\n    if (threadIdx.y < half) {",
        "    if (threadIdx.y < half) {",
        "bias_act", "cuda_paths",
    ),
    _mutation(
        "wrong sign of the padding",
        "gankernels/triton/upfirdn2d.py",
        "first_x = ox * DX - pad_x",
        "first_x = ox * DX + pad_x",
        "upfirdn2d", "triton and values",
    ),
    _mutation(
        "a filter that is not flipped",
        "csrc/cuda/upfirdn2d_tile.cuh",
        "i64 at = p.flip ? x : taps - 1 - x;",
        "i64 at = p.flip ? taps - 1 - x : x;",
        "upfirdn2d", "cuda_paths",
    ),
    _mutation(
        "a missing barrier between the passes of a separable filter",
        "csrc/cuda/upfirdn2d_rows.cuh",
        "      });\n      __syncthreads();\n      for (int task = threadIdx.x; task < groups * R * width;",
        "      });\n      for (int task = threadIdx.x; task < groups * R * width;",
        "upfirdn2d", "cuda_paths",
    ),
    _mutation(
        "rows of x one beyond the image",
        "csrc/cuda/upfirdn2d_tile.cuh",
        "const bool inside = row < p.in_rows && y >= 0 && y < p.v.in &&",
        "const bool inside = row < p.in_rows && y >= 0 && y <= p.v.in &&",
        "upfirdn2d", "cuda_paths",
    ),
    _mutation(
        "variance of the sample for that of the population",
        "gankernels/triton/batch_norm_act.py",
        "biased = squares / count",
        "biased = squares / (count - 1.0)",
        "batch_norm_act", "triton and values",
    ),
    _mutation(
        "a shuffle over half of the warp",
        "csrc/cuda/channel_sums.cuh",
        "for (int apart = 16; apart >= width; apart /= 2) {",
        "for (int apart = 8; apart >= width; apart /= 2) {",
        "batch_norm_act", "cuda_paths",
    ),
    _mutation(
        "a barrier missing before shared memory is written again",
        "csrc/cuda/channel_sums.cuh",
        "    __syncthreads();  // what the last call left has been read\n",
        "",
        "batch_norm_act", "cuda_paths",
    ),
    _mutation(
        "moments merged without the distance of their means",
        "csrc/cuda/channel_sums.cuh",
        "values[i] = own.squares[i] + own.count * off * off;",
        "values[i] = own.squares[i];",
        "batch_norm_act", "cuda_paths",
    ),
    _mutation(
        "cells added up without their weights",
        "csrc/cuda/batch_norm_act_sets.cuh",
        "      set.add(sums, number_of<T>(p.weight, cell, 1));",
        "      set.add(sums, 1);",
        "conditional_batch_norm", "cuda and paths",
    ),
    _mutation(
        "the mean of a sample's channel left in its squares",
        "gankernels/triton/instance_norm_act.py",
        "    x -= off[None, :]\n",
        "",
        "instance_norm_act", "triton and paths",
    ),
    _mutation(
        "sums in float16",
        "gankernels/triton/conv2d.py",
        "total = tl.dot(w, x, total, input_precision=PRECISION, out_dtype=acc_t)",
        "total = tl.dot(w, x, total.to(tl.float16), out_dtype=tl.float16).to(acc_t) if w.dtype == tl.float16 else "
        "tl.dot(w, x, total, input_precision=PRECISION, out_dtype=acc_t)",
        "conv2d", "summed_in",
    ),
    _mutation(
        "taps of the wrong phase of a transposed convolution",
        "gankernels/triton/conv2d.py",
        "at = phase + pad\n",
        "at = phase - pad\n",
        "conv2d", "values",
    ),
    _mutation(
        "an edge of the image not masked",
        "gankernels/triton/conv2d.py",
        "ok &= within(first(x_column, LAST) + x_j_x * move_x, x_width)",
        "ok &= within(first(x_column, LAST) + x_j_x * move_x, x_width + 1)",
        "conv2d", "values",
    ),
    _mutation(
        "a barrier missing between the sums of a vector and their use",
        "csrc/cuda/pixel_norm.cuh",
        "  __syncthreads();\n  if (!inside) return;",
        "  if (!inside) return;",
        "pixel_norm", "paths and cuda",
    ),
    _mutation(
        "a factor in the second derivative of a norm",
        "gankernels/triton/pixel_norm.py",
        "cube * (vg - 3.0 * (r * vx) * (r * gx))",
        "cube * (vg - 2.0 * (r * vx) * (r * gx))",
        "pixel_norm", "triton and second",
    ),
    _mutation(
        "samples of the result by the stride of those of x",
        "csrc/cuda/minibatch_stddev.cuh",
        "y_step = l.lots * l.y_sample;",
        "y_step = l.lots * l.x_sample;",
        "minibatch_stddev", "cuda and values",
    ),
    _mutation(
        "rows beyond a short group that count in its variance",
        "gankernels/triton/minibatch_stddev.py",
        "d = tl.where(mask, d - (tl.sum(d, 0) / members)[None, :], 0.0)",
        "d = d - (tl.sum(d, 0) / members)[None, :]",
        "minibatch_stddev", "triton and values",
    ),
    _mutation(
        "products that cancel, summed in float32",
        "gankernels/triton/per_sample.py",
        "acc = out_ptr.dtype.element_ty if SAME else tl.float64",
        "acc = out_ptr.dtype.element_ty",
        "per_sample", "triton",
    ),
    _mutation(
        "the last round of a sum that reaches into the next sample",
        "csrc/cuda/per_sample.cuh",
        "end = begin + p.share < p.length ? begin + p.share : p.length;",
        "end = begin + p.share;",
        "per_sample", "cuda",
    ),
    _mutation(
        "styles of the first sample for all",
        "gankernels/triton/conv2d_finish.py",
        "tl.load(ptr + image * channels + channel, known, 0.0)",
        "tl.load(ptr + channel, known, 0.0)",
        "modulated_conv2d", "layers or products",
    ),
    _mutation(
        "a scale's second derivative without the curve of the activation",
        "csrc/cuda/modulate_act.cuh",
        "u[i] = d[i] * h[i] + v[i] * x[i];",
        "u[i] = d[i] * h[i];",
        "modulate_act", "cuda_paths",
    ),
    _mutation(
        "a pixel after the last counted",
        "gankernels/triton/grid_sample2d.py",
        "far = inside & (pixel + 1 < size)",
        "far = inside & (pixel + 1 <= size)",
        "grid_sample2d", "triton and values",
    ),
    _mutation(
        "slopes of the wrong axis in the grid's gradient",
        "csrc/cuda/grid_sample2d.cuh",
        "dx += x.slope[a] * y.weight[b] * sum[i];",
        "dx += x.weight[a] * y.slope[b] * sum[i];",
        "grid_sample2d", "cuda and values",
    ),
    _mutation(
        "a sum that overwrites instead of adding",
        "csrc/cuda/grid_sample2d.cuh",
        "atomicAdd(static_cast<acc_t*>(p.sums) + from + v, weight[i] * g[v]);",
        "static_cast<acc_t*>(p.sums)[from + v] += weight[i] * g[v];",
        "grid_sample2d", "cuda and values",
    ),
    _mutation(
        "bits of the columns of another lane",
        "csrc/cuda/filtered_lrelu_march.cuh",
        "word |= code << (8 * i + 2 * quad);",
        "word |= code << (8 * i + 2 * (quad ^ 1));",
        "filtered_lrelu", "cuda_paths and tile",
    ),
    _mutation(
        "a missing barrier between upsampling across and down",
        "csrc/cuda/filtered_lrelu_march.cuh",
        "  tile.across_up(tile.near, tile.far);\n  __syncthreads();\n",
        "  tile.across_up(tile.near, tile.far);\n",
        "filtered_lrelu", "cuda_paths and tile",
    ),
    _mutation(
        "a slope of the wrong side",
        "gankernels/triton/filtered_lrelu_direct.py",
        "(code & 1) != 0, below, above",
        "(code & 1) != 0, above, below",
        "filtered_lrelu", "triton and values",
    ),
    _mutation(
        "rows of the upsampled image one phase late",
        "gankernels/triton/filtered_lrelu.py",
        "TAP=(pad_up[2] + pad_down[2]) % up[1]",
        "TAP=(pad_up[2] + pad_down[2] + 1) % up[1]",
        "filtered_lrelu", "triton and values",
    ),
    _mutation(
        "a gradient in another piece's place",
        "csrc/cuda/maxout.cuh",
        "store_together<T, V>(static_cast<T*>(p.out) + start + piece * inner, own);",
        "store_together<T, V>(static_cast<T*>(p.out) + start + (p.pieces - 1 - piece) * inner, own);",
        "maxout", "cuda_paths",
    ),
    _mutation(
        "a block that leaves out its last row",
        "csrc/cuda/add_noise.cuh",
        "begin + p.rows < p.outer ? begin + p.rows : p.outer",
        "begin + p.rows < p.outer ? begin + p.rows - 1 : p.outer",
        "add_noise", "cuda_paths",
    ),
    _mutation(
        "lines for columns of a shuffled pixel",
        "csrc/cuda/pixel_shuffle_act.cuh",
        "(k - i * p.factor.by) * p.j_step",
        "(k - i * p.factor.by) * p.i_step",
        "pixel_shuffle_act", "cuda_paths",
    ),
    _mutation(
        "an enlarged image one line high",
        "gankernels/triton/fade_in.py",
        "(pixel // columns * R * columns + pixel % columns) * R * inner",
        "(pixel // columns * columns + pixel % columns) * R * inner",
        "fade_in", "triton and values",
    ),
)  # fmt: skip


def mutate(mutation: Mutation, folder: Path) -> None:
    """A copy of the sources in `folder`, with the mutation."""
    for name in ("csrc", "gankernels", "models", "tests", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
        else:
            shutil.copy(source, folder / name)
    path = folder / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} has its text {text.count(mutation.old)} times, expected 1")
    path.write_text(text.replace(mutation.old, mutation.new))


def caught(mutation: Mutation) -> tuple[str, str] | None:
    """(the test that failed, its message); None where all passed."""
    with tempfile.TemporaryDirectory() as folder:
        mutate(mutation, Path(folder))
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=short", *mutation.tests],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
        )
    if run.returncode not in (0, 1):
        raise RuntimeError(f"{mutation.name}: pytest ended with {run.returncode}\n{run.stdout}{run.stderr}")
    if run.returncode == 0:
        return None
    failed = re.search(r"^FAILED \S*?::(.*?)( - (.*))?$", run.stdout, re.M)
    reasons = re.findall(r"^E +(.*)$", run.stdout, re.M)
    return failed[1] if failed else "?", reasons[0] if reasons else "?"


HEAD = """# Kernels broken on purpose, and what caught them

Written by `cd tests && python -m gpu.mutations`; do not edit. Each mutation is made alone in a copy of the sources, and
the first test that fails is named, with what it said. No GPU is involved: the kernels run in the emulator.

| mutation | file | test | what it said |
| --- | --- | --- | --- |
"""


def document(reasons: dict[str, tuple[str, str] | None]) -> str:
    """The table of what caught each mutation."""
    rows = []
    for mutation in MUTATIONS:
        test, said = reasons[mutation.name] or ("none", "NOT CAUGHT")
        said = re.sub(r" \[_Z\w+\]$", "", said).replace("|", "\\|")
        rows.append(f"| {mutation.name} | `{mutation.file}` | `{test}` | {said} |\n")
    return HEAD + "".join(rows)


def main(names: list[str]) -> int:
    reasons = {}
    for mutation in MUTATIONS:
        if names and mutation.name not in names:
            continue
        start = time.monotonic()
        reason = reasons[mutation.name] = caught(mutation)
        said = ": ".join(reason or ("NOT CAUGHT",))
        print(f"{mutation.name} ({mutation.file}), {time.monotonic() - start:.0f} s: {said}", flush=True)
    if not names:
        (ROOT / "docs" / "gpu-mutations.md").write_text(document(reasons))
    return list(reasons.values()).count(None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
