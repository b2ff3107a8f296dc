"""DCGAN (Radford et al. 2015, arXiv 1511.06434): the convolutional pair with batch norm.

At 64x64 the state-dict names are those of the well-known PyTorch tutorial (``main.0.weight`` ...), so its checkpoints
load. Batch norm and its activation are one operator here; an `Identity` keeps the activation's index.
"""

import itertools

from gankernels.models._network import Discriminator, Generator, Network, linearize_logits
from torch import Tensor
from torch.nn import Identity, Module, Sequential, init

from gankernels.nn import (
    BatchNormAct2d,
    BiasAct,
    Conv2d,
    ConvTranspose2d,
    Linearization,
    linearize,
    linearized,
    register_linearization,
)


class DCGANGenerator(Generator):
    """Latents to images: a 4x4 transposed convolution, then one of stride 2 per doubling, batch norm + ReLU, tanh.

    Args:
        resolution: a power of two from 16.
        channels: of the image.
        width: channels before the last layer; they double towards 4x4 (64 gives the published 512, 256, 128, 64).
        z_dim: numbers per latent.
        latent: "normal", or "uniform" in [-1, 1) as in the paper.
        max_width: upper bound on channels, None for none.

    Weights start N(0, 0.02), batch norm's N(1, 0.02). Raises: ValueError for another resolution, size or latent.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        width: int = 64,
        z_dim: int = 100,
        latent: str = "normal",
        max_width: int | None = None,
    ) -> None:
        super().__init__(resolution, channels, z_dim, latent)
        widths = _widths(self, resolution, width, max_width)[::-1]
        layers: list[Module] = [ConvTranspose2d(z_dim, widths[0], 4, 1, 0, bias=False)]
        for before, after in zip(widths, [*widths[1:], channels], strict=True):
            layers += [BatchNormAct2d(before, act="relu"), Identity()]
            layers += [ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        self.main = Sequential(*layers, BiasAct("tanh"))
        _initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        """[N, z_dim] or [N, z_dim, 1, 1] -> [N, channels, resolution, resolution] in [-1, 1]."""
        return self.main(self.flat(z)[:, :, None, None])


class DCGANDiscriminator(Discriminator):
    """Images to logits: convolutions of stride 2 down to 4x4 with lrelu 0.2, batch norm in all but the first.

    Args: resolution, channels, width, max_width as in `DCGANGenerator`.

    The published network ends in a sigmoid (``main.12`` at 64x64, without parameters). This one returns what goes into
    it: the losses take logits.
    """

    def __init__(self, resolution: int = 64, channels: int = 3, width: int = 64, max_width: int | None = None) -> None:
        super().__init__(resolution, channels)
        widths = _widths(self, resolution, width, max_width)
        layers: list[Module] = [Conv2d(channels, widths[0], 4, 2, 1, bias=False), BiasAct("lrelu", 0.2)]
        for before, after in itertools.pairwise(widths):
            layers += [Conv2d(before, after, 4, 2, 1, bias=False)]
            layers += [BatchNormAct2d(after, act="lrelu", alpha=0.2), Identity()]
        self.main = Sequential(*layers, Conv2d(widths[-1], 1, 4, 1, 0, bias=False))
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, resolution, resolution] -> [N] logits."""
        return self.main(self.checked(images)).flatten()


register_linearization(DCGANDiscriminator)(linearize_logits)


@register_linearization(DCGANGenerator)
def _linearize_generator(net: DCGANGenerator, z: Tensor) -> tuple[Tensor, Linearization]:
    square = net.flat(z)[:, :, None, None]
    y, derivative = linearize(net.main, square)
    return y, linearized.chain(linearized.reshaped(z, square), derivative)


def _widths(net: Network, resolution: int, width: int, max_width: int | None) -> list[int]:
    """Channels at resolution / 2, / 4, ... 4."""
    if resolution < 16 or resolution & (resolution - 1):
        raise ValueError(f"{type(net).__name__}: resolution {resolution}, expected a power of two from 16")
    for name, value in (("width", width), ("max_width", max_width)):
        if value is not None and value < 1:
            raise ValueError(f"{type(net).__name__}: {name} {value}, expected 1 or more")
    return [min(width << i, max_width or width << i) for i in range(resolution.bit_length() - 3)]


def _initialise(net: Network) -> None:
    for module in net.modules():
        if isinstance(module, Conv2d | ConvTranspose2d):
            init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, BatchNormAct2d):
            init.normal_(module.weight, 1.0, 0.02)
