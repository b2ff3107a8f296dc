"""Peak memory and kernel launches of a StyleGAN2 synthesis block and of an R1 step, beside plain PyTorch.

`python benchmarks/stylegan2_costs.py` writes docs/stylegan2-costs.md. Memory is measured on the CPU: the peak of
resident bytes above those before a step (Linux). Launches are counted without a GPU: ours are the launches that the
emulator of tests/gpu executes, PyTorch's the operators it dispatches that compute something.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import torch
import torch.nn.functional as F
from bench_conv2d_resample import FILTER, blur
from bench_modulated_conv2d import grouped, plain_modulated
from bench_penalties import peak_bytes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gankernels import ops

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "stylegan2-costs.md"
ROOT2 = 2**0.5
STEPS = ("block, inference", "block, training step", "R1 step")
PROVIDERS = ("ours", "careful", "grouped")


def lrelu(y: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(y + bias[:, None, None], 0.2) * ROOT2


def plain_layer(convolve, x, w, s, bias, noise, up):
    return lrelu(convolve(x, w, s, up) + noise, bias)


def our_layer(x, w, s, bias, noise, up):
    kwargs = {"up": up, "padding": 1, "resample_filter": FILTER, "flip_weight": up == 1}
    return ops.modulated_conv2d_act(x, w, s, bias, noise=noise, act="lrelu", **kwargs)


def plain_rgb(provider, x, w, s):
    if provider == "careful":
        return F.conv2d(x * s[:, :, None, None], w)
    n, i = s.shape
    each = (w * s[:, None, :, None, None]).flatten(0, 1)
    return F.conv2d(x.reshape(1, n * i, *x.shape[2:]), each, groups=n).unflatten(1, (n, -1)).squeeze(0)


def block(provider: str, channels: int, size: int, batch: int):
    """(leaves, function of them): an upsampling layer, a layer, to RGB; as StyleGAN2 has it without its skip."""
    torch.manual_seed(0)
    c, out = channels, 2 * size
    leaves = [torch.randn(batch, c, size, size)]
    for _ in range(2):
        leaves += [torch.randn(c, c, 3, 3) / (3 * c**0.5), torch.rand(batch, c) + 0.5, torch.zeros(c)]
        leaves += [torch.randn(out, out), torch.zeros(())]
    leaves += [torch.randn(3, c, 1, 1) / c**0.5, torch.rand(batch, c) + 0.5, torch.zeros(3)]
    convolve = {"careful": plain_modulated, "grouped": grouped}.get(provider)

    def run(x, w0, s0, b0, n0, k0, w1, s1, b1, n1, k1, w2, s2, b2):
        for up, w, s, b, n, k in ((2, w0, s0, b0, n0, k0), (1, w1, s1, b1, n1, k1)):
            if provider == "ours":
                x = our_layer(x, w, s, b, n * k, up)
            else:
                x = plain_layer(convolve, x, w, s, b, n * k, up)
        if provider == "ours":
            return ops.modulated_conv2d_act(x, w2, s2, b2, demodulate=False, clamp=256)
        return (plain_rgb(provider, x, w2, s2) + b2[:, None, None]).clamp(-256, 256)

    return leaves, run


def discriminator(provider: str, channels: int, size: int, batch: int):
    """(image, parameters, function): from RGB, a residual block of StyleGAN2's discriminator, a linear head."""
    torch.manual_seed(0)
    c = channels
    shapes = ((c, 3, 1, 1), (c, c, 3, 3), (2 * c, c, 3, 3), (2 * c, c, 1, 1))
    weights = [torch.randn(s) / torch.Size(s[1:]).numel() ** 0.5 for s in shapes]
    biases = [torch.zeros(c), torch.zeros(c), torch.zeros(2 * c)]
    head = torch.randn(2 * c * (size // 2) ** 2, 1) / (2 * c) ** 0.5

    def conv(x, w, bias, down=1):
        padding = w.shape[2] // 2
        if provider == "ours":
            y = ops.conv2d_resample(x, w, FILTER, down=down, padding=padding)
            return y if bias is None else ops.bias_act(y, bias, act="lrelu")
        if down > 1:
            x = blur(x, 1, padding + 1) if w.shape[2] > 1 else blur(x, 1, 1)[..., ::2, ::2]
        if w.shape[2] > 1:
            y = F.conv2d(x, w, stride=down, padding=padding if down == 1 else 0)
        else:
            y = F.conv2d(x, w)
        return y if bias is None else lrelu(y, bias)

    def run(image, w0, w1, w2, w3, b0, b1, b2, head):
        x = conv(image, w0, b0)
        skip = conv(x, w3, None, 2)
        x = conv(conv(x, w1, b1), w2, b2, 2)
        return ((x + skip) / ROOT2).flatten(1) @ head

    return torch.randn(batch, 3, size, size), [*weights, *biases, head], run


def step(name: str, provider: str, channels: int, size: int, batch: int):
    """A call that does a step once; a grouped composition has no discriminator of its own: it is the careful one."""
    if name == "R1 step":
        image, parameters, run = discriminator(provider, channels // 4, 4 * size, batch)
        leaves = [t.requires_grad_() for t in parameters]

        def r1():
            real = image.detach().requires_grad_()
            (g,) = torch.autograd.grad(run(real, *leaves).sum(), real, create_graph=True)
            penalty = ops.sum_squares_per_sample(g).mean() if provider == "ours" else g.square().sum((1, 2, 3)).mean()
            return torch.autograd.grad(penalty, leaves, allow_unused=True)

        return r1
    leaves, run = block(provider, channels, size, batch)
    if name == "block, inference":
        return lambda: _without_graph(run, leaves)
    leaves = [t.requires_grad_() for t in leaves]
    return lambda: torch.autograd.grad(run(*leaves).sum(), leaves)


def _without_graph(run, leaves):
    with torch.no_grad():
        return run(*leaves)


def agree() -> None:
    """All providers compute the same."""
    for name in STEPS:
        results = {}
        for provider in PROVIDERS:
            out = step(name, provider, 8, 4, 2)()
            results[provider] = [out] if isinstance(out, Tensor) else out
        for provider in PROVIDERS[:2]:
            for found, expected in zip(results[provider], results["grouped"], strict=True):
                if found is None or expected is None:  # a derivative that is zero everywhere
                    assert all(t is None or not t.any() for t in (found, expected))
                else:
                    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


class Computing(TorchDispatchMode):
    """Counts PyTorch's operators that compute, in our launchers too: all but views and fresh memory."""

    FREE = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "gankernels":
            with self:  # past itself, to what the launcher calls
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        name = func.name().split("::")[1].split(".")[0]
        if isinstance(out, (Tensor, tuple)) and not (func.is_view or name in self.FREE or _emulator_calls()):
            # A convolution's backward is a kernel for each gradient.
            self.count += sum(args[-1]) if name == "convolution_backward" else 1
        return out


def _emulator_calls() -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if "/tests/gpu/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def launches(name: str, provider: str) -> str:
    """Kernels of a step: ours, and PyTorch's."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
    from gpu.battery import emulated

    run, counter = step(name, provider, 16, 16, 2), Computing()
    if provider != "ours":
        with counter:
            run()
        return f"{counter.count}"
    with emulated("triton", 90) as log, counter:
        run()
    return f"{len(log.launches) + counter.count} ({len(log.launches)} ours, {counter.count} PyTorch's)"


def peak(name: str, provider: str) -> float:
    """MiB, in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, provider]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


HEAD = """# What a StyleGAN2 block and an R1 step cost

Written by `python benchmarks/stylegan2_costs.py`; do not edit.

- *Block*: an upsampling 3x3 layer from 16x16 to 32x32, a 3x3 layer, to RGB; 512 channels, batch 4, float32, noise with
  a learned strength. A training step is forward and every gradient. *R1 step*: the penalty of a discriminator of one
  residual block (64x64, 128 to 256 channels, batch 4) and its gradient in every parameter.
- *Ours*: this package. *Careful*: PyTorch with one weight for all samples, image and result scaled. *Grouped*: PyTorch
  with a weight for each sample and a convolution in groups. Both filter by a grouped convolution.
- *Peak memory* is **measured on a CPU**: the most resident bytes above those before the step ({torch}, backend "cpu").
- *Launches* are **counted, on no GPU**: ours by the emulator's log of what Triton's backend launches, PyTorch's by its
  dispatcher, an operator that computes being one kernel, a convolution's backward one for each gradient (cuDNN may take
  more). At 16 channels: the count depends on sizes only in sums that are cut into parts.

| step | | peak memory | launches |
|---|---|---|---|
"""


def main() -> None:
    agree()
    rows = []
    for name in STEPS:
        for provider in PROVIDERS[:2] if name == "R1 step" else PROVIDERS:
            label = "plain PyTorch" if name == "R1 step" and provider == "careful" else provider
            rows.append(f"| {name} | {label} | {peak(name, provider):.0f} MiB | {launches(name, provider)} |")
            print(rows[-1], flush=True)
    DOCUMENT.write_text(HEAD.replace("{torch}", f"torch {torch.__version__}") + "\n".join(rows) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        torch.set_num_threads(1)
        print(peak_bytes(step(*sys.argv[2:], 512, 16, 4)) / 2**20)
    else:
        main()
