"""The first GANs: a pair of dense networks, and the 2014 maxout pair with its convolutional variant.

Goodfellow et al. 2014, arXiv 1406.2661. Any square resolution (the convolutional one from 16), any channel count.
"""

import itertools
from collections.abc import Sequence

from gankernels.models._network import Discriminator, Generator, Network, linearize_logits
from torch import Tensor
from torch.nn import Flatten, MaxPool2d, Module, Sequential, init

from gankernels.nn import BiasAct, Conv2d, ConvTranspose2d, Dropout, Linear, Maxout, register_linearization


class MLPGenerator(Generator):
    """Dense layers with lrelu 0.2, tanh at the end: 100-256-512-1024-pixels.

    Args:
        resolution, channels: of the image.
        z_dim: numbers per latent.
        latent: "normal", or "uniform" in [-1, 1).
        hidden: widths of the hidden layers.
    """

    def __init__(
        self,
        resolution: int = 28,
        channels: int = 1,
        z_dim: int = 100,
        latent: str = "normal",
        hidden: Sequence[int] = (256, 512, 1024),
    ) -> None:
        super().__init__(resolution, channels, z_dim, latent)
        sizes = [z_dim, *hidden]
        layers = [Linear(i, o, act="lrelu", alpha=0.2) for i, o in itertools.pairwise(sizes)]
        self.main = Sequential(*layers, Linear(sizes[-1], channels * resolution**2, act="tanh"))

    def forward(self, z: Tensor) -> Tensor:
        """[N, z_dim] or [N, z_dim, 1, 1] -> [N, channels, resolution, resolution] in [-1, 1]."""
        return self.main(self.flat(z)).unflatten(1, (self.channels, self.resolution, self.resolution))


class MLPDiscriminator(Discriminator):
    """Dense layers 2048-1024-512-256-1, each hidden one with lrelu 0.2 and dropout.

    Args:
        resolution, channels: of the image.
        hidden: widths of the hidden layers.
        dropout: probability after each hidden layer.
    """

    def __init__(
        self,
        resolution: int = 28,
        channels: int = 1,
        hidden: Sequence[int] = (2048, 1024, 512, 256),
        dropout: float = 0.3,
    ) -> None:
        super().__init__(resolution, channels)
        sizes = [channels * resolution**2, *hidden]
        layers: list[Module] = []
        for i, o in itertools.pairwise(sizes):
            layers += [Linear(i, o, act="lrelu", alpha=0.2), Dropout(dropout)]
        self.main = Sequential(Flatten(), *layers, Linear(sizes[-1], 1))

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, resolution, resolution] -> [N] logits."""
        return self.main(self.checked(images)).flatten()


class RectifierGenerator(Generator):
    """The 2014 generator: two dense ReLU layers and a sigmoid, its [0, 1] mapped to [-1, 1].

    Args: as in `MLPGenerator`; the paper draws latents uniformly, the default. Weights start uniform in +-0.05.
    """

    def __init__(
        self,
        resolution: int = 28,
        channels: int = 1,
        z_dim: int = 100,
        latent: str = "uniform",
        hidden: Sequence[int] = (1200, 1200),
    ) -> None:
        super().__init__(resolution, channels, z_dim, latent)
        sizes = [z_dim, *hidden]
        layers = [Linear(i, o, act="relu") for i, o in itertools.pairwise(sizes)]
        self.main = Sequential(*layers, Linear(sizes[-1], channels * resolution**2, act="sigmoid", gain=2.0))
        _initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        """[N, z_dim] or [N, z_dim, 1, 1] -> [N, channels, resolution, resolution] in [-1, 1]."""
        return self.main(self.flat(z)).unflatten(1, (self.channels, self.resolution, self.resolution)) - 1


class MaxoutDiscriminator(Discriminator):
    """The 2014 discriminator: two maxout layers with dropout on what goes into them and out of them.

    Args:
        resolution, channels: of the image.
        units: outputs of each maxout layer, the largest of `pieces` linear ones.
        input_dropout, dropout: probabilities on the image and after each maxout layer.
    """

    def __init__(
        self,
        resolution: int = 28,
        channels: int = 1,
        units: Sequence[int] = (240, 240),
        pieces: int = 5,
        input_dropout: float = 0.2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(resolution, channels)
        sizes = [channels * resolution**2, *units]
        layers: list[Module] = [Flatten(), Dropout(input_dropout)]
        for i, o in itertools.pairwise(sizes):
            layers += [Linear(i, o * pieces), Maxout(pieces), Dropout(dropout)]
        self.main = Sequential(*layers, Linear(sizes[-1], 1))
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, resolution, resolution] -> [N] logits."""
        return self.main(self.checked(images)).flatten()


class DeconvGenerator(Generator):
    """The 2014 deconvolutional generator: two dense ReLU layers, then one transposed convolution of stride 3, sigmoid.

    Args:
        resolution, channels, z_dim, latent: as in `RectifierGenerator`.
        hidden: width of the first dense layer.
        maps: feature maps that go into the transposed convolution (5x5), 10x10 each for a 32x32 image.
    """

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        z_dim: int = 100,
        latent: str = "uniform",
        hidden: int = 1200,
        maps: int = 80,
    ) -> None:
        super().__init__(resolution, channels, z_dim, latent)
        self.side = max(1, -(-(resolution - 5) // 3) + 1)  # the least whose 3 (side - 1) + 5 covers the image
        self.maps = maps
        self.dense = Sequential(Linear(z_dim, hidden, act="relu"), Linear(hidden, maps * self.side**2, act="relu"))
        self.deconv = ConvTranspose2d(maps, channels, 5, 3, bias=False)
        self.pixels = BiasAct("sigmoid", num_features=channels, gain=2.0)
        _initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        """[N, z_dim] or [N, z_dim, 1, 1] -> [N, channels, resolution, resolution] in [-1, 1]."""
        x = self.deconv(self.dense(self.flat(z)).unflatten(1, (self.maps, self.side, self.side)))
        return self.pixels(x[:, :, : self.resolution, : self.resolution]) - 1


class ConvMaxoutDiscriminator(Discriminator):
    """The 2014 convolutional discriminator: three maxout convolutions with overlapping max pooling, a maxout layer.

    Args:
        resolution, channels: of the image, at least 16x16.
        maps: maxout feature maps of the three convolutions (8x8, 8x8, 5x5).
        units: outputs of the dense maxout layer (5 pieces; the convolutions have 2).
        input_dropout, dropout: probabilities on the image and after each maxout layer.
    """

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        maps: Sequence[int] = (32, 32, 192),
        units: int = 500,
        input_dropout: float = 0.2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(resolution, channels)
        if resolution < 16:
            raise ValueError(f"ConvMaxoutDiscriminator: resolution {resolution}, expected 16 or more")
        layers: list[Module] = [Dropout(input_dropout)]
        side, before = resolution, channels
        for after, kernel, padding, pool in zip(maps, (8, 8, 5), (4, 3, 3), (4, 4, 2), strict=True):
            layers += [Conv2d(before, after * 2, kernel, padding=padding), Maxout(2), MaxPool2d(pool, 2)]
            layers += [Dropout(dropout)]
            side, before = (side + 2 * padding - kernel + 1 - pool) // 2 + 1, after
        layers += [Flatten(), Linear(before * side**2, units * 5), Maxout(5), Dropout(dropout)]
        self.main = Sequential(*layers, Linear(units, 1))
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, resolution, resolution] -> [N] logits."""
        return self.main(self.checked(images)).flatten()


register_linearization(MLPDiscriminator, MaxoutDiscriminator, ConvMaxoutDiscriminator)(linearize_logits)


def _initialise(net: Network) -> None:
    for module in net.modules():
        if isinstance(module, Linear | Conv2d | ConvTranspose2d):
            init.uniform_(module.weight, -0.05, 0.05)
            if module.bias is not None:
                init.zeros_(module.bias)
