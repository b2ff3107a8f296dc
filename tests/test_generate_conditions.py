"""`gankernels generate` and `evaluate` of networks that are told a class, by number or name, or InfoGAN's codes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_support import image_folder, run, tiny

from gankernels import data, metrics
from gankernels.cli import main
from gankernels.training import evaluate, generate, load_generator

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def infogan(tmp_path_factory):
    root = tmp_path_factory.mktemp("infogan")
    options = {"objective": "infogan", "categories": 3, "codes": 2}
    return run(tiny(image_folder(root / "images"), root / "run", 2, **options)).folder


@pytest.fixture(scope="module")
def cgan(tmp_path_factory):
    root = tmp_path_factory.mktemp("cgan")
    for name in ("cats", "dogs"):
        image_folder(root / "images" / name, 20)
    return run(tiny(root / "images", root / "run", 2, objective="cgan")).folder


def generated(folder, out, *arguments):
    """Bytes [n, 16, 16] of the images that the command writes."""
    assert main(["generate", "--checkpoint", str(folder), "--out", str(out), *map(str, arguments)]) == 0
    files = sorted((out / "images").iterdir())
    return torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])


def shown(images):
    return ((images[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def refused(capsys, command, folder, arguments, *words):
    assert main([command, "--checkpoint", str(folder), *map(str, arguments)]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_conditions_are_drawn_as_in_training(infogan):
    net, _ = load_generator(infogan, CPU)
    c = generate.conditions(net, 0, range(200))
    assert c.shape == (200, 5)
    assert c[:, :3].sum(1).eq(1).all()
    assert (c[:, :3].mean(0) - 1 / 3).abs().max() < 0.12
    assert c[:, 3:].abs().max() <= 1
    assert (c[:, 3:].std(0) - 3**-0.5).abs().max() < 0.06, "uniform in [-1, 1]"
    assert generate.conditions(net, 0, [7, 3]).equal(c[[7, 3]]), "those of an image stay the same"
    net.choose(1)
    chosen = generate.conditions(net, 0, range(5))
    assert chosen[:, :3].equal(torch.eye(3)[1].expand(5, -1))
    assert chosen[:, 3:].unique().numel() == 10
    z = generate.latents(net, 0, range(2))
    assert net.display(z).equal(net.display(z, torch.tensor([0.0, 1, 0, 0, 0]).expand(2, -1)))


def test_infogan_on_the_command_line(infogan, tmp_path, capsys):
    net, _ = load_generator(infogan, CPU)
    for label in (None, 2):
        net.choose(label)
        wanted = net.display(generate.latents(net, 4, range(3)), generate.conditions(net, 4, range(3)))
        given = [] if label is None else ["--label", label]
        assert generated(infogan, tmp_path / str(label), "--count", 3, "--seed", 4, *given).equal(shown(wanted))
    refused(capsys, "generate", infogan, ["--label", 3], "label is 3", "classes 0 to 2")
    refused(capsys, "generate", infogan, ["--what", "interpolation"], "classes 0 to 2", "--label")
    walk = ["--what", "interpolation", "--label", "0", "--count", "1", "--steps", "2", "--out", str(tmp_path)]
    assert main(["generate", "--checkpoint", str(infogan), *walk]) == 0


def test_codes_alone(tmp_path):
    options = {"objective": "infogan", "categories": 0, "codes": 2}
    folder = run(tiny(image_folder(tmp_path / "images"), tmp_path / "run", 1, **options)).folder
    net, _ = load_generator(folder, CPU)
    z, c = generate.latents(net, 0, range(2)), generate.conditions(net, 0, range(2))
    assert generated(folder, tmp_path / "out", "--count", 2).equal(shown(net.display(z, c)))
    assert net.display(z).equal(net.display(z, torch.zeros(2, 2)))


def test_names_of_classes(cgan, tmp_path, capsys):
    by_name = generated(cgan, tmp_path / "a", "--count", 2, "--label", "dogs")
    assert by_name.equal(generated(cgan, tmp_path / "b", "--count", 2, "--label", "1"))
    assert not by_name.equal(generated(cgan, tmp_path / "c", "--count", 2, "--label", "cats"))
    refused(capsys, "generate", cgan, ["--label", "birds"], "label is birds", "classes 0 to 1 (cats, dogs)")
    refused(capsys, "generate", cgan, [], "classes 0 to 1 (cats, dogs)", "--label")


def test_evaluate(infogan, cgan, tmp_path, capsys, monkeypatch):
    def pixels(images):
        small = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return small, small[:, :5]

    class Plain(torch.nn.Module):
        def forward(self, images):
            return [images + 2]

    seen = []

    def kept(*arguments, by=evaluate.generated):
        seen.append([*by(*arguments)])
        return seen[-1]

    monkeypatch.setattr(evaluate, "generated", kept)
    monkeypatch.setattr(metrics, "lite0_extractor", lambda *_: metrics.Extractor("pixels", pixels, CPU))
    monkeypatch.setattr(metrics, "perceptual_lite0", lambda: metrics.Perceptual(Plain()))
    net, _ = load_generator(infogan, CPU)
    z = generate.latents(net, 0, range(12))
    given = ["evaluate", "--checkpoint", str(infogan), "--count", "12"]
    for label in (None, 1):
        net.choose(label)
        more = ["--metrics", "kid"] if label is None else ["--metrics", "kid", "ppl", "--label", "1"]
        assert main([*given, *more]) == 0
        assert torch.cat(seen.pop()).equal(net.display(z, generate.conditions(net, 0, range(12))))
    refused(capsys, "evaluate", infogan, ["--count", 12, "--metrics", "ppl"], "name one class with --label")
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(cgan), "--count", "12", "--label", "dogs"]) == 0
    assert ", of that class" in capsys.readouterr().out


def test_both_sides_of_a_metric_are_of_the_same_classes(cgan):
    net, config = load_generator(cgan, CPU)
    images = data.load(config.data, resolution=16, channels=net.channels)
    rare = torch.zeros(len(images), dtype=torch.int64)
    rare[0] = 1
    images = replace(images, labels=rare)  # one dog, the others cats
    drawn = generate.conditions(net, 0, range(200), evaluate.own_labels(net, images))
    assert abs(drawn[:, 1].mean() - 1 / len(images)) < 0.1
    assert len(evaluate.comparable(net, images)) == len(images)
    net.choose("dogs")
    assert evaluate.comparable(net, images).tolist() == [0]
    others = replace(images, class_names=("x", "y"))
    assert evaluate.own_labels(net, others) is None
    assert len(evaluate.comparable(net, others)) == len(images)
