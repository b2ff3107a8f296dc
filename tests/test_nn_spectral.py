"""nn.SpectralNorm against PyTorch's spectral_norm of each layer."""

import copy

import pytest
import torch
from op_tests import Calls
from torch import nn
from torch.nn.utils import parametrizations

import gankernels
from gankernels import losses
from gankernels import nn as gnn


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        gnn.Conv2d(3, 8, 3, 2, 1),
        gnn.BiasAct("lrelu", num_features=8),
        gnn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False),
        nn.Sequential(gnn.BatchNormAct2d(4, act="lrelu"), nn.Flatten(), gnn.Linear(256, 5)),
    ).double()


def pair():
    """Ours around a network, and a copy with PyTorch's on each layer, u and v alike."""
    inner = network()
    theirs = copy.deepcopy(inner)
    for path in ("0", "2", "3.2"):
        parametrizations.spectral_norm(theirs.get_submodule(path))
    ours = gnn.SpectralNorm(inner)
    for path in ("0", "2", "3.2"):
        norm = theirs.get_submodule(path).parametrizations.weight[0]
        for which in "uv":
            ours.get_buffer(f"{path.replace('.', '__')}__weight_{which}").copy_(getattr(norm, f"_{which}"))
    return ours, theirs


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_several_training_steps_equal_pytorchs(backend):
    ours, theirs = pair()
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-2) for m in (ours, theirs)]
    for step in range(4):
        x, more = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        totals = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            with gankernels.backend(backend):
                total = model(x).sin().sum() - model(more).cos().sum()  # twice in a step, as discriminators run
                optimizer.zero_grad()
                total.backward()
            optimizer.step()
            totals.append(total.detach())
        torch.testing.assert_close(*totals, rtol=1e-9, atol=1e-9)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-7, atol=1e-9)
    norm = theirs.get_submodule("3.2").parametrizations.weight[0]
    torch.testing.assert_close(ours.get_buffer("3__2__weight_u"), norm._u)


def test_one_call_serves_every_layer():
    ours, _ = pair()
    calls = Calls()
    with gankernels.backend("cpu"), calls, torch.no_grad():
        ours(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert [name for name, _ in calls.seen].count("gankernels_native::spectral_norm") == 1


def test_parameters_and_state_stay_where_they_are():
    plain = network()
    names = [name for name, _ in plain.named_parameters()]
    ours = gnn.SpectralNorm(plain)
    before = ours.module[0].weight
    largest = [torch.linalg.matrix_norm(plain[0].weight.flatten(1), 2)]
    for _ in range(20):
        ours(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    with ours.normalized():
        assert ours.module[0].weight is not before
        assert torch.linalg.matrix_norm(ours.module[0].weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-3)
    assert ours.module[0].weight is before
    assert largest[0] == torch.linalg.matrix_norm(ours.module[0].weight.flatten(1), 2)
    assert [name.removeprefix("module.") for name, _ in ours.named_parameters()] == names
    state = ours.state_dict()
    assert {n for n in state if not n.startswith("module.")} == {
        f"{p}__weight_{w}" for p in ("0", "2", "3__2") for w in "uv"
    }
    other = gnn.SpectralNorm(network())
    other.load_state_dict(state)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(other.eval()(x), ours.eval()(x))
    vectors = {n: t.clone() for n, t in ours.named_buffers() if n.endswith(("_u", "_v"))}
    ours(x)
    assert all(torch.equal(t, ours.get_buffer(n)) for n, t in vectors.items()), "evaluation moved u or v"
    assert "n_power_iterations=1, weights=3" in repr(ours)


def test_an_error_in_the_network_leaves_the_parameters():
    ours, _ = pair()
    with pytest.raises(ValueError, match="x"):
        ours(torch.randn(1, 2, dtype=torch.float64))
    assert isinstance(ours.module[0].weight, nn.Parameter)


def test_one_layer_and_bad_input():
    layer = gnn.SpectralNorm(nn.Linear(4, 3), dim=1)
    assert layer.weight_u.shape == (4,)
    assert layer(torch.randn(2, 4)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"SpectralNorm: no layer of ReLU has a parameter 'weight' of 2 or more"):
        gnn.SpectralNorm(nn.ReLU())


@pytest.mark.parametrize("form", ["double_backward", "adjoint", "tangent"])
def test_a_gradient_penalty_of_it(form):
    ours, theirs = pair()
    ours.eval(), theirs.eval()  # each form runs the network a different number of times
    model, plain = (nn.Sequential(m, nn.Flatten(), gnn.Linear(5, 1).double()) for m in (ours, theirs))
    plain[2].load_state_dict(model[2].state_dict())
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    penalty = losses.r1_penalty(model, x, 10.0, form=form)
    with gankernels.backend("reference"):
        expected = losses.r1_penalty(plain, x, 10.0)
    torch.testing.assert_close(penalty, expected)
    (a,) = torch.autograd.grad(penalty, ours.module[0].weight)
    (b,) = torch.autograd.grad(expected, theirs[0].parametrizations.weight.original)
    torch.testing.assert_close(a, b)


def test_compiles_and_so_does_a_penalty():
    ours, _ = pair()
    model = nn.Sequential(ours.eval(), nn.Flatten(), gnn.Linear(5, 1).double())
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch._dynamo.reset()
    run = torch.compile(lambda t: model(t), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(x), model(x))
    penalty = torch.compile(lambda t: losses.r1_penalty(model, t, 10.0), fullgraph=True, backend="aot_eager")(x)
    expected = losses.r1_penalty(model, x, 10.0)
    torch.testing.assert_close(penalty, expected)
    for a, b in zip(*(torch.autograd.grad(p, ours.module[2].weight) for p in (penalty, expected)), strict=True):
        torch.testing.assert_close(a, b)
