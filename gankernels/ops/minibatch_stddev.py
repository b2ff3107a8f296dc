"""minibatch_stddev: how much the samples of a group differ, appended as channels, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, _second_order

_NAME = "minibatch_stddev"
EPS = 1e-8


def minibatch_stddev(x: Tensor, group_size: int | None = 4, num_channels: int = 1) -> Tensor:
    """Append `num_channels` channels that hold the mean standard deviation over groups of samples.

    With G = min(group_size, N), sample n is number ``n // (N / G)`` of its group, so that x is
    [G, N / G, num_channels, C / num_channels, H, W]. ``sqrt(var + 1e-8)`` over G (biased) is averaged over the
    channels of a part, H and W; each sample of the group gets the result as a constant channel.

    Args:
        x: [N, C, H, W]; float16, bfloat16, float32 or float64.
        group_size: samples of a group, 1 or more; None for the whole batch. N must be a multiple of it, or be less.
        num_channels: channels to append, a divisor of C.

    Returns: [N, C + num_channels, H, W] in the dtype and memory format of x. Sums are float32 or better; autocast
        changes nothing. Differentiable in x: first and second order run on kernels, the third raises (backend
        "reference" has it).
    Raises: ValueError for an argument of the wrong kind, shape or dtype, and where N is no multiple of the group.

    Karras et al. 2018, arXiv 1710.10196, in the groups of their later networks.
    """
    _check.floating(_NAME, "x", x)
    _check.rank(_NAME, "x", x, 4, "[N, C, H, W]")
    size = 0 if group_size is None else _positive("group_size", group_size, ", or None for the whole batch")
    channels = _positive("num_channels", num_channels)
    n, c = x.shape[:2]
    group = _group(n, size)
    if n % group:
        raise ValueError(
            f"{_NAME}: x has {n} samples and group_size is {group_size}, expected a multiple of it; pass a divisor of "
            f"{n}, or None for one group"
        )
    if c == 0 or c % channels:
        raise ValueError(f"{_NAME}: x has {c} channels, expected a multiple of num_channels = {channels}, 1 or more")
    return _backend.pick(_NAME, x)(x, size, channels)


def _positive(name: str, value: int, otherwise: str = "") -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{_NAME}: {name} is {value!r}, expected an integer of 1 or more{otherwise}")
    return value


def _group(n: int, size: int) -> int:
    """Samples of a group, in a batch of n; `size` 0 means all."""
    if n == 0:
        return 1
    return n if size == 0 or size > n else size


def reference(x: Tensor, size: int, channels: int) -> Tensor:
    n, c, h, w = x.shape
    group = _group(n, size)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    parts = wide.reshape(group, n // group, channels, c // channels, h, w)
    deviation = ((parts - parts.mean(0)).square().mean(0) + EPS).sqrt()  # [N / G, F, C / F, H, W]
    planes = deviation.mean((2, 3, 4)).to(x.dtype).repeat(group, 1)  # [N, F]
    layout = _check.kept_format(x)
    planes = planes[:, :, None, None].expand(n, channels, h, w).contiguous(memory_format=layout)
    return torch.cat([x.contiguous(memory_format=layout), planes], 1)


def _triton(x, size, channels):
    return torch.ops.gankernels.minibatch_stddev(x, size, channels)


_backend.register(_NAME, reference=reference, cpu=_backend.native(_NAME), cuda=_backend.native(_NAME), triton=_triton)

torch.library.define("gankernels::minibatch_stddev", "(Tensor x, int group_size, int channels) -> Tensor")
torch.library.define(
    "gankernels::minibatch_stddev_backward", "(Tensor gy, Tensor x, int group_size, int channels) -> Tensor"
)
torch.library.define(
    "gankernels::minibatch_stddev_double_backward",
    "(Tensor v, Tensor gy, Tensor x, int group_size, int channels, bool[2] wanted) -> (Tensor, Tensor)",
)


@torch.library.impl("gankernels::minibatch_stddev", "CompositeExplicitAutograd")
def _run(x, size, channels):
    from gankernels.triton import minibatch_stddev as kernels

    return kernels.value(x, _group(x.shape[0], size), channels)


@torch.library.impl("gankernels::minibatch_stddev_backward", "CompositeExplicitAutograd")
def _run_backward(gy, x, size, channels):
    from gankernels.triton import minibatch_stddev as kernels

    return kernels.backward(gy, x, _group(x.shape[0], size), channels)


@torch.library.impl("gankernels::minibatch_stddev_double_backward", "CompositeExplicitAutograd")
def _run_double_backward(v, gy, x, size, channels, wanted):
    from gankernels.triton import minibatch_stddev as kernels

    return kernels.double_backward(v, gy, x, _group(x.shape[0], size), channels, wanted)


_second_order.register_autograd(_NAME)


def _fake(x, size, channels):
    n, c, h, w = x.shape
    return x.new_empty((n, c + channels, h, w)).contiguous(memory_format=_check.kept_format(x))


def _fake_backward(gy, x, size, channels):
    return torch.empty_like(x, memory_format=_check.kept_format(x))


def _fake_double_backward(v, gy, x, size, channels, wanted):
    ggy = _fake(x, size, channels) if wanted[0] else x.new_empty(0)
    return ggy, _fake_backward(gy, x, size, channels) if wanted[1] else x.new_empty(0)


def _rule(op, outputs):
    """A vmap rule: the mapped dimension becomes the last of those that N holds, so that no group mixes two of them."""

    def run(info, in_dims, *args):
        b = info.batch_size
        tensors = [a for a in args if isinstance(a, Tensor)]
        n = tensors[-1].shape[0 if in_dims[len(tensors) - 1] != 0 else 1]

        def fold(t, dim):
            t = t.unsqueeze(1).expand(t.shape[0], b, *t.shape[1:]) if dim is None else t.movedim(dim, 1)
            return t.flatten(0, 1)

        folded = [fold(t, dim) for t, dim in zip(tensors, in_dims, strict=False)]
        size, *rest = args[len(tensors) :]
        outs = op(*folded, _group(n, size), *rest)
        if outputs == 1:
            return outs.unflatten(0, (n, b)), 1
        return tuple(o.unflatten(0, (n, b)) if o.ndim > 1 else o.expand(b, 0) for o in outs), tuple(
            1 if o.ndim > 1 else 0 for o in outs
        )

    return run


def _register_rules(namespace):
    fakes = {"": _fake, "_backward": _fake_backward, "_double_backward": _fake_double_backward}
    for suffix, fake in fakes.items():
        name = _NAME + suffix
        torch.library.register_fake(f"{namespace}::{name}", fake)
        rule = _rule(getattr(getattr(torch.ops, namespace), name), 2 if suffix == "_double_backward" else 1)
        torch.library.register_vmap(f"{namespace}::{name}", rule)


_register_rules("gankernels")
if _backend.native_error is None:
    _register_rules("gankernels_native")
