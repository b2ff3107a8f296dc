"""ONNX: operators leave as what they are in plain PyTorch, which any runtime knows.

``gankernels.onnx.export(model.eval(), (x,), "model.onnx")`` is all that a model made of these operators needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gankernels import _backend
from gankernels._backend import backend


def export(model: torch.nn.Module | torch.export.ExportedProgram, args: tuple = (), f: Any = None, **options) -> Any:
    """``torch.onnx.export(model, args, f, dynamo=True, **options)`` of a model made of these operators.

    Args:
        model: a module in eval mode, or a program that `torch.export.export` has made of one.
        args: the module's inputs, as example; not with a program.
        f: the file to write, or None.
        options: those of `torch.onnx.export`, such as `kwargs`, `dynamic_shapes` and `input_names`.

    Returns: what `torch.onnx.export` does, a `torch.onnx.ONNXProgram`.
    Raises: ValueError for a module in training mode, whose running statistics and noise ONNX does not keep.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return torch.onnx.export(model.run_decompositions(decompositions()), f=f, dynamo=True, **options)
    if model.training:
        raise ValueError("onnx.export: model is in training mode, expected eval mode; call model.eval()")
    with backend("reference"):
        return torch.onnx.export(model, args, f, dynamo=True, **options)


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    """Each compiled operator in plain PyTorch: ``program.run_decompositions(decompositions())`` needs no gankernels.

    Of the forward operators alone: derivatives that are part of a program stay what they are.
    """
    plain = {op: _backend.reference(op) for op in _backend.operators() if op not in _backend.compounds}
    plain |= {"batch_norm_act": _batch_norm_act, "transpose_kernels": _transpose_kernels, "weight_power": _weight_power}
    spaces = (torch.ops.gankernels, torch.ops.gankernels_native)
    return {getattr(space, op).default: f for op, f in plain.items() for space in spaces if hasattr(space, op)}


def _batch_norm_act(x, weight, bias, running_mean, running_var, training, eps, act, alpha, gain):
    """The operator behind it: it gives the statistics, and whoever called it moves the running ones."""
    running = (None, None) if training else (running_mean, running_var)
    y = _backend.reference("batch_norm_act")(x, weight, bias, *running, training, 0.0, eps, act, alpha, gain)
    wide = torch.promote_types(x.dtype, torch.float32)
    if not training:
        mean, var = running_mean.to(wide), running_var.to(wide)
        return y, mean, (var + eps).rsqrt(), var
    dims = [d for d in range(x.ndim) if d != 1]
    biased, mean = torch.var_mean(x.to(wide), dims, correction=0)
    return y, mean, (biased + eps).rsqrt(), x.to(wide).var(dims)


def _transpose_kernels(weight):
    return weight.transpose(0, 1).contiguous()


def _weight_power(weight):
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).square().sum([2, 3])
