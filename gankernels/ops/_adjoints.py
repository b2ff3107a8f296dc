"""Adjoints of the operators that are no operator of `gankernels.ops` themselves, as ordinary differentiable code.

A convolution's adjoint is the other convolution, upfirdn2d's is upfirdn2d; those of the activations and of batch
normalisation are here: each a kernel with its own registered derivative (backend "reference": plain PyTorch). With
them a gradient is written out as forward code, which torch.compile differentiates as any other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from gankernels import _backend
from gankernels.ops import _check, _norm
from gankernels.ops.batch_norm_act import functional
from gankernels.ops.batch_norm_act import reference as _batch_norm
from gankernels.ops.bias_act import ACTIVATIONS, _output_suffices, resolve
from gankernels.ops.conditional_batch_norm import reference as _conditional
from gankernels.ops.instance_norm_act import plain_with_statistics
from gankernels.ops.maxout import _with_index
from gankernels.ops.minibatch_stddev import EPS as STDDEV_EPS
from gankernels.ops.minibatch_stddev import _group
from gankernels.ops.spade_norm import reference as _spade

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def bias_act_adjoint(
    g: Tensor, x: Tensor, y: Tensor, bias: Tensor | None, *, dim: int, act: str, alpha, gain, clamp=None
) -> Tensor:
    """``g * slope of bias_act at x``, both adjoint and tangent (its Jacobian is diagonal); y is bias_act's result."""
    alpha, gain, clamp = resolve("bias_act", act, alpha, gain, clamp)
    if bias is not None and bias.dtype != x.dtype and _check.autocast_dtype(x) is not None:
        bias = bias.to(x.dtype)  # as bias_act does
    return _backend.pick("bias_act_adjoint", x)(g, x, y, bias, dim % x.ndim, act, alpha, gain, clamp)


_aten = torch.ops.aten
_TIMES_SLOPE = {
    "linear": lambda g, u, alpha: g,
    "relu": lambda g, u, alpha: _aten.threshold_backward(g, u, 0),
    "lrelu": lambda g, u, alpha: _aten.leaky_relu_backward(g, u, alpha, False),
    "tanh": lambda g, u, alpha: _aten.tanh_backward(g, u.tanh()),
    "sigmoid": lambda g, u, alpha: _aten.sigmoid_backward(g, u.sigmoid()),
    "elu": lambda g, u, alpha: _aten.elu_backward(g, 1.0, 1, 1, False, u),
    "selu": lambda g, u, alpha: _aten.elu_backward(g, _SELU_ALPHA, _SELU_SCALE, 1, False, u),
    "softplus": lambda g, u, alpha: _aten.softplus_backward(g, u, 1, 20),
    "swish": lambda g, u, alpha: g * u.sigmoid() * (1 + u * (1 - u.sigmoid())),  # silu_backward has no derivative
}
"""g times an activation's slope at u: PyTorch's own, which has PyTorch's own derivative, kinks included."""


def _bias_act_reference(g, x, y, bias, dim, act, alpha, gain, clamp):
    u = x if bias is None else x + bias.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    if clamp >= 0:
        g = torch.where((ACTIVATIONS[act][0](u, alpha) * gain).abs() <= clamp, g, 0)
    return _TIMES_SLOPE[act](g * gain, u, alpha)


def _bias_act_kernel(namespace):
    def run(g, x, y, bias, dim, act, alpha, gain, clamp):
        from_output = _output_suffices(act, alpha, gain, clamp)
        if from_output:
            ref, bias = y, None
        elif act == "linear" and clamp < 0:
            ref, bias = None, None
        else:
            ref = x
        op = getattr(torch.ops, namespace).bias_act_derivative
        return op(g, None, None, ref, bias, from_output, 1, dim, act, alpha, gain, clamp, True, False)[0]

    return run


def batch_norm_act_saved(*args) -> tuple[Tensor, Tensor, Tensor]:
    """The value of a normalisation with running statistics, the mean and 1 / standard deviation: (y, [C], [C]).

    The arguments are what the operator's own module has checked. Kernels count the last two as functions of x in the
    adjoint's derivative: they are for `batch_norm_act_adjoint` alone.
    """
    return _backend.pick("batch_norm_act_saved", args[0])(*args)


def instance_norm_act_saved(*args) -> tuple[Tensor, Tensor, Tensor]:
    """The same of `instance_norm_act`: (y, [N, C], [N, C])."""
    return _backend.pick("instance_norm_act_saved", args[0])(*args)


def batch_norm_act_adjoint(
    g: Tensor, x: Tensor, weight, bias, mean: Tensor, invstd: Tensor, *, training: bool, act: str, alpha, gain: float
) -> Tensor:
    """The gradient of a normalisation in x from that of its result.

    mean and invstd: [C], or [N, C] where a sample has its own. weight and bias: [C] or [N, C], or of the shape of x:
    weight is then added to 1. Without activation, and with one weight for all that share a mean, it is the tangent too.
    """
    alpha, gain, _ = resolve("batch_norm_act", act, alpha, gain, None)
    return _backend.pick("batch_norm_act_adjoint", x)(g, x, weight, bias, mean, invstd, training, act, alpha, gain)


def _saved_reference(x, weight, bias, running_mean, running_var, training, momentum, eps, act, alpha, gain):
    wide = _norm.wide(x)
    if training:
        dims = [d for d in range(x.ndim) if d != 1]
        mean, var = wide.mean(dims), wide.var(dims, correction=0)
    else:
        mean, var = running_mean.to(wide.dtype), running_var.to(wide.dtype)
    plain = {1: _batch_norm, 2: _conditional}.get(1 if weight is None else weight.ndim, _spade)
    y = plain(x, weight, bias, running_mean, running_var, training, momentum, eps, act, alpha, gain)
    return y, mean, (var + eps).rsqrt()


def _batch_norm_reference(g, x, weight, bias, mean, invstd, training, act, alpha, gain):
    normal = (_norm.wide(x) - _norm.beside(x, mean)) * _norm.beside(x, invstd)
    factor = 1 + _norm.wide(weight) if weight is not None and weight.ndim > 2 else _norm.beside(x, weight)
    u = normal if factor is None else normal * factor
    u = u if bias is None else u + _norm.beside(x, bias)
    g = _TIMES_SLOPE[act](g.to(mean.dtype) * gain, u, alpha)
    g = g if factor is None else g * factor
    if training:
        dims = [d for d in range(mean.ndim if mean.ndim == 2 else 0, x.ndim) if d != 1]
        g = g - g.mean(dims, keepdim=True) - normal * (g * normal).mean(dims, keepdim=True)
    return (g * _norm.beside(x, invstd)).to(x.dtype)


def _saved_kernel(namespace):
    return functional(lambda *args: getattr(torch.ops, namespace).batch_norm_act(*args))


def _instance_kernel(namespace):
    return lambda *args: getattr(torch.ops, namespace).instance_norm_act(*args)


def _batch_norm_kernel(namespace):
    def run(g, x, weight, bias, mean, invstd, training, act, alpha, gain):
        op = getattr(torch.ops, namespace).batch_norm_act_backward
        return op(g, x, weight, bias, mean, invstd, training, act, alpha, gain, [True, False, False])[0]

    return run


def pixel_norm_adjoint(g: Tensor, x: Tensor, dim: int, eps: float) -> Tensor:
    """The gradient of `pixel_norm` in x from that of its result, and the tangent: its Jacobian is symmetric."""
    return _backend.pick("pixel_norm_adjoint", x)(g, x, dim % x.ndim, eps)


def _pixel_norm_reference(g, x, dim, eps):
    wide, g = x.to(torch.promote_types(x.dtype, torch.float32)), g.to(torch.promote_types(x.dtype, torch.float32))
    inverse = (wide.square().mean(dim, keepdim=True) + eps).rsqrt()
    return ((g - wide * inverse.square() * (g * wide).mean(dim, keepdim=True)) * inverse).to(x.dtype)


def _pixel_norm_kernel(namespace):
    return lambda *args: getattr(torch.ops, namespace).pixel_norm_backward(*args)


def minibatch_stddev_adjoint(g: Tensor, x: Tensor, group_size: int | None, num_channels: int) -> Tensor:
    """The gradient of `minibatch_stddev` in x from that of its result."""
    return _backend.pick("minibatch_stddev_adjoint", x)(g, x, group_size or 0, num_channels)


def minibatch_stddev_tangent(t: Tensor, x: Tensor, group_size: int | None, num_channels: int) -> Tensor:
    """The derivative of `minibatch_stddev` along `t`; plain PyTorch on every backend."""
    n, _, h, w = x.shape
    centred, deviation, group = _deviations(x, group_size or 0, num_channels)
    change = t.to(centred.dtype).reshape(centred.shape)
    planes = ((centred * change).mean(0) / deviation).mean((2, 3, 4)).to(x.dtype).repeat(group, 1)
    return torch.cat([t, planes[:, :, None, None].expand(n, num_channels, h, w)], 1)


def _deviations(x, size, channels):
    """x less its groups' means as [G, N / G, F, C / F, H, W], the deviations, and G."""
    n, c, h, w = x.shape
    group = _group(n, size)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    parts = wide.reshape(group, n // group, channels, c // channels, h, w)
    centred = parts - parts.mean(0)
    return centred, (centred.square().mean(0) + STDDEV_EPS).sqrt(), group


def _minibatch_stddev_reference(g, x, size, channels):
    centred, deviation, group = _deviations(x, size, channels)
    planes = g[:, x.shape[1] :].to(centred.dtype).sum((2, 3)).reshape(group, -1, channels).sum(0)
    count = x[0].numel() // channels * group if len(x) else 1
    share = planes[:, :, None, None, None] / (deviation * count)
    return g[:, : x.shape[1]] + (centred * share).reshape(x.shape).to(x.dtype)


def _minibatch_stddev_kernel(namespace):
    return lambda *args: getattr(torch.ops, namespace).minibatch_stddev_backward(*args)


def maxout_with_index(x: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    """`maxout` along dimension 1, and which piece was taken."""
    return _backend.pick("maxout_with_index", x)(x, pieces, 1)


def maxout_adjoint(g: Tensor, index: Tensor, pieces: int) -> Tensor:
    """The gradient of `maxout` in x from that of its result."""
    return _backend.pick("maxout_adjoint", g)(g, index, pieces, 1)


def maxout_tangent(t: Tensor, index: Tensor, pieces: int) -> Tensor:
    """The derivative of `maxout` along `t`."""
    return _backend.pick("maxout_tangent", t)(t, index, pieces, 1)


def _maxout_scatter(g, index, pieces, dim):
    shape = (*g.shape[: dim + 1], pieces, *g.shape[dim + 1 :])
    at = index.long().unsqueeze(dim + 1)
    return g.new_zeros(shape).scatter(dim + 1, at, g.unsqueeze(dim + 1)).flatten(dim, dim + 1)


def _maxout_gather(t, index, pieces, dim):
    at = index.long().unsqueeze(dim + 1)
    return t.unflatten(dim, (-1, pieces)).gather(dim + 1, at).squeeze(dim + 1)


def _maxout_kernel(name, *more):
    return lambda namespace: lambda *args: getattr(getattr(torch.ops, namespace), name)(*args, *more)


def pixel_shuffle_act_adjoint(
    g: Tensor, x: Tensor, y: Tensor, r: int, bias: Tensor | None, *, act: str, alpha, gain, clamp
) -> Tensor:
    """The gradient of `pixel_shuffle_act` in x from that of its result, y."""
    numbers = resolve("pixel_shuffle_act", act, alpha, gain, clamp)
    bias = None if bias is None else _check.cast(x, bias)
    return _backend.pick("pixel_shuffle_act_adjoint", x)(g, x, y, r, bias, act, *numbers)


def _pixel_shuffle_reference(g, x, y, r, bias, act, alpha, gain, clamp):
    return _bias_act_reference(pixel_unshuffle(g, r), x, None, bias, 1, act, alpha, gain, clamp)


def _pixel_shuffle_kernel(namespace):
    def run(g, x, y, r, bias, act, alpha, gain, clamp):
        from_output = act in ("relu", "lrelu") and _output_suffices(act, alpha, gain, clamp)
        if from_output:
            ref, bias = y, None
        elif act == "linear" and clamp < 0:
            ref, bias = None, None
        else:
            ref = x
        op = getattr(torch.ops, namespace).pixel_shuffle_act_backward
        return op(g, ref, bias, from_output, r, act, alpha, gain, clamp, [True, False])[0]

    return run


def _of(op: str, make) -> dict:
    """A kernel for each compiled backend that `op` has."""
    names = [name for name in _backend.operators()[op] if name != "reference"]
    return {name: make("gankernels" if name == "triton" else "gankernels_native") for name in names}


_backend.register("bias_act_adjoint", reference=_bias_act_reference, **_of("bias_act", _bias_act_kernel))
_backend.register("batch_norm_act_saved", reference=_saved_reference, **_of("batch_norm_act", _saved_kernel))
_backend.register(
    "instance_norm_act_saved", reference=plain_with_statistics, **_of("instance_norm_act", _instance_kernel)
)
_backend.register(
    "batch_norm_act_adjoint", reference=_batch_norm_reference, **_of("batch_norm_act", _batch_norm_kernel)
)
_backend.register("pixel_norm_adjoint", reference=_pixel_norm_reference, **_of("pixel_norm", _pixel_norm_kernel))
_backend.register(
    "minibatch_stddev_adjoint",
    reference=_minibatch_stddev_reference,
    **_of("minibatch_stddev", _minibatch_stddev_kernel),
)
_backend.register("maxout_with_index", reference=_with_index, **_of("maxout", _maxout_kernel("maxout", True)))
_backend.register("maxout_adjoint", reference=_maxout_scatter, **_of("maxout", _maxout_kernel("maxout_scatter")))
_backend.register("maxout_tangent", reference=_maxout_gather, **_of("maxout", _maxout_kernel("maxout_gather")))
_backend.register(
    "pixel_shuffle_act_adjoint",
    reference=_pixel_shuffle_reference,
    **_of("pixel_shuffle_act", _pixel_shuffle_kernel),
)
