import pytest
import torch
import torch.nn.functional as F
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference
from test_gradient_reversal import Plain, random

import gankernels
from gankernels import nn, ops


class TestSelfAttention2d(Plain):
    name = "self_attention2d"

    def samples(self):
        yield Sample({"q": random(2, 2, 3, 4), "k": random(2, 2, 3, 4), "v": random(2, 5, 3, 4)})
        yield Sample({"q": random(1, 8, 4, 4, last=True), "k": random(1, 8, 2, 2), "v": random(1, 8, 2, 2)})
        yield Sample({"q": random(2, 3, 1, 2), "k": random(2, 3, 1, 3), "v": random(2, 1, 1, 3)}, {"scale": 0.25})
        yield Sample({"q": random(0, 2, 2, 2), "k": random(0, 2, 2, 2), "v": random(0, 2, 2, 2)})

    def bad(self):
        q, v = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
        good = {"q": q, "k": q, "v": v}
        yield good | {"q": q.int()}, "q has dtype torch.int32"
        yield good | {"k": [1.0]}, "k is list"
        yield good | {"k": q.double()}, "k has dtype torch.float64, expected torch.float32"
        yield good | {"v": v.to("meta")}, "v is on meta"
        yield good | {"q": q[0]}, "q has shape"
        yield good | {"k": q[:1]}, r"k has shape \[1, 3, 4, 4\], expected \[2, 3, h, w\]"
        yield good | {"k": v}, r"k has shape \[2, 5, 4, 4\]"
        yield good | {"v": v[..., :2]}, r"v has shape \[2, 5, 4, 2\], expected \[2, E, 4, 4\]"
        yield good | {"k": q[..., :0], "v": v[..., :0]}, "expected one pixel or more"
        yield good | {"scale": float("inf")}, "scale is inf"

    def test_compile_follows_the_forced_backend(self, backend):
        """Without derivatives: PyTorch's fused kernel in the graph, and none in the one of the reference."""
        s = self.first(backend)
        graphs = []

        def keep(graph, inputs):
            graphs.append(any("scaled_dot_product" in str(node.target) for node in graph.graph.nodes))
            return graph.forward

        torch._dynamo.reset()
        f = torch.compile(lambda: self.call(s), backend=keep, fullgraph=True)
        with torch.no_grad():
            expected = [f()]
            with gankernels.backend("reference"):
                expected.append(f())
            torch.testing.assert_close(*expected, rtol=1e-4, atol=1e-5)
        assert graphs[0] == (backend != "reference")
        assert graphs[-1] is False

    test_functional_derivatives_are_refused_by_name = OpTests.test_functional_derivatives_are_refused_by_name

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_without_derivatives(self, backend, dtype):
        """PyTorch's scaled_dot_product_attention, on every backend but the reference."""
        for s in self.on(backend, dtype):
            with torch.no_grad():
                calls = Calls()
                with calls:
                    y = self.call(s)
                with gankernels.backend("reference"):
                    expected, truth = self.call(s), self.call(s.to("cpu", torch.float64))
            assert_as_true_as_reference(y, expected, truth)
            fused = any("scaled_dot_product" in name for name in calls.names())
            if dtype != torch.float64 and s.tensors["q"].shape[1] == s.tensors["v"].shape[1] and y.numel():
                assert fused == (backend != "reference")

    def test_first_order_alone(self, backend):
        """second_order=False: the same gradient; a second one raises where PyTorch's kernel was a fused one."""
        s = Sample({"q": random(2, 8, 4, 4), "k": random(2, 8, 4, 4), "v": random(2, 8, 4, 4)}).to(
            self.device(backend), torch.float32
        )
        grads = []
        for second_order in (True, False):
            y = self.op(**s.tensors, second_order=second_order)
            grads.append(torch.autograd.grad(y.sin().sum(), list(s.tensors.values()), create_graph=True))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        torch.autograd.grad(grads[0][0].sum(), s.tensors["k"])
        if backend != "reference":
            with pytest.raises(RuntimeError, match=r"derivative for .* is not implemented"):
                torch.autograd.grad(grads[1][0].sum(), s.tensors["k"])


def papers(layer, x):
    """f, g, h of 1x1 convolutions as matrices, written from the papers."""
    n, _, height, width = x.shape

    def project(conv, t):
        return torch.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], t)

    f, g, h = (project(conv, x) for conv in (layer.query, layer.key, layer.value))
    if layer.pool:
        g, h = F.max_pool2d(g, 2), F.max_pool2d(h, 2)
    beta = torch.softmax(f.flatten(2).mT @ g.flatten(2), dim=2)
    o = (h.flatten(2) @ beta.mT).view(n, -1, height, width)
    return x + layer.gamma * project(layer.out, o)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_layer(pool, backend):
    layer = nn.SelfAttention(16, pool=pool, dtype=torch.float64)
    assert {n: list(p.shape) for n, p in layer.state_dict().items()} == {
        "gamma": [], "query.weight": [2, 16, 1, 1], "key.weight": [2, 16, 1, 1], "value.weight": [8, 16, 1, 1],
        "out.weight": [16, 8, 1, 1],
    }  # fmt: skip
    x = random(2, 16, 4, 6).requires_grad_()
    with gankernels.backend(backend):
        torch.testing.assert_close(layer(x), x)
        layer.gamma.data.fill_(0.7)
        y, expected = layer(x), papers(layer, x)
        torch.testing.assert_close(y, expected)
        ours, theirs = (
            torch.autograd.grad(t.sin().sum(), [x, *layer.parameters()], create_graph=True) for t in (y, expected)
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
        second = [torch.autograd.grad(g[0].square().sum(), [x, *layer.parameters()]) for g in (ours, theirs)]
        for a, b in zip(*second, strict=True):
            torch.testing.assert_close(a, b)


def test_layer_bad_input():
    with pytest.raises(ValueError, match="SelfAttention: in_channels is 12, expected a multiple of 8"):
        nn.SelfAttention(12)
    with pytest.raises(ValueError, match="expected an even height and width to pool"):
        nn.SelfAttention(8, pool=True)(torch.randn(1, 8, 3, 4))
    assert nn.SelfAttention(8, value_channels=8, bias=True).out.bias.shape == (8,)
    assert ops.self_attention2d(*[torch.ones(1, 2, 2, 2)] * 3).shape == (1, 2, 2, 2)
