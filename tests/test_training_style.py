"""Training of ProGAN to StyleGAN3: schedules, lazy regularisers, mixing, resuming across their boundaries, errors."""

import json
import math
import subprocess
import sys
from typing import get_args

import pytest
import torch
from gankernels.models.progan import shrink
from training_support import image_folder, run, same_checkpoints, tiny, trainer

from gankernels import losses
from gankernels.data.dataset import keyed_generator
from gankernels.errors import ConfigError
from gankernels.nn import sample_keys
from gankernels.training import PRESETS, RECIPES, TrainConfig, game, load_generator
from gankernels.training.generate import latents, render
from gankernels.training.growth import stage
from gankernels.training.networks import build
from gankernels.training.presets import PresetName
from gankernels.training.styles import mixed_styles

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")

W = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "max_width": 8, "width": 4}
GROWTH = {"grow_from": 4, "stable_images": 16, "fade_images": 20}
RUNS = {
    "progan": {"z_dim": 8, "max_width": 8, "objective": "wgan-gp", "drift": 0.001, **GROWTH},
    "stylegan": {**W, "r1": 10.0, "r1_every": 1, "mixing": 0.9, **GROWTH},
    "stylegan2": {**W, "r1": 1.0, "r1_every": 4, "path_length": 2.0, "path_length_every": 3, "mixing": 0.5},
    "stylegan3": {**W, "r1": 1.0, "r1_every": 4, "d_lr": 1e-3},
}


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path / "images")


@pytest.mark.parametrize("model", [*RUNS, "ada"])
def test_resuming_is_bit_for_bit_across_boundaries(images, tmp_path, model):
    ada = {"model": "stylegan2", "augment": "bgc", "augment_images": 100, "augment_every": 2, "augment_target": -1.0}
    options = {"model": model, "betas": (0.0, 0.99), **(RUNS["stylegan2"] | ada if model == "ada" else RUNS[model])}
    straight = run(tiny(images, tmp_path / "a", 8, **options))
    run(tiny(images, tmp_path / "b", 3, **options))
    torch.manual_seed(99)
    second = run(tiny(images, tmp_path / "b", 8, **options), resume=tmp_path / "b")
    same_checkpoints(straight.checkpoint, second.checkpoint)


def test_stages_of_growth():
    config = TrainConfig(resolution=16, grow_from=4, stable_images=100, fade_images=50)
    expected = {0: (4, 1.0), 99: (4, 1.0), 100: (8, 0.0), 125: (8, 0.5), 150: (8, 1.0), 249: (8, 1.0), 250: (16, 0.0)}
    expected |= {290: (16, 0.8), 300: (16, 1.0), 10**9: (16, 1.0)}
    assert {images: stage(config, images) for images in expected} == expected
    assert stage(TrainConfig(), 5) == (None, 1.0)


@pytest.mark.parametrize("model", ["progan", "stylegan"])
def test_training_grows(images, model):
    one = trainer(images, model=model, **RUNS[model])
    seen = []
    one.discriminator.register_forward_pre_hook(lambda net, args: seen.append((args[0].shape[2], net.grown[1])))
    for _ in range(8):
        one.step()
    assert sorted(set(seen)) == [(4, 1.0), (8, 0.0), (8, 0.4), (8, 0.8), (8, 1.0), (16, 0.2)]
    assert one.samples(2).shape == (2, 1, 16, 16)
    untouched = [n for n, p in one.generator.named_parameters() if p not in one.g_descent.optimiser.state]
    assert untouched == []  # the last stage is reached, so all have learned


def test_real_images_are_faded_too(images):
    one = trainer(images, model="progan", **RUNS["progan"])
    one.generator.grow(8, 0.4)
    indices, mirrored = one.sampler.next(8)
    real = one._real(indices, mirrored)
    assert real.equal(shrink(one.data.batch(indices, mirrored), (8, 8), 0.4))


def test_lazy_regularisation_corrects_the_optimiser(images):
    one = trainer(images, model="stylegan2", lr=2e-3, betas=(0.1, 0.99), **RUNS["stylegan2"])
    for optimiser, c in ((one.d_descent.optimiser, 4 / 5), (one.g_descent.optimiser, 3 / 4)):
        group = optimiser.param_groups[0]
        assert group["lr"] == pytest.approx(2e-3 * c)
        assert group["betas"] == pytest.approx((0.1**c, 0.99**c))
    plain = trainer(images, model="stylegan2", lr=2e-3, d_lr=1e-3, **W)
    assert plain.g_descent.optimiser.param_groups[0]["lr"] == 2e-3
    assert plain.d_descent.optimiser.param_groups[0]["lr"] == 1e-3


def test_lazy_penalties_come_at_their_interval_times_it(images, monkeypatch):
    one = trainer(images, model="stylegan2", **RUNS["stylegan2"])
    calls = []

    def note(module, name, penalty, weight):
        def noted(*args, **kwargs):
            calls.append((one.step_count, name, args[weight]))
            return penalty(*args, **kwargs)

        monkeypatch.setattr(f"gankernels.training.{module}.{name}", noted)

    note("game", "r1_penalty", losses.r1_penalty, 2)
    note("trainer", "path_penalty", game.path_penalty, 3)
    for _ in range(5):
        one.step()
    assert calls == [
        (0, "r1_penalty", 4.0),
        (0, "path_penalty", 6.0),
        (3, "path_penalty", 6.0),
        (4, "r1_penalty", 4.0),
    ]
    assert one.mean_path.item() > 0


def test_augmentation_follows_what_the_discriminator_is_sure_of(images):
    one = trainer(images, model="stylegan2", augment="blit", augment_images=64, augment_every=2, **W)
    adapt, sure = one.augment, torch.ones(8, 1)
    seen = []
    for turn, logits in enumerate([sure, sure, sure, -sure, -sure, sure, -sure, -sure]):
        adapt.observe(logits, turn)
        seen.append(adapt.pipe.p.item())
    assert seen == [
        0,
        0.25,
        0.25,
        0,
        0,
        0,
        0,
        0,
    ]  # 16 of 64 images a step; a mean sign of 0 is under 0.6; 0 is the floor
    adapt.pipe.p.fill_(1.0)
    pictures = torch.randn(8, 1, 16, 16)
    places = torch.arange(8)
    first = adapt(pictures, sample_keys(3, places))
    assert first.equal(adapt(pictures, sample_keys(3, places)))
    assert not first.equal(adapt(pictures, sample_keys(4, places)))
    torch.testing.assert_close(first[4:], adapt(pictures[4:], sample_keys(3, places[4:])))
    assert not first.equal(pictures)
    plain = trainer(images, model="stylegan2", **W)
    assert plain.augment(pictures, sample_keys(3, places)) is pictures


def test_mixing(images):
    one = trainer(images, model="stylegan2", **RUNS["stylegan2"])
    g, z = one.generator, one.generator.sample_z(400, torch.Generator().manual_seed(1))
    plain = g.mapping(z)
    ws = mixed_styles(g, z, one.config, keyed_generator("a", 0))
    assert ws.equal(mixed_styles(g, z, one.config, keyed_generator("a", 0)))
    same = (ws == plain).all(2)  # [N, num_ws]
    assert same[:, 0].all()  # the coarsest is the first latent's
    assert (same[:, :-1] >= same[:, 1:]).all()  # then there is one change at most
    assert 0.4 < (~same[:, -1]).float().mean() < 0.6
    assert set((same.sum(1)).tolist()) == set(range(1, g.num_ws + 1))


def test_mixing_stays_within_what_has_grown(images):
    one = trainer(images, model="stylegan", **RUNS["stylegan"])
    one.generator.grow(8, 0.5)
    z = one.generator.sample_z(200, torch.Generator().manual_seed(1))
    same = (mixed_styles(one.generator, z, one.config, keyed_generator("a", 0)) == one.generator.mapping(z)).all(2)
    assert set(same.sum(1).tolist()) <= {1, 2, 3, one.generator.num_ws}


def test_averages_inside_the_generator_follow(images):
    one = trainer(images, model="stylegan3", **RUNS["stylegan3"])
    one.step()
    buffers = dict(one.generator.named_buffers())
    moved = [n for n, b in buffers.items() if n.endswith("magnitude_ema") and b != 1]
    assert len(moved) == len(one.generator.synthesis.layers)
    assert buffers["mapping.w_avg"].abs().max() > 0
    average = dict(one.ema.module.named_buffers())
    assert all(b.equal(average[n]) for n, b in buffers.items())


def test_generating_from_a_run_that_has_not_grown_up(images, tmp_path):
    options = {"model": "stylegan", **RUNS["stylegan"]}
    done = run(tiny(images, tmp_path / "a", 4, **options))
    generator, _ = load_generator(done.folder, torch.device("cpu"))
    assert generator.grown == (8, 0.8)
    z = latents(generator, 0, range(3))
    pictures = render(generator, z)
    assert pictures.shape == (3, 1, 16, 16)
    assert pictures[:, :, ::2, ::2].equal(pictures[:, :, 1::2, 1::2])  # 8x8, enlarged
    assert pictures.equal(render(generator, z))
    generator.truncate(0.0)
    assert render(generator, z)[0].allclose(render(generator, z)[1])


def test_truncation_on_the_command_line(images, tmp_path):
    done = run(tiny(images, tmp_path / "a", 1, model="dcgan"))
    command = [sys.executable, "-m", "gankernels", "generate", "--checkpoint", str(done.folder), "--truncation", "0.5"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0
    assert "truncation is 0.5: gankernels.models.dcgan: there is no mapping network" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "stylegan2", "grow_from": 8}, "grow_from is 8, and model stylegan2 does not grow"),
        ({"model": "progan", "grow_from": 6}, "grow_from is 6, and model progan grows through 4, 8, 16"),
        ({"model": "dcgan", "mixing": 0.5}, "mixing is 0.5, and model dcgan has no mapping network"),
        ({"model": "progan", "path_length": 2.0}, "path_length is 2.0, and model progan has no mapping network"),
        ({"model": "stylegan2", "batch": 6, **W}, "batch is 6, and model stylegan2 takes deviations over groups of 4"),
        (
            {"model": "progan", "augment": "bg", "grow_from": 4},
            "augment is bg, and a network that grows cannot have it",
        ),
        ({"model": "dcgan", "augment": "bgc", "channels": 4}, "take 1 or 3 channels, not 4; take bg"),
        ({"augment": "all"}, "augment must be one of blit, geom, .*bgc, .*got 'all'"),
        ({"model": "dcgan", "w_dim": 5}, "dcgan has no option 'w_dim'"),
        ({"mixing": 1.5}, "mixing must be 0 to 1, got 1.5"),
        ({"r1": -1.0}, "r1 must be 0 or more, got -1.0"),
        ({"r1_every": 0}, "r1_every must be at least 1, got 0"),
    ],
)
def test_bad_configuration(images, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        run(tiny(images, tmp_path / "a", 1, **options))


def test_the_command_line_knows_every_preset():
    assert get_args(PresetName) == tuple(PRESETS)


def test_recipes_and_presets_are_sound():
    for name, config in PRESETS.items():
        config.check()
        assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config, name
    for model, config in RECIPES.items():
        assert config.model == model
        assert config.betas == (0.0, 0.99)
        build(PRESETS[f"{model}-small"], 1)
    assert 0.5 ** (16 / RECIPES["progan"].ema) == pytest.approx(0.999, abs=1e-6)
    assert math.isclose(RECIPES["stylegan2"].ema, 10_000)


def test_a_model_on_the_command_line_brings_its_recipe():
    from gankernels.cli import _starting_config

    assert _starting_config(["train", "--model", "stylegan2"]) == RECIPES["stylegan2"]
    assert _starting_config(["train", "--model", "dcgan"]) == TrainConfig()
    assert _starting_config(["train", "--preset", "progan-small", "--model", "progan"]) == PRESETS["progan-small"]
