"""Kills, Ctrl-C and disks that are full: what is on the disk is whole, and a run goes on from it bit for bit."""

import dataclasses
import signal
import subprocess
import sys

import pytest
import torch
from training_support import arguments_of, image_folder, metrics, run, same_checkpoints, start, tiny, wait_for

from gankernels.errors import CheckpointError
from gankernels.training.checkpoint import all_checkpoints, load, save

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path / "images")


def test_kill_and_resume(images, tmp_path):
    straight = run(tiny(images, tmp_path / "a", 40))
    process = start(arguments_of(tiny(images, tmp_path / "b", 40)), before="import time\n" + SLOWLY)
    wait_for(lambda: len(all_checkpoints(tmp_path / "b")) >= 2, process)
    process.kill()
    process.communicate()
    reached = int(all_checkpoints(tmp_path / "b")[-1].stem)
    assert 3 <= reached < 40
    resumed = run(tiny(images, tmp_path / "b", 40), resume=tmp_path / "b")
    same_checkpoints(straight.checkpoint, resumed.checkpoint)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


SLOWLY = """
from gankernels.training import trainer
_step = trainer.Trainer.step
def _slow(self):
    time.sleep(0.1)
    _step(self)
trainer.Trainer.step = _slow
"""

HALF = """
import os, safetensors.torch, time
_save = safetensors.torch.save_file
def _half(tensors, path, metadata):
    _save(tensors, path, metadata)
    if "00000006" in str(path):
        os.truncate(path, os.path.getsize(path) // 2)
        print("in the middle", flush=True)
        time.sleep(600)
safetensors.torch.save_file = _half
"""

UNNAMED = """
import os, time
_replace = os.replace
def _wait(source, target):
    if "00000006" in str(target):
        print("in the middle", flush=True)
        time.sleep(600)
    _replace(source, target)
os.replace = _wait
"""


@pytest.mark.parametrize("moment", [HALF, UNNAMED], ids=["half written", "not yet renamed"])
def test_kill_in_the_middle_of_a_save(images, tmp_path, moment):
    process = start(arguments_of(tiny(images, tmp_path / "b", 10)), before=moment)
    for line in process.stdout:
        if "in the middle" in line:
            break
    process.kill()
    process.communicate()
    assert [path.stem for path in all_checkpoints(tmp_path / "b")] == ["00000003"]
    assert list((tmp_path / "b/checkpoints").glob("*.tmp")), "the kill came during the save"
    straight = run(tiny(images, tmp_path / "a", 10))
    resumed = run(tiny(images, tmp_path / "b", 10), resume=tmp_path / "b")
    same_checkpoints(straight.checkpoint, resumed.checkpoint)
    assert not list((tmp_path / "b/checkpoints").glob("*.tmp"))


SEVENTH = """
from gankernels.training import trainer
_step = trainer.Trainer.step
def _stop(self):
    _step(self)
    if self.step_count == 7:
        print("in the middle", flush=True)
        time.sleep(600)
trainer.Trainer.step = _stop
"""

LAZY = {"model": "stylegan2", "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "max_width": 8, "betas": (0.0, 0.99)}
LAZY |= {"r1": 1.0, "r1_every": 4, "path_length": 2.0, "path_length_every": 5, "mixing": 0.5}
LAZY |= {"augment": "bgc", "augment_images": 100, "augment_every": 2, "augment_target": -1.0}
"""Steps 3 and 6, where checkpoints are, lie within intervals of both regularisers, and within an epoch."""


@pytest.mark.parametrize("moment", [SEVENTH, HALF], ids=["between saves", "during one"])
def test_a_killed_style_run_goes_on_bit_for_bit(images, tmp_path, moment):
    config = tiny(images, tmp_path / "b", 11, **LAZY)
    code = "from gankernels.training import PlainProgress, TrainConfig, train\n"
    code += f"train(TrainConfig.from_json({config.to_json()!r}), PlainProgress())\nsys.exit()"
    process = start([], before=f"import time\n{moment}\n{code}")
    for line in process.stdout:
        if "in the middle" in line:
            break
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert all_checkpoints(tmp_path / "b")[-1].stem == ("00000003" if moment is HALF else "00000006")
    straight = run(dataclasses.replace(config, out=tmp_path / "a"))
    resumed = run(config, resume=tmp_path / "b")
    same_checkpoints(straight.checkpoint, resumed.checkpoint)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_interrupt_saves_and_says_where(images, tmp_path):
    process = start(arguments_of(tiny(images, tmp_path / "b", 100_000)))
    wait_for(lambda: all_checkpoints(tmp_path / "b"), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    (*_, newest) = all_checkpoints(tmp_path / "b")
    assert process.returncode == 130, output
    assert f"saved {newest}" in output
    assert f"gankernels train --resume {tmp_path / 'b'}" in output
    assert "Traceback" not in output
    steps = int(newest.stem) + 5
    straight = run(tiny(images, tmp_path / "a", steps))
    resumed = run(tiny(images, tmp_path / "b", steps), resume=newest)
    same_checkpoints(straight.checkpoint, resumed.checkpoint)


def test_a_save_that_the_disk_refuses_leaves_the_old(tmp_path, monkeypatch):
    path = tmp_path / "one.safetensors"
    save(path, {"x": torch.ones(3)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(path, {"x": torch.zeros(3)})
    assert torch.equal(load(path)["x"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


FULL = """
import resource, sys, torch
from pathlib import Path
from gankernels.errors import CheckpointError
from gankernels.training.checkpoint import save
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(Path(sys.argv[1]), {"x": torch.zeros(100_000)})
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
def test_a_disk_that_fills_up_while_saving(tmp_path):
    path = tmp_path / "one.safetensors"
    save(path, {"x": torch.ones(3)})
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write {path} (")
    assert "free space or change --out" in done.stdout
    assert torch.equal(load(path)["x"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_save_below_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        save(tmp_path / "file" / "one.safetensors", {"x": torch.ones(3)})
