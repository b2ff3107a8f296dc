"""The demonstration: what the machine has, how the operators compare to plain PyTorch on it, and a GAN that learns."""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gankernels import _doctor, ops
from gankernels._memory import keep_freed_memory
from gankernels.errors import need
from gankernels.training.presets import PRESETS
from gankernels.training.progress import make_progress
from gankernels.training.run import Result, train


@dataclass(frozen=True)
class Case:
    """An operator and its plain PyTorch equal, on tensors that both take; the first needs a gradient, as do weights."""

    name: str
    what: str
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]


def _filter(x: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device)
    return taps.outer(taps) / 64


def _plain_upsample(x: Tensor) -> Tensor:
    weight = (4 * _filter(x)).expand(x.shape[1], 1, 4, 4)
    return functional.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])


CASES = (
    Case(
        "bias_act",
        "lrelu [64, 64, 16, 16]",
        lambda x, b: ops.bias_act(x, b, act="lrelu"),
        lambda x, b: functional.leaky_relu(x + b[:, None, None], 0.2) * 2**0.5,
        ((64, 64, 16, 16), (64,)),
    ),
    Case(
        "batch_norm_act",
        "relu [64, 64, 16, 16]",
        lambda x, w, b: ops.batch_norm_act(x, w, b, None, None, training=True, act="relu", gain=1.0),
        lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True).relu(),
        ((64, 64, 16, 16), (64,), (64,)),
    ),
    Case(
        "conv2d",
        "4x4 stride 2 [64, 32, 16, 16]",
        lambda x, w: ops.conv2d(x, w, stride=2, padding=1),
        lambda x, w: functional.conv2d(x, w, stride=2, padding=1),
        ((64, 32, 16, 16), (64, 32, 4, 4)),
    ),
    Case(
        "conv_transpose2d",
        "4x4 stride 2 [64, 64, 8, 8]",
        lambda x, w: ops.conv_transpose2d(x, w, stride=2, padding=1),
        lambda x, w: functional.conv_transpose2d(x, w, stride=2, padding=1),
        ((64, 64, 8, 8), (64, 32, 4, 4)),
    ),
    Case(
        "upsample2d",
        "1-3-3-1 up 2 [64, 32, 16, 16]",
        lambda x: ops.upsample2d(x, _filter(x)),
        _plain_upsample,
        ((64, 32, 16, 16),),
    ),
)


def compare(case: Case, device: torch.device, rounds: int = 15, seconds: float = 0.5) -> list[tuple[float, float]]:
    """Median milliseconds of ours and of plain PyTorch: forward, then forward and backward.

    The two take turns, in an order drawn anew, so that what else the machine does falls on both; each is measured for
    `rounds` and about `seconds` at least. Raises RuntimeError where their values differ.
    """
    draws, order = torch.Generator().manual_seed(0), random.Random(0)
    inputs = [torch.randn(shape, generator=draws).to(device).requires_grad_() for shape in case.shapes]
    results = [call(*inputs) for call in (case.ours, case.plain)]
    if not torch.allclose(*results, rtol=1e-3, atol=1e-3):
        raise RuntimeError(f"{case.name} differs from plain PyTorch by {(results[0] - results[1]).abs().max():g}")
    upstream = torch.randn(results[0].shape, generator=draws).to(device)

    def forward(call: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            call(*inputs)

    def both(call: Callable[..., Tensor]) -> None:
        torch.autograd.grad(call(*inputs), inputs, upstream)

    medians = []
    for measured in (forward, both):
        times: tuple[list[float], list[float]] = [], []
        turns = list(zip((case.ours, case.plain), times, strict=True))
        end = None
        while end is None or len(times[0]) < rounds or time.perf_counter() < end:
            order.shuffle(turns)
            for call, kept in turns:
                _wait(device)
                began = time.perf_counter()
                measured(call)
                _wait(device)
                kept.append(1000 * (time.perf_counter() - began))
            if end is None and len(times[0]) == 5:  # what came before warmed the caches
                for kept in times:
                    kept.clear()
                end = time.perf_counter() + seconds
        medians.append((statistics.median(times[0]), statistics.median(times[1])))
    return medians


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operator_table(device: torch.device) -> list[tuple[str, ...]]:
    """A row a case: names, then milliseconds and speed ratio (over 1: ours is faster), forward and with backward."""
    keep_freed_memory()
    rows = []
    for case in CASES:
        numbers: list[str] = []
        for ours, plain in compare(case, device):
            numbers += [f"{ours:.2f}", f"{plain:.2f}", f"{plain / ours:.2f}x"]
        rows.append((case.name, case.what, *numbers))
    return rows


def demo(out: Path) -> Result:
    """Print doctor and the table of operators, train the preset "demo" into `out`, and name the files it left."""
    rich_console = need("rich.console", "train")
    console = rich_console.Console()
    config = dataclasses.replace(PRESETS["demo"], out=out)
    print(_doctor.report(), flush=True)
    device = config.torch_device()
    table = need("rich.table", "train").Table(
        title=f"our operators beside plain PyTorch {torch.__version__} on {device.type}, float32, medians in ms"
    )
    table.add_column("operator", no_wrap=True)
    for part in ("forward", "forward +\nbackward"):
        for column in (part, "PyTorch", "speed"):
            table.add_column(column, justify="right", no_wrap=True)
    for name, what, *numbers in operator_table(device):
        table.add_row(f"{name}\n{what}", *numbers)  # two lines, which fit into 80 columns
    console.print(table)
    result = train(config, make_progress(), overwrite=True)
    if result.interrupted:
        return result
    folder = result.folder.resolve()
    print(f"trained on {result.images} images in {result.seconds:.0f} s")
    for name, what in (
        (f"samples/{result.step:08}.png", "what the generator draws now"),
        ("samples.gif", "how it learned to"),
        ("samples-over-time.png", "the same as a strip"),
        ("curves.png", "losses and logits"),
        (result.checkpoint.relative_to(result.folder), f"try: gankernels generate --checkpoint {result.folder}"),
    ):
        print(f"  {folder / name}  {what}")
    print(folder)
    return result
