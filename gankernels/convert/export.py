"""Our generators in formats of others: safetensors beside JSON, `torch.export`, ONNX."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankernels import onnx as onnx_export
from gankernels.errors import ConfigError, need
from gankernels.models import MODELS

SUFFIXES = (".safetensors", ".pt2", ".onnx")


class Picture(nn.Module):
    """A generator as a function of latents (and labels, for one that takes them) alone: as `Generator.display` is."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> images [N, C, H, W] in [-1, 1], noise constant."""
        return self.generator.display(z) if c is None else self.generator.display(z, c)


def export(generator: nn.Module, out: Path) -> list[Path]:
    """Write a generator, in eval mode and on the CPU, in the format that the file's suffix names.

    Args:
        generator: of `gankernels.models`; what `truncate` said of it goes into programs.
        out: ``.safetensors``: the state dict under the published names, and beside it, as ``.json``, model and
            constructor's arguments; ``.pt2``: a program of `torch.export` in plain PyTorch, which runs without
            gankernels; ``.onnx``. Programs take z [N, z_dim] (and c [N, c_dim] of a conditional network) for any N.

    Returns: the files.
    Raises: ConfigError for another suffix or a folder that cannot be written; MissingDependency.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"out is {out}, and its suffix chooses the format: {', '.join(SUFFIXES)}")
    generator = generator.eval()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".safetensors":
            return _tensors(generator, out)
        return [_program(generator, out) if out.suffix == ".pt2" else _onnx(generator, out)]
    except OSError as error:
        raise ConfigError(f"cannot write {out} ({error.strerror}); name another file") from error


def model_of(generator: nn.Module) -> str:
    """The name under which `gankernels.models.build` knows a generator."""
    return next(name for name, (cls, _) in MODELS.items() if type(generator) is cls)


def example(generator: nn.Module) -> dict[str, Tensor]:
    """Inputs of `Picture`: two latents, and two labels for a conditional network."""
    inputs = {"z": torch.zeros(2, generator.z_dim) + torch.tensor([[0.5], [-0.5]])}
    classes = getattr(generator, "c_dim", 0)
    return inputs | ({"c": torch.eye(classes)[[0, -1]]} if classes else {})


def _tensors(generator: nn.Module, out: Path) -> list[Path]:
    save_file = need("safetensors.torch", "train").save_file
    settings = {"model": model_of(generator), "config": generator.config}
    save_file({name: t.contiguous().clone() for name, t in generator.state_dict().items()}, out)
    beside = out.with_suffix(".json")
    beside.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return [out, beside]


def _dynamic(inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {name: {0: torch.export.Dim("batch", min=1)} for name in inputs}


def _exported(generator: nn.Module) -> torch.export.ExportedProgram:
    inputs = example(generator)
    picture = Picture(generator).eval()
    shapes = _dynamic(inputs)
    if "c" not in inputs:
        shapes["c"] = None
    shapes = {name: shapes[name] for name in inspect.signature(picture.forward).parameters if name in inputs}
    return torch.export.export(picture, (), inputs, dynamic_shapes=shapes, strict=False)


def _program(generator: nn.Module, out: Path) -> Path:
    program = _exported(generator).run_decompositions(onnx_export.decompositions())
    torch.export.save(program, out)
    return out


def _onnx(generator: nn.Module, out: Path) -> Path:
    need("onnxscript", "onnx")
    inputs = example(generator)
    options = {"input_names": list(inputs), "output_names": ["images"], "dynamic_shapes": _dynamic(inputs)}
    onnx_export.export(Picture(generator).eval(), (), out, kwargs=inputs, verbose=False, **options)
    return out
