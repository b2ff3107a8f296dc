"""What the battery asks of torch.export and ONNX: the same numbers for a batch of another size."""

from __future__ import annotations

import importlib.util
import logging

import pytest
import torch

import gankernels

ONNX_MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
AUTO = torch.export.Dim.AUTO


class Call(torch.nn.Module):
    """`f(**tensors)` as a module of positional arguments."""

    def __init__(self, f, names):
        super().__init__()
        self.f, self.names = f, names

    def forward(self, *tensors):
        return self.f(**dict(zip(self.names, tensors, strict=True)))


def as_module(f, tensors: dict, batched: set[str]) -> tuple[torch.nn.Module, tuple]:
    """The module to export, itself or around a function, and its dynamic shapes: the batch left open."""
    shapes = tuple({0: AUTO} if k in batched else None for k in tensors)
    return (f, shapes) if isinstance(f, torch.nn.Module) else (Call(f, list(tensors)), (shapes,))


def grown(tensors: dict, batched: set[str], times: int) -> dict:
    return {k: torch.cat([t] * times) if k in batched else t for k, t in tensors.items()}


def check_export(f, tensors: dict, batched: set[str], strict: bool) -> None:
    """f(**tensors), or a module of them by position, exported with an open batch and run on twice that of the example.

    Values and gradients are those of f, of the program in plain PyTorch too.
    """
    small = grown(tensors, batched, 2)
    module, shapes = as_module(f, small, batched)
    program = torch.export.export(module, tuple(small.values()), dynamic_shapes=shapes, strict=strict)
    plain = program.run_decompositions(gankernels.onnx.decompositions())
    assert not [n.target for n in plain.graph.nodes if "gankernels" in str(n.target)]
    first = next(
        n for n in program.graph.nodes if n.op == "placeholder" and n.name in program.graph_signature.user_inputs
    )
    if batched:
        assert not isinstance(first.meta["val"].shape[0], int), "the batch became a constant"
    results = []
    for run in (program, plain, module):
        large = {k: t.detach().clone() for k, t in grown(tensors, batched, 4).items()}
        leaves = [t.requires_grad_() for k, t in large.items() if tensors[k].requires_grad]
        y = (run if run is module else run.module())(*large.values())
        weighed = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
        results.append((y, *(torch.autograd.grad(weighed, leaves) if leaves else ())))
    for other in results[:2]:
        for a, b in zip(other, results[2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def check_onnx(f, tensors: dict, batched: set[str]) -> None:
    """The same exported to ONNX with the batch of `batched` left open: onnxruntime agrees on twice that batch."""
    if ONNX_MISSING:
        pytest.skip(f"{', '.join(ONNX_MISSING)} not installed (pip install gankernels[onnx])")
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # that torchvision is not installed
    tensors = {k: t.detach() for k, t in tensors.items()}
    small, large = (grown(tensors, batched, times) for times in (2, 4))
    module, shapes = as_module(f, small, batched)
    program = gankernels.onnx.export(module.eval(), tuple(small.values()), dynamic_shapes=shapes)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    (y,) = session.run(None, dict(zip(names, (t.numpy() for t in large.values()), strict=True)))
    torch.testing.assert_close(torch.from_numpy(y), module(*large.values()), rtol=1e-4, atol=1e-4)


class ExportTests:
    unbatched: tuple[str, ...] = ("weight", "w", "filter", "f", "fu", "fd")
    skip_onnx = ""  # a reason, where ONNX makes no sense

    def batched(self, tensors: dict) -> set[str]:
        """The tensors whose first dimension is the batch."""
        n = next(iter(tensors.values())).shape[0]
        return {k for k, t in tensors.items() if t.ndim >= 2 and t.shape[0] == n and k not in self.unbatched}

    def exported(self, backend: str):
        s = self.first(backend).fresh()
        tensors = s.tensors | s.fixed
        return lambda **t: self.op(**t, **s.kwargs), tensors, self.batched(tensors)

    def test_export(self, backend):
        for strict in (False, True) if backend == "cpu" else (False,):
            check_export(*self.exported(backend), strict)

    def test_onnx(self):
        if self.skip_onnx:
            pytest.skip(self.skip_onnx)
        check_onnx(*self.exported("cpu"))
