"""From the augmentation's draws to what it does to a sample: an affine map, a colour map, band gains, corruptions.

Every parameter of a transform that a sample does not take is the identity's, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gankernels.nn._augment_draws import normal

# Each has a draw that decides whether it is taken, and one of its own in the same order; those whose place on the image
# is drawn have another one at the end. No constant is made on the device from numbers of the host, which would wait.
_UNIFORM = (
    "x_flip", "luma_flip", "rotation_before", "rotation_after", "hue", "rotate_90", "integer_translation", "cutout",
)  # fmt: skip
_NORMAL = (
    "isotropic_scale", "anisotropic_scale", "brightness", "contrast", "saturation", "band_1", "band_2", "band_3",
    "band_4", "noise", "fractional_translation",
)  # fmt: skip
TRANSFORMS = _UNIFORM + _NORMAL
_PLACED = ("integer_translation", "cutout", "fractional_translation")
DRAWS = 2 * len(TRANSFORMS) + len(_PLACED)
BAND_POWER = (10 / 13, 1 / 13)
"""The expected share of an image's power in the lowest band, and in each of the others."""


@dataclass
class Draws:
    """Uniform numbers [N, DRAWS] by the name of their transform, and who takes it."""

    uniform: Tensor
    probability: Tensor  # [transforms]

    def __post_init__(self) -> None:
        count = len(TRANSFORMS)
        self.taken = self.uniform[:, :count] < self.probability
        taken = torch.cat([self.taken[:, len(_UNIFORM) :], self.taken[:, -1:]], 1)
        # The last transform's second number is the last of all.
        numbers = torch.cat([self.uniform[:, count + len(_UNIFORM) : 2 * count], self.uniform[:, -1:]], 1)
        self._normals = normal(numbers) * taken

    def takes(self, name: str) -> Tensor:
        """[N] bool."""
        return self.taken[:, TRANSFORMS.index(name)]

    def of(self, name: str) -> Tensor:
        """[N] between 0 and 1, or [N, 2]."""
        at = len(TRANSFORMS) + TRANSFORMS.index(name)
        if name not in _PLACED:
            return self.uniform[:, at]
        return torch.stack([self.uniform[:, at], self.uniform[:, 2 * len(TRANSFORMS) + _PLACED.index(name)]], 1)

    def normals(self, first: str, count: int) -> Tensor:
        """[N, count] of the transforms from `first` on, 0 where not taken."""
        at = _NORMAL.index(first)
        return self._normals[:, at : at + count]

    def coins(self) -> tuple[Tensor, Tensor]:
        """[N] of the flip along x and of luma's: 1, or -1 for half of those who take it."""
        tails = self.taken[:, :2] & (self.uniform[:, len(TRANSFORMS) : len(TRANSFORMS) + 2] < 0.5)
        return (1 - 2 * tails.to(self.uniform.dtype)).unbind(1)

    def angles(self) -> Tensor:
        """[N, 3] of a full circle: the rotations before and after, and hue; 0 where not taken."""
        at = len(TRANSFORMS) + 2
        return (self.uniform[:, at : at + 3] - 0.5) * (2 * math.pi) * self.taken[:, 2:5]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Small matrices' products, which TF32 may not round."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def affine(draws: Draws, config, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[N, 2, 3] from pixels of the result to pixels of x, both counted from the image's centre, in (x, y); and [N],
    whose map is not the identity. `size` is [H, W]."""
    h, w = size
    dtype = draws.uniform.dtype
    quarter = (draws.of("rotate_90") * 4).floor() * draws.takes("rotate_90")
    cos_90, sin_90 = (quarter - 2).abs() - 1, 1 - (quarter - 1).abs()  # of 0, 90, 180 and 270 degrees
    ahead, sideways = ((draws.of("integer_translation") * 2 - 1) * config.translation_range).unbind(1)
    shift = torch.stack([ahead * w, sideways * h], 1).round() * draws.takes("integer_translation")[:, None]
    ahead, sideways = (draws.normals("fractional_translation", 2) * config.translation_std).unbind(1)
    drift = torch.stack([ahead * w, sideways * h], 1)
    scale, aspect = draws.normals("isotropic_scale", 2).unbind(1)
    scale, aspect = scale * config.scale_octaves, aspect * config.aspect_octaves
    inverse_scale = torch.exp2(torch.stack([-scale - aspect, aspect - scale], 1))  # [N, (x, y)]
    angles = draws.angles()[:, :2]
    cos, sin = angles.cos(), angles.sin()
    back = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))  # [N, 2 rotations, 2, 2], transposed
    # Forward it is y = R2 A R1 S (R90 F x + shift) + drift; here is its inverse.
    general = _product(back[:, 0] * inverse_scale[:, None, :], back[:, 1])
    flip = draws.coins()[0]
    blit = torch.stack([cos_90 * flip, sin_90 * flip, -sin_90, cos_90], -1).unflatten(-1, (2, 2))
    offset = _product(general, drift[:, :, None]) + shift[:, :, None]
    theta = _product(blit, torch.cat([general, -offset], 2))
    identity = torch.eye(2, 3, device=theta.device, dtype=dtype)
    return theta, (theta != identity).flatten(1).any(1)


def colour(draws: Draws, config, channels: int) -> tuple[Tensor, Tensor]:
    """Matrix [N, channels, channels] and offset [N, channels] of the colours' map, for 3 channels or 1.

    All of its transforms commute: with P the projection on the grey axis and K the cross product with it, they are sums
    of I, P and K. Brightness b and contrast c act as c (x + b), the luma flip as I - 2 P, hue and saturation off the
    axis alone. Such a sum is a circulant matrix.
    """
    brightness, contrast, saturation = draws.normals("brightness", 3).unbind(1)
    contrast = torch.exp2(contrast * config.contrast_octaves)
    along = contrast * draws.coins()[1]
    offset = along * brightness * config.brightness_std
    if channels == 1:  # three equal channels, of which the mean is taken
        return along[:, None, None], offset[:, None]
    angle = draws.angles()[:, 2]
    off = contrast * torch.exp2(saturation * config.saturation_octaves)
    across, off = off * angle.sin() / math.sqrt(3), off * angle.cos()
    mean = (along - off) / 3
    same, before, after = mean + off, mean + across, mean - across
    matrix = torch.stack([same, after, before, before, same, after, after, before, same], 1).unflatten(1, (3, 3))
    return matrix, offset[:, None].expand(-1, 3)


def band_gains(draws: Draws, config) -> tuple[Tensor, Tensor]:
    """[N, 4] gains of the bands, low to high, and [N], who is filtered. Each band's own gain keeps the image's expected
    power."""
    gains = torch.exp2(draws.normals("band_1", 4) * config.filter_octaves)
    more = gains.square() - 1
    power = (1 + more[:, :1] * BAND_POWER[0]) * (1 + more[:, 1:] * BAND_POWER[1]).prod(1, keepdim=True)
    at = TRANSFORMS.index("band_1")
    return gains * power.rsqrt(), draws.taken[:, at : at + 4].any(1)


def noise_level(draws: Draws, config) -> Tensor:
    """[N], the standard deviation of the noise."""
    return draws.normals("noise", 1)[:, 0].abs() * config.noise_std


def cutout_mask(draws: Draws, config, size: tuple[int, int]) -> Tensor:
    """[N, 1, H, W]: True where the image is cut."""
    centre, taken = draws.of("cutout"), draws.takes("cutout")

    def away(n, c):  # a pixel counts by its centre
        at = (torch.arange(n, device=c.device, dtype=c.dtype) + 0.5) / n
        return (at[None] - c[:, None]).abs() < config.cutout_size / 2

    columns, rows = away(size[1], centre[:, 0]), away(size[0], centre[:, 1])
    return rows[:, None, :, None] & columns[:, None, None, :] & taken[:, None, None, None]
