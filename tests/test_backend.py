"""Which backend runs: forced in threads, in turns, in compiled code."""

import threading

import pytest
import torch
from op_tests import Calls

import gankernels
from gankernels import _backend
from gankernels.ops import bias_act

pytestmark = pytest.mark.skipif(_backend.native_error is not None, reason=str(_backend.native_error))


def ran(x=None):
    """The backend that bias_act takes here and now: "cpu" or "reference"."""
    calls = Calls()
    with calls:
        bias_act(torch.ones(1, 2, 3, 3) if x is None else x, act="lrelu")
    return "cpu" if calls.names() & {"gankernels_native::bias_act"} else "reference"


def in_thread(f):
    """The result of f in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(f()))
    thread.start()
    thread.join()
    return results[0]


def test_threads_force_two_backends_at_once():
    both, done = threading.Barrier(2), threading.Barrier(2)

    def force(name, seen):
        with gankernels.backend(name):
            both.wait()
            for _ in range(50):
                seen.append(ran())
            done.wait()
        seen.append(ran())

    seen = {"reference": [], "cpu": []}
    threads = [threading.Thread(target=force, args=item) for item in seen.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: set(names[:50]) for name, names in seen.items()} == {"reference": {"reference"}, "cpu": {"cpu"}}
    assert _backend.preferred("cpu") == "cpu", "a block that was left still forces"
    assert not _backend._blocks


def test_blocks_that_overlap_in_time_leave_nothing_behind():
    first, second = gankernels.backend("reference"), gankernels.backend("cpu")
    first.__enter__()
    in_thread(second.__enter__)
    first.__exit__(None, None, None)
    assert _backend._forced == "cpu"
    in_thread(lambda: second.__exit__(None, None, None))
    assert _backend._forced is None
    assert ran() == "cpu"


def test_a_thread_that_forces_none_follows():
    with gankernels.backend("reference"):
        assert in_thread(ran) == "reference"
        with gankernels.backend("cpu"):
            assert ran() == in_thread(ran) == "cpu"
        assert ran() == "reference"
    assert in_thread(ran) == "cpu"


def test_one_graph_of_two_backends():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    def chain(first, second):
        with gankernels.backend(first):
            y = bias_act(x, act="swish")
        with gankernels.backend(second):
            y = bias_act(y, act="tanh")
        g = torch.autograd.grad(y.sum(), x, create_graph=True)[0]
        return y, g, torch.autograd.grad(g.square().sum(), x)[0]

    expected = chain("reference", "reference")
    for pair in (("cpu", "reference"), ("reference", "cpu"), ("cpu", "cpu")):
        torch.testing.assert_close(chain(*pair), expected)


def test_a_block_inside_compiled_code():
    graphs = []

    def keep(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    def f(x):
        with gankernels.backend("reference"):
            x = bias_act(x, act="lrelu")
        return bias_act(x, act="tanh")

    torch._dynamo.reset()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(torch.compile(f, backend=keep, fullgraph=True)(x), f(x))
    assert sum("gankernels" in name for name in graphs[0]) == 1
    assert ran() == "cpu"
