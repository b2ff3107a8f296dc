"""Published networks come over number by number; generators leave in formats of others."""

import collections
import json
import os
import pathlib

import numpy as np
import pytest
import torch
from gankernels.models import stylegan2, stylegan3
from pickle_support import Reduced, module, published, saved, written
from plain_port import Holder, PortGenerator

from gankernels.cli import main
from gankernels.convert import convert, export
from gankernels.errors import CheckpointError, ConfigError
from gankernels.training import load_generator

pytest.importorskip("safetensors.torch")
pytest.importorskip("tyro")
CPU = torch.device("cpu")
SMALL = {"channel_base": 128, "channel_max": 8}
SIZE = {"img_resolution": 16, "img_channels": 3}
G = {"z_dim": 6, "w_dim": 5, "c_dim": 0, **SIZE, "mapping_kwargs": {"num_layers": 2}}
D = {"c_dim": 0, **SIZE, "block_kwargs": {}, "mapping_kwargs": {}, "epilogue_kwargs": {"mbstd_group_size": 2}, **SMALL}
OPTIONS = {"num_fp16_res": 1, "conv_clamp": 256}
# The three ways in which published files name their arguments: nested, flat, and with those of training.
STYLEGAN2_ADA = G | {"synthesis_kwargs": {**SMALL, **OPTIONS}}
STYLEGAN2 = G | SMALL | OPTIONS | {"fused_modconv_default": "inference_only"}
STYLEGAN3 = G | SMALL | {"num_layers": 4, "magnitude_ema_beta": 0.9994}
STYLEGAN3_R = STYLEGAN3 | {"conv_kernel": 1, "use_radial_filters": True}
CASES = {
    "stylegan2-ada": (stylegan2, STYLEGAN2_ADA),
    "stylegan2": (stylegan2, STYLEGAN2),
    "stylegan2-resnet-conditional": (stylegan2, STYLEGAN2 | {"c_dim": 3, "architecture": "resnet"}),
    "stylegan3-t": (stylegan3, STYLEGAN3),
    "stylegan3-r": (stylegan3, STYLEGAN3_R),
}


def moved(net):
    """`net` with no parameter left at 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in [*net.parameters(), *(b for n, b in net.named_buffers() if "w_avg" in n)]:
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return net.eval()


def ours(family, g_kwargs):
    """Generator, its average, discriminator."""
    flat = {k: v for k, v in g_kwargs.items() if k not in ("fused_modconv_default", "magnitude_ema_beta")}
    flat |= flat.pop("synthesis_kwargs", {})
    d = {k: v for k, v in D.items() if not k.endswith("kwargs")} | {"c_dim": g_kwargs["c_dim"], "mbstd_group_size": 2}
    g = [family.Generator(**flat) for _ in range(2)]
    return *map(moved, g), moved(family.Discriminator(**d))


@pytest.mark.parametrize(("case", "protocol"), [*((case, 4) for case in CASES), ("stylegan3-t", 2), ("stylegan2", 3)])
def test_a_published_pickle(tmp_path, case, protocol):
    family, g_kwargs = CASES[case]
    g, g_ema, d = ours(family, g_kwargs)
    d_kwargs = D | {"c_dim": g_kwargs["c_dim"]}
    file = published(tmp_path / "network.pkl", g_ema, g, d, g_kwargs, d_kwargs, protocol)
    notes = convert(file, tmp_path / "out.safetensors")
    assert [note.split(":")[0] for note in notes] == ["average", "generator", "discriminator"]
    z = torch.randn(3, 6)
    c = torch.eye(3) if g_kwargs["c_dim"] else None
    for average, wanted in ((True, g_ema), (False, g)):
        net, config = load_generator(tmp_path / "out.safetensors", CPU, average=average)
        assert config is None
        assert net.config == {**wanted.config, "num_fp16_res": net.config["num_fp16_res"]}
        net.truncate(0.7, 2)
        wanted.truncate(0.7, 2)
        assert torch.equal(net.display(z, c), wanted.display(z, c))
    from gankernels.training.checkpoint import load

    state = load(tmp_path / "out.safetensors")
    again = family.Discriminator(**state["discriminator_config"]).eval()
    again.load_state_dict(state["discriminator"])
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(images, None if c is None else c[:2]), d(images, None if c is None else c[:2]))


def test_arguments_that_a_file_leaves_out_are_read_off_its_layers(tmp_path):
    net = moved(stylegan2.Generator(**G, **SMALL, architecture="resnet", conv_clamp=None, num_fp16_res=0))
    g_ema = module(
        net, "Generator", _init_args=(6, 0, 5, 16, 3), _init_kwargs={"mapping_kwargs": {"num_layers": 2}, **SMALL}
    )
    blocks = g_ema.call[1][0]["state"]["_modules"]["synthesis"].call[1][0]["state"]["_modules"]
    for block in blocks.values():
        block.call[1][0]["state"] |= {"architecture": "resnet", "use_fp16": False, "conv_clamp": None}
    convert(written(tmp_path / "n.pkl", {"G_ema": g_ema}), tmp_path / "out.safetensors")
    again, _ = load_generator(tmp_path / "out.safetensors", CPU)
    assert again.config == net.config
    with pytest.raises(CheckpointError, match="holds no generator as trained"):
        load_generator(tmp_path / "out.safetensors", CPU, average=False)


def port(seed=0, **options):
    torch.manual_seed(seed)
    net = PortGenerator(**options)
    for p in net.parameters():
        torch.nn.init.normal_(p, 0.1 if p.ndim == 1 else 0.0)
    return net


@pytest.mark.parametrize("zipped", [True, False])
def test_a_port(tmp_path, zipped):
    net = port()
    average = torch.randn(5)
    file = tmp_path / "port.pt"
    file.write_bytes(
        saved({"g_ema": net.state_dict(), "g": net.state_dict(), "latent_avg": average, "step": 7}, zipped)
    )
    convert(file, tmp_path / "out.safetensors")
    g, _ = load_generator(tmp_path / "out.safetensors", CPU)
    assert (g.z_dim, g.size, g.channels) == (5, (16, 16), 3)
    assert torch.equal(g.mapping.w_avg, average)
    z = torch.randn(4, 5)
    torch.testing.assert_close(g.display(z), net(z), rtol=1e-4, atol=1e-4)


def test_a_port_without_a_mean_latent(tmp_path):
    net = port(1)
    file = tmp_path / "port.pt"
    file.write_bytes(saved({"g_ema": net.state_dict()}))
    (note, *_) = convert(file, tmp_path / "out.safetensors")
    assert "no mean latent" in note
    g, _ = load_generator(tmp_path / "out.safetensors", CPU)
    torch.testing.assert_close(g.mapping.w_avg, g.mapping(torch.randn(4096, 5))[:, 0].mean(0), rtol=0.3, atol=0.1)


def test_a_ports_discriminator(tmp_path):
    """By its names alone: each lands where the shapes say that it must."""
    net = moved(stylegan2.Discriminator(**SIZE, **SMALL, conv_clamp=None, num_fp16_res=0))
    names = {"fromrgb.weight": "convs.0.0.weight", "fromrgb.bias": "convs.0.1.bias"}
    parts = {"conv0.weight": "conv1.0.weight", "conv0.bias": "conv1.1.bias", "conv1.weight": "conv2.1.weight"}
    parts |= {"conv1.bias": "conv2.2.bias", "skip.weight": "skip.1.weight"}
    last = {
        "conv.weight": "final_conv.0.weight",
        "conv.bias": "final_conv.1.bias",
        "fc.weight": "final_linear.0.weight",
    }
    last |= {"fc.bias": "final_linear.0.bias", "out.weight": "final_linear.1.weight", "out.bias": "final_linear.1.bias"}
    state = {}
    for name, tensor in net.state_dict().items():
        block, _, rest = name.partition(".")
        if "filter" not in name:
            index = {"b16": 1, "b8": 2}.get(block)
            state[names.get(rest) or (last[rest] if block == "b4" else f"convs.{index}.{parts[rest]}")] = tensor
    file = tmp_path / "port.pt"
    file.write_bytes(saved({"g_ema": port().state_dict(), "d": state}))
    convert(file, tmp_path / "out.safetensors")
    from gankernels.training.checkpoint import load

    converted = load(tmp_path / "out.safetensors")
    again = stylegan2.Discriminator(**converted["discriminator_config"]).eval()
    again.load_state_dict(converted["discriminator"])
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(images), net(images))


def refused(tmp_path, content, *words):
    file = written(tmp_path / "network.pkl", content)
    with pytest.raises(CheckpointError) as caught:
        convert(file, tmp_path / "out.safetensors")
    for word in (str(file), *words):
        assert word in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def changed(change, family=stylegan2, g_kwargs=STYLEGAN2):
    """{"G_ema": ...} after `change(network, its arguments)`."""
    net, _, _ = ours(family, g_kwargs)
    kwargs = {**g_kwargs}
    change(net, kwargs)
    return {"G_ema": module(net, "Generator", _init_args=(), _init_kwargs=kwargs)}


def test_networks_that_ours_cannot_be(tmp_path):
    def without(net, _):
        del net.synthesis.b8.conv0._parameters["bias"]

    def reshaped(net, _):
        net.mapping.fc1.weight = torch.nn.Parameter(torch.zeros(5, 4))

    refused(tmp_path, changed(without), "average lacks synthesis.b8.conv0.bias")
    refused(tmp_path, changed(reshaped), "mapping.fc1.weight of shape [5, 4]")
    refused(tmp_path, changed(lambda _, k: k.update(img_resolution=32)), "average lacks synthesis.b32")
    refused(tmp_path, changed(lambda _, k: k.update(img_resolution=8)), "synthesis.b16", "which this model lacks")
    refused(tmp_path, changed(lambda _, k: k.update(activation="relu")), "activation 'relu'", "'lrelu' alone")
    refused(tmp_path, changed(lambda _, k: k.update(surprise=1)), "surprise = 1")
    refused(tmp_path, changed(lambda _, k: k.update(img_resolution=12)), "make no network", "power of two")
    refused(tmp_path, changed(lambda _, k: k.update(z_dim="many")), "make no network")
    refused(tmp_path, {"G_ema": module(torch.nn.Linear(2, 2))}, "neither StyleGAN2's nor StyleGAN3's")
    refused(tmp_path, {"weights": 3}, "no network G_ema", "weights")
    refused(tmp_path, [1, 2], "a list")


@pytest.mark.parametrize("argument", ["channel_max", "channel_base", "w_dim", "img_channels", "img_resolution"])
def test_settings_cannot_ask_for_more_than_the_file_holds(tmp_path, argument):
    content = changed(lambda _, k: k.update({argument: 16384, "channel_max": 16384, "channel_base": 1 << 20}))
    refused(tmp_path, content, "network.pkl")
    refused(tmp_path, changed(lambda _, k: k.update({argument: 1 << 40})), "beyond what")
    deep = changed(lambda _, k: k.update(mapping_kwargs={"num_layers": 1 << 30}))
    refused(tmp_path, deep, "num_layers")


def test_ports_that_ours_cannot_be(tmp_path):
    def check(state, *words):
        file = tmp_path / "port.pt"
        file.write_bytes(saved({"g_ema": state}))
        with pytest.raises(CheckpointError) as caught:
            convert(file, tmp_path / "out.safetensors")
        for word in (str(file), *words):
            assert word in str(caught.value)

    good = port().state_dict()
    check({k: v for k, v in good.items() if k != "convs.1.activate.bias"}, "lacks synthesis.b8.conv1.bias")
    check({**good, "convs.9.extra": torch.zeros(1)}, "convs.9.extra")
    check({**good, "convs.0.conv.blur.kernel": torch.ones(4, 4)}, "another filter", "1-3-3-1")
    check({**good, "style.1.weight": torch.zeros(5)}, "mapping.fc0.weight")
    check({"style.1.weight": torch.zeros(5, 5)}, "belongs to another model")
    check({**good, "input.input": "no tensor"}, "input.input is a str")
    check(3, "no state dict")


def test_the_commands(tmp_path, capsys):
    g, g_ema, d = ours(stylegan2, STYLEGAN2)
    file = published(tmp_path / "network.pkl", g_ema, g, d, STYLEGAN2, D)
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(file), str(out)]) == 0
    shown = capsys.readouterr().out
    assert "stylegan2 16x16, 3 channels" in shown
    assert shown.endswith(f"wrote {out}\n")
    assert main(["generate", "--checkpoint", str(out), "--count", "2", "--out", str(tmp_path / "images")]) == 0
    assert len(list((tmp_path / "images/images").iterdir())) == 2
    assert main(["export", str(out), str(tmp_path / "g.safetensors"), "--truncation", "0.5"]) == 0
    settings = json.loads((tmp_path / "g.json").read_text())
    again = stylegan2.Generator(**settings["config"])
    from safetensors.torch import load_file

    again.load_state_dict(load_file(tmp_path / "g.safetensors"))
    z = torch.randn(2, 6)
    assert torch.equal(again.eval().display(z), g_ema.display(z))
    for arguments, words in (
        (["convert", tmp_path / "none.pkl", out], ["there is no file", "none.pkl"]),
        (["convert", out, tmp_path / "x.safetensors"], ["out.safetensors", "truncated or no pickle"]),
        (["export", file, tmp_path / "x.onnx"], ["network.pkl", "no safetensors file"]),
        (["export", out, tmp_path / "x.png"], ["x.png", ".pt2"]),
        (["export", out, "/dev/null/x.pt2"], ["cannot write"]),
        (["train", "--resume", out], ["kind 'networks'", "'training' is needed"]),
        (["evaluate", "--checkpoint", out], ["has no data of its own", "--data"]),
        (["generate", "--checkpoint", out, "--label", "1"], ["label is 1", "no classes"]),
    ):
        assert main([str(one) for one in arguments]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        for word in words:
            assert word in message, message


def test_programs_of_others_agree(tmp_path):
    """A conditional StyleGAN2 with truncation inside, for any number of latents."""
    net = moved(stylegan2.Generator(**{**G, "c_dim": 2, "img_resolution": 8}, channel_base=64, channel_max=4))
    net.truncate(0.5)
    z, c = torch.randn(3, 6), torch.eye(2)[[1, 0, 1]]
    wanted = net.display(z, c)
    export(net, tmp_path / "g.pt2")
    program = torch.export.load(tmp_path / "g.pt2")
    assert not [node for node in program.graph.nodes if "gankernels" in str(node.target)], "it runs without gankernels"
    torch.testing.assert_close(program.module()(z=z, c=c), wanted, rtol=1e-4, atol=1e-4)
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(net, tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"])
    (images,) = session.run(None, {"z": z.numpy(), "c": c.numpy()})
    torch.testing.assert_close(torch.from_numpy(images), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="its suffix chooses"):
        export(net, tmp_path / "g.txt")


def test_reading_does_not_depend_on_order_or_sharing(tmp_path):
    """One storage for two tensors, views that are not contiguous, a class that a pickle names before its arguments."""
    from gankernels._saved import read_file

    base = torch.arange(24.0)
    content = {"a": base.view(4, 6).t(), "b": base[3:9], "h": base.half(), "i": base.long().reshape(2, 3, 4)}
    content["e"], content["o"] = torch.zeros(0, 3), collections.OrderedDict(n=torch.tensor(5.0))
    for zipped in (True, False):
        (tmp_path / "t.pt").write_bytes(saved(content, zipped))
        found = read_file(tmp_path / "t.pt")
        for name in "abhie":
            tensor = found[name].tensor()
            assert torch.equal(tensor, content[name]), name
            assert tensor.is_contiguous()
        assert found["o"]["n"].tensor() == 5
    assert Reduced(dict).__reduce__() == (dict, ())


GOLDEN = os.environ.get("GANKERNELS_GOLDEN", "")


@pytest.mark.parametrize("path", sorted(pathlib.Path(GOLDEN).glob("stylegan*_G.npz")) if GOLDEN else [None])
def test_published_parameters_come_over(tmp_path, path):
    """Parameters of the published implementation, in a pickle of the published form: its images come out."""
    if path is None:
        pytest.skip("GANKERNELS_GOLDEN names no folder of published numbers")
    d = np.load(path)
    spec = json.loads(str(d["spec"]))
    tree = Holder()
    for name in d.files:
        if name.startswith("param."):
            tree.put(name.removeprefix("param."), torch.from_numpy(d[name].copy()), parameter=False)
    g_ema = module(tree, "Generator", _init_args=(), _init_kwargs=spec["generator"])
    convert(written(tmp_path / "n.pkl", {"G_ema": g_ema}), tmp_path / "out.safetensors")
    net, _ = load_generator(tmp_path / "out.safetensors", CPU)
    z, c = (torch.from_numpy(d[name]) for name in "zc")
    for psi, name in ((1, "img"), (spec["truncation_psi"], "img_truncated")):
        net.truncate(psi)
        images = net.display(z, c if c.numel() else None)
        torch.testing.assert_close(images, torch.from_numpy(d[name]), rtol=1e-3, atol=1e-4)
