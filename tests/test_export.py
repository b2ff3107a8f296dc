"""torch.export and ONNX of what has no battery of its own: helpers, layers, a whole network."""

import pytest
import torch
from export_tests import ONNX_MISSING, Call, check_export, check_onnx
from torch import nn

import gankernels
from gankernels import _backend, ops
from gankernels import nn as layers

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
HELPERS = {
    "filter2d": lambda x: ops.filter2d(x, TAPS),
    "upsample2d": lambda x: ops.upsample2d(x, TAPS),
    "downsample2d": lambda x: ops.downsample2d(x, TAPS, down=[2, 1]),
}
IMAGE, STYLE = (2, 4, 8, 8), (2, 5)
MODULES = {  # name: (how it is made, shapes of its inputs)
    "AdaIN": (lambda: filled(layers.AdaIN(4, 5)), [IMAGE, STYLE]),
    "BatchNormAct2d": (lambda: layers.BatchNormAct2d(4, act="relu").eval(), [IMAGE]),
    "BiasAct": (lambda: layers.BiasAct("swish", num_features=4), [IMAGE]),
    "Blur": (lambda: layers.Blur(), [IMAGE]),
    "ConditionalBatchNorm2d": (
        lambda: moved(layers.ConditionalBatchNorm2d(4, 5, act="relu")).eval(),
        [IMAGE, STYLE],
    ),
    "Conv2d": (lambda: layers.Conv2d(4, 6, 3, padding=1, stride=2), [IMAGE]),
    "ConvTranspose2d": (lambda: layers.ConvTranspose2d(4, 6, 4, padding=1, stride=2), [IMAGE]),
    "Downsample": (lambda: layers.Downsample(), [IMAGE]),
    "Dropout": (lambda: layers.Dropout(0.3).eval(), [IMAGE]),
    "EqualizedConv2d": (lambda: layers.EqualizedConv2d(4, 6, 3, down=2, act="lrelu"), [IMAGE]),
    "EqualizedLinear": (lambda: layers.EqualizedLinear(5, 3, act="lrelu"), [STYLE]),
    "FadeIn": (lambda: layers.FadeIn(3, 4, alpha=0.3), [IMAGE, (2, 3, 4, 4)]),
    "FilteredLReLU": (
        lambda: layers.FilteredLReLU(4, up=2, down=2, filter_up=TAPS, filter_down=TAPS, padding=3),
        [IMAGE],
    ),
    "GradientReversal": (lambda: layers.GradientReversal(0.5), [IMAGE]),
    "InstanceNormAct2d": (lambda: filled(layers.InstanceNormAct2d(4, affine=True, act="lrelu")), [IMAGE]),
    "Linear": (lambda: layers.Linear(5, 3, act="tanh"), [STYLE]),
    "Maxout": (lambda: layers.Maxout(2), [IMAGE]),
    "MinibatchStdDev": (lambda: layers.MinibatchStdDev(2), [IMAGE]),
    "ModulatedConv2d": (lambda: layers.ModulatedConv2d(4, 6, 3, up=2), [IMAGE, (2, 4)]),
    "NoiseInjection": (lambda: filled(layers.NoiseInjection(4)), [IMAGE, (2, 1, 8, 8)]),
    "PixelNorm": (lambda: layers.PixelNorm(), [STYLE]),
    "PixelShuffleAct": (lambda: layers.PixelShuffleAct(2, "swish", num_features=4), [IMAGE]),
    "SPADE": (lambda: moved(layers.SPADE(4, 3, 6, act="lrelu")).eval(), [IMAGE, (2, 3, 4, 3)]),
    "SelfAttention": (lambda: filled(layers.SelfAttention(8)), [(2, 8, 4, 4)]),
    "SpectralNorm": (lambda: layers.SpectralNorm(nn.Sequential(layers.Conv2d(4, 3, 3))).eval(), [IMAGE]),
    "StyledConv": (lambda: filled(layers.StyledConv(4, 6, 3, 5, up=2)), [IMAGE, STYLE, (2, 1, 16, 16)]),
    "Upsample": (lambda: layers.Upsample([2, 1]), [IMAGE]),
}
RANDOM = {"AugmentPipe"}  # draws transforms: no two calls agree


def filled(module):
    """`module` with numbers in the parameters that start as 0."""
    for p in module.parameters():
        nn.init.normal_(p)
    return module


def moved(module):
    """`module` with running statistics that are not those it starts with."""
    nn.init.normal_(module.running_mean)
    nn.init.uniform_(module.running_var, 0.5, 2.0)
    return module


def call(module, shapes):
    tensors = {f"x{i}": torch.randn(shape, requires_grad=True) for i, shape in enumerate(shapes)}
    return module, tensors, set(tensors)


def test_every_layer_is_here():
    classes = {
        k for k in layers.__all__ if isinstance(getattr(layers, k), type) and issubclass(getattr(layers, k), nn.Module)
    }
    assert set(MODULES) | RANDOM == classes


@pytest.mark.parametrize(("backend", "strict"), [("reference", False), ("cpu", False), ("cpu", True)])
@pytest.mark.parametrize("name", [*HELPERS, *MODULES])
def test_export(name, backend, strict):
    with gankernels.backend(backend):
        check_export(*case(name), strict)


@pytest.mark.parametrize("name", [*HELPERS, *MODULES])
def test_onnx(name):
    check_onnx(*case(name))


def case(name):
    if name in HELPERS:
        return HELPERS[name], {"x": torch.randn(IMAGE, requires_grad=True)}, {"x"}
    make, shapes = MODULES[name]
    return call(make(), shapes)


class Network(nn.Module):
    """An input through every kind of layer of a generator and a discriminator."""

    def __init__(self):
        super().__init__()
        self.mapping = nn.Sequential(layers.PixelNorm(), layers.EqualizedLinear(5, 5, act="lrelu"))
        self.constant = nn.Parameter(torch.randn(1, 4, 4, 4))
        self.styled = filled(layers.StyledConv(4, 4, 3, 5, up=2, resolution=8))
        self.down = nn.Sequential(
            layers.EqualizedConv2d(4, 4, 3, down=2, act="lrelu", clamp=256), layers.BatchNormAct2d(4, act="relu")
        )
        self.end = nn.Sequential(layers.MinibatchStdDev(2), layers.Conv2d(5, 3, 3), nn.Flatten(), layers.Linear(12, 1))

    def forward(self, z):
        w = self.mapping(z)
        x = self.styled(self.constant.expand(z.shape[0], -1, -1, -1), w, noise="const")
        return self.end(self.down(ops.filtered_lrelu(x, TAPS, TAPS, up=2, down=2, padding=3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval()


def onnx_or_skip():
    if ONNX_MISSING:
        pytest.skip(f"{', '.join(ONNX_MISSING)} not installed (pip install gankernels[onnx])")
    import onnxruntime

    return onnxruntime


@pytest.mark.parametrize("of", ["module", "program"])
def test_a_network_in_a_file(network, of, tmp_path):
    onnxruntime = onnx_or_skip()
    z, batch = torch.randn(4, 5), {"z": {0: torch.export.Dim.AUTO}}
    file = tmp_path / "network.onnx"
    if of == "module":
        gankernels.onnx.export(network, (z,), file, dynamic_shapes=batch)
    else:
        program = torch.export.export(network, (z,), dynamic_shapes=batch)
        assert any("gankernels_native" in str(n.target) for n in program.graph.nodes)
        gankernels.onnx.export(program, f=file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    z = torch.randn(6, 5)
    (y,) = session.run(None, {session.get_inputs()[0].name: z.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), network(z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"act": "lrelu", "bias": torch.randn(3)}, {"up": 2, "resample_filter": TAPS}])
def test_triton_operators_in_plain_pytorch(options, monkeypatch):
    """Those that Triton alone has, of a program exported for a GPU."""
    monkeypatch.setattr(_backend, "emulated", {"triton"})  # no kernel runs: exporting takes shapes alone
    tensors = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 3, 3), torch.randn(2, 4)
    module = Call(lambda **t: ops.modulated_conv2d_act(**t, padding=1, **options), ["x", "weight", "styles"])
    with gankernels.backend("triton"):
        program = torch.export.export(module, tensors)
    ran = {str(n.target).split(".")[1] for n in program.graph.nodes if "gankernels." in str(n.target)}
    assert ran & {"modulated_conv2d", "scaled_conv2d"}
    plain = program.run_decompositions(gankernels.onnx.decompositions())
    torch.testing.assert_close(plain.module()(*tensors), module(*tensors), rtol=1e-4, atol=1e-4)


def test_onnx_of_a_module_in_training_is_refused(network):
    with pytest.raises(ValueError, match=r"model is in training mode, expected eval mode; call model\.eval\(\)"):
        gankernels.onnx.export(network.train(), (torch.randn(4, 5),))


def test_a_saved_program_trains(network, tmp_path):
    """Saved and loaded, it has the gradients of the network, running statistics that move included."""
    network.train()
    z = torch.randn(4, 5)
    program = torch.export.export(network, (z,))
    torch.export.save(program, tmp_path / "network.pt2")
    again = torch.export.load(tmp_path / "network.pt2").module()
    for module in (network, again):
        module(z).square().sum().backward()
    theirs = dict(again.named_parameters())
    for name, p in network.named_parameters():
        torch.testing.assert_close(theirs[name].grad, p.grad, rtol=1e-4, atol=1e-5)
    for name, b in network.named_buffers():
        torch.testing.assert_close(dict(again.named_buffers())[name], b)
