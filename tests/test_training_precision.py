"""16-bit blocks: a step that overflows is skipped and counted; many in a row end the run, as float32's first does."""

import math

import pytest
import torch
from training_support import image_folder, run, same_checkpoints, tiny, trainer

from gankernels.errors import ConfigError, TrainingDiverged
from gankernels.training import descent
from gankernels.training.checkpoint import load

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")

W = {"model": "stylegan2", "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "max_width": 8, "width": 4}
HALF = {**W, "half_on_cpu": True, "half_resolutions": 2, "r1": 1.0, "r1_every": 2, "betas": (0.0, 0.99)}


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path / "images")


def overflow(one, network="discriminator", times=1):
    """Make the first gradient of a network infinite in its next steps."""
    left = [times]

    def spoil(gradient):
        left[0] -= 1
        return gradient * float("inf") if left[0] >= 0 else gradient

    return next(getattr(one, network).parameters()).register_hook(spoil)


@pytest.mark.parametrize(("precision", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_the_high_resolutions_run_in_16_bits_and_learn_as_32_do(images, precision, dtype):
    half, full = trainer(images, **HALF, precision=precision), trainer(images, **HALF)
    seen = {}
    for r in (4, 8, 16):
        block = getattr(half.generator.synthesis, f"b{r}")
        block.conv1.register_forward_hook(lambda m, args, y, r=r: seen.update({r: y.dtype}))
    for _ in range(3):
        half.step()
        full.step()
    assert seen == {4: torch.float32, 8: dtype, 16: dtype}
    ours, theirs = half.take_metrics(), full.take_metrics()
    assert (ours.pop("g_skipped"), ours.pop("d_skipped")) == (0, 0)
    assert ours == pytest.approx(theirs, abs=0.02 if precision == "float16" else 0.1)
    assert all(p.dtype == torch.float32 for p in half.generator.parameters())


def test_the_loss_scale_changes_no_gradient(images, monkeypatch):
    one, two = trainer(images, **HALF, precision="bfloat16"), trainer(images, **HALF, precision="bfloat16")
    for player in (two.g_descent, two.d_descent):
        player.scaled, player.scale = True, 2.0**10
    one.step()
    two.step()
    for name, p in one.discriminator.named_parameters():  # a power of two, in bfloat16, which has room for it
        assert p.equal(dict(two.discriminator.named_parameters())[name])


@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_an_overflow_skips_the_step_and_halves_the_scale(images, network):
    one = trainer(images, **HALF, precision="float16")
    one.step()
    player = one.d_descent if network == "discriminator" else one.g_descent
    scale = player.scale
    before = {name: p.detach().clone() for name, p in getattr(one, network).named_parameters()}
    overflow(one, network)
    one.step()  # no lazy penalty in this one
    assert all(p.equal(before[name]) for name, p in getattr(one, network).named_parameters())
    assert (player.skipped, player.in_a_row, player.scale) == (1, 1, scale / 2)
    one.step()
    assert (player.skipped, player.in_a_row) == (1, 0)
    assert one.take_metrics()[f"{network[0]}_skipped"] == 1
    assert not all(p.equal(before[name]) for name, p in getattr(one, network).named_parameters())


def test_bfloat16_skips_without_a_scale(images):
    one = trainer(images, **HALF, precision="bfloat16")
    overflow(one)
    one.step()
    assert (one.d_descent.skipped, one.d_descent.scale) == (1, 1.0)


def test_many_skips_in_a_row_are_the_end(images, monkeypatch):
    monkeypatch.setattr(descent, "SKIPS", 3)
    one = trainer(images, **{**HALF, "r1": 0.0}, precision="float16")
    first = next(name for name, _ in one.discriminator.named_parameters())
    overflow(one, times=3)
    one.step()
    one.step()
    words = f"step 3: the discriminator's .* that of {first}, 3 steps in a row, the loss scale at 16384"
    with pytest.raises(TrainingDiverged, match=words):
        one.step()


def test_the_scale_grows_again(images, monkeypatch):
    monkeypatch.setattr(descent, "GROWS_AFTER", 2)
    one = trainer(images, **{**HALF, "r1": 0.0}, precision="float16")
    one.g_descent.scale, one.d_descent.scale = 8.0, descent.LARGEST_SCALE
    one.step()
    assert one.g_descent.scale == 8
    one.step()
    assert (one.g_descent.scale, one.g_descent.good) == (16, 2)
    assert one.d_descent.scale <= descent.LARGEST_SCALE


def test_an_overflow_leaves_the_mean_path_alone(images):
    one = trainer(images, **HALF, precision="float16", path_length=2.0, path_length_every=1)
    one.step()
    mean, skipped = one.mean_path.clone(), one.g_descent.skipped
    with torch.no_grad():
        one.generator.mapping.fc1.bias.fill_(float("inf"))
    one.step()
    assert one.mean_path.equal(mean)
    assert one.g_descent.skipped == skipped + 1


def test_resuming_keeps_the_scale(images, tmp_path):
    options = {**HALF, "precision": "float16"}
    straight = run(tiny(images, tmp_path / "a", 4, **options))
    half = run(tiny(images, tmp_path / "b", 2, **options))
    state = load(half.checkpoint)
    assert state["d_descent"]["scale"] == descent.FIRST_SCALE / 2 ** state["d_descent"]["skipped"]
    second = run(tiny(images, tmp_path / "b", 4, **options), resume=tmp_path / "b")
    same_checkpoints(straight.checkpoint, second.checkpoint)


def test_16_bits_on_a_cpu_are_32_unless_told(images):
    one = trainer(images, **{**HALF, "half_on_cpu": False}, precision="float16")
    handle = overflow(one)
    with pytest.raises(TrainingDiverged, match="step 1: the discriminator's"):
        one.step()
    handle.remove()
    assert "g_skipped" not in one.take_metrics()


def test_models_without_16_bit_blocks_refuse(images):
    with pytest.raises(ConfigError, match="precision is float16, and model dcgan has no 16-bit blocks; take float32"):
        trainer(images, model="dcgan", precision="float16")


def test_a_loss_that_is_not_finite_is_in_no_mean(images, monkeypatch):
    one = trainer(images, **HALF, precision="float16")
    trained = one._train_discriminator
    monkeypatch.setattr(one, "_train_discriminator", lambda batch: (trained(batch)[0] * math.inf, *trained(batch)[1:]))
    one.step()
    assert all(map(math.isnan, [one.take_metrics()[name] for name in ("d_loss", "g_loss", "d_real", "d_fake")]))
    one.step()
    monkeypatch.undo()
    one.step()
    assert one.summed == 1
    sums = list(one.sums)
    found = one.take_metrics()
    assert [found[name] for name in ("d_loss", "g_loss", "d_real", "d_fake")] == sums
    assert all(map(math.isfinite, sums))
