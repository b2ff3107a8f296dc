"""Going on from a file equals having gone on, bit for bit: every model, and every objective and regulariser on one.

test_training.py, test_training_kills.py and test_training_style.py do the same with whole runs, kills and growth.
"""

import pytest
import torch
from training_support import image_folder, same, tiny

from gankernels import data
from gankernels.training.checkpoint import load, save
from gankernels.training.networks import build
from gankernels.training.trainer import Trainer

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")

W = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "max_width": 8, "width": 4}
LAZY = {"r1": 1.0, "r1_every": 2, "path_length": 2.0, "path_length_every": 3, "mixing": 0.5}
RUNS = {
    **{name: {"objective": name} for name in ("gan", "gan-ns", "lsgan", "wgan", "wgan-gp", "dragan", "hinge")},
    "r1": {"r1": 1.0, "r1_every": 1},
    "lazy r1": {"r1": 1.0, "r1_every": 2},
    "drift, clip": {"drift": 0.01, "clip": 0.02, "d_steps": 2},
    "augmentation": {"augment": "bg", "augment_images": 60, "augment_every": 2, "augment_target": -1.0},
    "mlp": {"model": "gan", "width": None, "r1": 1.0, "r1_every": 2},
    "maxout": {"model": "gan-maxout", "width": None, "objective": "dragan"},
    "conv": {"model": "gan-conv", "width": None},
    "progan in rounds": {
        **{"model": "progan", "z_dim": 8, "max_width": 8, "objective": "wgan-gp", "drift": 0.001, "accumulate": 2},
        **{"grow_from": 4, "stable_images": 12, "fade_images": 16, "mbstd_group": 4},
    },
    "stylegan in rounds": {
        **{"model": "stylegan", **W, **LAZY, "accumulate": 2},
        **{"grow_from": 4, "stable_images": 12, "fade_images": 16},
    },
    "stylegan2 in rounds": {"model": "stylegan2", **W, **LAZY, "accumulate": 2, "augment": "bgc", "augment_images": 60},
    "stylegan3 in rounds": {"model": "stylegan3", **W, "r1": 1.0, "r1_every": 2, "blur": 2.0, "accumulate": 2},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("data") / "images")


@pytest.mark.parametrize("name", RUNS)
def test_going_on_from_a_file_is_going_on(images, tmp_path, name):
    config = tiny(images, tmp_path / "unused", 1, **{"betas": (0.0, 0.99), **RUNS[name]})
    config.check()
    loaded = data.load(config.data, resolution=config.resolution, channels=config.channels)

    def trainer():
        return Trainer(config, loaded, *build(config, loaded.channels))

    straight = trainer()
    for step in range(4):
        if step == 1:
            save(tmp_path / "one.safetensors", straight.state())
        straight.step()
    torch.manual_seed(99)  # no draw comes from PyTorch's generators
    resumed = trainer()
    assert resumed.load(load(tmp_path / "one.safetensors"), "one") == []
    assert resumed.step_count == 1
    for _ in range(3):
        resumed.step()
    save(tmp_path / "a.safetensors", straight.state())
    save(tmp_path / "b.safetensors", resumed.state())
    same(load(tmp_path / "a.safetensors"), load(tmp_path / "b.safetensors"))
