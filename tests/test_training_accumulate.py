"""A batch in rounds updates as the whole batch does, to float64 rounding, or is refused by name."""

import pytest
import torch
from training_support import image_folder, tiny

from gankernels import data
from gankernels.errors import ConfigError
from gankernels.nn import MinibatchStdDev, _augment_draws, sample_keys, whole
from gankernels.training import TrainConfig
from gankernels.training.checkpoint import load, save
from gankernels.training.networks import build
from gankernels.training.processes import Processes
from gankernels.training.shares import Shares
from gankernels.training.trainer import Trainer

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")

W = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "max_width": 8, "width": 4}
GROWTH = {"grow_from": 4, "stable_images": 8, "fade_images": 24}
ADA = {"augment": "bgc", "augment_images": 100, "augment_every": 2, "augment_target": -1.0}
LAZY = {"r1": 1.0, "r1_every": 2, "path_length": 2.0, "path_length_every": 2}
RUNS = {
    "gan": {"model": "gan", "width": None},  # dropout
    "gan-maxout": {"model": "gan-maxout", "width": None, "objective": "hinge"},
    "progan": {
        **{"model": "progan", "z_dim": 8, "max_width": 8, "objective": "wgan-gp", "drift": 0.001},
        **{"mbstd_group": 2, **GROWTH},
    },
    "stylegan": {"model": "stylegan", **W, "r1": 10.0, "r1_every": 1, "mixing": 0.9, "batch": 16, **GROWTH},
    "stylegan2": {"model": "stylegan2", **W, **LAZY, **ADA, "mixing": 0.5, "batch": 16},
    "stylegan2 every": {
        **{"model": "stylegan2", **W, **LAZY, "path_length_every": 1, "r1_every": 1},
        **{"mbstd_group": 2, "d_steps": 2},
    },
    "stylegan3": {"model": "stylegan3", **W, "r1": 1.0, "r1_every": 2, "blur": 2.0, "blur_images": 64, "batch": 16},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("data") / "images")


def trainer(images, **options):
    config = tiny(images, images.parent / "unused", 1, precision="float64", betas=(0.0, 0.99), **options)
    config.check()
    loaded = data.load(config.data, resolution=config.resolution, channels=config.channels)
    nets = build(config, loaded.channels)
    for name, p in nets[0].named_parameters():
        if name.endswith("noise_strength"):  # 0 at first, which would hide noise for a step
            torch.nn.init.constant_(p, 0.1)
    return Trainer(config, loaded, *nets)


def numbers(one):
    """All that a trainer's next step depends on and that is a floating point number."""
    nets = {"generator": one.generator, "discriminator": one.discriminator, "average": one.ema.module}
    found = {f"{net}.{name}": t for net, module in nets.items() for name, t in module.state_dict().items()}
    found |= {"mean_path": one.mean_path, "metrics": torch.tensor(one.sums, dtype=torch.float64)}
    return found | {f"augment.{name}": t for name, t in one.augment.state().items()}


def close(a, b):
    for name, t in a.items():
        torch.testing.assert_close(b[name], t, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", RUNS)
def test_rounds_equal_the_whole_batch(images, name):
    one = trainer(images, **RUNS[name])
    parts = trainer(images, accumulate=4 if name != "gan" else 2, **RUNS[name])
    first = {key: t.clone() for key, t in numbers(one).items()}
    for _ in range(2 if name == "stylegan3" else 4):  # of 15 layers
        one.step()
        parts.step()
    assert any(not t.equal(first[key]) for key, t in numbers(one).items() if key.startswith("generator"))
    if "augment" in RUNS[name]:
        assert one.augment.pipe.p > 0
    close(numbers(one), numbers(parts))


def test_styles_are_normalised_over_the_whole_batch(images):
    """The demodulation that follows hides it but for 1e-8 of it, so that trained weights hardly tell."""
    one = trainer(images, **RUNS["stylegan3"])
    layer = getattr(one.generator.synthesis, one.generator.synthesis.layers[0])
    x = torch.randn(8, layer.before.channels, *layer.before.size, dtype=torch.float64)
    w = torch.randn(8, 8, dtype=torch.float64) * torch.logspace(-4, 1, 8, dtype=torch.float64)[:, None]
    layer.affine.bias.data.zero_()
    expected = layer(x, w, False, False)
    for part in (slice(0, 4), slice(4, 8)):
        found = layer(x[part], w[part], False, False, all_w=w)
        torch.testing.assert_close(found, expected[part], rtol=1e-11, atol=1e-13)
    alone = layer(x[:4], w[:4], False, False)
    assert (alone - expected[:4]).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "dcgan"}, "accumulate is 2, and model dcgan has batch normalisation, .* take accumulate 1"),
        (
            {"model": "progan", "max_width": 8, "z_dim": 8},
            "model progan has the minibatch deviation of .*mbstd_group",
        ),
        ({"model": "stylegan2", **W, "batch": 12}, "groups of samples that lie in several of the 2 parts"),
        ({"model": "gan", "width": None, "objective": "dragan"}, "dragan's noise .* all samples at once"),
        ({"model": "stylegan3", **W, "path_length": 2.0}, "path_length is 2.0, and stylegan3 normalises styles over"),
        ({"model": "gan", "width": None, "batch": 9}, "batch is 9, and 1 processes of accumulate 2 share it; .* of 2"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(images, options, words):
    with pytest.raises(ConfigError, match=words):
        trainer(images, accumulate=2, **options)


def test_the_draws_of_a_sample_do_not_depend_on_the_others():
    keys = sample_keys(7, torch.arange(6))
    with whole.running(keys):
        first = [whole.normal(6, 5, dtype=torch.float64, device=keys.device) for _ in range(2)]
        mask = whole.dropout_mask(torch.ones(6, 1000), 0.3)
    with whole.running(keys[4:]):
        second = [whole.normal(2, 5, dtype=torch.float64, device=keys.device) for _ in range(2)]
    assert all(a[4:].equal(b) for a, b in zip(first, second, strict=True))
    assert not first[0].equal(first[1])
    assert (mask == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert mask.unique().tolist() == pytest.approx([0, 1 / 0.7])
    many = sample_keys(0, torch.arange(64))
    with whole.running(many), pytest.raises(ValueError, match="keys of 64 samples, and a layer draws for 3"):
        whole.uniform(3, dtype=torch.float32, device=many.device)
    with whole.running(many):
        numbers = whole.normal(64, 4096, dtype=torch.float32, device=many.device)
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01
    assert abs(torch.stack([numbers[:-1].flatten(), numbers[1:].flatten()]).corrcoef()[0, 1]) < 0.01


def test_the_largest_uniform_number_is_below_1(monkeypatch):
    """In float32 its 24 bits and a half round up to 1, of which the normal number is infinite."""
    monkeypatch.setattr(_augment_draws, "_mix", lambda word: torch.full_like(word, 0xFFFFFFFF))
    drawn = _augment_draws.reference(torch.zeros(1, dtype=torch.int64), 3, 0, torch.float32, False)
    assert (drawn < 1).all()
    assert _augment_draws.normal(drawn).isfinite().all()
    low = _augment_draws.normal(torch.full((1,), 2.0**-25))
    assert low.isfinite().all()


def test_blur_fades_out(images):
    one = trainer(images, **RUNS["stylegan3"])
    blur = one.game.blur
    picture = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    picture[..., 16, 16] = 1
    for images_seen, sigma in ((0, 2.0), (32, 1.0), (48, 0.5)):
        blur.at(images_seen)
        spread = blur(picture)[0, 0]
        assert spread.sum().item() == pytest.approx(1)
        steps = torch.arange(33, dtype=torch.float64) - 16
        assert (spread.sum(0) * steps.square()).sum().sqrt().item() == pytest.approx(sigma, rel=0.08)
        assert spread.equal(spread.t()) or torch.allclose(spread, spread.t(), rtol=1e-12)
    blur.at(64)
    assert blur(picture) is picture
    seen = []
    one.discriminator.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    one.step()
    plain = trainer(images, **{**RUNS["stylegan3"], "blur": 0.0})
    plain.discriminator.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    plain.step()
    half = len(seen) // 2
    assert [a.std() < b.std() for a, b in zip(seen[:3], seen[half : half + 3], strict=True)] == [True] * 3


def test_configuration_r_of_stylegan3(images):
    one = trainer(images, **{**W, "model": "stylegan3"}, equivariance="r")
    layers = [getattr(one.generator.synthesis, name) for name in one.generator.synthesis.layers]
    assert {tuple(layer.weight.shape[2:]) for layer in layers} == {(1, 1)}
    assert max(layer.after.channels for layer in layers) == 16
    assert one.discriminator.config["channel_max"] == 8
    with pytest.raises(ConfigError, match="equivariance is 'r', and model stylegan2 knows none; take stylegan3"):
        trainer(images, **{**W, "model": "stylegan2"}, equivariance="r")


def test_other_rounds_on_resuming_are_noted(images, tmp_path):
    one, two = (trainer(images, **RUNS["gan"], accumulate=rounds) for rounds in (1, 2))
    one.step()
    save(tmp_path / "one.safetensors", one.state())
    (note,) = two.load(load(tmp_path / "one.safetensors"), "one")
    assert note.startswith("not bit for bit")
    assert "processes and rounds" in note
    one.step()
    two.step()
    close(numbers(one), numbers(two))


@pytest.mark.parametrize(("world", "rounds", "group"), [(1, 1, 2), (3, 2, 2), (2, 1, 3), (2, 3, 0), (4, 1, 0)])
def test_every_sample_has_one_place(world, rounds, group):
    config = TrainConfig(batch=12, accumulate=rounds)
    discriminator = torch.nn.Sequential(MinibatchStdDev(group)) if group else torch.nn.Identity()
    seen = []
    for rank in range(world):
        processes = Processes()
        processes.rank, processes.world = rank, world
        shares = Shares(config, torch.nn.Identity(), discriminator, processes, "cpu")
        assert shares.group == (group if world * rounds > 1 else 0)
        assert len(shares.rounds) == rounds
        assert torch.cat([share.places for share in shares.rounds]).equal(shares.local.places)
        for share in shares.rounds:
            seen += share.places.tolist()
            assert share.weight == 1 / (world * rounds)
            if group:
                groups = {place % (12 // group) for place in share.places.tolist()}
                assert len(groups) * group == len(share.places), "a group lies in one pass"
    assert sorted(seen) == list(range(12))
