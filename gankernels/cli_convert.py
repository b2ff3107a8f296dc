"""The commands `gankernels convert` and `gankernels export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gankernels.cli_generate import truncate
from gankernels.training import load_generator


@dataclass
class Convert:
    """Read published StyleGAN2 or StyleGAN3 networks, running nothing that lies in the file."""

    network: Path
    """NETWORK.pkl as published (with G_ema, G and D), or the .pt of a StyleGAN2 port (with g_ema)."""
    out: Path
    """File to write, OUT.safetensors: `gankernels generate --checkpoint OUT.safetensors` takes it."""

    def run(self) -> int:
        from gankernels.convert import convert

        for note in convert(self.network, self.out):
            print(note)
        print(f"wrote {self.out}")
        return 0


@dataclass
class Export:
    """Write a generator for other programs: OUT.safetensors (and OUT.json), OUT.pt2 (torch.export) or OUT.onnx."""

    checkpoint: Path
    """A checkpoint, a run's folder for its newest one, or what `gankernels convert` wrote."""
    out: Path
    """File to write; its suffix is the format."""
    average: bool = True
    """Use the moving average of the generator's weights."""
    truncation: float = 1.0
    """Truncation psi (stylegan*) that the program has inside."""
    truncation_cutoff: int | None = None
    """Truncate the first, coarse styles only; all unless given."""

    def run(self) -> int:
        from gankernels.convert import export

        generator, _ = load_generator(self.checkpoint, torch.device("cpu"), average=self.average)
        truncate(generator, self.truncation, self.truncation_cutoff)
        print(f"wrote {' and '.join(map(str, export(generator, self.out)))}")
        return 0
