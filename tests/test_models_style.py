"""ProGAN to StyleGAN3, what published numbers do not show: growth, precision, layouts, shapes, averages, errors."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from gankernels.models import MODELS, build, progan, stylegan, stylegan2, stylegan3
from gankernels.models._lowpass import lowpass
from golden_networks import filled
from torch import nn

FAMILIES = {"progan": progan, "stylegan": stylegan, "stylegan2": stylegan2, "stylegan3": stylegan3}
SMALL = {"channel_base": 128, "channel_max": 8}
STYLE = {"w_dim": 6, "mapping_kwargs": {"num_layers": 2}}


def pair(name, resolution=16, **options):
    torch.manual_seed(1)
    g_options = {"z_dim": 6, **SMALL, **(STYLE if name != "progan" else {}), **options}
    g_options |= {"num_layers": 4} if name == "stylegan3" else {}
    module = FAMILIES[name]
    generator = module.Generator(img_resolution=resolution, **g_options)
    options = {k: v for k, v in options.items() if k != "architecture" or v != "skip"}
    return generator, module.Discriminator(img_resolution=resolution, **{**SMALL, **options})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("resolution", "channels", "classes"), [(16, 1, 0), ([16, 32], 4, 3), ([24, 16], 2, 0)])
def test_contract(name, resolution, channels, classes):
    nets = g, d = pair(name, resolution, img_channels=channels, c_dim=classes)
    z = g.sample_z(4, torch.Generator().manual_seed(0))
    c = torch.eye(3)[[0, 1, 2, 2]] if classes else None
    images = g.eval()(z, c, **({"noise_mode": "const"} if "stylegan3" > name > "progan" else {}))
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    assert images.shape == (4, channels, height, width)
    assert images.std() > 1e-4
    logits = d(images, c)
    assert logits.shape == (4, 1)
    assert torch.isfinite(logits).all()
    for net, call in ((g, (z, c)), (d, (images, c))):
        config = json.loads(json.dumps(net.config))
        assert config == net.config
        again = type(net)(**config)
        again.load_state_dict(net.state_dict())
        torch.manual_seed(5)  # noise
        first = net(*call)
        torch.manual_seed(5)
        assert again(*call).equal(first)
    gradients = torch.autograd.grad(
        d(g(z, c), c).sum(), [p for net in nets for p in net.parameters()], allow_unused=True
    )
    grown = name in ("progan", "stylegan")  # whose lower blocks have an RGB layer for when they are the last
    missing = [n for net in nets for n, _ in net.named_parameters()]
    missing = [n for n, grad in zip(missing, gradients, strict=True) if grad is None]
    assert all(grown and ("rgb" in n) for n in missing), missing


def test_names_and_widths_of_build():
    for name in FAMILIES:
        assert name in MODELS
        g, d = build(name, resolution=16, channels=2, width=4, max_width=8, z_dim=5, latent="uniform")
        assert (g.config["channel_base"], d.config["channel_base"]) == (64, 64)
        assert (g.config["channel_max"], g.z_dim, g.channels, g.size) == (8, 5, 2, (16, 16))
        assert -1 <= g.sample_z(100).min() < -0.9
    with pytest.raises(ValueError, match=r"stylegan2 has no option 'depth', expected .*architecture.*max_width.*width"):
        build("stylegan2", resolution=16, channels=1, depth=2)


def plain_progan(g, d, filter):
    """Generator and discriminator of the same weights at full growth, every step written out in plain PyTorch."""

    def conv(layer, x):
        return F.conv2d(
            x, layer.weight / math.sqrt(layer.weight[0].numel()), layer.bias, padding=layer.kernel_size // 2
        )

    def lrelu(x):
        return F.leaky_relu(x, 0.2) * math.sqrt(2)

    def norm(x):
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

    def generator(z):
        x = norm(z) @ g.b4.dense.weight.t() / math.sqrt(z.shape[1])
        x = x.unflatten(1, (-1, 4, 4))
        x = norm(lrelu(x + g.b4.conv0.bias[:, None, None]))
        x = norm(lrelu(conv(g.b4.conv1, x)))
        for block in (g.b8, g.b16):
            x = F.interpolate(x, scale_factor=2)
            weight = block.conv0.weight.flip([2, 3]) / math.sqrt(block.conv0.weight[0].numel())
            x = norm(lrelu(F.conv2d(x, weight, block.conv0.bias, padding=1)))
            x = norm(lrelu(conv(block.conv1, x)))
        return conv(block.torgb, x)

    def discriminator(x):
        x = lrelu(conv(d.b16.fromrgb, x))
        for block in (d.b16, d.b8):
            x = lrelu(conv(block.conv0, x))
            y = F.conv2d(x, block.conv1.weight / math.sqrt(block.conv1.weight[0].numel()), padding=1)
            x = lrelu(F.avg_pool2d(y, 2) + block.conv1.bias[:, None, None])
        deviation = (x.var(0, correction=0) + 1e-8).sqrt().mean().expand(x.shape[0], 1, 4, 4)
        x = lrelu(conv(d.b4.conv, torch.cat([x, deviation], 1))).flatten(1)
        x = lrelu(x @ d.b4.fc.weight.t() / math.sqrt(x.shape[1]) + d.b4.fc.bias)
        return x @ d.b4.out.weight.t() / math.sqrt(x.shape[1]) + d.b4.out.bias

    return generator, discriminator


def test_progan_equals_plain_pytorch():
    g, d = map(filled, pair("progan"))
    generator, discriminator = plain_progan(g, d, progan.BOX)
    z = g.sample_z(4)
    torch.testing.assert_close(g(z), generator(z), rtol=1e-9, atol=1e-9)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(d(images), discriminator(images), rtol=1e-9, atol=1e-9)


def test_a_layer_of_stylegan_equals_plain_pytorch():
    g = filled(pair("stylegan")[0])
    block, w = g.synthesis.b8, torch.randn(2, 2, 6, dtype=torch.float64)
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)

    def styled(layer, x, w):
        x = x + layer.noise_const * layer.noise_strength[:, None, None] + layer.bias[:, None, None]
        x = F.leaky_relu(x, 0.2) * math.sqrt(2)
        x = (x - x.mean([2, 3], keepdim=True)) / (x.var([2, 3], correction=0, keepdim=True) + 1e-5).sqrt()
        scale, shift = (w @ layer.affine.weight.t() / math.sqrt(6) + layer.affine.bias).chunk(2, 1)
        return x * (scale + 1)[:, :, None, None] + shift[:, :, None, None]

    # Enlarged, convolved, then blurred: all linear, so that their order is free but at the border.
    weight = block.conv0.weight.flip([2, 3]) / math.sqrt(block.conv0.weight[0].numel())
    u = F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    blur = torch.outer(taps, taps).expand(8, 1, 3, 3)
    u = F.conv2d(u, blur, groups=8)
    torch.testing.assert_close(block.conv0(x)[:, :, 1:-1, 1:-1], u)
    x8 = torch.randn(2, 8, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(block.style0(x8, w[:, 0], "const"), styled(block.style0, x8, w[:, 0]))


@pytest.mark.parametrize("name", ["progan", "stylegan"])
def test_growth(name):
    g, d = map(filled, pair(name, img_channels=2))
    z = g.sample_z(4)
    call = {} if name == "progan" else {"noise_mode": "const"}
    small = g(z, resolution=8, **call)
    assert small.shape == (4, 2, 8, 8)
    start = g(z, resolution=16, alpha=0.0, **call)  # the old image, enlarged
    torch.testing.assert_close(start, F.interpolate(small, scale_factor=2))
    end = g(z, **call)
    torch.testing.assert_close(g(z, resolution=16, alpha=0.25, **call), 0.75 * start + 0.25 * end)
    images = torch.randn(4, 2, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(d(images, alpha=0.0), d(F.avg_pool2d(images, 2)))
    assert not torch.allclose(d(images, alpha=0.5), d(images))
    gradient = torch.autograd.grad(d(images, alpha=0.5).sum(), [d.b16.conv0.weight, d.b8.fromrgb.weight])
    assert all(one.abs().max() > 0 for one in gradient)


def test_real_images_fade_as_generated_ones_do():
    images = torch.randn(2, 3, 32, 32)
    small = F.avg_pool2d(images, 4)
    assert progan.shrink(images, (32, 32)) is images
    torch.testing.assert_close(progan.shrink(images, (8, 8)), small)
    coarse = F.interpolate(F.avg_pool2d(small, 2), scale_factor=2)
    torch.testing.assert_close(progan.shrink(images, (8, 8), 0.25), 0.25 * small + 0.75 * coarse)


def test_labels_of_progan_and_stylegan():
    images, c = torch.randn(4, 3, 16, 16), torch.eye(3)[[0, 1, 2, 2]]
    d = pair("progan", c_dim=3)[1]
    logits, classes = d.heads(images)
    assert classes.shape == (4, 3)
    assert logits.equal(d(images))
    d = pair("stylegan", c_dim=3)[1]
    every = torch.cat([d(images, one.expand(4, 3)) for one in torch.eye(3)], 1)
    torch.testing.assert_close(d(images, c).squeeze(1), (every * c).sum(1))
    with pytest.raises(ValueError, match="heads needs c_dim and conditioning 'acgan'"):
        d.heads(images)


@pytest.mark.parametrize("architecture", stylegan2.ARCHITECTURES)
def test_architectures_of_stylegan2(architecture):
    g, d = pair("stylegan2", architecture=architecture)
    torgb = [name for name in g.state_dict() if name.endswith("torgb.weight")]
    assert len(torgb) == (3 if architecture == "skip" else 1)
    assert any(".skip." in name for name in g.state_dict()) == (architecture == "resnet")
    assert d(g(g.sample_z(4))).shape == (4, 1)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_blocks_in_16_bits(name, half):
    plain = pair(name, 32)
    halves = pair(name, 32, num_fp16_res=1, half_dtype=half, half_devices=["cpu"])
    seen = set()
    for net, other in zip(plain, halves, strict=True):
        other.load_state_dict(net.state_dict())
        for module in other.modules():
            if hasattr(module, "precision"):
                module.register_forward_hook(lambda m, args, y: seen.add((y[0] if isinstance(y, tuple) else y).dtype))
    z, call = plain[0].sample_z(4), {} if name in ("progan", "stylegan3") else {"noise_mode": "const"}
    image, narrow = (nets[0](z, **call) for nets in (plain, halves))
    assert narrow.dtype == torch.float32
    assert seen == {torch.float32, getattr(torch, half)}
    assert 0 < (image - narrow).abs().mean() < 0.05 * image.abs().mean()
    logits, narrow_logits = (nets[1](image) for nets in (plain, halves))
    torch.testing.assert_close(narrow_logits, logits, rtol=0.1, atol=0.1)
    assert halves[0](z, force_fp32=True, **call).equal(image)
    assert halves[1](image, force_fp32=True).equal(logits)
    torch.autograd.grad(halves[1](halves[0](z)).sum(), halves[0].parameters(), allow_unused=True)


def test_16_bits_are_for_a_gpu_unless_asked():
    g, _ = pair("stylegan2", num_fp16_res=4)
    seen = set()
    g.synthesis.b16.register_forward_hook(lambda m, args, y: seen.add(y[0].dtype))
    g(g.sample_z(2))
    assert seen == {torch.float32}
    with pytest.raises(ValueError, match="half_dtype 'half', expected one of float16, bfloat16"):
        pair("stylegan2", half_dtype="half")


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last(name):
    plain, last = pair(name), pair(name, channels_last=True)
    for net, other in zip(plain, last, strict=True):
        other.load_state_dict(net.state_dict())
    z, call = plain[0].sample_z(4), {} if name in ("progan", "stylegan3") else {"noise_mode": "const"}
    seen = []

    def note(module, args, y):
        seen.append((y[0] if isinstance(y, tuple) else y).is_contiguous(memory_format=torch.channels_last))

    for module in last[0].modules():
        if type(module).__name__ in ("GeneratorBlock", "SynthesisBlock", "SynthesisLayer"):
            module.register_forward_hook(note)
    images = [nets[0](z, **call) for nets in (plain, last)]
    torch.testing.assert_close(*images, rtol=1e-3, atol=1e-4)
    assert len(seen) > 2
    assert all(seen)
    torch.testing.assert_close(plain[1](images[0]), last[1](images[0]), rtol=1e-3, atol=1e-4)


def test_averages_move_only_when_asked():
    g, _ = pair("stylegan3")
    z, before = g.sample_z(4), {k: v.clone() for k, v in g.state_dict().items()}
    g.train()(z)
    assert all(v.equal(before[k]) for k, v in g.state_dict().items())
    g(z, update_emas=True)
    moved = {k for k, v in g.state_dict().items() if not v.equal(before[k])}
    assert moved == {k for k in before if k.endswith(("w_avg", "magnitude_ema"))}
    w = g.mapping(z)[:, 0]
    torch.testing.assert_close(g.mapping.w_avg, w.mean(0) * 0.002)
    x = g.synthesis.input(w)
    layer = getattr(g.synthesis, g.synthesis.layers[0])
    torch.testing.assert_close(layer.magnitude_ema, 0.999 + 0.001 * x.square().mean())


def test_truncation():
    g, _ = pair("stylegan2")
    g.mapping.w_avg.normal_()
    z = g.sample_z(3)
    ws = g.mapping(z)
    assert g.mapping(z, truncation_psi=0.0).equal(g.mapping.w_avg.expand_as(ws))
    near = g.mapping(z, truncation_psi=0.5, truncation_cutoff=2)
    torch.testing.assert_close(near[:, :2], (ws[:, :2] + g.mapping.w_avg) / 2)
    assert near[:, 2:].equal(ws[:, 2:])


def test_longer_image_of_stylegan3_holds_the_square_one():
    square, _ = pair("stylegan3", 16)
    wide, _ = pair("stylegan3", [16, 32])
    wide.load_state_dict(square.state_dict())
    w = square.mapping(square.sample_z(2))[:, 0]
    torch.testing.assert_close(wide.synthesis.input(w)[:, :, :, 8:-8], square.synthesis.input(w))
    image, long = square(z := square.sample_z(2)), wide(z)
    inner = (image - long[:, :, :, 8:-8])[:, :, :, 4:-4]
    assert inner.abs().max() < 0.15 * image.abs().max()  # what comes from beyond the margins


def test_transform_of_stylegan3_moves_the_image():
    g, _ = pair("stylegan3", 16)
    w = g.mapping(g.sample_z(1))[:, 0]
    before = g.synthesis.input(w)
    step = 3 / g.synthesis.input.signal.rate
    g.synthesis.input.transform[0, 2] = -step  # the inverse of a move to the right
    torch.testing.assert_close(g.synthesis.input(w)[:, :, :, 3:], before[:, :, :, :-3], rtol=1e-4, atol=1e-4)
    g.synthesis.input.transform.copy_(torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]))
    torch.testing.assert_close(
        g.synthesis.input(w), before.rot90(-1, [2, 3]), rtol=1e-4, atol=1e-4
    )  # the top goes right


def test_frequencies_of_stylegan3_fill_a_disc_evenly():
    torch.manual_seed(0)
    signal = stylegan3.Signal(16, 2.0, 1.0, (36, 36), 4000)
    radii = stylegan3.SynthesisInput(4, signal).freqs.norm(dim=1) / 2.0
    assert radii.max() <= 1
    for part in (0.3, 0.5, 0.8):  # area grows with the radius squared
        assert abs((radii < part).float().mean() - part**2) < 0.03


def test_filters_are_those_of_scipy():
    signal = pytest.importorskip("scipy.signal")
    for taps, cutoff, width, rate in [(12, 2.0, 12.0, 32), (24, 5.1, 9.0, 64), (12, 15.9, 3.0, 64)]:
        expected = torch.from_numpy(signal.firwin(taps, cutoff, width=width, fs=rate)).float()
        torch.testing.assert_close(lowpass(taps, cutoff, width, rate), expected, rtol=0, atol=1e-7)
    assert lowpass(1, 2.0, 4.0, 16) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stylegan2.Generator(img_resolution=12), "resolution 12, expected a power of two from 8, or"),
        (lambda: progan.Discriminator(img_resolution=[16, 18]), "a multiple of a quarter"),
        (lambda: stylegan3.Generator(img_resolution=8), "resolution 8, expected a power of two from 16"),
        (lambda: stylegan3.Generator(num_critical=14), "num_critical 14, expected 1 to num_layers - 1 = 13"),
        (lambda: stylegan2.Generator(architecture="dense"), "architecture 'dense', expected one of orig, skip, resnet"),
        (lambda: stylegan.Generator(channel_base=8), "channel_base 8, channel_max 512 leave a resolution without"),
        (lambda: pair("progan")[0](torch.zeros(2, 6), resolution=12), "resolution 12, expected one of 4, 8, 16 or"),
        (lambda: pair("progan")[0](torch.zeros(2, 6), alpha=1.5), "alpha 1.5, expected 0 to 1"),
        (lambda: pair("progan")[1](torch.zeros(2, 3, 12, 12)), r"shape \[2, 3, 12, 12\], expected .*\[16, 16\]"),
        (lambda: pair("stylegan2")[1](torch.zeros(2, 3, 8, 8)), r"expected \[N, 3, 16, 16\]"),
        (lambda: pair("stylegan2")[0](torch.zeros(2, 5)), r"z is of shape \[2, 5\], expected \[N, 6\]"),
        (lambda: pair("stylegan2", c_dim=3)[0](torch.zeros(2, 6)), r"c is None, expected \[N, 3\]"),
        (lambda: pair("stylegan2")[0](torch.zeros(2, 6), torch.zeros(2, 3)), r"the network has no labels"),
        (lambda: pair("stylegan")[1](torch.zeros(2, 3, 16, 16), torch.zeros(2, 3)), r"expected \[2, 0\], or None"),
        (lambda: pair("stylegan2")[0](torch.zeros(2, 6), noise_mode="fixed"), "noise_mode is 'fixed', expected"),
        (lambda: pair("stylegan2")[0].synthesis(torch.zeros(2, 3, 6)), r"shape \[2, 3, 6\], expected \[N, 6, 6\]"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_each_network_is_a_module_of_its_own_names():
    for name in ("progan", "stylegan", "stylegan2", "stylegan3"):
        for net in pair(name):
            assert isinstance(net, nn.Module)
            assert not [k for k in net.state_dict() if k.startswith("_")]
