"""`gankernels generate` with a mapping network: truncation, mixing, walks, arithmetic in W, video, projection."""

import numpy as np
import pytest
import torch
from gankernels.models import dcgan, progan, stylegan, stylegan2, stylegan3
from torch import nn

from gankernels.cli import main
from gankernels.errors import ConfigError
from gankernels.metrics import Perceptual
from gankernels.training import generate, pictures, projection, video
from gankernels.training.checkpoint import save
from gankernels.training.style_pictures import chosen_styles, mixed, style_resolutions

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors.torch")
pytest.importorskip("tyro")
SMALL = {"z_dim": 6, "w_dim": 5, "img_channels": 3, "channel_base": 128, "channel_max": 8}


def network(family=stylegan2, resolution=16, **options):
    """A generator whose parameters, mean style and noise are drawn anew."""
    torch.manual_seed(0)
    options = {**SMALL, "mapping_kwargs": {"num_layers": 2}, **options}
    net = family.Generator(img_resolution=resolution, **options).eval().requires_grad_(False)
    for p in [*net.parameters(), net.mapping.w_avg]:
        p.add_(torch.randn(p.shape) * 0.3)
    return net


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A converted StyleGAN2 of 16x16 on disk."""
    net = network()
    path = tmp_path_factory.mktemp("styles") / "checkpoints" / "net.safetensors"
    state = {"kind": "networks", "model": "stylegan2", "generator_config": net.config, "average": net.state_dict()}
    save(path, state | {"average": dict(net.state_dict())})
    return path


def cells(path, rows, columns, size=16):
    """The pictures of a grid as bytes [rows, columns, size, size, 3]."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB")))
    scale = pixels.shape[1] // (columns * (size + 2) + 2)
    assert pixels.shape[:2] == (scale * (rows * (size + 2) + 2), scale * (columns * (size + 2) + 2))
    pixels = pixels[::scale, ::scale][2:, 2:]
    return pixels.unfold(0, size, size + 2).unfold(1, size, size + 2).permute(0, 1, 3, 4, 2)


def shown(images):
    """Images as `cells` gives them."""
    return pictures.to_bytes(images).permute(0, 2, 3, 1)


def run(*arguments):
    assert main(["generate", *map(str, arguments)]) == 0


def refused(capsys, arguments, *words):
    assert main(["generate", *map(str, arguments)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in words:
        assert word in message, message


def test_truncation(file, tmp_path):
    net = network()
    numbers, psis = (3, 0, 5), (0.0, 0.5, 1.0)
    given = ["--checkpoint", file, "--what", "truncation", "--out", tmp_path, "--columns", *numbers]
    run(*given, "--psis", *psis)
    found = cells(tmp_path / "truncation.png", 3, 3)
    z = generate.latents(net, 0, numbers)
    for row, psi in zip(found, psis, strict=True):
        assert torch.equal(row, shown(net(z, truncation_psi=psi, noise_mode="const")))
    assert torch.equal(found[0, 0], found[0, 1]), "psi 0 is the mean image alone"
    run(*given, "--psis", 0, "--truncation-cutoff", 2)
    cut = cells(tmp_path / "truncation.png", 1, 3)
    wanted = net(z, truncation_psi=0, truncation_cutoff=2, noise_mode="const")
    assert torch.equal(cut[0], shown(wanted))
    assert not torch.equal(cut[0, 0], cut[0, 1])


def test_mixing(file, tmp_path):
    net = network()
    rows, columns = (0, 1), (2, 3, 4)
    run("--checkpoint", file, "--what", "mixing", "--out", tmp_path, "--rows", *rows, "--columns", *columns)
    z = generate.latents(net, 0, range(5))
    ws = net.mapping(z)
    own = shown(net.display(z))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mixing-coarse.png", "mixing-middle.png"]
    for name, chosen in (("coarse", [0, 1, 2]), ("middle", [3, 4, 5])):
        found = cells(tmp_path / f"mixing-{name}.png", 3, 4)
        assert torch.equal(found[0, 1:], own[2:])
        assert torch.equal(found[1:, 0], own[:2])
        assert (found[0, 0] == 255).all()
        for i in rows:
            for j in columns:
                both = ws[i : i + 1].clone()
                both[:, chosen] = ws[j : j + 1][:, chosen]
                assert torch.equal(found[1 + i, j - 1], shown(net.display_styles(both))[0])
    run(
        "--checkpoint", file, "--what", "mixing", "--out", tmp_path, "--layers", "0-5", "4", "--rows", 0, "--columns", 1
    )
    assert torch.equal(cells(tmp_path / "mixing-0-5.png", 2, 2)[1, 1], own[1]), "all styles of the column are its image"


def test_which_styles_are_coarse_middle_and_fine():
    two, one, three = network(resolution=64), network(stylegan, 64), network(stylegan3, 64, num_layers=6)
    assert style_resolutions(two) == [4, 8, 8, 16, 16, 32, 32, 64, 64, 64]
    assert style_resolutions(one) == [4, 4, 8, 8, 16, 16, 32, 32, 64, 64]
    assert style_resolutions(three) == pytest.approx([4, 4, 8, 16, 32, 64, 64, 64])
    for net in (two, one, three):
        parts = torch.stack([chosen_styles(net, name) for name in ("coarse", "middle", "fine")])
        assert parts.any(1).all()
        assert (parts.sum(0) == 1).all(), "each style has one name"
    assert chosen_styles(two, "2-4").nonzero().flatten().tolist() == [2, 3, 4]
    assert chosen_styles(two, "9").nonzero().flatten().tolist() == [9]
    for wrong in ("10", "4-2", "x", "-1", "3-", "0-10"):
        with pytest.raises(ConfigError, match="range within 0-9"):
            chosen_styles(two, wrong)
    with pytest.raises(ConfigError, match="no such styles"):
        chosen_styles(network(), "fine")
    ws = torch.arange(3.0)[:, None, None].expand(3, 10, 5)
    pairs = mixed(two, ws[:1], ws[1:], chosen_styles(two, "coarse"))
    assert pairs[:, :, 0].tolist() == [[1] * 3 + [0] * 7, [2] * 3 + [0] * 7]


def test_walks_and_arithmetic_in_w(file, tmp_path):
    net = network()
    given = ["--checkpoint", file, "--out", tmp_path, "--space", "w"]
    run(*given, "--what", "interpolation", "--count", 1, "--steps", 3)
    ws = net.mapping(generate.latents(net, 0, range(9)))
    walk = torch.stack([ws[0], (ws[0] + ws[1]) / 2, ws[1]])
    found = cells(tmp_path / "interpolation.png", 1, 3)
    assert (found[0].int() - shown(net.display_styles(walk)).int()).abs().max() <= 1
    run(*given, "--what", "arithmetic", "--noise", 0)
    centre = ws[:3].mean(0) - ws[3:6].mean(0) + ws[6:].mean(0)
    found = cells(tmp_path / "arithmetic.png", 3, 3).flatten(0, 1)
    assert (found.int() - shown(net.display_styles(centre[None])).int()).abs().max() <= 1
    run(*given, "--what", "arithmetic", "--noise", 3)
    moved = cells(tmp_path / "arithmetic.png", 3, 3).flatten(0, 1)
    assert torch.equal(moved[4], found[4])
    assert not torch.equal(moved[0], found[0])


@pytest.mark.parametrize(("form", "name"), [("gif", "gif"), ("webp", "webp"), ("apng", "png")])
def test_moving_pictures(file, tmp_path, form, name):
    """An endless loop: frame i * steps is image i."""
    run(
        *("--checkpoint", file, "--what", "video", "--out", tmp_path, "--format", form),
        *("--count", 2, "--steps", 3, "--rate", 20),
    )
    net = network()
    own = shown(net.display(generate.latents(net, 0, range(2))))
    with Image.open(tmp_path / f"interpolation.{name}") as image:
        assert (image.n_frames, image.size) == (6, (256, 256))
        for number in range(2):
            image.seek(3 * number)
            pixels = torch.from_numpy(np.array(image.convert("RGB")))[8::16, 8::16].int()
            assert (pixels - own[number].int()).abs().float().mean() < (8 if form == "gif" else 1)
            assert image.info["duration"] == 50
    keys = torch.stack([torch.zeros(5), torch.ones(5)])[:, None]
    assert video.loop(net, keys, 2)[:, 0, 0].tolist() == [0, 0.5, 1, 0.5]


def test_mp4(file, tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed (pip install av)")
    options = ["--what", "video", "--format", "mp4", "--count", 2, "--steps", 3]
    run("--checkpoint", file, "--out", tmp_path, *options)
    with av.open(str(tmp_path / "interpolation.mp4")) as opened:
        frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    assert len(frames) == 6
    assert frames[0].shape == (256, 256, 3)


class Pixels(nn.Module):
    """Images at two resolutions: the plainest features."""

    def forward(self, images):
        return [images + 2, nn.functional.avg_pool2d(images, 4) + 2]


def test_projection_finds_a_styles_own_image():
    net = network(channel_base=64)
    for name, p in net.named_parameters():
        if name.endswith("noise_strength"):
            p.mul_(0.1)  # noise that w cannot explain
    wanted = net.mapping(torch.randn(1, 6))[0, 0]
    target = net.display_styles(wanted.expand(1, net.num_ws, -1))
    told = []
    found = projection.project(
        net, target, Perceptual(Pixels()), iterations=120, each=lambda step, distance: told.append((step, distance))
    )
    assert [step for step, _ in told] == list(range(1, 121))
    assert [distance for _, distance in told] == found.distances
    assert found.distances[-1] < found.distances[0] / 3
    assert set(found.noise) == {name for name, _ in net.synthesis.named_buffers() if name.endswith("noise_const")}
    for one in found.noise.values():
        assert abs(one.mean()) < 1e-4
        assert one.square().mean() == pytest.approx(1, abs=1e-3)
    again = projection.project(net, target, Perceptual(Pixels()), iterations=3)
    assert again.distances[0] == found.distances[0], "the seed decides the start"
    other = projection.project(net, target, Perceptual(Pixels()), iterations=1, seed=1)
    assert other.distances != again.distances[:1]
    with pytest.raises(ValueError, match="target must be"):
        projection.project(net, target[:, :1], Perceptual(Pixels()))


@pytest.mark.parametrize("family", [stylegan, stylegan3])
def test_projection_of_the_other_families(family):
    net = network(family, 16, **({"num_layers": 4} if family is stylegan3 else {}))
    found = projection.project(net, torch.zeros(1, 3, 16, 16), Perceptual(Pixels()), iterations=2)
    assert found.image.shape == (1, 3, 16, 16)
    assert bool(found.noise) is (family is stylegan)


def test_the_schedule_and_the_noises_regularisation():
    assert [projection.rate(t) for t in (0, 0.025, 0.05, 0.5, 0.75)] == pytest.approx([0, 0.5, 1, 1, 1])
    assert projection.rate(0.875) == pytest.approx(0.5)
    assert projection.rate(1) == pytest.approx(0)
    flat = torch.ones(16, 16)
    # Both neighbours at 16 and, of twice the value, at 8: 1 + 1 + 16 + 16.
    assert projection.autocorrelation(flat).item() == pytest.approx(34)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert projection.autocorrelation(board).item() == pytest.approx(2)
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert projection.autocorrelation(noise).item() < 0.1
    turned = projection.autocorrelation(noise.t())
    assert projection.autocorrelation(noise).item() == pytest.approx(turned.item(), rel=1e-4)


def test_the_projection_command(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(projection, "perceptual_lite0", lambda: Perceptual(Pixels()))
    Image.new("RGB", (40, 30), (200, 30, 60)).save(tmp_path / "target.png")
    given = ["--checkpoint", file, "--what", "projection", "--out", tmp_path / "out", "--iterations", 20]
    run(*given, "--target", tmp_path / "target.png")
    said = capsys.readouterr().out
    assert "step 2/20  perceptual distance" in said
    assert said.count("perceptual distance") == 11
    target, _ = cells(tmp_path / "out/projection.png", 1, 2)[0]
    assert (target == torch.tensor([200, 30, 60], dtype=torch.uint8)).all()
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "out/projection.safetensors")
    assert stored["w"].shape == (5,)
    assert stored["noise.b16.conv1.noise_const"].shape == (16, 16)
    (tmp_path / "text.png").write_text("no picture")
    refused(capsys, given, "--target")
    refused(capsys, [*given, "--target", tmp_path / "none.png"], "none.png", "cannot be read")
    refused(capsys, [*given, "--target", tmp_path / "text.png"], "text.png", "cannot be read as an image")
    refused(capsys, [*given, "--target", tmp_path / "target.png", "--lpips-weights", "x"], "--vgg16-weights")


def test_models_without_a_mapping_network(tmp_path, capsys):
    torch.manual_seed(0)
    net = dcgan.DCGANGenerator(16, 1, 4, 6).eval()
    path = tmp_path / "checkpoints/net.safetensors"
    state = {"kind": "networks", "model": "dcgan", "generator_config": net.config, "average": dict(net.state_dict())}
    save(path, state)
    given = ["--checkpoint", path, "--out", tmp_path]
    for options, words in (
        (["--what", "truncation"], ["truncation was asked", "DCGANGenerator"]),
        (["--what", "mixing"], ["mixing was asked"]),
        (["--what", "projection", "--target", "x"], ["projection was asked"]),
        (["--what", "interpolation", "--space", "w"], ["space is w"]),
        (["--what", "arithmetic", "--space", "w"], ["space is w"]),
        (["--what", "video", "--space", "w"], ["space is w"]),
        (["--truncation", "0.5"], ["truncation is 0.5", "no mapping network"]),
    ):
        refused(capsys, [*given, *options], *words)
    run(*given, "--what", "video", "--count", 2, "--steps", 2)
    run(*given, "--what", "arithmetic")
    run(*given, "--what", "interpolation", "--count", 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--what", "truncation", "--columns"], ["columns must"]),
        (["--what", "truncation", "--psis"], ["psis"]),
        (["--what", "mixing", "--rows"], ["rows and columns"]),
        (["--what", "mixing", "--columns", "-1"], ["columns holds -1"]),
        (["--what", "mixing", "--layers", "finest"], ["layers holds 'finest'", "0-5"]),
        (["--what", "mixing", "--layers", "fine"], ["layers names fine", "16 pixels"]),
        (["--what", "video", "--steps", "1"], ["steps must be at least 2"]),
        (["--what", "video", "--rate", "0"], ["rate must be at least 1"]),
        (["--what", "projection", "--iterations", "0"], ["iterations must be at least 1"]),
        (["--count", "0"], ["count must be at least 1"]),
        (["--label", "2"], ["label is 2", "no classes"]),
        (["--no-average"], ["no generator as trained"]),
    ],
)
def test_mistakes(file, tmp_path, capsys, options, words):
    refused(capsys, ["--checkpoint", file, "--out", tmp_path, *options], *words)


@pytest.mark.parametrize("family", [stylegan2, progan])
def test_classes(tmp_path, capsys, family):
    torch.manual_seed(0)
    options = SMALL | {"c_dim": 3, "img_resolution": 16}
    if family is progan:
        del options["w_dim"]
    net = family.Generator(**options).eval().requires_grad_(False)
    path = tmp_path / "net.safetensors"
    name = family.__name__.rpartition(".")[2]
    state = {"kind": "networks", "model": name, "generator_config": net.config, "average": dict(net.state_dict())}
    save(path, state)
    given = ["--checkpoint", path, "--count", 2, "--out", tmp_path]
    run(*given, "--label", 1)
    z = generate.latents(net, 0, range(2))
    noise = {} if family is progan else {"noise_mode": "const"}
    wanted = net(z, torch.eye(3)[[1, 1]], **noise)
    assert torch.equal(cells(tmp_path / "images.png", 1, 2)[0], shown(wanted))
    refused(capsys, given, "classes 0 to 2", "--label")
    refused(capsys, [*given, "--label", 3], "label is 3", "classes 0 to 2")


def test_damaged_networks(file, tmp_path, capsys):
    from gankernels.training.checkpoint import load

    state = load(file)
    path = tmp_path / "x.safetensors"
    for change, words in (
        (lambda s: s["average"].pop("mapping.fc0.bias"), ["lacks mapping.fc0.bias"]),
        (lambda s: s["generator_config"].update(img_resolution=32), ["lacks synthesis.b32"]),
        (lambda s: s["generator_config"].update(w_dim=4), ["belongs to another model"]),
        (lambda s: s.update(model="stylegan9"), ["incomplete or damaged"]),
        (lambda s: s["generator_config"].update(odd=1), ["incomplete or damaged"]),
        (lambda s: s.pop("generator_config"), ["incomplete or damaged"]),
    ):
        spoiled = {**state, "average": {**state["average"]}, "generator_config": {**state["generator_config"]}}
        change(spoiled)
        save(path, spoiled)
        refused(capsys, ["--checkpoint", path, "--out", tmp_path], str(path), *words)
    path.write_bytes(file.read_bytes()[:-7])
    refused(capsys, ["--checkpoint", path], str(path), "truncated")
