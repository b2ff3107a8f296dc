"""Normalisations, and what tells a discriminator how varied a batch is."""

import torch
from torch import Tensor

from gankernels import ops
from gankernels.nn.whole import Whole, current
from gankernels.ops import _norm


class BatchNormAct2d(torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` and an activation in one pass, `ops.batch_norm_act` as a module.

    Arguments, parameters, buffers and state-dict names are PyTorch's; act and alpha are those of `ops.bias_act`, gain
    is 1 unless given. `momentum=None` keeps the cumulative average, as PyTorch's.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        act: str = "linear",
        alpha: float | None = None,
        gain: float = 1.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.act, self.alpha, self.gain = act, alpha, gain

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same; statistics are those of the whole batch where x is a share of it (`Whole`)."""
        args, kwargs = self.arguments(x)
        whole = current()
        if whole is not None and kwargs["training"]:
            return _batch_norm_of_the_whole(whole, *args, **kwargs)
        return ops.batch_norm_act(*args, **kwargs)

    def arguments(self, x: Tensor) -> tuple[tuple, dict]:
        """Those of `ops.batch_norm_act` for one forward pass, which they count as one."""
        self._check_input_dim(x)
        momentum = self.momentum
        track = self.training and self.track_running_stats
        if track and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        use_batch = self.training or self.running_mean is None
        running = (self.running_mean, self.running_var) if track or not use_batch else (None, None)
        return (x, self.weight, self.bias, *running), {
            "training": use_batch,
            "momentum": 0.0 if momentum is None else momentum,
            "eps": self.eps,
            "act": self.act,
            "alpha": self.alpha,
            "gain": self.gain,
        }

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, act={self.act}"


def _batch_norm_of_the_whole(
    whole: Whole, x, weight, bias, running_mean, running_var, *, momentum, eps, act, alpha, gain, training
) -> Tensor:
    """`ops.batch_norm_act` whose sums are over the processes; of PyTorch's operators, derivatives of every order."""
    whole.together("batch normalisation")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    shape, dims = [1, -1, *[1] * (x.ndim - 2)], [0, *range(2, x.ndim)]
    count = x.numel() // x.shape[1] * whole.size // x.shape[0]
    if count < 2:
        raise ValueError("batch_norm_act: the whole batch has 1 value per channel, expected more when training")
    mean = whole.total(wide.sum(dims)) / count
    centred = wide - mean.view(shape)
    var = whole.total(centred.square().sum(dims)) / count
    if running_mean is not None:
        running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
        running_var.lerp_((var.detach() * (count / (count - 1))).to(running_var.dtype), momentum)
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    y = centred * scale.view(shape)
    eps, alpha, gain = _norm.check_settings("batch_norm_act", eps, act, alpha, gain)
    # PyTorch's activation: where a second derivative is 0 it gives zeros as the kernels do, no missing gradient, which
    # an optimiser would take for a parameter that has no part.
    return _norm.finished(x, y if bias is None else y + bias.view(shape), act, alpha, gain)


class InstanceNormAct2d(torch.nn.Module):
    """`torch.nn.InstanceNorm2d` without running statistics, and an activation, in one pass: `ops.instance_norm_act`.

    Arguments, parameters and state-dict names are PyTorch's; act and alpha are those of `ops.bias_act`, gain is 1
    unless given.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = False,
        *,
        act: str = "linear",
        alpha: float | None = None,
        gain: float = 1.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.affine = num_features, eps, affine
        self.act, self.alpha, self.gain = act, alpha, gain
        parameters = [
            f(num_features, device=device, dtype=dtype) if affine else None for f in (torch.ones, torch.zeros)
        ]
        for name, t in zip(("weight", "bias"), parameters, strict=True):
            self.register_parameter(name, None if t is None else torch.nn.Parameter(t))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        options = {"eps": self.eps, "act": self.act, "alpha": self.alpha, "gain": self.gain}
        return ops.instance_norm_act(x, self.weight, self.bias, **options)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}, act={self.act}"


class MinibatchStdDev(torch.nn.Module):
    """`ops.minibatch_stddev` as a module: appends `num_channels` channels of the deviation over groups of samples.

    Args:
        group_size: samples of a group; None for the whole batch.
        num_channels: channels to append, a divisor of the input's.
    """

    def __init__(self, group_size: int | None = 4, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C + num_channels, H, W]; groups are those of the whole batch where x is a share of it."""
        whole = current()
        if whole is None or whole.group == min(self.group_size or whole.size, whole.size):
            return ops.minibatch_stddev(x, self.group_size, self.num_channels)
        everything = whole.gather(x, "the minibatch deviation of groups that lie in several passes")
        return ops.minibatch_stddev(everything, self.group_size, self.num_channels)[whole.places]

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}, num_channels={self.num_channels}"


class PixelNorm(torch.nn.Module):
    """`ops.pixel_norm` as a module: ``x * rsqrt(mean(x ** 2) + eps)``, the mean along `dim`."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> the same."""
        return ops.pixel_norm(x, self.dim, self.eps)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, eps={self.eps}"
