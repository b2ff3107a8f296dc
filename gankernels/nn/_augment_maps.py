"""From the augmentation's draws to what it does to a sample: an affine map, a colour map, band gains, corruptions.

Every parameter of a transform that a sample does not take is the identity's, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gankernels.nn._augment_draws import normal

# Each has a draw that decides whether it is taken, and draws of its own.
TRANSFORMS = (
    "x_flip", "rotate_90", "integer_translation", "isotropic_scale", "rotation_before", "anisotropic_scale",
    "rotation_after", "fractional_translation", "brightness", "contrast", "luma_flip", "hue", "saturation", "band_1",
    "band_2", "band_3", "band_4", "noise", "cutout",
)  # fmt: skip
_TWO = ("integer_translation", "fractional_translation", "cutout")
DRAWS = 2 * len(TRANSFORMS) + len(_TWO)
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""The expected share of an image's power in each band, low to high."""


@dataclass
class Draws:
    """Uniform numbers [N, DRAWS] by the name of their transform, and who takes it."""

    uniform: Tensor
    probability: Tensor  # [transforms]

    def __post_init__(self) -> None:
        self.taken = self.uniform[:, : len(TRANSFORMS)] < self.probability

    def takes(self, name: str) -> Tensor:
        """[N] bool."""
        return self.taken[:, TRANSFORMS.index(name)]

    def of(self, name: str) -> Tensor:
        """[N] between 0 and 1, or [N, 2]."""
        at = len(TRANSFORMS) + TRANSFORMS.index(name)
        if name not in _TWO:
            return self.uniform[:, at]
        return torch.stack([self.uniform[:, at], self.uniform[:, 2 * len(TRANSFORMS) + _TWO.index(name)]], 1)

    def normals(self, *names: str) -> Tensor:
        """[N, names], 0 where not taken."""
        values = normal(torch.stack([self.of(name) for name in names], 1))
        return torch.where(torch.stack([self.takes(name) for name in names], 1), values, 0)

    def coins(self, name: str) -> Tensor:
        """[N]: 1, or -1 for half of those who take it."""
        return torch.where(self.takes(name) & (self.of(name) < 0.5), -1.0, 1.0).to(self.uniform.dtype)

    def angles(self, *names: str) -> Tensor:
        """[N, names] of a full circle, 0 where not taken."""
        turns = torch.stack([self.of(name) for name in names], 1) - 0.5
        return torch.where(torch.stack([self.takes(name) for name in names], 1), turns, 0) * (2 * math.pi)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Small matrices' products, which TF32 may not round."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def affine(draws: Draws, config, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[N, 2, 3] from pixels of the result to pixels of x, both counted from the image's centre, in (x, y); and [N],
    whose map is not the identity. `size` is [H, W]."""
    like = draws.uniform
    extent = like.new_tensor((size[1], size[0]))
    quarter = torch.where(draws.takes("rotate_90"), (draws.of("rotate_90") * 4).floor(), 0)
    cos_90, sin_90 = (quarter - 2).abs() - 1, 1 - (quarter - 1).abs()  # of 0, 90, 180 and 270 degrees
    shift = ((draws.of("integer_translation") * 2 - 1) * (config.translation_range * extent)).round()
    shift = torch.where(draws.takes("integer_translation")[:, None], shift, 0)
    drift = normal(draws.of("fractional_translation")) * (config.translation_std * extent)
    drift = torch.where(draws.takes("fractional_translation")[:, None], drift, 0)
    octaves = draws.normals("isotropic_scale", "anisotropic_scale") * like.new_tensor(
        (config.scale_octaves, config.aspect_octaves)
    )
    inverse_scale = torch.exp2(-octaves[:, :1] - octaves[:, 1:] * like.new_tensor((1.0, -1.0)))  # [N, (x, y)]
    angles = draws.angles("rotation_before", "rotation_after")
    cos, sin = angles.cos(), angles.sin()
    back = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))  # [N, 2 rotations, 2, 2], transposed
    # Forward it is y = R2 A R1 S (R90 F x + shift) + drift; here is its inverse.
    general = _product(back[:, 0] * inverse_scale[:, None, :], back[:, 1])
    flip = torch.stack([draws.coins("x_flip"), torch.ones_like(cos_90)], 1)
    blit = torch.stack([cos_90, sin_90, -sin_90, cos_90], -1).unflatten(-1, (2, 2)) * flip[:, :, None]
    offset = _product(general, drift[:, :, None]) + shift[:, :, None]
    theta = _product(blit, torch.cat([general, -offset], 2))
    identity = theta.new_tensor(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
    return theta, (theta != identity).flatten(1).any(1)


def colour(draws: Draws, config, channels: int) -> tuple[Tensor, Tensor]:
    """Matrix [N, channels, channels] and offset [N, channels] of the colours' map, for 3 channels or 1.

    All of its transforms commute: with P the projection on the grey axis and K the cross product with it, they are sums
    of I, P and K. Brightness b and contrast c act as c (x + b), the luma flip as I - 2 P, hue and saturation off the
    axis alone.
    """
    like = draws.uniform
    octaves = draws.normals("contrast", "saturation") * like.new_tensor(
        (config.contrast_octaves, config.saturation_octaves)
    )
    contrast, saturation = torch.exp2(octaves).unbind(1)
    along = contrast * draws.coins("luma_flip")
    offset = along * draws.normals("brightness")[:, 0] * config.brightness_std
    if channels == 1:  # three equal channels, of which the mean is taken
        return along[:, None, None], offset[:, None]
    angle = draws.angles("hue")[:, 0]
    off, across = contrast * saturation * angle.cos(), contrast * saturation * angle.sin()
    third, root = 1 / 3, 1 / math.sqrt(3)
    basis = like.new_tensor(
        (
            ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
            ((third,) * 3,) * 3,
            ((0.0, -root, root), (root, 0.0, -root), (-root, root, 0.0)),
        )
    )
    weights = torch.stack([off, along - off, across], 1)
    return (weights[:, :, None, None] * basis).sum(1), offset[:, None].expand(-1, 3)


def band_gains(draws: Draws, config) -> tuple[Tensor, Tensor]:
    """[N, 4] gains of the bands, low to high, and [N], who is filtered. Each band's own gain keeps the image's expected
    power."""
    names = [f"band_{i}" for i in range(1, 5)]
    gains = torch.exp2(draws.normals(*names) * config.filter_octaves)
    power = 1 + gains.new_tensor(BAND_POWER) * (gains.square() - 1)
    taken = torch.stack([draws.takes(name) for name in names], 1).any(1)
    return gains * power.prod(1, keepdim=True).rsqrt(), taken


def noise_level(draws: Draws, config) -> Tensor:
    """[N], the standard deviation of the noise."""
    return draws.normals("noise")[:, 0].abs() * config.noise_std


def cutout_mask(draws: Draws, config, size: tuple[int, int]) -> Tensor:
    """[N, 1, H, W]: True where the image is kept."""
    centre, taken = draws.of("cutout"), draws.takes("cutout")

    def away(n, c):  # a pixel counts by its centre
        at = (torch.arange(n, device=c.device, dtype=c.dtype) + 0.5) / n
        return (at[None] - c[:, None]).abs() >= config.cutout_size / 2

    columns, rows = away(size[1], centre[:, 0]), away(size[0], centre[:, 1])
    return (rows[:, None, :, None] | columns[:, None, None, :]) | ~taken[:, None, None, None]
