"""A batch in rounds updates as the whole batch does, to float64 rounding, or is refused by name."""

import pytest
import torch
from training_support import image_folder, tiny

from gankernels import data
from gankernels.training.networks import build
from gankernels.training.trainer import Trainer

pytest.importorskip("PIL.Image")

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
    whole = trainer(images, **RUNS[name])
    parts = trainer(images, accumulate=4 if name != "gan" else 2, **RUNS[name])
    first = {key: t.clone() for key, t in numbers(whole).items()}
    for _ in range(4):
        whole.step()
        parts.step()
    assert any(not t.equal(first[key]) for key, t in numbers(whole).items() if key.startswith("generator"))
    if "augment" in RUNS[name]:
        assert whole.augment.pipe.p > 0
    close(numbers(whole), numbers(parts))
