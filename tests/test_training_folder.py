"""Whose checkpoints a folder holds: what resuming, branching off and --overwrite may remove there."""

import json
import math

import pytest
import torch
from training_support import image_folder, run, tiny

from gankernels import metrics
from gankernels.errors import CheckpointError, ConfigError, MissingDependency
from gankernels.training import TrainConfig, networks, watch
from gankernels.training.checkpoint import all_checkpoints, checkpoint_path, load, save, tidy
from gankernels.training.metrics_log import MetricsLog, read_metrics
from gankernels.training.processes import Processes
from gankernels.training.watch import best_path

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors.torch")
WATCHED = {"metrics_every": 24, "metrics_count": 20}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("folder") / "images")


@pytest.fixture
def values(monkeypatch):
    """What the metric will be, one after the other."""
    given = []
    pixels = metrics.Extractor("pixels", lambda x: (x.flatten(1), x.flatten(1)), torch.device("cpu"))
    monkeypatch.setattr(metrics, "lite0_extractor", lambda *_: pixels)
    monkeypatch.setattr(watch.Watch, "measure", lambda *_: given.pop(0))
    return given


def steps(folder):
    return [int(path.stem) for path in all_checkpoints(folder)]


def test_the_best_is_resumed_where_nothing_is_newer(images, tmp_path, values):
    values += [1.0, 2.0, 3.0, 5.0, 4.0]
    config = tiny(images, tmp_path / "run", 9, **WATCHED)
    run(config)
    best = best_path(config.folder())
    assert load(best)["step"] == 3
    with pytest.raises(CheckpointError, match=r"newer checkpoint 00000009.safetensors.*best.safetensors with --out"):
        run(config, resume=best)
    assert steps(config.folder()) == [6, 9]
    # Another folder that holds a run is no place to branch off to; an empty one is, and gets the best along.
    other = tiny(images, tmp_path / "other", 1)
    run(other)
    with pytest.raises(ConfigError, match="already holds a run; branch off"):
        run(tiny(images, other.folder(), 9, **WATCHED), resume=best)
    assert steps(other.folder()) == [1]
    branch = tiny(images, tmp_path / "branch", 9, **WATCHED)
    run(branch, resume=best)
    assert steps(branch.folder()) == [6, 9]
    assert load(best_path(branch.folder()))["step"] == 3, "5 and 4 are no better than 1"


def test_a_best_that_cannot_be_brought_is_forgotten(images, tmp_path, values):
    values += [2.0, 1.0, 7.0]
    config = tiny(images, tmp_path / "run", 6, keep=0, **WATCHED)
    run(config)
    assert load(best_path(config.folder()))["step"] == 6
    branch = tiny(images, tmp_path / "branch", 6, **WATCHED)
    run(branch, resume=checkpoint_path(config.folder(), 3))
    assert load(best_path(branch.folder()))["step"] == 6, "that of step 3 was replaced: 7 is the best there is"


def test_tidy_never_removes_what_was_just_saved(tmp_path):
    for step in (3, 6, 9, 100_000_000):
        save(checkpoint_path(tmp_path, step), {"step": step})
    save(best_path(tmp_path), {})
    save(checkpoint_path(tmp_path, 5), {"step": 5})
    tidy(tmp_path, 2, 5)
    assert steps(tmp_path) == [3, 5, 6, 9, 100_000_000]
    tidy(tmp_path, 1, 9)
    assert steps(tmp_path) == [9, 100_000_000]
    tidy(tmp_path, 0, 9)
    assert steps(tmp_path) == [9, 100_000_000]
    assert best_path(tmp_path).exists()


def test_overwrite_removes_nothing_before_the_run_can_begin(images, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise MissingDependency("efficientnet-lite-pytorch is not installed")

    config = tiny(images, tmp_path / "run", 1)
    run(config)
    monkeypatch.setattr(metrics, "lite0_extractor", missing)
    with pytest.raises(MissingDependency):
        run(tiny(images, tmp_path / "run", 1, **WATCHED), overwrite=True)
    assert steps(config.folder()) == [1]
    assert (config.folder() / "metrics.jsonl").exists()


def test_too_few_images_for_the_metric(tmp_path):
    one = image_folder(tmp_path / "one", 1)
    with pytest.raises(ConfigError, match=r"1 real images of .* kid takes at least 2"):
        run(tiny(one, tmp_path / "run", 1, **WATCHED))


def test_settings_that_an_earlier_version_did_not_write(images, tmp_path):
    config = tiny(images, tmp_path / "run", 1)
    written = config.to_json()
    for name in ("accumulate", "metrics_every", "penalty", "augment", "precision"):
        del written[name]
    assert TrainConfig.from_json(written) == config
    with pytest.raises(ConfigError, match=r"has novel, which this version .* use the version that wrote it"):
        TrainConfig.from_json(written | {"novel": 1})
    with pytest.raises(ConfigError, match="lacks lr, model; it is damaged"):
        TrainConfig.from_json({k: v for k, v in written.items() if k not in ("lr", "model")})
    file = run(config).checkpoint
    state = load(file)
    save(file, state | {"config": written})
    assert networks.read(file)[2] == config
    run(tiny(images, tmp_path / "run", 2), resume=file)
    save(file, state | {"config": written | {"novel": 1}})
    with pytest.raises(CheckpointError, match=f"{file}: the configuration has novel"):
        networks.read(file)
    for spoiled in ({**state, "step": "1"}, {k: v for k, v in state.items() if k != "step"}, {**state, "config": 3}):
        save(file, spoiled)
        with pytest.raises(CheckpointError, match="no complete checkpoint"):
            networks.read(file)


def test_metrics_are_json(tmp_path):
    """NaN is null in the file, also where an earlier version had written it."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "d_loss": NaN}\n')
    log = MetricsLog(tmp_path, read_metrics(tmp_path / "metrics.jsonl"))
    log.write({"step": 2, "d_loss": math.inf, "g_loss": 1.5})
    log.close()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in log.path.read_text().splitlines()]
    assert lines == [{"step": 1, "d_loss": None}, {"step": 2, "d_loss": None, "g_loss": 1.5}]
    assert log.lines == lines


def test_what_all_processes_know_the_first_says(capsys, monkeypatch):
    """An error of one process alone is printed by it; one that all have agreed on, by the first."""
    from gankernels import cli
    from gankernels.training.processes import _Many

    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    store = torch.distributed.HashStore()
    store.set("start/0", "a")

    def alone(*_, **__):
        raise ConfigError("process 1 of this machine has no GPU")

    def agreed(*_, **__):
        _Many(store, 1, 2, 5.0).agree(ConfigError("found by process 1"))

    for found, said in ((alone, "gankernels: process 1 of this machine has no GPU\n"), (agreed, "")):
        monkeypatch.setattr(cli, "train", found)
        assert cli.main(["train"]) == 2
        assert capsys.readouterr().err == said
    assert Processes().agree(None) is None
