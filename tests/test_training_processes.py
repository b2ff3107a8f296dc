"""Two processes of torchrun train as one does, to float64 rounding; a killed one ends the run."""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from training_support import arguments_of, end, image_folder, run, same, tiny, torchrun, wait_for, workers

from gankernels.training.checkpoint import all_checkpoints, load

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this PyTorch has no gloo", allow_module_level=True)

WORKER = Path(__file__).with_name("training_worker.py")
STEPS, LIMIT = 5, 300.0
W = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "max_width": 8, "width": 4}
ADA = {"augment": "bgc", "augment_images": 100, "augment_every": 2, "augment_target": -1.0}
GROWTH = {"grow_from": 4, "stable_images": 8, "fade_images": 24}
RUNS = {
    "dcgan": {"model": "dcgan", "objective": "dragan", "r1": 0.5, "r1_every": 2, **ADA, "d_steps": 2},
    "dcgan penalties": {"model": "dcgan", "objective": "wgan-gp", "drift": 0.001, "r1": 0.1, "r1_every": 1},
    "gan": {"model": "gan", "width": None},
    "progan": {"model": "progan", "z_dim": 8, "max_width": 8, "objective": "wgan-gp", "drift": 0.001, **GROWTH},
    "stylegan2": {
        **{"model": "stylegan2", **W, **ADA, "mixing": 0.5, "batch": 16, "accumulate": 2},
        **{"r1": 1.0, "r1_every": 2, "path_length": 2.0, "path_length_every": 2},
    },
    "stylegan3": {"model": "stylegan3", **W, "r1": 1.0, "r1_every": 2},
    "classes": {"model": "dcgan", "objective": "acgan", "r1": 0.5, "r1_every": 2},
}
CLASSES = ("classes",)
"""Of the runs, those on pictures in folders of two classes."""
"""ProGAN's deviation groups are the whole batch, here over both processes; StyleGAN2's lie in the rounds of either."""
SHORTER = "stylegan2"
"""The run that two processes begin and one ends."""


def config(images, out, name, steps=STEPS):
    options = {"precision": "float64", "betas": (0.0, 0.99), "process_timeout": LIMIT, **RUNS[name]}
    data = images / "of classes" if name in CLASSES else images / "plain"
    return tiny(data, out / name.replace(" ", "-"), steps, **options)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The folder of "plain" pictures, and of those "of classes"."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("plain", "of classes/cats", "of classes/dogs"):
        image_folder(folder / name, 50 if name == "plain" else 25)
    return folder


@pytest.fixture(scope="module")
def of_two(images, tmp_path_factory):
    """The folder of runs of two processes, and what they said."""
    out = tmp_path_factory.mktemp("two")
    runs = [config(images, out, name) for name in RUNS]
    runs.append(config(images, out / "shorter", SHORTER, steps=2))
    runs.append(dataclasses.replace(runs[0], out=out / "odd", batch=9))
    (out / "runs.json").write_text(json.dumps([one.to_json() for one in runs]))
    process = torchrun([str(WORKER), str(out / "runs.json")])
    try:
        said, _ = process.communicate(timeout=2 * LIMIT)
    finally:
        end(process)
    assert process.returncode == 0, said
    return out, said


def close(a, b, name=""):
    """Assert that two trees are equal, floating point numbers to float64 rounding after Adam."""

    def leaves(a, b, name):
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11, msg=lambda text: f"{name}: {text}")
        elif isinstance(a, float):
            assert b == pytest.approx(a, rel=1e-9, abs=1e-11), name
        else:
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name

    same(a, b, name, leaves)


def state(folder):
    found = load(all_checkpoints(folder)[-1])
    for free in ("config", "seconds", "torch"):
        del found[free]
    return found


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(images, tmp_path, of_two, name):
    alone = dataclasses.replace(config(images, tmp_path, name), accumulate=1)
    one, two = state(run(alone).folder), state(of_two[0] / name.replace(" ", "-"))
    assert one["step"] == STEPS
    if "augment" in RUNS[name]:
        assert one["augment"]["p"] > 0
    close(one, two)


def test_the_first_process_alone_speaks_and_writes(of_two):
    out, said = of_two
    assert said.count("dcgan: 5\n") == 2, said
    lines = (out / "dcgan/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert (out / "dcgan/samples.gif").exists()
    assert "lost" not in said


def test_a_batch_that_cannot_be_shared_is_refused_by_all(of_two):
    assert of_two[1].count("odd: batch is 9, and 2 processes of accumulate 1 share it; take a multiple of 2") == 2


def test_another_number_of_processes_goes_on(images, tmp_path, of_two):
    straight = run(dataclasses.replace(config(images, tmp_path, SHORTER), accumulate=1))
    folder = of_two[0] / "shorter" / SHORTER
    longer = dataclasses.replace(config(images, of_two[0] / "shorter", SHORTER), accumulate=1)
    resumed = run(longer, resume=folder)
    assert resumed.step == STEPS
    close(state(straight.folder), state(folder))


def test_a_killed_process_ends_all(images, tmp_path):
    options = {"process_timeout": 40.0, "checkpoint_every": 80, "model": "dcgan"}
    long = tiny(images, tmp_path / "a", 1_000_000, **options)
    process = torchrun(["-m", "gankernels", *arguments_of(long)])
    try:
        wait_for(lambda: all_checkpoints(tmp_path / "a"), process)
        os.kill(workers(process)[1], signal.SIGKILL)
        began = time.monotonic()
        said, _ = process.communicate(timeout=60)
        took = time.monotonic() - began
    finally:
        end(process)
    assert process.returncode != 0
    assert took < 60
    assert "lost another one" in said, said
    assert f"the last good checkpoint is {tmp_path / 'a'}" in said
    assert not workers(process)
    assert "Signal 9" in said or "-9" in said, "torchrun names the cause"


def test_an_interrupt_of_all_saves_where_all_are(images, tmp_path):
    long = tiny(images, tmp_path / "a", 1_000_000, process_timeout=LIMIT, checkpoint_every=80, model="dcgan")
    process = torchrun(["-m", "gankernels", *arguments_of(long)])
    try:
        wait_for(lambda: all_checkpoints(tmp_path / "a"), process)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        end(process)
    (*_, newest) = all_checkpoints(tmp_path / "a")
    assert said.count(f"saved {newest}") == 1, said
    assert said.count("continue with: gankernels train --resume") == 1
    assert load(newest)["step"] == int(newest.stem)
