"""modulated_conv2d: a convolution whose weight a style scales, for each sample its own; that weight is never written.

Scaling the weight's input channels is scaling the image's, and normalising its output channels is scaling the
result's. So what runs is one convolution with the common weight between two passes that scale.

On `triton` the first pass is the convolution's load and, where no filter comes between, the second its store, as they
are in the gradients of x and weight; the gradient of styles is a pass of its own. On `cuda` the passes are kernels of
ours and the convolution is cuDNN's under our derivatives, as conv2d's, which has been run on CPU tensors alone.
"""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, modulated_conv2d_op
from gankernels.ops.bias_act import resolve
from gankernels.ops.conv2d import reference as convolve
from gankernels.ops.conv2d import reference_transpose
from gankernels.ops.conv2d_resample import compose as resampled
from gankernels.ops.conv2d_resample import geometry, joins, operands
from gankernels.ops.modulate_act import channels, over, shift, small, sums_dtype, weight_power
from gankernels.ops.modulate_act import reference as modulate
from gankernels.ops.upfirdn2d import Pair

_EPS = 1e-8


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    noise: Tensor | None = None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    prenormalize: bool = False,
    input_gain: Tensor | float | None = None,
) -> Tensor:
    """Convolve sample n with ``w[n]``, resampled as in `conv2d_resample`, and add noise.

    ``w[n, o, i] = weight[o, i] * styles[n, i]``; demodulated, ``w[n, o] *= rsqrt(sum(w[n, o] ** 2) + 1e-8)``. No weight
    of a sample is ever written, in any derivative.

    Args:
        x: [N, I, H, W]; float16, bfloat16, float32 or float64; N may be 0.
        weight: [O, I, kh, kw], dtype and device of x.
        styles: [N, I].
        noise: added to the result; anything that broadcasts to [N, 1, H', W'] of it.
        up, down, padding: as in `conv2d_resample`.
        resample_filter: its f, used where up or down is over 1.
        demodulate: normalise each filter of each sample to length 1. In float16 weight and styles are scaled to
            magnitudes of 1 on the way, so that nothing overflows; the result is the same.
        flip_weight: True is a correlation, False a true convolution.
        prenormalize: StyleGAN3's form. Before all else ``weight *= rsqrt(mean(weight ** 2))`` for each output channel
            and ``styles *= rsqrt(mean(styles ** 2))`` over the whole batch, so that samples depend on each other.
        input_gain: multiplies w last: a number, a scalar tensor, [I] or [N, I].

    styles, noise and input_gain have the dtype of x, or float32 where x has 16 bits.

    Returns: [N, O, H', W'] as `conv2d_resample`, dtype of x. Differentiable in x, weight, styles, noise,
        resample_filter and input_gain: first and second order run on kernels, the third raises (backend "reference"
        has it); a gradient that is not asked for is not computed. Under autocast x and weight are cast to its dtype.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, and for an empty result.

    Karras et al. 2020, arXiv 1912.04958; Karras et al. 2021, arXiv 2106.12423.
    """
    return _checked(
        "modulated_conv2d", x, weight, styles, None, noise, up, down, padding, resample_filter, demodulate, flip_weight,
        prenormalize, input_gain, ("linear", 0.0, 1.0, -1.0),
    )  # fmt: skip


def modulated_conv2d_act(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    prenormalize: bool = False,
    input_gain: Tensor | float | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """``bias_act(modulated_conv2d(...), bias)``; demodulation, noise, bias, activation, gain and clamp are one pass.

    Args:
        x, weight, styles, noise, up, down, padding, resample_filter, demodulate, flip_weight, prenormalize,
            input_gain: as in `modulated_conv2d`.
        bias: [O], dtype of x, or float32 where x has 16 bits; None for none.
        act, alpha, gain, clamp: as in `bias_act`, defaults included.

    Returns: as `modulated_conv2d`. Differentiable in bias too, to the same orders.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, and for an empty result.

    A layer of StyleGAN2's generator (Karras et al. 2020, arXiv 1912.04958).
    """
    return _checked(
        "modulated_conv2d_act", x, weight, styles, bias, noise, up, down, padding, resample_filter, demodulate,
        flip_weight, prenormalize, input_gain, (act, *resolve("modulated_conv2d_act", act, alpha, gain, clamp)),
    )  # fmt: skip


def _checked(
    op, x, weight, styles, bias, noise, up, down, padding, f, demodulate, flip_weight, prenormalize, input_gain, numbers
) -> Tensor:
    x, weight, f = operands(op, x, weight, f, 1, "weight")
    n, i = x.shape[:2]
    o = weight.shape[0]
    styles = channels(op, "styles", styles, x, (n, i), "[N, I] of x")
    up, down, pads, size = geometry(op, x, weight, f, up, down, padding)
    bias, noise = shift(op, bias, noise, x, (n, o, *size))
    input_gain = _input_gain(op, input_gain, x)
    run = _backend.pick(op, x)
    autocast = _check.autocast_dtype(x) is not None
    with torch.autocast(x.device.type, enabled=False) if autocast else contextlib.nullcontext():
        weight, scale_in, scale_out = scales(weight, styles, demodulate, prenormalize, input_gain)
    return run(x, weight, scale_in, scale_out, noise, bias, f, up, down, pads, bool(flip_weight), *numbers)


def _input_gain(op: str, gain: Tensor | float | None, x: Tensor) -> Tensor | float | None:
    n, i = x.shape[:2]
    if not isinstance(gain, Tensor):
        return None if gain is None else _check.finite(op, "input_gain", gain)
    small(op, "input_gain", gain, x)
    if tuple(gain.shape) not in ((), (i,), (n, i)):
        raise ValueError(
            f"{op}: input_gain has shape {list(gain.shape)}, expected a number, [{i}] or [{n}, {i}]: [I] or [N, I]"
        )
    return gain.to(sums_dtype(x))


def scales(weight: Tensor, styles: Tensor, demodulate: bool, prenormalize: bool, input_gain):
    """(weight, factors of the input's channels [N, I], factors of the result's [N, O] or None), as sums_dtype.

    Every normalisation is a matter of [O, I] sums of squares: the weight itself is read once and, outside float16, not
    rewritten.
    """
    scale_out = None
    if demodulate or prenormalize:
        power = weight_power(weight)
    if prenormalize:
        norm = (power.sum(1, keepdim=True) / weight[0].numel()).rsqrt()  # [O, 1]
        power = power * norm.square()
        styles = styles * styles.square().mean().rsqrt()
        scale_out = norm.squeeze(1).expand(styles.shape[0], -1)
    if demodulate:
        length = (styles.square() @ power.t() + _EPS).rsqrt()
        scale_out = length if scale_out is None else scale_out * length
    if input_gain is not None:
        styles = styles * input_gain
    if demodulate and weight.dtype == torch.float16:
        # What is divided out here comes back in scale_out: the result does not depend on it, nor does any derivative.
        # Powers of two change no digit.
        room = _power_of_two(weight.detach().abs().amax([1, 2, 3]).float() * math.sqrt(weight[0].numel()))
        largest = _power_of_two(styles.detach().abs().amax(1, keepdim=True))
        weight = weight / room.to(weight.dtype)[:, None, None, None]
        styles, scale_out = styles / largest, scale_out * (largest * room)
    return weight, styles, scale_out


def _power_of_two(t: Tensor) -> Tensor:
    """The next power of two, at least the smallest normal number of float16."""
    return torch.exp2(torch.log2(t.clamp_min(2.0**-14)).ceil())


def compose(
    x, weight, scale_in, scale_out, noise, bias, f, up, down, pads, flip_weight, act, alpha, gain, clamp
) -> Tensor:
    """The three steps by the kernels of the operators they are; a backend may have one kernel for all."""
    x = _backend.pick("modulate_act", x)(x, scale_in, None, None, "linear", 0.0, 1.0, -1.0)
    only_scaled = max(down) == 1 and _finishes_nothing(None, noise, bias, act, gain, clamp)
    trained = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, f, scale_out))
    if only_scaled and not trained and x.dtype == torch.float32 and joins(x, weight, f, up, 1):
        return resampled(x, weight, f, up, down, pads, 1, flip_weight, False, scale=scale_out)
    y = resampled(x, weight, f, up, down, pads, 1, flip_weight, False)
    if _finishes_nothing(scale_out, noise, bias, act, gain, clamp):
        return y
    return over(y, scale_out, noise, bias, act, alpha, gain, clamp)


def _finishes_nothing(scale_out, noise, bias, act, gain, clamp) -> bool:
    return scale_out is None and noise is None and bias is None and act == "linear" and gain == 1 and clamp < 0


def fused(
    x, weight, scale_in, scale_out, noise, bias, f, up, down, pads, flip_weight, act, alpha, gain, clamp
) -> Tensor:
    """As `compose`, the modulation in Triton's convolution's load; what follows in its store, or after the filter."""
    numbers = act, alpha, gain, clamp
    whole = max(up) == 1 and not _finishes_nothing(scale_out, noise, bias, act, gain, clamp)

    def convolution(x, w, stride, padding, groups, size, transposed):
        if not whole:
            return modulated_conv2d_op.scaled_conv2d(x, w, scale_in, False, transposed, stride, padding, size)
        leaves = (x, w, scale_in, scale_out, noise, bias)
        trained = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in leaves)
        keep = trained and (act != "linear" or clamp >= 0 or (scale_out is not None and scale_out.requires_grad))
        return modulated_conv2d_op.modulated_conv2d(
            x, w, scale_in, scale_out, noise, bias, stride, padding, size, *numbers, keep
        )[0]

    y = resampled(x, weight, f, up, down, pads, 1, flip_weight, False, convolution)
    if whole or _finishes_nothing(scale_out, noise, bias, act, gain, clamp):
        return y
    return over(y, scale_out, noise, bias, *numbers)


def _plain_scaled(x, weight, scale, of_result, transposed, stride, padding, size) -> Tensor:
    scale = scale.to(x.dtype)[:, :, None, None]
    convolution = reference_transpose if transposed else convolve
    y = convolution(x if of_result else x * scale, weight, None, stride, padding, [1, 1], 1, size)
    return y * scale if of_result else y


def _plain_modulated(x, weight, scale, scale_out, noise, bias, stride, padding, size, act, alpha, gain, clamp, keep):
    bare = _plain_scaled(x, weight, scale, False, False, stride, padding, size)
    return modulate(bare, scale_out, noise, bias, act, alpha, gain, clamp), bare if keep else bare.new_empty(0)


_backend.register_plain("scaled_conv2d", _plain_scaled)
_backend.register_plain("modulated_conv2d", _plain_modulated)
for _name in ("modulated_conv2d", "modulated_conv2d_act"):
    _backend.register_compound(_name, compose, "conv2d_resample", "modulate_act", triton=fused)
