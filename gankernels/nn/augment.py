"""Adaptive discriminator augmentation: random transforms of images, differentiable, of a strength that moves."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankernels import ops
from gankernels.nn import _augment_maps as maps
from gankernels.nn._augment_draws import keyed_normal, keyed_uniform, normal

_WAVELETS = json.loads(Path(__file__).with_name("wavelets.json").read_text())


@dataclass(frozen=True)
class AugmentConfig:
    """Which transforms there are, each a factor 0 to 1 of the probability p, and how strong they are.

    Sizes are shares of the image, octaves are standard deviations of a scale's base-2 logarithm.
    """

    x_flip: float = 0
    rotate_90: float = 0
    integer_translation: float = 0
    isotropic_scale: float = 0
    rotation: float = 0
    anisotropic_scale: float = 0
    fractional_translation: float = 0
    brightness: float = 0
    contrast: float = 0
    luma_flip: float = 0
    hue: float = 0
    saturation: float = 0
    image_filter: float = 0
    noise: float = 0
    cutout: float = 0

    translation_range: float = 0.125
    scale_octaves: float = 0.2
    aspect_octaves: float = 0.2
    translation_std: float = 0.125
    brightness_std: float = 0.2
    contrast_octaves: float = 0.5
    saturation_octaves: float = 1.0
    filter_octaves: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
                raise ValueError(f"AugmentConfig: {field.name} is {value!r}, expected a finite number of 0 or more")
            if field.name in _FACTORS and value > 1:
                raise ValueError(f"AugmentConfig: {field.name} is {value!r}, a factor of p, expected at most 1")

    def any(self, group: str) -> bool:
        """Is there a transform of a group: "blit", "geom", "color", "filter", "noise", "cutout"?"""
        return any(getattr(self, name) > 0 for name in _GROUPS[group])


_GROUPS = {
    "blit": ("x_flip", "rotate_90", "integer_translation"),
    "geom": ("isotropic_scale", "rotation", "anisotropic_scale", "fractional_translation"),
    "color": ("brightness", "contrast", "luma_flip", "hue", "saturation"),
    "filter": ("image_filter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
_FACTORS = tuple(name for names in _GROUPS.values() for name in names)


def _preset(*groups: str) -> AugmentConfig:
    return AugmentConfig(**{name: 1 for group in groups for name in _GROUPS[group]})


PRESETS = {
    **{group: _preset(group) for group in _GROUPS},
    "bg": _preset("blit", "geom"),
    "bgc": _preset("blit", "geom", "color"),
    "bgcf": _preset("blit", "geom", "color", "filter"),
    "bgcfn": _preset("blit", "geom", "color", "filter", "noise"),
    "bgcfnc": _preset(*_GROUPS),
}


class AugmentPipe(nn.Module):
    """The augmentations of Karras et al. 2020 (arXiv 2006.06676): each transform of `config` with probability p.

    In this order, those of a line in one pass: flip along x, 90-degree rotation, integer translation, isotropic scale,
    rotation, anisotropic scale, rotation, fractional translation (upsampled twice with sym6, sampled bilinearly,
    downsampled with the same filter turned); brightness, contrast, luma flip, hue, saturation; gains of four frequency
    bands (sym2); noise; cutout. Beyond the image lies its reflection.

    Args:
        p: the probability at first, 0 to 1.
        config: a preset of `PRESETS` ("blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf",
            "bgcfn", "bgcfnc") or an `AugmentConfig`.
        margin: pixels of reflection on either side of the image. None reads the batch's need from the device, which on
            a GPU waits for it, and takes at most one reflection (H - 1 and W - 1, at least 6), beyond which is black;
            where torch.compile traces, which cannot wait, it takes all of that. A number never waits: beyond it is
            black. Large margins cost memory: the margin is upsampled with the image.

    State-dict names: p, a float32 tensor [] to write to (``pipe.p.fill_(0.3)``); no compiled code depends on its value.
    p and the filters keep their dtype when the module is cast.

    Images are about -1 to 1. At p = 0 the result equals x, bit for bit. Matrix products follow PyTorch's TF32 switch.
    """

    def __init__(self, p: float = 0.0, config: str | AugmentConfig = "bgc", margin: int | None = None) -> None:
        super().__init__()
        if not isinstance(p, (int, float)) or not 0 <= p <= 1:
            raise ValueError(f"AugmentPipe: p is {p!r}, expected 0 to 1")
        if isinstance(config, str) and config not in PRESETS:
            raise ValueError(f"AugmentPipe: config is {config!r}, expected an AugmentConfig or {', '.join(PRESETS)}")
        if margin is not None and (not isinstance(margin, int) or isinstance(margin, bool) or margin < 0):
            raise ValueError(f"AugmentPipe: margin is {margin!r}, expected None or an integer of 0 or more")
        self.preset = config if isinstance(config, str) else None
        self.config = PRESETS[config] if isinstance(config, str) else config
        self.margin = margin
        self.register_buffer("p", torch.tensor(float(p)))
        factors = [self._factor(name) for name in maps.TRANSFORMS]
        self.register_buffer("factors", torch.tensor(factors, dtype=torch.float64), persistent=False)
        rotations = [name.startswith("rotation_") for name in maps.TRANSFORMS]
        self.register_buffer("rotations", torch.tensor(rotations), persistent=False)
        taps = torch.tensor(_WAVELETS["sym6"], dtype=torch.float64) / math.sqrt(2)  # sums to 1
        self.register_buffer("resample_filter", taps, persistent=False)
        self.register_buffer("bands", torch.from_numpy(band_filters(_WAVELETS["sym2"])), persistent=False)

    def _factor(self, transform: str) -> float:
        name = "rotation" if transform.startswith("rotation_") else transform
        return getattr(self.config, "image_filter" if name.startswith("band_") else name)

    def _apply(self, fn, recurse=True):
        before = {name: (buffer.dtype, buffer) for name, buffer in self.named_buffers(recurse=False)}
        super()._apply(fn, recurse)
        for name, (dtype, buffer) in before.items():
            if getattr(self, name).dtype != dtype:  # p moves by steps that float16 would lose
                setattr(self, name, buffer.to(getattr(self, name).device))
        return self

    def forward(self, x: Tensor, generator: torch.Generator | None = None, keys: Tensor | None = None) -> Tensor:
        """Augment a batch.

        Args:
            x: [N, C, H, W], C 3 or 1 where there are colour transforms; float16, bfloat16, float32 or float64.
            generator: draws from it, one on the device of x; default: PyTorch's own.
            keys: [N] int64 on the device of x, see `sample_keys`: each sample's draws follow from its key alone.

        Returns: shape and dtype of x. Differentiable in x: first and second order run on kernels.
        Raises: ValueError for an argument of the wrong kind, shape, dtype or device, and for both generator and keys.
        """
        self._check(x, generator, keys)
        if x.shape[0] == 0:
            return x.clone()
        with torch.autocast(x.device.type, enabled=False):
            return self._run(x, generator, keys)

    def _check(self, x, generator, keys) -> None:
        if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
            what = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"AugmentPipe: x is {what}, expected floating point images [N, C, H, W]")
        if 0 in x.shape[1:]:
            raise ValueError(f"AugmentPipe: x has shape {list(x.shape)}, expected no empty dimension but the batch")
        if self.config.any("color") and x.shape[1] not in (1, 3):
            raise ValueError(f"AugmentPipe: x has {x.shape[1]} channels, expected 3 or 1 for the colour transforms")
        if x.device != self.p.device:
            raise ValueError(f"AugmentPipe: x is on {x.device} and the pipe on {self.p.device}; move one of them")
        if keys is None:
            return
        if generator is not None:
            raise ValueError("AugmentPipe: got a generator and keys, expected one of them")
        if not isinstance(keys, Tensor) or keys.dtype != torch.int64 or keys.shape != x.shape[:1]:
            what = f"{keys.dtype} {list(keys.shape)}" if isinstance(keys, Tensor) else type(keys).__name__
            raise ValueError(f"AugmentPipe: keys is {what}, expected torch.int64 [{x.shape[0]}]")
        if keys.device != x.device:
            raise ValueError(f"AugmentPipe: keys is on {keys.device}, expected {x.device} as x")

    def _run(self, x: Tensor, generator, keys) -> Tensor:
        config = self.config
        dtype = torch.promote_types(x.dtype, torch.float32)
        n, size = x.shape[0], (x.shape[2], x.shape[3])

        def uniform(count, stream):
            if keys is None:
                drawn = torch.rand((n, count), generator=generator, device=x.device, dtype=dtype)
                return drawn.clamp_min(2**-25)  # it can be 0, whose normal number is infinite
            return keyed_uniform(keys, count, stream, dtype)

        draws = maps.Draws(uniform(maps.DRAWS, 0), self.probabilities().to(dtype))
        if config.any("blit") or config.any("geom"):
            x = self._resample(x, *maps.affine(draws, config, size))
        if config.any("color"):
            x = recolour(x, *maps.colour(draws, config, x.shape[1]))
        if config.any("filter"):
            x = self._filter(x, *maps.band_gains(draws, config))
        if config.any("noise"):
            count = x[0].numel()
            numbers = normal(uniform(count, 1)) if keys is None else keyed_normal(keys, count, 1, dtype)
            x = (x + numbers.view(x.shape) * maps.noise_level(draws, config)[:, None, None, None]).to(x.dtype)
        if config.any("cutout"):
            x = x.masked_fill(maps.cutout_mask(draws, config, size), 0)
        return x

    def probabilities(self) -> Tensor:
        """[transforms] in the order of `_augment_maps.TRANSFORMS`: p times the factor; either rotation has
        1 - sqrt(1 - p)."""
        p = self.p.to(self.factors.dtype).clamp(0, 1) * self.factors
        return torch.where(self.rotations, 1 - (1 - p).sqrt(), p)

    def _resample(self, x: Tensor, theta: Tensor, taken: Tensor) -> Tensor:
        """x through theta, pixels to pixels counted from the centre; samples not `taken` stay as they are."""
        h, w = x.shape[2:]
        taps = self.resample_filter.to(torch.promote_types(x.dtype, torch.float32))
        room = len(taps) - 2  # samples that the downsampling filter wants around the twice larger image
        out = (2 * h + room, 2 * w + room)
        margins = self._margins(theta, taken, (h, w), out)
        if margins is None:
            return x
        padded = reflect(x, *margins)
        up = ops.upsample2d(padded, taps)
        # From pixels to coordinates of -1 to 1 over either image.
        by_x, by_y, by_1 = theta.unbind(2)  # [N, (x, y)]
        x_row, y_row = torch.stack([by_x * (out[1] / 2), by_y * (out[0] / 2), by_1 * 2], 2).unbind(1)
        theta = torch.stack([x_row / padded.shape[3], y_row / padded.shape[2]], 1)
        y = ops.affine_grid_sample2d(up, theta, out)
        y = ops.upfirdn2d(y, taps, down=2, flip_filter=True)
        return torch.where(taken[:, None, None, None], y, x)

    def _margins(self, theta, taken, size, out) -> tuple[int, int] | None:
        """Pixels beyond the image across and down that `theta` looks at; None where no sample is taken."""
        if self.margin is not None:
            return self.margin, self.margin
        most = [max(n - 1, 6) for n in (size[1], size[0])]
        if torch.compiler.is_compiling():
            return tuple(most)
        by_x, by_y, by_1 = theta.abs().unbind(2)  # [N, (x, y)]
        reach = by_x * ((out[1] - 1) / 4) + by_y * ((out[0] - 1) / 4) + by_1  # of the outermost samples
        reach = torch.where(taken[:, None], reach, -1).amax(0).tolist()  # the device is waited for here
        if max(reach) < 0:
            return None
        # Either half of the upsampling filter is under 3 pixels, to the next sample of bilinear interpolation is half.
        needs = [math.ceil(r + 3.5 - (n - 1) / 2) for r, n in zip(reach, (size[1], size[0]), strict=True)]
        return tuple(min(max(need, 0), limit) for need, limit in zip(needs, most, strict=True))

    def _filter(self, x: Tensor, gains: Tensor, taken: Tensor) -> Tensor:
        n, c, h, w = x.shape
        taps = (gains[:, :, None] * self.bands.to(gains.dtype)).sum(1)  # [N, K]
        rows = taps.to(x.dtype).repeat_interleave(c, 0)[:, None, None]  # [N * C, 1, 1, K]
        reach = self.bands.shape[1] // 2
        y = reflect(x, reach, reach).reshape(1, n * c, h + 2 * reach, w + 2 * reach)
        y = F.conv2d(F.conv2d(y, rows, groups=n * c), rows.transpose(2, 3), groups=n * c)
        return torch.where(taken[:, None, None, None], y.view(n, c, h, w), x)

    def extra_repr(self) -> str:
        margin = "" if self.margin is None else f", margin={self.margin}"
        return f"config={self.preset or self.config!r}{margin}"


def recolour(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """``matrix @ x + offset`` at each pixel: [N, C, H, W] with [N, C, C] and [N, C], in one batched product."""
    y = torch.baddbmm(offset[:, :, None], matrix, x.flatten(2).to(matrix.dtype))
    return y.view(x.shape).to(x.dtype)


def reflect(x: Tensor, across: int, down: int) -> Tensor:
    """x and its reflections about its outermost pixels, any number of times."""
    while across or down:
        steps = [min(left, x.shape[3 - axis] - 1) for axis, left in enumerate((across, down))]
        if 1 in x.shape[2:] and max(steps) == 0:  # a single pixel is its own reflection
            return F.pad(x, [across, across, down, down], mode="replicate")
        x = F.pad(x, [steps[0], steps[0], steps[1], steps[1]], mode="reflect")
        across, down = across - steps[0], down - steps[1]
    return x


def band_filters(wavelet: list[float]) -> np.ndarray:
    """[4, K]: zero-phase filters of the bands up to pi / 8, pi / 4, pi / 2 and pi, which sum to the identity.

    With L the wavelet's low-pass filter times its reverse and H = 1 - L, halves of the spectrum, these are
    L(z) L(z^2) L(z^4), L(z) L(z^2) H(z^4), L(z) H(z^2) and H(z).
    """
    taps = np.array(wavelet)
    low = np.convolve(taps, taps[::-1]) / 2
    signs = (-1.0) ** np.arange(len(taps))
    high = np.convolve(taps * signs, (taps * signs)[::-1]) / 2

    def spread(f, step):
        out = np.zeros((len(f) - 1) * step + 1)
        out[::step] = f
        return out

    filters = [high]
    below = low
    for step in (2, 4):
        filters.append(np.convolve(below, spread(high, step)))
        below = np.convolve(below, spread(low, step))
    filters.append(below)
    length = len(below)
    return np.stack([np.pad(f, (length - len(f)) // 2) for f in reversed(filters)])
