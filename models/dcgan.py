"""DCGAN (Radford et al. 2015, arXiv 1511.06434): the convolutional pair with batch norm.

At 64x64 the state-dict names are those of the well-known PyTorch tutorial (``main.0.weight`` ...), so its checkpoints
load. Batch norm and its activation are one operator here; an `Identity` keeps the activation's index.
"""

import itertools

import torch
from gankernels.models._network import Discriminator, Generator, Network, labels
from torch import Tensor
from torch.nn import Flatten, Identity, Module, Sequential, init

from gankernels.nn import (
    BatchNormAct2d,
    BiasAct,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Linear,
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
        c_dim: numbers per label or code, which are put behind z; 0 for none.

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
        c_dim: int = 0,
    ) -> None:
        super().__init__(resolution, channels, z_dim, latent)
        self.c_dim = c_dim
        widths = _widths(self, resolution, width, max_width)[::-1]
        layers: list[Module] = [ConvTranspose2d(z_dim + c_dim, widths[0], 4, 1, 0, bias=False)]
        self.main = Sequential(*layers, *_up(channels, widths))
        _initialise(self)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z [N, z_dim] or [N, z_dim, 1, 1], c [N, c_dim] -> [N, channels, resolution, resolution] in [-1, 1]."""
        return self.main(self.joined(z, c)[:, :, None, None])

    def joined(self, z: Tensor, c: Tensor | None) -> Tensor:
        """[N, z_dim + c_dim]; raises ValueError for a latent or a label of another shape, or one missing."""
        z = self.flat(z)
        c = labels(self, c, self.c_dim, z.shape[0])
        return z if c is None else torch.cat([z, c.to(z.dtype)], 1)


class DCGANDiscriminator(Discriminator):
    """Images to logits: convolutions of stride 2 down to 4x4 with lrelu 0.2, batch norm in all but the first.

    Args:
        resolution, channels, width, max_width: as in `DCGANGenerator`.
        c_dim: numbers per label, which come in as constant feature maps beside the image's channels (Mirza and Osindero
            2014, arXiv 1411.1784); 0 for none.
        heads: outputs of a second head: ``head``, beside the logit; of classes (ACGAN), or codes (InfoGAN). 0: none.
        head_width: of a hidden layer of that head; 0 for none.
        dropout: probability on the features that the heads see.

    The published network ends in a sigmoid (``main.12`` at 64x64, without parameters). This one returns what goes into
    it: the losses take logits.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        width: int = 64,
        max_width: int | None = None,
        c_dim: int = 0,
        heads: int = 0,
        head_width: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(resolution, channels)
        self.c_dim, self.dropout = c_dim, Dropout(dropout) if dropout else None
        widths = _widths(self, resolution, width, max_width)
        self.main = Sequential(*_down(channels + c_dim, widths), Conv2d(widths[-1], 1, 4, 1, 0, bias=False))
        self.head = None
        if heads:
            hidden = [Linear(widths[-1] * 16, head_width, act="lrelu", alpha=0.2)] if head_width else []
            self.head = Sequential(Flatten(), *hidden, Linear(head_width or widths[-1] * 16, heads))
        _initialise(self)

    def forward(self, images: Tensor, c: Tensor | None = None, *, heads: bool = False):
        """Images [N, channels, resolution, resolution], labels [N, c_dim] -> [N] logits.

        heads: -> ([N] logits, [N, heads] of the second head), in one pass.
        Raises: ValueError for images or labels of another shape, and for a head that is not there.
        """
        if heads and self.head is None:
            raise ValueError(f"{type(self).__name__}: there is no second head; build it with heads")
        x = self.joined(images, c)
        if self.head is None and self.dropout is None:
            return self.main(x).flatten()
        features = self.main[:-1](x)
        if self.dropout is not None:
            features = self.dropout(features)
        logits = self.main[-1](features).flatten()
        return (logits, self.head(features)) if heads else logits

    def joined(self, images: Tensor, c: Tensor | None) -> Tensor:
        """[N, channels + c_dim, resolution, resolution]: the labels as constant maps behind the images."""
        images = self.checked(images)
        c = labels(self, c, self.c_dim, images.shape[0])
        if c is None:
            return images
        maps = c.to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return torch.cat([images, maps], 1)


class DCGANAutoencoder(Discriminator):
    """The discriminator of EBGAN and BEGAN: DCGAN's, as far as a code, and its generator back to the image.

    Args:
        resolution, channels, width, max_width: as in `DCGANGenerator`.
        code_dim: numbers per code.
        power: of the absolute differences whose mean over an image is its error: 2 (EBGAN) or 1 (BEGAN).
        dropout: probability on the code's inputs.

    Zhao et al. 2016, arXiv 1609.03126; Berthelot et al. 2017, arXiv 1703.10717.
    """

    error = True

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        width: int = 64,
        max_width: int | None = None,
        code_dim: int = 64,
        power: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(resolution, channels)
        if power not in (1, 2):
            raise ValueError(f"DCGANAutoencoder: power {power}, expected 1 or 2")
        self.power = power
        widths = _widths(self, resolution, width, max_width)
        drop = [Dropout(dropout)] if dropout else []
        self.encoder = Sequential(
            *_down(channels, widths), *drop, Conv2d(widths[-1], code_dim, 4, 1, 0, bias=False), Flatten()
        )
        first = ConvTranspose2d(code_dim, widths[-1], 4, 1, 0, bias=False)
        self.decoder = Sequential(first, *_up(channels, widths[::-1]))
        _initialise(self)

    def forward(self, images: Tensor, c: Tensor | None = None, *, heads: bool = False):
        """[N, channels, resolution, resolution] -> [N] mean errors of reconstruction, low for real.

        heads: -> ([N] errors, [N, code_dim] codes), in one pass. Raises: ValueError for another shape, and for labels.
        """
        labels(self, c, 0, images.shape[0])
        codes = self.encoder(self.checked(images))
        differences = (self.decoder(codes[:, :, None, None]) - images).abs()
        errors = (differences.square() if self.power == 2 else differences).flatten(1).mean(1)
        return (errors, codes) if heads else errors


@register_linearization(DCGANDiscriminator)
def _linearize_discriminator(net: DCGANDiscriminator, images: Tensor, c: Tensor | None) -> tuple[Tensor, Linearization]:
    if net.dropout is not None:
        raise TypeError(f"linearize: {type(net).__name__} with dropout has no rule; take form='double_backward'")
    y, derivative = linearize(net.main, net.joined(images, c))
    logits = y.flatten()
    return logits, linearized.chain(_beside(images, net.c_dim), derivative, linearized.reshaped(y, logits))


@register_linearization(DCGANGenerator)
def _linearize_generator(net: DCGANGenerator, z: Tensor, c: Tensor | None) -> tuple[Tensor, Linearization]:
    flat, joined = net.flat(z), net.joined(z, c)
    square = joined[:, :, None, None]
    y, derivative = linearize(net.main, square)
    reshaped = linearized.reshaped(z, flat), _beside(flat, net.c_dim), linearized.reshaped(joined, square)
    return y, linearized.chain(*reshaped, derivative)


def _beside(x: Tensor, more: int) -> Linearization:
    """The derivative, in x [N, C, ...], of x with `more` constant channels behind its own."""
    own = x.shape[1]
    return Linearization(
        lambda t: torch.cat([t, t.new_zeros(t.shape[0], more, *t.shape[2:])], 1) if more else t,
        lambda g: g[:, :own],
    )


def _down(channels: int, widths: list[int]) -> list[Module]:
    """Convolutions of stride 2 from the image to 4x4."""
    layers: list[Module] = [Conv2d(channels, widths[0], 4, 2, 1, bias=False), BiasAct("lrelu", 0.2)]
    for before, after in itertools.pairwise(widths):
        layers += [Conv2d(before, after, 4, 2, 1, bias=False)]
        layers += [BatchNormAct2d(after, act="lrelu", alpha=0.2), Identity()]
    return layers


def _up(channels: int, widths: list[int]) -> list[Module]:
    """Transposed convolutions of stride 2 from the activations at 4x4 to the image."""
    layers: list[Module] = []
    for before, after in zip(widths, [*widths[1:], channels], strict=True):
        layers += [BatchNormAct2d(before, act="relu"), Identity()]
        layers += [ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    return [*layers, BiasAct("tanh")]


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
