"""Training under every objective and regulariser: steps, resuming bit for bit, what goes with what, classes."""

import dataclasses

import pytest
import torch
from training_support import image_folder, run, same, tiny

from gankernels import losses
from gankernels.data import ImageData
from gankernels.errors import ConfigError
from gankernels.training import TrainConfig, load_generator
from gankernels.training.checkpoint import load, save
from gankernels.training.networks import build
from gankernels.training.trainer import Trainer

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")

W = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "max_width": 8}
OBJECTIVES = {name: {"objective": name} for name in losses.OBJECTIVES}
REGULARISERS = {
    "classes": {"conditional": True},
    "classes and wgan-gp": {"conditional": True, "objective": "wgan-gp", "penalty": 3.0},
    "R1 and R2, lazy": {"r1": 1.0, "r2": 2.0, "r1_every": 3},
    "R1 and R2": {"r1": 1.0, "r2": 2.0, "r1_every": 1},
    "Roth": {"roth": 0.5},
    "consensus": {"consensus": 0.1},
    "instance noise": {"instance_noise": 0.5, "instance_noise_images": 60},
    "smoothing": {"real_label": 0.9},
    "spectral norm": {"spectral_norm": True},
    "dropout": {"dropout": 0.4},
    "dropout and a head": {"dropout": 0.4, "objective": "infogan", "categories": 0},
    "orthogonal": {"orthogonal": 1e-3, "orthogonal_init": True},
    "clipping": {"clip": 0.02, "d_steps": 2},
}


def pictures(classes: int = 3) -> ImageData:
    images = torch.randint(0, 256, (50, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return ImageData("made", images, torch.arange(50) % classes, tuple("abcdefgh"[:classes]))


def trainer(tmp_path, data=None, **options) -> Trainer:
    data = data or pictures()
    config = tiny(tmp_path, tmp_path, 1, **options)
    config.check()
    return Trainer(config, data, *build(config, 1, len(data.class_names) if config.classes else 0))


@pytest.mark.parametrize("name", [*OBJECTIVES, *REGULARISERS])
def test_resuming_is_bit_for_bit(tmp_path, name):
    options = {**OBJECTIVES, **REGULARISERS}[name]
    straight, first = (trainer(tmp_path, **options) for _ in range(2))
    for _ in range(4):
        straight.step()
    for _ in range(2):
        first.step()
    save(tmp_path / "one.safetensors", first.state())
    torch.manual_seed(99)  # what happens in between does not matter
    second = trainer(tmp_path, **options)
    assert second.load(load(tmp_path / "one.safetensors"), "one") == []
    for _ in range(2):
        second.step()
    same(*(load(_saved(tmp_path, one)) for one in (straight, second)))
    moved = [n for n, p in second.discriminator.named_parameters() if not p.equal(_start(tmp_path, options)[n])]
    assert len(moved) == len(list(second.discriminator.parameters())), "every weight of the discriminator learns"


def _saved(tmp_path, one):
    save(tmp_path / "state.safetensors", one.state())
    return tmp_path / "state.safetensors"


def _start(tmp_path, options):
    return dict(trainer(tmp_path, **options).discriminator.named_parameters())


def test_began_follows_its_balance(tmp_path):
    for precision, accuracy in (("float32", 1e-6), ("float64", 1e-14)):
        one = trainer(tmp_path, objective="began", balance=0.95, balance_rate=0.5, precision=precision)
        assert one.game.balance.k == 0
        one.step()
        errors = one.take_metrics()
        wanted = 0.5 * (0.95 * errors["d_real"] - errors["d_fake"])
        assert one.game.balance.k == pytest.approx(min(max(wanted, 0), 1), abs=accuracy)


def test_consensus_is_the_formula(tmp_path):
    """Both players' totals are their loss and gamma / 2 of both squared gradients."""
    one = trainer(tmp_path, consensus=0.3, precision="float64")
    batch = one._minibatch(0, learn=True)
    judged = one.game.judge(batch)
    d, g = list(one.discriminator.parameters()), list(one.generator.parameters())
    g_loss = losses.objective("gan-ns").generator(judged.fake_logits)
    squares = sum(
        v.square().sum()
        for loss, p in ((judged.loss, d), (g_loss, g))
        for v in torch.autograd.grad(loss, p, retain_graph=True)
    )
    torch.testing.assert_close(judged.total - judged.loss, 0.15 * squares)
    loss, total = one.game.deceive(dataclasses.replace(batch, fake=one._fake(0, batch.share, None, update_emas=False)))
    torch.testing.assert_close(total - loss, 0.15 * squares, rtol=1e-6, atol=0)


def test_heads_add_their_terms(tmp_path):
    for name, weight in (("acgan", 2.0), ("infogan", 0.5)):
        one = trainer(tmp_path, objective=name, head_weight=weight)
        one.discriminator.eval()
        batch = one._minibatch(0, learn=True)
        _, said = one.discriminator(batch.fake, heads=True)
        if name == "acgan":
            expected = losses.acgan(said, batch.c) * 2
        else:
            code, mean, variance = said.split([10, 2, 2], 1)
            expected = 0.5 * losses.infogan_categorical(code, batch.c[:, :10])
            expected = expected + 0.5 * losses.infogan_gaussian(mean, variance, batch.c[:, 10:])
        loss, total = one.game.deceive(batch)
        torch.testing.assert_close(total - loss, expected)
        judged = one.game.judge(batch)
        added = judged.total - judged.loss
        assert added > expected if name == "acgan" else torch.isclose(added, expected)


def test_noise_falls_and_is_drawn_anew(tmp_path):
    one = trainer(tmp_path, instance_noise=0.5, instance_noise_images=16)
    seen = []
    one.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    one.step()
    sampler = type(one.sampler)(50, one.config.seed, mirror=True)
    real = one.data.batch(*sampler.next(8))
    assert 0.4 < (seen[0] - real).std() < 0.6
    assert not seen[1].equal(seen[2])  # generated, for the discriminator and for the generator
    one.step()
    assert one.game.noise == 0.25
    one.step()
    assert one.game.noise == 0
    real = one.data.batch(*[sampler.next(8), sampler.next(8)][1])
    assert seen[6].equal(real)


def test_generated_images_take_the_classes_of_the_real_ones(tmp_path):
    one = trainer(tmp_path, objective="cgan")
    seen = []
    one.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    one.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    one.step()
    indices, _ = type(one.sampler)(50, one.config.seed).next(8)
    expected = torch.nn.functional.one_hot(one.data.labels[indices], 3).float()
    assert len(seen) == 4
    assert all(c.equal(expected) for c in seen)


@pytest.mark.parametrize("model", ["progan", "stylegan", "stylegan2", "stylegan3"])
@pytest.mark.parametrize("objective", ["gan-ns", "acgan"])
def test_style_models_take_classes(tmp_path, model, objective):
    options = {**W, "model": model, "conditional": True, "objective": objective, "r1": 1.0, "r1_every": 2}
    if model == "progan":
        options |= {"w_dim": None, "mapping_layers": None}
    elif model != "stylegan3":
        options |= {"path_length": 1.0, "path_length_every": 2, "mixing": 0.5}
    if objective == "acgan" and model in ("stylegan2", "stylegan3"):
        with pytest.raises(ConfigError, match=f"objective is acgan, .* model is {model}; take dcgan, progan, stylegan"):
            trainer(tmp_path, **options)
        return
    one = trainer(tmp_path, **options)
    one.step()
    one.step()
    labels = [torch.eye(3)[k].expand(2, -1) for k in (0, 1)]
    z = one.latents("x", 2)
    with torch.no_grad():
        images = [
            one.generator(z, c, **({"noise_mode": "const"} if model in ("stylegan", "stylegan2") else {}))
            for c in labels
        ]
    assert not images[0].allclose(images[1])
    assert one.samples(4).shape == (4, 1, 16, 16)


def test_a_conditional_run_from_folders(tmp_path):
    for name in ("cats", "dogs"):
        image_folder(tmp_path / "images" / name, 20)
    done = run(tiny(tmp_path / "images", tmp_path / "a", 2, objective="cgan"))
    state = load(done.checkpoint)
    assert state["class_names"] == ["cats", "dogs"]
    generator, _ = load_generator(done.folder, torch.device("cpu"))
    assert generator.c_dim == 2
    z = generator.sample_z(3, torch.Generator().manual_seed(1))
    generator.choose(1)
    assert generator.display(z).equal(generator.display(z, torch.eye(2)[1].expand(3, -1)))
    with pytest.raises(ValueError, match="label is 2, and this network has classes 0 to 1"):
        generator.choose(2)
    run(tiny(tmp_path / "images", tmp_path / "a", 3, objective="cgan"), resume=tmp_path / "a")


def test_classes_that_the_data_lacks(tmp_path):
    image_folder(tmp_path / "images")
    for options, words in (
        ({"conditional": True}, "conditional is True, and .*images has no labels; put the images in two folders"),
        ({"objective": "acgan"}, "objective is acgan, and .*images has no labels"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(tiny(tmp_path / "images", tmp_path / "a", 1, **options))
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="made has 1 class; put"):
        trainer(tmp_path, pictures(1), objective="cgan")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "began", "model": "stylegan2"}, "objective is began, which needs its own .*; take dcgan$"),
        ({"objective": "infogan", "model": "gan"}, "objective is infogan, which needs its own"),
        ({"objective": "cgan", "model": "gan"}, "objective is cgan, which needs networks that take classes"),
        ({"conditional": True, "model": "gan-conv"}, "conditional is True, .* take dcgan, progan, stylegan, stylegan2"),
        ({"conditional": True, "objective": "infogan"}, "objective infogan makes codes of its own; leave it out"),
        ({"conditional": True, "objective": "ebgan"}, "objective ebgan has a discriminator that takes no classes"),
        ({"objective": "infogan", "categories": 0, "codes": 0}, "categories and codes are 0, and objective infogan"),
        ({"real_label": 0.9, "objective": "hinge"}, "real_label is 0.9, and objective hinge has no logistic loss"),
        ({"roth": 1.0, "objective": "wgan"}, "roth is 1.0, and objective wgan has no logistic loss; take r1"),
        ({"penalty": 5.0}, "penalty is 5.0, and objective gan-ns has no gradient penalty; take r1 or r2"),
        ({"augment": "bg", "objective": "ebgan"}, "augment is bg, and objective ebgan has no logits"),
        ({"drift": 1e-3, "objective": "began"}, "drift is 0.001, and objective began has no logits"),
        ({"spectral_norm": True, "model": "progan"}, "spectral_norm is True, which is not for scaled weights"),
        ({"dropout": 0.5, "model": "stylegan"}, "dropout is 0.5, which needs a discriminator with dropout"),
        ({"real_label": 0.4}, "real_label must be over 0.5, to 1, got 0.4"),
        ({"dropout": 1.0}, "dropout must be 0 to 1, without 1, got 1.0"),
        ({"balance": 0.0}, "balance must be over 0, to 1, got 0.0"),
        ({"roth": -1.0}, "roth must be 0 or more, got -1.0"),
    ],
)
def test_what_does_not_go_together(options, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**options).check()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"consensus": 1.0}, "consensus is 1.0, which is no mean over samples"),
        ({"objective": "ebgan"}, "pull_away is 0.1, which is no mean over samples"),
    ],
)
def test_what_cannot_be_shared_out(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        trainer(tmp_path, model="dcgan", accumulate=2, **options)


@pytest.mark.parametrize(
    "options",
    [
        {
            "model": "stylegan2",
            **W,
            "conditional": True,
            "r2": 1.0,
            "r1_every": 2,
            "instance_noise": 0.3,
            "mixing": 0.5,
        },
        {"model": "progan", "z_dim": 8, "max_width": 8, "objective": "acgan", "orthogonal": 1e-3, "roth": 0.5},
    ],
    ids=["stylegan2", "progan"],
)
def test_rounds_equal_the_whole_batch(tmp_path, options):
    options = {**options, "precision": "float64", "mbstd_group": 2, "betas": (0.0, 0.99)}
    whole, rounds = (trainer(tmp_path, **options, accumulate=n) for n in (1, 4))
    for _ in range(2):
        whole.step()
        rounds.step()
    for a, b in zip((whole.generator, whole.discriminator), (rounds.generator, rounds.discriminator), strict=True):
        for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(q, p, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
