"""`gankernels evaluate`, and a metric at intervals of a run, whose best checkpoint is kept."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from training_support import arguments_of, image_folder, run, same, start, tiny, wait_for

from gankernels import data, metrics
from gankernels.cli import main
from gankernels.errors import MissingDependency
from gankernels.training import evaluate, generate, load_generator
from gankernels.training.checkpoint import all_checkpoints, load, save
from gankernels.training.metrics_log import read_metrics
from gankernels.training.watch import best_path

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors.torch")
pytest.importorskip("tyro")


def extractor(*_, name="pixels", **__):
    """Features and classes of 4x4 pixels: what the metrics are built on does not matter here."""

    def pixels(images):
        small = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return small, small[:, :5] * 4

    return metrics.Extractor(name, pixels, torch.device("cpu"))


class Pixels(torch.nn.Module):
    def forward(self, images):
        return [images + 2]


@pytest.fixture(autouse=True)
def plain_features(monkeypatch):
    monkeypatch.setattr(metrics, "lite0_extractor", extractor)
    monkeypatch.setattr(metrics, "inception_extractor", lambda *_: extractor(name="Inception"))
    monkeypatch.setattr(metrics, "perceptual_lite0", lambda: metrics.Perceptual(Pixels()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    return run(tiny(image_folder(root / "images"), root / "run", 4)).folder


EVERY = ["fid", "kid", "pr", "is", "ppl"]


def test_every_metric(trained, tmp_path, capsys):
    given = ["evaluate", "--checkpoint", str(trained), "--count", "40"]
    assert main([*given, "--metrics", *EVERY, "--json", str(tmp_path / "x/values.json")]) == 0
    said = capsys.readouterr().out
    assert f"pixels features of 40 generated and 40 real images of {trained.parent / 'images'}" in said
    assert "not comparable to Inception-FID" in said
    values = json.loads((tmp_path / "x/values.json").read_text())
    generator, config = load_generator(trained, torch.device("cpu"))
    fake, classes = extractor()(generate.render(generator, generate.latents(generator, 0, range(40))))
    images = data.load(config.data, resolution=16, channels=1)
    chosen = torch.randperm(50, generator=data.dataset.keyed_generator("evaluate", 0))[:40]
    real, _ = extractor()(images.batch(chosen))
    assert values["fid"] == pytest.approx(metrics.fid(real, fake))
    assert values["kid"] == pytest.approx(metrics.kid(real, fake))
    assert (values["precision"], values["recall"]) == metrics.precision_recall(real, fake)
    assert values["is"] == pytest.approx(metrics.inception_score(classes)[0])
    assert values["ppl"] > 0
    assert (values["generated"], values["real"], values["features"]) == (40, 40, "pixels")
    for line in ("FID (lower is better): ", "KID", "precision (higher", "recall", "IS (higher is better): ", "PPL"):
        assert line in said
    assert main([*given, "--real-count", "0", "--inception-weights", "w.pth"]) == 0
    said = capsys.readouterr().out
    assert "Inception features of 40 generated and 50 real images" in said
    assert "not comparable" not in said
    assert main([*given, "--seed", "1"]) == 0
    assert capsys.readouterr().out.split("KID")[1] != said.split("KID")[1]


def test_generated_images_are_not_kept(trained):
    """More than one part: the features of all, and the first images alone."""
    generator, config = load_generator(trained, torch.device("cpu"))
    extract = dataclasses.replace(extractor(), batch=7)
    sizes = []
    counted = dataclasses.replace(extract, run=lambda x: sizes.append(len(x)) or extract.run(x))
    features, classes, first = evaluate.fake_features(counted, generator, 20, 0, 9)
    assert sizes == [7, 7, 6]
    wanted = generate.render(generator, generate.latents(generator, 0, range(20)))
    torch.testing.assert_close(features, extract(wanted)[0])
    torch.testing.assert_close(classes, extract(wanted)[1])
    torch.testing.assert_close(first, wanted[:9])
    images = data.load(config.data, resolution=16, channels=1)
    assert len(evaluate.sample(generator, counted, images, 20, 4, 0).first) == evaluate.ROWS


def test_neighbours_show_copies(trained, tmp_path):
    from PIL import Image

    assert main(["evaluate", "--checkpoint", str(trained), "--count", "10", "--neighbours", str(tmp_path)]) == 0
    with Image.open(tmp_path / "neighbours.png") as image:
        assert image.width / image.height == pytest.approx((7 * 18 + 2) / (8 * 18 + 2), rel=0.01)
    images = data.load(str(trained.parent / "images"), resolution=16, channels=1)
    fake = images.batch(torch.tensor([7, 3]))
    chosen, real = evaluate.real_features(extractor(), images, None, 0)
    samples = evaluate.Samples(fake, *extractor()(fake), images, chosen, real)
    evaluate.write_neighbours(samples, tmp_path / "copies")
    with Image.open(tmp_path / "copies/neighbours.png") as image:
        pixels = torch.from_numpy(np.array(image))
    scale = pixels.shape[1] // (7 * 18 + 2)
    cells = pixels[::scale, ::scale][2:, 2:].unfold(0, 16, 18).unfold(1, 16, 18)
    for row in cells:
        assert torch.equal(row[0], row[1]), "the copied image is its own nearest neighbour"
        assert not torch.equal(row[0], row[2])


def test_path_length_follows_the_generator():
    """Twice the contrast: four times the squared distance of pixels. In Z and in W, with classes and without."""
    from gankernels.models import dcgan, stylegan2

    class Plain(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).square().sum((1, 2, 3))

    torch.manual_seed(0)
    two = stylegan2.Generator(4, 0, 4, 8, 3, {"num_layers": 1}, channel_base=64, channel_max=4)
    classes = stylegan2.Generator(4, 3, 4, 8, 3, {"num_layers": 1}, channel_base=64, channel_max=4)
    for net in (two, classes, dcgan.DCGANGenerator(16, 1, 2, 4)):
        net.eval()
        display = "display_styles" if hasattr(net, "mapping") else "display"
        once = evaluate.path_length(net, 9, 0, Plain())
        own = getattr(net, display)
        setattr(net, display, lambda code, own=own: 2 * own(code))
        assert evaluate.path_length(net, 9, 0, Plain()) == pytest.approx(4 * once, rel=1e-6)
        assert once > 0


def test_classes_are_drawn_evenly():
    from gankernels.models import stylegan2

    net = stylegan2.Generator(4, 3, 4, 8, 3, {"num_layers": 1}, channel_base=64, channel_max=4).eval()
    drawn = generate.conditions(net, 0, range(300))
    assert drawn.sum(1).eq(1).all()
    assert (drawn.mean(0) - 1 / 3).abs().max() < 0.1
    z = generate.latents(net, 0, range(5))
    wanted = net(z, drawn[:5], noise_mode="const")
    torch.testing.assert_close(torch.cat([*evaluate.generated(net, 5, 0, batch=2)]), wanted, rtol=1e-4, atol=1e-5)
    net.choose(1)
    assert generate.conditions(net, 0, range(5)) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--count", "1"], ["count must be at least 2"]),
        (["--real-count", "-1"], ["real_count must be at least 0"]),
        (["--metrics"], ["metrics must name at least one"]),
        (["--metrics", "is", "--count", "5"], ["count must be at least 10 for is"]),
        (["--metrics", "pr", "--count", "3"], ["count must be at least 4 for pr"]),
        (["--real-count", "1"], ["1 real images of", "(50 in all), and kid takes at least 2", "--real-count"]),
        (["--metrics", "pr", "--real-count", "3"], ["3 real images of", "pr takes at least 4"]),
        (["--lpips-weights", "x"], ["vgg16-weights"]),
        (["--truncation", "0.5"], ["no mapping network"]),
        (["--label", "1"], ["no classes"]),
        (["--data", "nowhere"], ["unknown data 'nowhere'"]),
        (["--metrics", "ppl", "--vgg16-weights", "none.pth"], ["there is no file none.pth"]),
        (["--json", "/dev/null/x"], ["cannot write /dev/null/x"]),
        (["--neighbours", "/dev/null/x"], ["cannot write to /dev/null/x"]),
    ],
)
def test_mistakes(trained, capsys, options, words):
    assert main(["evaluate", "--checkpoint", str(trained), "--count", "12", *options]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in words:
        assert word in message, message


def stored(folder):
    """All that a run's steps decide, without clocks and settings of the metric."""
    state = load(all_checkpoints(folder)[-1])
    for name in ("seconds", "config"):
        del state[name]
    return state


WATCHED = {"metrics_every": 24, "metrics_count": 20}


def test_a_metric_at_intervals(tmp_path, capsys):
    images = image_folder(tmp_path / "images")
    plain = run(tiny(images, tmp_path / "plain", 9))
    capsys.readouterr()
    watched = run(tiny(images, tmp_path / "watched", 9, **WATCHED))
    same(stored(plain.folder), stored(watched.folder))
    lines = [line for line in read_metrics(watched.folder / "metrics.jsonl") if "kid" in line]
    assert [line["images"] for line in lines] == [24, 48, 72]
    best = min(lines, key=lambda line: line["kid"])
    state = load(best_path(watched.folder))
    assert state["step"] == best["step"]
    said = capsys.readouterr().out
    assert f"kid {best['kid']:.5f} after {best['images']} images; the best so far, kept as" in said
    generator, _ = load_generator(best_path(watched.folder), torch.device("cpu"))
    features, _ = extractor()(torch.cat([*evaluate.generated(generator, 20, 0)]))
    _, real = evaluate.real_features(extractor(), data.load(str(images), resolution=16, channels=1), 20, 0)
    assert metrics.kid(real, features) == best["kid"], "the kept file has that value"
    assert best_path(watched.folder) not in all_checkpoints(watched.folder)
    assert (watched.folder / "curves.png").exists()


def test_a_resumed_run_knows_its_best(tmp_path, monkeypatch):
    """Values that fall, rise, fall less, and fall below: the file follows them across a resumption."""
    from gankernels.training import watch

    images = image_folder(tmp_path / "images")
    values = iter([3.0, 1.0, 2.0, 0.5])
    monkeypatch.setattr(watch.Watch, "measure", lambda *_: next(values))
    config = tiny(images, tmp_path / "run", 6, **WATCHED)
    run(config)
    assert load(best_path(config.folder()))["step"] == 6
    run(dataclasses.replace(config, images=72), resume=config.folder())
    assert load(best_path(config.folder()))["step"] == 6, "2 is no better than 1"
    run(dataclasses.replace(config, images=96), resume=config.folder())
    assert load(best_path(config.folder()))["step"] == 12
    kept = [line["kid"] for line in read_metrics(config.folder() / "metrics.jsonl") if "kid" in line]
    assert kept == [3, 1, 2, 0.5]


def test_a_kill_while_the_best_is_saved_leaves_the_older_best(tmp_path):
    """The process dies between the bytes and the name: best.safetensors is the one before, whole."""
    config = tiny(image_folder(tmp_path / "images"), tmp_path / "run", 40, metrics_every=24, metrics_count=10)
    before = f"""
import os, sys
sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
from test_evaluate import extractor
from gankernels import metrics
from gankernels.training import watch
metrics.lite0_extractor = extractor
values = iter([2.0, 1.0])
watch.Watch.measure = lambda *_: next(values)
replace, seen = os.replace, []
def dying(source, target):
    if str(target).endswith("best.safetensors"):
        seen.append(target)
        if len(seen) == 2:
            os._exit(9)
    replace(source, target)
os.replace = dying
"""
    process = start(arguments_of(config), before)
    wait_for(lambda: process.poll() is not None or best_path(config.folder()).exists(), process)
    assert process.wait(120) == 9, process.communicate()[0]
    assert load(best_path(config.folder()))["step"] == 3


def test_a_run_that_cannot_measure_says_so_before_its_first_step(tmp_path, monkeypatch, capsys):
    def missing(*_, **__):
        raise MissingDependency("efficientnet-lite-pytorch is not installed")

    monkeypatch.setattr(metrics, "lite0_extractor", missing)
    monkeypatch.setattr("gankernels.training.trainer.Trainer.step", lambda self: pytest.fail("a step was taken"))
    images = image_folder(tmp_path / "images")
    options = ["--resolution", "16", "--width", "4", "--images", "64", "--metrics-every", "8"]
    arguments = ["train", "--data", str(images), "--out", str(tmp_path / "run"), *options]
    assert main(arguments) == 2
    assert "efficientnet-lite-pytorch is not installed" in capsys.readouterr().err
    for option, words in (("--metrics-every", "metrics_every must be"), ("--metrics-count", "metrics_count must be")):
        assert main([*arguments, option, "0"]) == 2
        assert words in capsys.readouterr().err


def test_networks_alone_need_data(trained, tmp_path, capsys):
    generator, _ = load_generator(trained, torch.device("cpu"))
    state = {"kind": "networks", "model": "dcgan", "generator_config": generator.config}
    save(tmp_path / "n.safetensors", state | {"average": dict(generator.state_dict())})
    given = ["evaluate", "--checkpoint", str(tmp_path / "n.safetensors"), "--count", "12"]
    assert main(given) == 2
    assert "has no data of its own; name real images with --data" in capsys.readouterr().err
    assert main([*given, "--data", str(trained.parent / "images")]) == 0
    assert "KID" in capsys.readouterr().out
