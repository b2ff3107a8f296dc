"""Networks of 2014 and 2015: equal to the same network in plain PyTorch, and the contract that training relies on."""

import copy
import itertools
import json

import pytest
import torch
from gankernels.models import build
from gankernels.models.dcgan import DCGANDiscriminator, DCGANGenerator
from torch import nn


class Over(nn.Module):
    """A plain function as a layer."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def plain_dcgan(resolution, channels, width):
    """The tutorial's pair, its sigmoid left to the loss."""
    widths = [width << i for i in range(resolution.bit_length() - 3)]
    g, d = [nn.ConvTranspose2d(100, widths[-1], 4, 1, 0, bias=False)], []
    for before, after in zip(widths[::-1], [*widths[-2::-1], channels], strict=True):
        g += [nn.BatchNorm2d(before), nn.ReLU(True), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    d += [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for before, after in itertools.pairwise(widths):
        d += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2, True)]
    d += [nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False), nn.Flatten(0)]
    z = nn.Unflatten(1, (100, 1, 1))
    return named(z=z, main=nn.Sequential(*g, nn.Tanh())), named(main=nn.Sequential(*d))


def named(**parts):
    net = nn.Sequential()
    for name, part in parts.items():
        net.add_module(name, part)
    return net


def maxout(pieces):
    return Over(lambda x: x.unflatten(1, (-1, pieces)).amax(2))


def plain_gan(r, c):
    sizes = [100, 256, 512, 1024]
    g = [m for i, o in itertools.pairwise(sizes) for m in (nn.Linear(i, o), nn.LeakyReLU(0.2))]
    sizes = [c * r * r, 2048, 1024, 512, 256]
    d = [m for i, o in itertools.pairwise(sizes) for m in (nn.Linear(i, o), nn.LeakyReLU(0.2), nn.Dropout(0.3))]
    g = nn.Sequential(*g, nn.Linear(1024, c * r * r), nn.Tanh(), nn.Unflatten(1, (c, r, r)))
    return g, nn.Sequential(nn.Flatten(), *d, nn.Linear(256, 1), nn.Flatten(0))


def plain_gan_maxout(r, c):
    g = [nn.Linear(100, 1200), nn.ReLU(), nn.Linear(1200, 1200), nn.ReLU(), nn.Linear(1200, c * r * r), nn.Sigmoid()]
    d = [nn.Dropout(0.2), nn.Linear(c * r * r, 1200), maxout(5), nn.Dropout(0.5), nn.Linear(1200 // 5, 1200), maxout(5)]
    g = nn.Sequential(*g, nn.Unflatten(1, (c, r, r)), Over(lambda x: 2 * x - 1))
    return g, nn.Sequential(nn.Flatten(), *d, nn.Dropout(0.5), nn.Linear(240, 1), nn.Flatten(0))


def plain_gan_conv(r, c):
    side = {16: 5, 32: 10}[r]
    g = [nn.Linear(100, 1200), nn.ReLU(), nn.Linear(1200, 80 * side**2), nn.ReLU(), nn.Unflatten(1, (80, side, side))]
    g += [nn.ConvTranspose2d(80, c, 5, 3), Over(lambda x: x[:, :, :r, :r]), nn.Sigmoid(), Over(lambda x: 2 * x - 1)]
    d = [nn.Dropout(0.2)]
    for i, o, k, p, pool in [(c, 32, 8, 4, 4), (32, 32, 8, 3, 4), (32, 192, 5, 3, 2)]:
        d += [nn.Conv2d(i, 2 * o, k, padding=p), maxout(2), nn.MaxPool2d(pool, 2), nn.Dropout(0.5)]
    flat = {16: 192 * 4, 32: 192 * 16}[r]
    d += [nn.Flatten(), nn.Linear(flat, 2500), maxout(5), nn.Dropout(0.5), nn.Linear(500, 1), nn.Flatten(0)]
    return nn.Sequential(*g), nn.Sequential(*d)


def copy_in_order(ours, plain):
    """The same tensors under the names of `plain`: the order of parameters is that of the layers in both."""
    theirs = plain.state_dict()
    assert sorted(v.numel() for v in ours.values()) == sorted(v.numel() for v in theirs.values())
    plain.load_state_dict({k: v.reshape(theirs[k].shape) for k, v in zip(theirs, ours.values(), strict=True)})


PLAIN = {
    "gan": plain_gan,
    "gan-maxout": plain_gan_maxout,
    "gan-conv": plain_gan_conv,
    "dcgan": lambda r, c: plain_dcgan(r, c, 8),
}
SMALL = {"dcgan": {"width": 8}}


def pairs(name, resolution, channels):
    torch.manual_seed(3)
    ours = build(name, resolution=resolution, channels=channels, **SMALL.get(name, {}))
    plain = PLAIN[name](resolution, channels)
    for net, other in zip(ours, plain, strict=True):
        net.double()
        other.double()
        for buffer in ("running_mean", "running_var"):
            for key, value in net.state_dict().items():
                if key.endswith(buffer):
                    value.uniform_(0.5, 1.5)
        if name == "dcgan":
            other.load_state_dict(net.state_dict())
        else:
            copy_in_order(net.state_dict(), other)
    return zip(ours, plain, strict=True)


def outcome(net, x, seed):
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)  # dropout draws the same
    y = net(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return y, *torch.autograd.grad((y * weights).sum(), [x, *net.parameters()]), *net.buffers()


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("name", "resolution", "channels"),
    [(n, 16, 2) for n in PLAIN] + [("dcgan", 64, 3), ("dcgan", 32, 1), ("gan", 9, 3), ("gan-conv", 32, 3)],
)
def test_equals_plain_pytorch(name, resolution, channels, train):
    (g, plain_g), (d, plain_d) = pairs(name, resolution, channels)
    images = torch.rand(4, channels, resolution, resolution, dtype=torch.float64) * 2 - 1
    z = g.sample_z(4)
    for net, plain, x in ((g, plain_g, z), (d, plain_d, images)):
        net.train(train)
        plain.train(train)
        for step in range(2):  # the second sees the running statistics of the first
            for ours, theirs in zip(outcome(net, x, step), outcome(plain, x, step), strict=True):
                torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-9, atol=1e-11)


def test_published_state_dict_names():
    g, d = build("dcgan", resolution=64, channels=3)
    shapes_g, shapes_d = ({k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (g, d))
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert list(shapes_g) == [
        key for i in range(0, 13, 3) for key in (f"main.{i}.weight", *(f"main.{i + 1}.{n}" for n in norm if i < 12))
    ]
    assert [shapes_g[f"main.{i}.weight"][:2] for i in range(0, 13, 3)] == [
        (100, 512), (512, 256), (256, 128), (128, 64), (64, 3)
    ]  # fmt: skip
    assert list(shapes_d) == [
        "main.0.weight",
        *(key for i in (2, 5, 8) for key in (f"main.{i}.weight", *(f"main.{i + 1}.{n}" for n in norm))),
        "main.11.weight",
    ]
    assert shapes_d["main.11.weight"] == (1, 512, 4, 4)


def test_dcgan_starts_as_published():
    torch.manual_seed(0)
    for net in build("dcgan", resolution=32, channels=3):
        for name, value in net.named_parameters():
            centre = 1.0 if value.ndim == 1 else 0.0
            if name.endswith("bias"):
                assert (value == 0).all()
            else:
                assert abs(value.mean() - centre) < 0.02
                assert 0.01 < value.std() < 0.03


@pytest.mark.parametrize("name", PLAIN)
def test_contract(name):
    options = {**SMALL.get(name, {}), "latent": "uniform", "z_dim": 7}
    nets = build(name, resolution=16, channels=3, **options)
    g, d = nets
    assert (g.z_dim, g.resolution, g.channels) == (7, 16, 3)
    draw = [g.sample_z(5, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert draw[0].shape == (5, 7)
    assert draw[0].equal(draw[1])
    images = g.eval()(draw[0])
    assert images.shape == (5, 3, 16, 16)
    assert images.abs().max() <= 1
    assert g(draw[0][:, :, None, None]).equal(images)
    assert d(images).shape == (5,)
    for net in nets:
        config = json.loads(json.dumps(net.config))
        assert config == net.config
        again = type(net)(**config)
        again.load_state_dict(net.state_dict())
        assert again.config == config == copy.deepcopy(net).config
        assert again.eval()(draw[0] if net is g else images).equal(net.eval()(draw[0] if net is g else images))


@pytest.mark.parametrize(("latent", "low", "spread"), [("normal", -3, 1.0), ("uniform", -1, 3**-0.5)])
def test_latents(latent, low, spread):
    g, _ = build("gan", resolution=4, channels=1, latent=latent)
    z = g.sample_z(500)
    assert (z.min() < -1) == (z.max() > 1) == (low < -1)
    assert abs(z.std() - spread) < 0.02


def test_width_is_bounded_when_asked():
    g, d = build("dcgan", resolution=128, channels=1, width=4, max_width=16)
    assert g.main[0].weight.shape[1] == d.main[-1].weight.shape[1] == 16


def test_options_for_one_of_the_two():
    g, d = build("gan", resolution=8, channels=1, g_hidden=[5, 6], d_hidden=[4], dropout=0.1)
    assert g.config["hidden"] == [5, 6]
    assert (d.config["hidden"], d.config["dropout"]) == ([4], 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("vae", resolution=8, channels=1), "unknown model 'vae', expected one of gan, gan-maxout"),
        (lambda: build("dcgan", resolution=64, channels=1, depth=3), "dcgan has no option 'depth', expected .*width"),
        (lambda: build("gan", resolution=8, channels=1, g_dropout=0.1), "gan has no option 'g_dropout'"),
        (lambda: DCGANGenerator(resolution=48), "resolution 48, expected a power of two from 16"),
        (lambda: DCGANDiscriminator(resolution=8), "resolution 8, expected a power of two from 16"),
        (lambda: DCGANGenerator(width=0), "width 0, expected 1 or more"),
        (lambda: build("gan", resolution=8, channels=0), "channels 0, expected 1 or more"),
        (lambda: build("gan", resolution=8, channels=1, latent="gauss"), "latent 'gauss', expected one of normal"),
        (lambda: build("gan-conv", resolution=8, channels=1), "resolution 8, expected 16 or more"),
        (lambda: build("gan", resolution=8, channels=1)[0](torch.zeros(2, 9)), r"z has shape \[2, 9\]"),
        (lambda: DCGANDiscriminator(16, 1)(torch.zeros(2, 1, 16, 8)), r"images have shape \[2, 1, 16, 8\]"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
