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
    spaces = (torch.ops.gankernels, torch.ops.gankernels_native)
    plain = _backend.plain().items()
    return {getattr(space, op).default: run for op, run in plain for space in spaces if hasattr(space, op)}
