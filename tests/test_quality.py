"""What the demonstration promises of its samples; minutes of work, on a finished run.

Train first (`make demo`, or `gankernels train --preset demo`), then
`pytest -m slow tests/test_quality.py`; GANKERNELS_RUN names another folder than runs/demo.
"""

import os
from pathlib import Path

import pytest
import torch

from gankernels import data
from gankernels.metrics import efficientnet_lite0, kid
from gankernels.training import load_generator
from gankernels.training.generate import latents, render
from gankernels.training.networks import build

pytestmark = pytest.mark.slow
COUNT = 1000


@pytest.fixture(scope="module")
def demo():
    folder = Path(os.environ.get("GANKERNELS_RUN", "runs/demo"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: run `make demo` first, or name a run's folder in GANKERNELS_RUN")
    return load_generator(folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def real():
    return data.load("fashion-mnist", resolution=32)


def test_a_classifier_of_real_images_sees_the_classes(demo, real):
    """A support vector machine on 8,000 real images: at least 8 of 10 classes among the samples, none above 40 %."""
    svm = pytest.importorskip("sklearn.svm")
    generator, _ = demo
    pixels = real.images.flatten(1).float().div(255).numpy()
    labels = real.labels.numpy()
    classifier = svm.SVC(C=10, gamma="scale").fit(pixels[:8000], labels[:8000])
    accuracy = classifier.score(pixels[8000:], labels[8000:])
    assert accuracy > 0.85, "the judge itself must know the classes"
    samples = render(generator, latents(generator, 0, range(COUNT)))
    seen = classifier.predict(samples.add(1).div(2).flatten(1).numpy())
    counts = torch.bincount(torch.from_numpy(seen), minlength=10)
    print(f"\naccuracy on held-out real images {accuracy:.3f}")
    print(", ".join(f"{name} {count}" for name, count in zip(real.class_names, counts.tolist(), strict=True)))
    # A class counts as seen from 1 % on: a few stray images are no sign that it was learned.
    assert int((counts >= COUNT // 100).sum()) >= 8
    assert counts.max() <= 0.4 * COUNT


def test_kid_is_at_most_a_quarter_of_the_untrained_generators(demo, real):
    pytest.importorskip("efficientnet_lite_pytorch")
    generator, config = demo
    untrained, _ = build(config, generator.channels)
    features = efficientnet_lite0()
    chosen = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[:COUNT]
    wanted = features(real.batch(chosen))
    z = latents(generator, 0, range(COUNT))
    # The untrained generator draws with the statistics of its own batches: its running ones were never fed.
    before, after = (kid(wanted, features(render(g, z))) for g in (untrained.train(), generator))
    print(f"\nKID untrained {before:.4f}, trained {after:.4f}, ratio {after / before:.3f}")
    assert after <= before / 4
