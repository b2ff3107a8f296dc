"""The transforms of AugmentPipe in NumPy, a sample and a transform at a time, and what its tests share."""

import json
import math

import numpy as np
import torch
import wavelets
from scipy import signal, stats
from scipy.spatial.transform import Rotation

from gankernels.nn import AugmentConfig, sample_keys
from gankernels.nn import _augment_maps as maps
from gankernels.nn._augment_draws import keyed_uniform

WAVELETS = {name: np.array(taps) for name, taps in json.loads(wavelets.PATH.read_text()).items()}
BLIT = ("x_flip", "rotate_90", "integer_translation")
GEOMETRY = (*BLIT, "isotropic_scale", "rotation", "anisotropic_scale", "fractional_translation")
COLOUR = ("brightness", "contrast", "luma_flip", "hue", "saturation")


def keys_of(n, step=5):
    return sample_keys(step, torch.arange(n))


def draws_of(pipe, keys):
    return maps.Draws(keyed_uniform(keys, maps.DRAWS, 0, torch.float64), pipe.probabilities())


class Slow:
    """What a sample's draws mean, read one by one."""

    def __init__(self, draws, i):
        self.draws, self.i = draws, i

    def taken(self, name):
        return bool(self.draws.takes(name)[self.i])

    def uniform(self, name):
        return self.draws.of(name)[self.i].numpy()

    def normal(self, name):
        return stats.norm.ppf(self.uniform(name))

    def forward_map(self, h, w):
        """3x3, pixels of x to pixels of the result, from the image's centre."""
        g = np.eye(3)

        def then(m):
            nonlocal g
            full = np.eye(3)
            m = np.asarray(m, dtype=float)
            full[: m.shape[0], : m.shape[1]] = m
            g = full @ g

        def shift(t):
            then([[1, 0, t[0]], [0, 1, t[1]], [0, 0, 1]])

        def turn(angle):
            then([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

        size = np.array([w, h])
        if self.taken("x_flip") and self.uniform("x_flip") < 0.5:
            then([[-1, 0], [0, 1]])
        if self.taken("rotate_90"):
            turn(math.pi / 2 * math.floor(4 * self.uniform("rotate_90")))
        if self.taken("integer_translation"):
            shift(np.round((self.uniform("integer_translation") - 0.5) * 0.25 * size))
        if self.taken("isotropic_scale"):
            then(np.eye(2) * 2 ** (0.2 * self.normal("isotropic_scale")))
        if self.taken("rotation_before"):
            turn((self.uniform("rotation_before") - 0.5) * 2 * math.pi)
        if self.taken("anisotropic_scale"):
            s = 2 ** (0.2 * self.normal("anisotropic_scale"))
            then([[s, 0], [0, 1 / s]])
        if self.taken("rotation_after"):
            turn((self.uniform("rotation_after") - 0.5) * 2 * math.pi)
        if self.taken("fractional_translation"):
            shift(self.normal("fractional_translation") * 0.125 * size)
        return g

    def colour_map(self):
        """4x4."""
        c = np.eye(4)
        grey = np.ones(3) / math.sqrt(3)
        onto = np.outer(grey, grey)

        def then(linear, offset=0.0):
            nonlocal c
            m = np.eye(4)
            m[:3, :3], m[:3, 3] = linear, offset
            c = m @ c

        if self.taken("brightness"):
            then(np.eye(3), 0.2 * self.normal("brightness"))
        if self.taken("contrast"):
            then(np.eye(3) * 2 ** (0.5 * self.normal("contrast")))
        if self.taken("luma_flip") and self.uniform("luma_flip") < 0.5:
            then(np.eye(3) - 2 * onto)
        if self.taken("hue"):
            then(Rotation.from_rotvec(grey * (self.uniform("hue") - 0.5) * 2 * math.pi).as_matrix())
        if self.taken("saturation"):
            then(onto + (np.eye(3) - onto) * 2 ** self.normal("saturation"))
        return c

    def band_gains(self):
        g, share = np.ones(4), np.array([10, 1, 1, 1]) / 13
        for band in range(4):
            t = np.ones(4)
            if self.taken(f"band_{band + 1}"):
                t[band] = 2 ** self.normal(f"band_{band + 1}")
            g *= t / math.sqrt((share * t**2).sum())
        return g


def slow_resample(image, g, pad=40):
    """[H, W] through the pixel map `g`: reflect, upsample by sym6, sample bilinearly, downsample by sym6 turned."""
    h, w = image.shape
    taps = WAVELETS["sym6"]
    padded = np.pad(image, pad, mode="reflect")
    sparse = np.zeros((2 * padded.shape[0], 2 * padded.shape[1]))
    sparse[::2, ::2] = padded
    # The filter's 12 taps lie around half a sample after the sample that they spread.
    up = signal.convolve2d(sparse, np.outer(taps, taps), mode="full")[5 : 5 + sparse.shape[0], 5 : 5 + sparse.shape[1]]
    ys, xs = np.arange(-5, 2 * h + 5), np.arange(-5, 2 * w + 5)
    back = np.linalg.inv(g)
    x, y = np.meshgrid((xs - (w - 0.5)) / 2, (ys - (h - 0.5)) / 2)  # pixels from the centre
    source = back @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    column, row = 2 * source[0] + w - 0.5 + 2 * pad, 2 * source[1] + h - 0.5 + 2 * pad
    i, j = np.floor(row).astype(int), np.floor(column).astype(int)
    a, b = row - i, column - j
    moved = (1 - a) * ((1 - b) * up[i, j] + b * up[i, j + 1]) + a * ((1 - b) * up[i + 1, j] + b * up[i + 1, j + 1])
    return signal.convolve2d(moved.reshape(x.shape), np.outer(taps[::-1], taps[::-1]), mode="valid")[::2, ::2]


def slow_filter(image, gains):
    """[H, W], its endless reflection filtered by the bands' responses."""
    for axis in (0, 1):
        n = image.shape[axis]
        endless = np.concatenate([image, np.flip(image.take(range(1, n - 1), axis), axis)], axis)
        omega = 2 * np.pi * np.fft.fftfreq(endless.shape[axis])

        def low(w):
            taps = WAVELETS["sym2"]
            return np.abs(np.exp(-1j * np.outer(w, np.arange(len(taps)))) @ taps) ** 2 / 2

        l1, l2, l4 = low(omega), low(2 * omega), low(4 * omega)
        bands = [l1 * l2 * l4, l1 * l2 * (1 - l4), l1 * (1 - l2), 1 - l1]
        response = sum(g * band for g, band in zip(gains, bands, strict=True))
        shape = [-1, 1] if axis == 0 else [1, -1]
        image = np.fft.ifft(np.fft.fft(endless, axis=axis) * response.reshape(shape), axis=axis).real.take(
            range(n), axis
        )
    return image


def config(*names):
    return AugmentConfig(**dict.fromkeys(names, 1.0))
