"""How different two pictures look: distances between features of a network that was trained on photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gankernels._saved import read_state_dict
from gankernels.errors import CheckpointError
from gankernels.metrics.features import as_rgb, lite0_network

Stages = Callable[[Tensor], Sequence[Tensor]]


class Perceptual(nn.Module):
    """The distance of LPIPS: squared differences of features that are normalised across channels, averaged over space.

    Args:
        stages: images [N, 3, H, W] in [-1, 1] to features [N, C_i, H_i, W_i] of each stage.
        weights: [C_i] for each stage; None for equal ones (1 / number of stages).

    Zhang et al. 2018, arXiv 1801.03924.
    """

    def __init__(self, stages: nn.Module, weights: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.stages, self.weights = stages, weights
        self.requires_grad_(False).eval()

    def features(self, images: Tensor) -> list[Tensor]:
        """Images [N, 1 or 3, H, W] in [-1, 1] to features of unit length across channels; differentiable."""
        return [f * (f.square().sum(1, keepdim=True) + 1e-10).rsqrt() for f in self.stages(as_rgb(images))]

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """[N] of two results of `features`."""
        total = 0.0
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            squares = (x - y).square()
            if self.weights is None:
                total = total + squares.sum(1).mean((1, 2)) / len(a)
            else:
                total = total + (squares * self.weights[i].to(x)[:, None, None]).sum(1).mean((1, 2))
        return total

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """[N] of images [N, C, H, W] in [-1, 1]."""
        return self.distance(self.features(a), self.features(b))


class _Lite0Stages(nn.Module):
    """EfficientNet-Lite0 after the last block of each resolution, of images enlarged or reduced to 224x224."""

    def __init__(self) -> None:
        super().__init__()
        self.network = lite0_network()

    def forward(self, images: Tensor) -> list[Tensor]:
        net = self.network
        x = F.interpolate(images, (224, 224), mode="bilinear", antialias=True) * (127.5 / 128) + 0.5 / 128
        x = net._swish(net._bn0(net._conv_stem(x)))
        found = []
        for block in net._blocks:
            y = block(x)
            if y.shape[2] != x.shape[2]:
                found.append(x)
            x = y
        return [*found, x]


class _VGG16Stages(nn.Module):
    """VGG16 (Simonyan and Zisserman 2014, arXiv 1409.1556) after the last ReLU of each of its five resolutions."""

    WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for widths in self.WIDTHS:
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        side = max(images.shape[2:])
        if side > 256:
            size = [round(s * 256 / side) for s in images.shape[2:]]
            images = F.interpolate(images, size, mode="area")
        elif min(images.shape[2:]) < 32:  # its last stage would have no pixel
            images = F.interpolate(images, scale_factor=32 / min(images.shape[2:]), mode="bilinear", antialias=True)
        x, found = ((images + 1) / 2 - self.mean) / self.std, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
            x = layer(x)
        return [*found, x]


def perceptual_lite0() -> Perceptual:
    """On EfficientNet-Lite0 out of its package. Raises: MissingDependency."""
    return Perceptual(_Lite0Stages())


def perceptual_vgg16(weights: Path, linear: Path | None = None) -> Perceptual:
    """On VGG16.

    Args:
        weights: what `torch.save` wrote of torchvision's VGG16 state dict (features.0.weight, ...).
        linear: the learned weights of LPIPS for it (lin0.model.1.weight, ...), for its published numbers; None for
            equal ones.

    Raises:
        CheckpointError: a file is missing, truncated, or holds other tensors; nothing in it is run.
    """
    stages = _VGG16Stages()
    wanted = {k: v.shape for k, v in stages.state_dict().items() if k.startswith("features.")}
    state = read_state_dict(weights, wanted.__contains__)
    for name, shape in wanted.items():
        if name not in state or state[name].shape != shape:
            got = f"has {name} of shape {list(state[name].shape)}" if name in state else f"lacks {name}"
            raise CheckpointError(f"{weights} {got}; a state dict of torchvision's VGG16 is needed")
    stages.load_state_dict({name: state[name] for name in wanted}, strict=False)
    if linear is None:
        return Perceptual(stages)
    state, learned = read_state_dict(linear), []
    for i, widths in enumerate(_VGG16Stages.WIDTHS):
        name = f"lin{i}.model.1.weight"
        if name not in state or state[name].shape != (1, widths[-1], 1, 1):
            raise CheckpointError(f"{linear} lacks {name} of shape [1, {widths[-1]}, 1, 1]; it is not LPIPS' for VGG16")
        learned.append(state[name].flatten())
    return Perceptual(stages, learned)
