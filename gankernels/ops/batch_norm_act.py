"""batch_norm_act: batch normalisation and an activation in one pass over what the statistics have read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check
from gankernels.ops.bias_act import ACTIVATIONS, resolve, resolved

_plain = _backend.plain_call("batch_norm_act")


def batch_norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | None = None,
    gain: float = 1.0,
) -> Tensor:
    """``gain * act(weight * (x - mean) / sqrt(var + eps) + bias)``, a mean and variance for each channel.

    Args:
        x: [N, C, H, W] (or [N, C, ...]); float16, bfloat16, float32 or float64.
        weight, bias: [C], or None for 1 and 0.
        running_mean, running_var: [C], or both None. Given while training, both move towards the batch's mean and
            unbiased variance by `momentum`, in place.
        training: normalise with the batch's mean and biased variance; else with the running ones.
        momentum: share of the new in the running statistics.
        eps: added to the variance, over 0.
        act, alpha: as in `bias_act`.
        gain: factor after the activation.

    The four [C] tensors have one dtype: that of x, or float32 where x has 16 bits.

    Returns: shape and dtype of x; channels_last stays channels_last, other layouts become contiguous.
        Differentiable in x, weight and bias: first and second order run on kernels, the third raises (backend
        "reference" has it). Sums are float32 or better; under autocast x keeps its dtype. An empty batch changes no
        statistics.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, or one value a channel in training.

    Ioffe and Szegedy 2015, arXiv 1502.03167.
    """
    if _backend.plain_calls() and type(act) is str:
        alpha_, gain_, _ = resolved("batch_norm_act", act, alpha, 1.0 if gain is None else gain, None)
        y = _plain(x, weight, bias, running_mean, running_var, training, momentum, eps, act, alpha_, gain_)
        if y is not NotImplemented:
            return y
    options = {"training": training, "momentum": momentum, "eps": eps, "act": act, "alpha": alpha, "gain": gain}
    args = checked(x, weight, bias, running_mean, running_var, **options)
    return _backend.pick("batch_norm_act", x)(*args)


def checked(x, weight, bias, running_mean, running_var, *, training, momentum, eps, act, alpha, gain) -> tuple:
    """The arguments of `batch_norm_act`, checked, as the backends take them."""
    _check.floating("batch_norm_act", "x", x)
    if x.ndim < 2:
        raise ValueError(f"batch_norm_act: x has shape {list(x.shape)}, expected [N, C, ...]")
    _check.channels("batch_norm_act", "x", x)
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm_act: of running_mean and running_var one is None, expected both or neither")
    if not training and running_mean is None:
        raise ValueError("batch_norm_act: running_mean is None, expected a tensor [C] where training is False")
    given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    _check_channels(x, {k: t for k, t in given.items() if t is not None})
    if training and x.numel() == x.shape[1]:
        raise ValueError(
            f"batch_norm_act: x has shape {list(x.shape)}, expected more than 1 value per channel when training"
        )
    momentum = _check.finite("batch_norm_act", "momentum", momentum)
    eps = _check.finite("batch_norm_act", "eps", eps)
    if eps <= 0:
        raise ValueError(f"batch_norm_act: eps is {eps}, expected more than 0")
    alpha, gain, _ = resolve("batch_norm_act", act, alpha, 1.0 if gain is None else gain, None)
    return x, weight, bias, running_mean, running_var, bool(training), momentum, eps, act, alpha, gain


def _check_channels(x: Tensor, given: dict[str, Tensor]) -> None:
    kinds = {x.dtype, torch.float32} if x.element_size() == 2 else {x.dtype}
    first = ""
    for name, t in given.items():
        _check.tensor("batch_norm_act", name, t)
        if tuple(t.shape) != (x.shape[1],):
            raise ValueError(f"batch_norm_act: {name} has shape {list(t.shape)}, expected [{x.shape[1]}] (x.shape[1])")
        if t.device != x.device:
            raise ValueError(f"batch_norm_act: {name} is on {t.device}, expected {x.device} as x; move one of them")
        if t.dtype not in kinds:
            raise ValueError(
                f"batch_norm_act: {name} has dtype {t.dtype}, expected {' or '.join(sorted(map(str, kinds)))}; "
                "convert it"
            )
        first = first or name
        if t.dtype != given[first].dtype:
            raise ValueError(
                f"batch_norm_act: {name} has dtype {t.dtype}, expected {given[first].dtype} as {first}; convert one"
            )
        if name.startswith("running") and t.requires_grad:
            raise ValueError(f"batch_norm_act: {name} requires grad, expected a buffer; it has no derivative")


def reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    act: str,
    alpha: float,
    gain: float,
) -> Tensor:
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    y = ACTIVATIONS[act][0](y, alpha)
    return y if gain == 1 else y * gain


def functional(kernel):
    """(y, mean, invstd) from a kernel that returns these and the unbiased variance, and changes nothing.

    The running statistics move here, by ordinary in-place PyTorch: what torch.compile, opcheck and vmap know about.
    """

    def run(x, weight, bias, running_mean, running_var, training, momentum, eps, act, alpha, gain):
        y, mean, invstd, var = kernel(x, weight, bias, running_mean, running_var, training, eps, act, alpha, gain)
        if training and running_mean is not None and x.numel():
            # detach, not no_grad: a program exported with such a block cannot be loaded again
            running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
            running_var.lerp_(var.detach().to(running_var.dtype), momentum)
        return y, mean, invstd

    return run


def _functional(kernel):
    run = functional(kernel)
    return lambda *args: run(*args)[0]


def _triton(*args):
    return torch.ops.gankernels.batch_norm_act(*args)


def _plain_with_statistics(x, weight, bias, running_mean, running_var, training, eps, act, alpha, gain):
    """The dispatcher's operator: it gives the statistics, and whoever called it moves the running ones."""
    running = (None, None) if training else (running_mean, running_var)
    y = reference(x, weight, bias, *running, training, 0.0, eps, act, alpha, gain)
    if not training:
        mean, var = (t.to(_sums_dtype(x)) for t in running)
        return y, mean, (var + eps).rsqrt(), var
    dims = [d for d in range(x.ndim) if d != 1]
    x = x.to(_sums_dtype(x))
    biased, mean = torch.var_mean(x, dims, correction=0)
    return y, mean, (biased + eps).rsqrt(), x.var(dims)


_backend.register_plain("batch_norm_act", _plain_with_statistics)
_backend.register(
    "batch_norm_act",
    reference=reference,
    cpu=_functional(_backend.native("batch_norm_act")),
    cuda=_functional(_backend.native("batch_norm_act")),
    triton=_functional(_triton),
)


def _fake(x, weight, bias, running_mean, running_var, training, eps, act, alpha, gain):
    per_channel = x.new_empty(x.shape[1], dtype=_sums_dtype(x))
    y = torch.empty_like(x, memory_format=_check.kept_format(x))
    return y, per_channel, torch.empty_like(per_channel), torch.empty_like(per_channel)


def _fake_backward(gy, x, weight, bias, mean, invstd, training, act, alpha, gain, wanted):
    return _fake_whole(x, wanted[0]), *_fake_parameters(x, weight, bias, wanted[1:])


def _fake_double_backward(v, p, q, gy, x, weight, bias, mean, invstd, training, act, alpha, gain, wanted):
    return _fake_whole(x, wanted[0]), _fake_whole(x, wanted[1]), *_fake_parameters(x, weight, bias, wanted[2:])


def _sums_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake_whole(x, wanted):
    return torch.empty_like(x, memory_format=_check.kept_format(x)) if wanted else x.new_empty(0)


def _fake_parameters(x, weight, bias, wanted):
    dtypes = [_sums_dtype(x) if t is None else t.dtype for t in (weight, bias)]
    return [x.new_empty(x.shape[1] if w else 0, dtype=d) for w, d in zip(wanted, dtypes, strict=True)]


def _by_channels(op):
    """A vmap rule: the mapped dimension becomes more channels, of which each is normalised by itself."""

    def rule(info, in_dims, *args):
        b = info.batch_size

        def fold(t, dim):
            if not isinstance(t, Tensor):
                return t
            t = t.expand(b, *t.shape) if dim is None else t.movedim(dim, 0)
            return t.flatten(0, 1) if t.ndim == 2 else t.movedim(0, 1).flatten(1, 2)

        outs = op(*(fold(t, dim) for t, dim in zip(args, in_dims, strict=True)))
        back = [o.reshape(b, o.numel() // b) if o.ndim == 1 else o.unflatten(1, (b, -1)) for o in outs]
        return tuple(back), tuple(min(o.ndim - 1, 1) for o in outs)

    return rule


_SETTINGS = "str act, float alpha, float gain"
_PARAMETERS = "Tensor? weight, Tensor? bias"
torch.library.define(
    "gankernels::batch_norm_act",
    f"(Tensor x, {_PARAMETERS}, Tensor? running_mean, Tensor? running_var, bool training, float eps, {_SETTINGS}) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "gankernels::batch_norm_act_backward",
    f"(Tensor gy, Tensor x, {_PARAMETERS}, Tensor mean, Tensor invstd, bool training, {_SETTINGS}, bool[3] wanted) "
    "-> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "gankernels::batch_norm_act_double_backward",
    f"(Tensor? v, Tensor? p, Tensor? q, Tensor gy, Tensor x, {_PARAMETERS}, Tensor mean, Tensor invstd, "
    f"bool training, {_SETTINGS}, bool[4] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("gankernels::batch_norm_act", "CompositeExplicitAutograd")
def _run(*args):
    from gankernels.triton import batch_norm_act as kernels

    return kernels.forward(*args)


@torch.library.impl("gankernels::batch_norm_act_backward", "CompositeExplicitAutograd")
def _run_backward(*args):
    from gankernels.triton import batch_norm_act as kernels

    return kernels.backward(*args)


@torch.library.impl("gankernels::batch_norm_act_double_backward", "CompositeExplicitAutograd")
def _run_double_backward(*args):
    from gankernels.triton import batch_norm_act_second as kernels

    return kernels.double_backward(*args)


def _setup(ctx, inputs, output):
    x, weight, bias, _, _, training, _, *numbers = inputs
    _, mean, invstd, var = output
    ctx.numbers = (training, *numbers)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mean, invstd, var)
    ctx.save_for_backward(x, weight, bias, mean, invstd)


def _backward(ctx, gy, *_):
    x, weight, bias, mean, invstd = ctx.saved_tensors
    wanted = _pruning.wanted(ctx, True, weight is not None, bias is not None)
    if gy is None or not any(wanted):
        return (None,) * 10
    args = (gy, x, weight, bias, mean, invstd, *ctx.numbers, wanted)
    return (*_asked_for(torch.ops.gankernels.batch_norm_act_backward(*args), wanted), *[None] * 7)


def _setup_backward(ctx, inputs, output):
    *tensors, training, act, alpha, gain, wanted = inputs
    ctx.numbers = (training, act, alpha, gain)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, w in zip(output, wanted, strict=True) if not w))
    ctx.save_for_backward(*tensors)


def _backward_backward(ctx, v, p, q):
    # mean and invstd have no gradient of their own: in training the formulas count them as functions of x.
    gy, x, weight, bias, mean, invstd = ctx.saved_tensors
    wanted = _pruning.wanted(ctx, True, True, weight is not None, bias is not None)
    if v is p is q is None or not any(wanted):
        return (None,) * 11
    args = (v, p, q, gy, x, weight, bias, mean, invstd, *ctx.numbers, wanted)
    return (*_asked_for(torch.ops.gankernels.batch_norm_act_double_backward(*args), wanted), *[None] * 7)


def _asked_for(gradients, wanted):
    return [g if w else None for g, w in zip(gradients, wanted, strict=True)]


def _no_third_order(ctx, *_):
    raise RuntimeError(
        "batch_norm_act: the derivative of order 3 is not supported by the compiled backends; "
        "use gankernels.backend('reference')"
    )


torch.library.register_autograd("gankernels::batch_norm_act", _backward, setup_context=_setup)
torch.library.register_autograd(
    "gankernels::batch_norm_act_backward", _backward_backward, setup_context=_setup_backward
)
torch.library.register_autograd("gankernels::batch_norm_act_double_backward", _no_third_order)

_FAKES = {
    "batch_norm_act": _fake,
    "batch_norm_act_backward": _fake_backward,
    "batch_norm_act_double_backward": _fake_double_backward,
}


def _register_rules(namespace):
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"{namespace}::{name}", fake)
        torch.library.register_vmap(f"{namespace}::{name}", _by_channels(getattr(getattr(torch.ops, namespace), name)))


_register_rules("gankernels")
if _backend.native_error is None:
    _register_rules("gankernels_native")
