"""Low-pass filters by the window method, in float64: Kaiser windows around a sinc, or around a jinc for a disc."""

import math

import torch
from torch import Tensor


def kaiser_beta(taps: int, width: float) -> float:
    """Shape of the Kaiser window that gives `taps` taps a transition band of `width`, a share of the Nyquist rate.

    Kaiser's formulas: attenuation ``2.285 (taps - 1) pi width + 7.95`` dB, then beta from it.
    """
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


def lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor | None:
    """A filter of unit sum for images of `rate` samples a unit, float32: [taps], separable, or radial [taps, taps].

    Args:
        taps: 1 gives None, the identity; a radial filter has an even number.
        cutoff: frequency where the response is a half; `width`: of the transition band around it.
    """
    if taps == 1:
        return None
    window = torch.kaiser_window(taps, periodic=False, beta=kaiser_beta(taps, width / (rate / 2)), dtype=torch.float64)
    x = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / rate
    if radial:
        r = torch.hypot(*torch.meshgrid(x, x, indexing="ij"))
        f = torch.special.bessel_j1(2 * math.pi * cutoff * r) / (math.pi * r) * torch.outer(window, window)
    else:
        f = torch.sinc(2 * cutoff * x) * window
    return (f / f.sum()).float()
