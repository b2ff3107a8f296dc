"""The command line: each command once, and every mistake answered in a sentence before training starts."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from training_support import arguments_of, image_folder, run, same_checkpoints, tiny

from gankernels import errors
from gankernels.cli import main
from gankernels.training import Result
from gankernels.training.checkpoint import all_checkpoints, load, save
from gankernels.training.generate import arithmetic, interpolate, latents
from gankernels.training.networks import load_generator

Image = pytest.importorskip("PIL.Image")
safetensors = pytest.importorskip("safetensors")
pytest.importorskip("safetensors.torch")
pytest.importorskip("tyro")
pytest.importorskip("rich")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run's folder; tests must not change it."""
    root = tmp_path_factory.mktemp("cli")
    return run(tiny(image_folder(root / "images"), root / "run", 4)).folder


@pytest.fixture
def copied(trained, tmp_path):
    """A checkpoint to spoil."""
    (newest,) = all_checkpoints(trained)[-1:]
    path = tmp_path / "copy" / "checkpoints" / newest.name
    path.parent.mkdir(parents=True)
    path.write_bytes(newest.read_bytes())
    return path


def refused(capsys, arguments, *words):
    """Assert that the command ends with code 2 and one message that holds the words."""
    assert main([str(one) for one in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("gankernels: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err, captured.err


def test_train_resume_generate(tmp_path, capsys):
    images = image_folder(tmp_path / "images")
    assert main(arguments_of(tiny(images, tmp_path / "a", 3))) == 0
    assert f"the run is in {tmp_path / 'a'}" in capsys.readouterr().out
    (tmp_path / "a").rename(tmp_path / "moved")
    assert main(["train", "--resume", str(tmp_path / "moved"), "--images", "64"]) == 0
    straight = run(tiny(images, tmp_path / "b", 8))
    same_checkpoints(straight.checkpoint, all_checkpoints(tmp_path / "moved")[-1])
    assert "step 3" in capsys.readouterr().out
    assert main(["generate", "--checkpoint", str(tmp_path / "moved"), "--count", "5"]) == 0
    assert len(list((tmp_path / "moved/generated/images").iterdir())) == 5


def test_generate(trained, tmp_path):
    generator, _ = load_generator(trained, torch.device("cpu"))
    for count in (3, 70):
        out = tmp_path / str(count)
        assert main(["generate", "--checkpoint", str(trained), "--out", str(out), "--count", str(count)]) == 0
        with torch.no_grad():
            expected = generator(latents(generator, 0, [2]))[0, 0]
        with Image.open(out / "images" / "00002.png") as image:
            assert np.abs(np.asarray(image) / 127.5 - 1 - expected.numpy()).max() < 0.006
    given = ["generate", "--checkpoint", str(trained), "--out", str(tmp_path)]
    assert main([*given, "--what", "interpolation", "--count", "2", "--steps", "5"]) == 0
    with Image.open(tmp_path / "interpolation.png") as image:
        scale = image.width // (5 * 18 + 2)
        assert image.size == (scale * (5 * 18 + 2), scale * (2 * 18 + 2))
    assert main([*given, "--what", "arithmetic", "--a", "1", "2", "--b", "3", "--c", "4", "5", "6"]) == 0
    with Image.open(tmp_path / "arithmetic.png") as image:
        assert image.width == image.height
    assert (tmp_path / "arithmetic-sources.png").exists()
    assert main([*given, "--what", "images", "--no-average", "--out", str(tmp_path / "raw")]) == 0


def test_interpolation_and_arithmetic_of_latents():
    a, b = torch.tensor([2.0, 0, 0]), torch.tensor([0, 4.0, 0])
    z = interpolate(a, b, torch.tensor([0, 0.5, 1]), spherical=True)
    torch.testing.assert_close(z, torch.stack([a, torch.tensor([1.0, 1, 0]) / 2**0.5 * 3, b]))
    straight = interpolate(a, b, torch.tensor([0.5]), spherical=False)
    torch.testing.assert_close(straight, torch.tensor([[1.0, 2, 0]]))
    for other in (a, -a):
        assert torch.isfinite(interpolate(a, other, torch.tensor([0.0, 0.5, 1]), spherical=True)).all()
    z = arithmetic(torch.stack([a, b]), b[None], a[None], noise=0.25, seed=0)
    centre = (a + b) / 2 - b + a
    torch.testing.assert_close(z[4], centre)
    others = (z - centre)[[0, 1, 2, 3, 5, 6, 7, 8]]
    assert 0.1 < others.abs().max() <= 0.25
    assert others.unique(dim=0).shape[0] == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "nowhere"], ["unknown data 'nowhere'", "fashion-mnist, emoji"]),
        (["--data", "emoji:Dogs"], ["no category 'Dogs'", "Animals & Nature"]),
        (["--resolution", "64"], ["fashion-mnist", "ask for 32 or less"]),
        (["--resolution", "48"], ["model dcgan", "power of two from 16"]),
        (["--model", "stylegan9"], ["unknown model", "dcgan"]),
        (["--model", "gan", "--width", "8"], ["gan has no option 'width'"]),
        (["--channels", "7"], ["channels"]),
        (["--batch", "0"], ["batch must be at least 1"]),
        (["--device", "cuda:99"], ["device 'cuda:99' cannot be used"]),
        (["--resume", "nowhere"], ["there is no checkpoint nowhere"]),
        (["--preset", "demo", "--resume", "nowhere"], ["exclude each other"]),
        (["--out", "/dev/null/x"], ["cannot write to /dev/null/x", "--out"]),
    ],
)
def test_mistakes_are_answered_before_training(capsys, monkeypatch, tmp_path, options, words):
    def no_step(self):
        raise AssertionError("a training step was taken")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gankernels.training.trainer.Trainer.step", no_step)
    refused(capsys, ["train", *options], *words)
    assert not (tmp_path / "runs").exists()


def test_unknown_option_exits_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--nonsense", "1"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume"])
    assert caught.value.code == 2


def test_an_earlier_run_is_not_replaced_unasked(trained, tmp_path, capsys):
    config = tiny(trained.parent / "images", tmp_path / "run", 2)
    assert main(arguments_of(config)) == 0
    before = all_checkpoints(config.folder())[-1].read_bytes()
    refused(capsys, arguments_of(config), "already holds a run", "--resume", "--overwrite")
    assert all_checkpoints(config.folder())[-1].read_bytes() == before
    (config.folder() / "mine.txt").write_text("not of the run")
    assert main([*arguments_of(config), "--seed", "9", "--overwrite"]) == 0
    assert load(all_checkpoints(config.folder())[-1])["config"]["seed"] == 9
    assert (config.folder() / "mine.txt").exists()


def test_resume_refuses_what_would_change_the_run(trained, copied, capsys):
    refused(capsys, ["train", "--resume", trained, "--lr", "0.1"], "--lr is 0.0002", "cannot become 0.1")
    refused(capsys, ["train", "--resume", trained, "--model", "gan"], "--model is 'dcgan'")
    images = trained.parent / "images"
    (first, *_) = sorted(images.iterdir())
    original = first.read_bytes()
    Image.new("L", (16, 16), 3).save(first)
    refused(capsys, ["train", "--resume", copied, "--images", "640"], "trained on other images")
    first.write_bytes(original)


def test_resume_of_an_older_checkpoint_needs_a_folder_of_its_own(trained, tmp_path, capsys):
    older, newest = all_checkpoints(trained)
    refused(capsys, ["train", "--resume", older], f"newer checkpoint {newest.name}", "--out")
    assert main(["train", "--resume", str(older), "--out", str(tmp_path / "branch")]) == 0
    same_checkpoints(newest, all_checkpoints(tmp_path / "branch")[-1])


def commands(path):
    return (["train", "--resume", path], ["generate", "--checkpoint", path], ["evaluate", "--checkpoint", path])


def refused_by_all(capsys, path, *words, only=3):
    for arguments in commands(path)[:only]:
        refused(capsys, arguments, str(path), *words)


def test_damaged_checkpoints(copied, tmp_path, capsys):
    content = copied.read_bytes()
    for cut in (0, 5, 100, len(content) // 2, len(content) - 1):
        copied.write_bytes(content[:cut])
        refused_by_all(capsys, copied, "truncated", only=2)
    copied.write_bytes(b"\x80\x04pickled" * 100)
    refused_by_all(capsys, copied, "no safetensors file", only=2)
    safetensors.torch.save_file({"x": torch.zeros(2)}, copied)
    refused_by_all(capsys, copied, "another program's file", only=2)
    safetensors.torch.save_file(
        {"x": torch.zeros(2)}, copied, metadata={"gankernels": json.dumps({"format": 999, "state": {}})}
    )
    refused_by_all(capsys, copied, "format 999", only=2)
    safetensors.torch.save_file({"x": torch.zeros(2)}, copied, metadata={"gankernels": "{"})
    refused_by_all(capsys, copied, "damaged header", only=2)
    save(copied, {"kind": "training", "step": 3})
    refused_by_all(capsys, copied, "no complete checkpoint", only=2)
    refused(capsys, ["generate", "--checkpoint", tmp_path], "holds no checkpoint")


def test_checkpoint_that_lacks_a_tensor(copied, capsys):
    with safetensors.safe_open(copied, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del tensors["average.main.0.weight"]
    safetensors.torch.save_file(tensors, copied, metadata=header)
    refused_by_all(capsys, copied, "average.main.0.weight", only=2)


def test_checkpoint_of_another_model(copied, capsys):
    state = load(copied)
    state["average"]["main.9.weight"] = state["average"].pop("main.0.weight")
    save(copied, state)
    refused_by_all(capsys, copied, "lacks main.0.weight", "another model", only=2)
    state["config"]["width"] = 8
    save(copied, state)
    refused_by_all(capsys, copied, "belongs to another model", only=2)
    state["kind"] = "other"
    save(copied, state)
    refused_by_all(capsys, copied, "kind 'other'", only=2)


def test_generate_refuses_bad_numbers(trained, capsys):
    given = ["generate", "--checkpoint", trained]
    refused(capsys, [*given, "--count", "0"], "count must be at least 1")
    refused(capsys, [*given, "--what", "arithmetic", "--a"], "at least one image number")
    refused(capsys, [*given, "--out", "/dev/null/x"], "cannot write to /dev/null/x")


def test_divergence_exits_with_1(copied, trained, capsys):
    state = load(copied)
    state["generator"]["main.0.weight"][0] = float("inf")
    save(copied, state)
    assert main(["train", "--resume", str(copied), "--images", "640"]) == 1
    message = capsys.readouterr().err
    assert "diverged at step 5" in message
    assert str(copied) in message


@pytest.mark.parametrize("command", ["train", "demo"])
def test_an_interrupted_run_says_how_to_go_on(tmp_path, capsys, monkeypatch, command):
    saved = tmp_path / "checkpoints/00000003.safetensors"
    result = Result(tmp_path, saved, step=3, images=24, seconds=1.0, interrupted=True)
    monkeypatch.setattr("gankernels.cli.train", lambda *_, **__: result)
    monkeypatch.setattr("gankernels.training.demo.train", lambda *_, **__: result)
    monkeypatch.setattr("gankernels.training.demo.operator_table", lambda _: [])
    assert main([command, "--out", str(tmp_path)]) == 130
    shown = capsys.readouterr().out
    assert f"interrupted after step 3; saved {saved}" in shown
    assert shown.endswith(f"continue with: gankernels train --resume {tmp_path}\n")
    assert "trained on" not in shown


def test_progress_bar(capsys):
    from gankernels.training.progress import RichProgress, Status

    bar = RichProgress()
    bar.update(Status(3, 64, 128, 0.5, 1.5, 200.0, 61.4))
    bar.say("a note [not markup]")
    bar.close()
    shown = capsys.readouterr().out
    assert "a note [not markup]" in shown
    assert "64/128" in shown


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def without(names, code):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(names=names) + code], capture_output=True, text=True, env=os.environ
    )
    return result.returncode, result.stdout + result.stderr


def test_optional_packages_are_named_when_missing(trained):
    every = ("PIL", "rich", "tyro", "safetensors", "matplotlib", "tensorboard", "efficientnet_lite_pytorch")
    assert without(every, "import gankernels.ops, gankernels.data, gankernels.training, gankernels.metrics") == (0, "")
    call = "from gankernels.cli import main; sys.exit(main({!r}))"
    for package, name, arguments in (
        ("tyro", "tyro", ["train"]),
        ("PIL", "pillow", ["train", "--data", str(trained.parent / "images"), "--resolution", "16"]),
        ("safetensors", "safetensors", ["generate", "--checkpoint", str(trained)]),
        ("efficientnet_lite_pytorch", "efficientnet-lite-pytorch", ["evaluate", "--checkpoint", str(trained)]),
    ):
        code, output = without((package,), call.format(arguments))
        assert code == 2, output
        assert f"{name} is not installed: pip install {name}" in output
        assert "Traceback" not in output


def test_errors_inside_an_optional_package_are_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import something_it_needs_and_lacks")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_it_needs_and_lacks"):
        errors.need("broken_package", "train")
