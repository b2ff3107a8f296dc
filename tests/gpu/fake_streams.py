"""Every CUDA kernel of ours on two streams of a GPU that is not there: `python -m gpu.fake_streams`.

What the operators' forward, first and second derivatives call is recorded on CPU tensors and called again with CUDA
tensors, on one stream and then another. Every launch must go to the current stream and its GPU, memory must come from
torch's allocator, and nothing may be asked of the GPU but launches: the device here has neither synchronisation nor
copies nor events. Launches are recorded, and no kernel is compiled.
"""

import types

import torch
from op_tests import Calls
from torch.utils._pytree import tree_leaves, tree_map_only

import gankernels
from gankernels import _backend, _nvrtc, ops

from . import fake_cuda
from .fake_cupy import Gpu

STREAMS = (5, 9)
TORCHS = ("sum.IntList_out", "zero_", "fill_.Scalar", "copy_")
"""PyTorch's own kernels that bindings call: here they do nothing."""


def calls():
    """Operator: a call of it, on float32 tensors."""
    x, c, noise = torch.randn(2, 4, 6, 6), torch.randn(4), torch.randn(2, 1, 6, 6)
    f, theta = torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.randn(2, 3).expand(2, 2, 3)
    return {
        "add_noise": lambda x, c: ops.add_noise(x, noise, c),
        "affine_grid_sample2d": lambda x, c: ops.affine_grid_sample2d(x, theta, (5, 7)),
        "batch_norm_act": lambda x, c: ops.batch_norm_act(x, c, c, None, None, training=True, act="lrelu"),
        "bias_act": lambda x, c: ops.bias_act(x, c, act="swish", clamp=1.0),
        "fade_in": lambda x, c: ops.fade_in(x, x[:, :, ::2, ::2], c[0]),
        "grid_sample2d": lambda x, c: ops.grid_sample2d(x, x[:, :2].movedim(1, -1)),
        "maxout": lambda x, c: ops.maxout(x, 2),
        "minibatch_stddev": lambda x, c: ops.minibatch_stddev(x, 2),
        "modulate_act": lambda x, c: ops.modulate_act(x, torch.stack([c, c]), c, noise=noise, act="swish"),
        "norm_per_sample": lambda x, c: ops.norm_per_sample(x),
        "pixel_norm": lambda x, c: ops.pixel_norm(x),
        "pixel_shuffle_act": lambda x, c: ops.pixel_shuffle_act(x, 2, c, act="swish"),
        "spectral_norm": lambda x, c: spectral(x),
        "sum_squares_per_sample": lambda x, c: ops.sum_squares_per_sample(x),
        "upfirdn2d": lambda x, c: ops.upfirdn2d(x, f, up=2, padding=1),
    }, (x, c)


def spectral(x):
    """The first of two weights over their singular values."""
    u, v = x.new_ones(x.shape[0]), x.new_ones(x[0].numel())
    return ops.spectral_norm([x, x[:, :1]], [u, u], [v, v[: x[0, 0].numel()]])[0][0]


def recorded(call, tensors):
    """(overload, arguments) of ours that a call and two orders of its derivatives make."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    seen = Calls()
    with seen:
        y = call(*leaves)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True, allow_unused=True)
        total = sum(g.square().sum() for g in first if g is not None)
        torch.autograd.grad(total, leaves, allow_unused=True)
    for name, arguments in seen.seen:
        space, _, rest = name.partition("::")
        op, _, overload = rest.partition(".")
        if space == "gankernels_native":
            yield getattr(getattr(torch.ops.gankernels_native, op), overload or "default"), tuple(arguments.values())


def _on(device, argument):
    """An argument with its tensors on the GPU."""
    return tree_map_only(torch.Tensor, lambda t: device.to_cuda(t.detach(), 1), argument)


def main():
    import cupy

    device = fake_cuda.load()
    gpu = Gpu(cupy, "80", lambda *launch: None)
    _nvrtc.cupy = lambda: gpu.cupy
    _nvrtc.compile = lambda op, name, capability: types.SimpleNamespace(path=op, symbol=name)
    table, tensors = calls()
    own = {op for op, has in _backend.operators().items() if "cuda" in has and not _backend.cuda_is_torch(op)}
    missing = own - set(table) - _backend.compounds
    print("not here:", *sorted(missing))
    library = torch.library.Library("aten", "IMPL", "CUDA")
    for name in TORCHS:
        library.impl(name, lambda *args, out=None, **_: args[0] if out is None else out)
    seen = set()
    with gankernels.backend("cpu"):
        todo = [call for f in table.values() for call in recorded(f, tensors)]
    for overload, arguments in todo:
        on_gpu = [_on(device, a) for a in arguments]
        plans = []
        for stream in STREAMS:
            device.set_stream(1, stream)
            gpu.launches.clear()
            with torch.no_grad():
                results = overload(*on_gpu)
            for result in tree_leaves(results):
                assert result is None or result.device == torch.device("cuda", 1), (overload, result.device)
            assert gpu.launches, f"{overload} launched nothing"
            assert {launch[-2:] for launch in gpu.launches} == {(1, (0x1000 + stream, 1))}, (overload, gpu.launches)
            plans.append([(symbol, grid, block, shared) for _, symbol, grid, block, _, shared, *_ in gpu.launches])
        assert plans[0] == plans[1], f"{overload} plans another launch on another stream"
        seen.add(str(overload))
    print(f"{len(todo)} calls of {len(seen)} operators on {len(STREAMS)} streams")


if __name__ == "__main__":
    main()
