"""Named starting points: the recipes of the papers, and small ones for a CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from gankernels.training.config import TrainConfig

_PROGAN = TrainConfig(
    model="progan",
    objective="wgan-gp",
    drift=1e-3,
    lr=1e-3,
    betas=(0.0, 0.99),
    batch=16,
    ema=11_085,  # 0.999 a step of 16 images
    ema_rampup=1e9,
    grow_from=4,
    images=12_000_000,
)
_STYLEGAN = TrainConfig(
    model="stylegan",
    r1=10.0,
    r1_every=1,
    lr=1e-3,
    betas=(0.0, 0.99),
    batch=32,
    mixing=0.9,
    grow_from=8,
    images=25_000_000,
)
_STYLEGAN2 = TrainConfig(
    model="stylegan2",
    r1=10.0,
    path_length=2.0,
    mixing=0.9,
    precision="float16",
    lr=2e-3,
    betas=(0.0, 0.99),
    batch=32,
    images=25_000_000,
)
_STYLEGAN3 = TrainConfig(
    model="stylegan3",
    r1=2.0,
    lr=2.5e-3,
    d_lr=2e-3,
    precision="float16",
    betas=(0.0, 0.99),
    batch=32,
    images=25_000_000,
)
_SMALL = {"width": 32, "max_width": 128, "z_dim": 128, "batch": 32, "images": 1_000_000}
_SMALL_W = {**_SMALL, "w_dim": 128, "mapping_layers": 2}

RECIPES = {one.model: one for one in (_PROGAN, _STYLEGAN, _STYLEGAN2, _STYLEGAN3)}
"""Defaults of ``gankernels train --model NAME``: the paper's; other models have those of `TrainConfig`."""

PRESETS = {
    "demo": TrainConfig(
        out=Path("runs/demo"),
        width=32,
        batch=32,
        images=240_000,
        minutes=6,
        sample_every=12_000,
        checkpoint_every=48_000,
    ),
    "dcgan": TrainConfig(resolution=64, data="emoji", mirror=True),
    **RECIPES,
    "progan-small": replace(_PROGAN, **_SMALL, grow_from=8, fade_images=60_000, stable_images=60_000, ema_rampup=0.05),
    "stylegan-small": replace(_STYLEGAN, **_SMALL_W, fade_images=60_000, stable_images=60_000),
    "stylegan2-small": replace(_STYLEGAN2, **_SMALL_W, r1=1.0, mixing=0.0),
    "stylegan2-ada": replace(_STYLEGAN2, lr=2.5e-3, mixing=0.0, mirror=True, augment="bgc"),
    "stylegan3-r": replace(_STYLEGAN3, equivariance="r", blur=10.0),
    "stylegan3-small": replace(_STYLEGAN3, **_SMALL_W, r1=1.0),
}
"""Named starting points of `gankernels train --preset NAME`; every field can still be set."""

PresetName = Literal[
    "demo", "dcgan", "progan", "stylegan", "stylegan2", "stylegan3",
    "progan-small", "stylegan-small", "stylegan2-small", "stylegan2-ada", "stylegan3-r", "stylegan3-small",
]  # fmt: skip
"""The keys of PRESETS, as the command line needs them."""
