"""The loop: resuming bit for bit, divergence, moving average, schedules; what kills do is in test_training_kills.py."""

import json

import pytest
import torch
from torch import nn
from training_support import image_folder, metrics, run, same_checkpoints, tiny, trainer

from gankernels import _backend
from gankernels.errors import ConfigError, TrainingDiverged
from gankernels.training import TrainConfig
from gankernels.training.checkpoint import all_checkpoints, load, save
from gankernels.training.ema import Ema

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path / "images")


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("dcgan", {}),
        ("dcgan", {"objective": "wgan", "d_steps": 2, "seed": 5, "latent": "uniform"}),
        ("gan", {"width": None}),  # has dropout, so draws on torch's global generator
    ],
)
def test_resuming_is_bit_for_bit(images, tmp_path, model, options):
    straight = run(tiny(images, tmp_path / "a", 10, model=model, **options))
    first = run(tiny(images, tmp_path / "b", 3, model=model, **options))
    torch.manual_seed(99)  # what happens in between does not matter
    second = run(tiny(images, tmp_path / "b", 10, model=model, **options), resume=tmp_path / "b")
    assert (first.step, second.step, straight.step) == (3, 10, 10)
    same_checkpoints(straight.checkpoint, second.checkpoint)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    last = f"{straight.step:08}.png"
    assert (tmp_path / "a/samples" / last).read_bytes() == (tmp_path / "b/samples" / last).read_bytes()


def test_a_run_leaves_its_files(images, tmp_path):
    result = run(tiny(images, tmp_path / "a", 12))
    assert result.folder == tmp_path / "a"
    assert not result.interrupted
    assert [path.stem for path in all_checkpoints(result.folder)] == ["00000009", "00000012"], "the newest two"
    assert [line["step"] for line in metrics(result.folder)] == [4, 8, 12]
    grids = sorted(path.stem for path in (result.folder / "samples").iterdir())
    assert grids == ["00000000", "00000005", "00000010", "00000012"]
    with Image.open(result.folder / "samples.gif") as gif:
        assert gif.n_frames == 4
    with Image.open(result.folder / "samples" / "00000012.png") as grid:
        rows = grid.height // 8
    with Image.open(result.folder / "samples-over-time.png") as strip:
        assert strip.height == 4 * rows
    assert (result.folder / "curves.png").stat().st_size > 1000
    assert TrainConfig.from_json(json.loads((result.folder / "config.json").read_text())).batch == 8


def test_metrics_and_samples_past_the_checkpoint_are_dropped(images, tmp_path):
    out = tmp_path / "a"
    straight = run(tiny(images, tmp_path / "b", 10))
    run(tiny(images, out, 4))
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "images": 64, "d_loss": 9, "g_loss": 9, "d_real": 0, "d_fake": 0}\n{"step": 12, "ima')
    (out / "samples" / "00000008.png").write_bytes(b"from a later step that was lost")
    run(tiny(images, out, 10), resume=out)
    assert metrics(out) == metrics(straight.folder)
    assert not (out / "samples" / "00000008.png").exists()


def test_another_backend_or_instruction_set_is_noted(images, monkeypatch):
    one, two = trainer(images), trainer(images)
    state = one.state()
    assert two.load(state, "one") == []
    monkeypatch.setattr(_backend, "_forced", "reference")
    (note,) = two.load(state, "one")
    assert note.startswith("not bit for bit")
    assert str(state["torch"]) in note
    assert "'reference'" in note
    monkeypatch.undo()
    monkeypatch.setattr(_backend, "cpu_capability", lambda: "another")
    (note,) = two.load(state, "one")
    assert "'another'" in note


@pytest.mark.parametrize(("network", "whose"), [("discriminator", "discriminator's"), ("generator", "generator's")])
def test_nan_stops_with_step_and_parameter(images, network, whose):
    one = trainer(images)
    one.step()
    named = dict(getattr(one, network).named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    first = next(iter(named))
    handle = named[first].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingDiverged, match=f"step 2: the {whose} .*that of {first}"):
        one.step()
    handle.remove()
    assert all(torch.equal(p, before[name]) for name, p in named.items()), "no optimiser step was taken"


def test_infinite_loss_stops(images):
    one = trainer(images)
    with torch.no_grad():
        one.discriminator.main[0].weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(TrainingDiverged, match=r"step 1: the discriminator's loss is nan"):
        one.step()


def test_divergence_keeps_the_last_good_checkpoint(images, tmp_path):
    config = tiny(images, tmp_path / "a", 3)
    run(config)
    good = all_checkpoints(config.folder())
    state = load(good[-1])
    state["discriminator"]["main.0.weight"][0] = float("nan")
    save(good[-1], state)
    with pytest.raises(TrainingDiverged, match=rf"step 4: .*the last good checkpoint is {good[-1]}"):
        run(tiny(images, tmp_path / "a", 8), resume=tmp_path / "a")
    assert all_checkpoints(config.folder()) == good


def test_average_follows_with_half_life_and_ramp_up():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    with torch.no_grad():
        module[0].weight.fill_(0)
    average = Ema(module, half_life=64, rampup=0.5)
    with torch.no_grad():
        module[0].weight.fill_(1)
        module[1].running_mean.fill_(7)
    average.update(module, images=32, seen=32)  # half-life min(64, 16): two of them pass
    torch.testing.assert_close(average.module[0].weight.item(), 0.75)
    assert average.module[1].running_mean.item() == 7
    average.update(module, images=32, seen=10_000)  # half-life 64: half of one passes
    torch.testing.assert_close(average.module[0].weight.item(), 1 - 0.25 * 0.5**0.5)
    assert not any(p.requires_grad for p in average.module.parameters())
    assert not average.module.training
    with torch.no_grad():
        module[0].weight.fill_(3)
    Ema(module, 0, 0.05).update(module, 1, 1)
    off = Ema(module, 0, 0.05)
    with torch.no_grad():
        module[0].weight.fill_(4)
    off.update(module, images=1, seen=1)
    assert off.module[0].weight.item() == 4


def test_discriminator_sees_separate_minibatches(images):
    one = trainer(images)
    seen = []
    one.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[0]))
    one.step()
    assert seen == [8, 8, 8], "real, generated, and generated for the generator; never one batch of 16"


def test_generator_step_computes_no_discriminator_gradient(images):
    one = trainer(images)
    one.step()
    gradients = {name: p.grad.clone() for name, p in one.discriminator.named_parameters()}
    one.d_descent.optimiser.zero_grad = lambda set_to_none: None
    indices, _ = one.sampler.next(8)
    one.discriminator.requires_grad_(False)
    one.game.objective.generator(one.discriminator(one.generator(one.latents("x", len(indices))))).backward()
    for name, p in one.discriminator.named_parameters():
        assert torch.equal(p.grad, gradients[name])


def test_wgan_clips(images):
    one = trainer(images, objective="wgan")
    one.step()
    assert max(p.abs().max() for p in one.discriminator.parameters()) <= 0.01
    one = trainer(images, clip=0.5)
    assert one.config.weight_clip == 0.5


def test_seed_decides_everything(images, tmp_path):
    a, b = (run(tiny(images, tmp_path / name, 2)) for name in "ab")
    same_checkpoints(a.checkpoint, b.checkpoint)
    c = run(tiny(images, tmp_path / "c", 2, seed=1))
    weights = [load(result.checkpoint)["generator"]["main.0.weight"] for result in (a, c)]
    assert not torch.equal(*weights)


def test_minutes_end_a_run_regularly(images, tmp_path):
    result = run(tiny(images, tmp_path / "a", 10**6, minutes=0.002))
    assert not result.interrupted
    assert (result.folder / "samples.gif").exists()


def test_forced_backend_that_cannot_run_is_refused(images, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("the cuda backend may run here")
    with pytest.raises(ConfigError, match="--backend cuda"):
        run(tiny(images, tmp_path / "a", 1, backend="cuda"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"lr": 0.0}, "lr must be over 0"),
        ({"lr": float("nan")}, "lr must be over 0"),
        ({"betas": (0.5, 1.0)}, "betas"),
        ({"ema": -1}, "ema must be at least 0"),
        ({"objective": "nonsense"}, "objective must be one of gan, gan-ns"),
        ({"minutes": 0.0}, "minutes"),
    ],
)
def test_bad_configuration(options, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**options).check()


def test_bad_device():
    with pytest.raises(ConfigError, match="device 'nonsense' cannot be used"):
        TrainConfig(device="nonsense").torch_device()
