"""filtered_lrelu below its public function: fakes and vmap rules of the compiled operators.

filtered_lrelu_signs also gives the two bits of each sample of the upsampled image, uint8 [N, C, UH, ceil(UW / 4)],
whose order within a row is the kernels' own. filtered_lrelu_linear upsamples x + bias, multiplies by the slopes that
the bits tell, and downsamples: the derivative, of any order; it can give the result, its sums per channel, or both.
"""

from __future__ import annotations

import torch

from gankernels import _backend
from gankernels.ops._check import kept_format
from gankernels.ops.upfirdn2d_op import fold, out_size


def _sizes(x, f, fy, up, down, padding):
    """[H, W] after a resampling of [H, W] = `x`."""
    taps = (f.shape[0], f.shape[1]) if fy is None else (fy.shape[0], f.shape[0])
    return [
        out_size(x[i], up[1 - i], down[1 - i], padding[2 - 2 * i], padding[3 - 2 * i], taps[i]) for i in range(2)
    ]  # fmt: skip


def _upsampled(x, fu, fuy, up, padding):
    return _sizes(x.shape[2:], fu, fuy, up, [1, 1], padding)


def _fake(x, bias, fu, fuy, fd, fdy, up, down, padding, flip, gain, slope, clamp):
    size = _sizes(_upsampled(x, fu, fuy, up, padding), fd, fdy, [1, 1], down, [0] * 4)
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=kept_format(x))


def _fake_signs(x, bias, fu, fuy, fd, fdy, up, down, padding, *rest):
    h, w = _upsampled(x, fu, fuy, up, padding)
    bits = torch.empty((*x.shape[:2], h, (w + 3) // 4), dtype=torch.uint8, device=x.device)
    return _fake(x, bias, fu, fuy, fd, fdy, up, down, padding, *rest), bits


def _fake_linear(
    x, bias, signs, fu, fuy, fd, fdy, up, down, pad_up, pad_down, flip, up_gain, gain, slope, last, want_y, want_sums
):
    size = _sizes(_upsampled(x, fu, fuy, up, pad_up), fd, fdy, [1, 1], down, pad_down)
    layout = torch.channels_last if last else torch.contiguous_format
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=layout)
    return y if want_y else x.new_empty(0), x.new_empty(x.shape[1] if want_sums else 0)


def _vmap_rule(op, folded):
    """Folds the mapped dimension of the tensors numbered `folded` into N; sample by sample where that cannot be."""

    def rule(info, in_dims, *args):
        mapped = {i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and in_dims[i] is not None}
        apart = op is not _linear or not args[-1]  # a sum over N would join what is folded
        if apart and mapped <= set(folded):
            args = [fold(info.batch_size, in_dims[i], a) if i in folded else a for i, a in enumerate(args)]
            out = op(*args)
            whole = out if isinstance(out, tuple) else (out,)
            split = [
                t.unflatten(0, (info.batch_size, t.shape[0] // info.batch_size)) if t.ndim == 4 else _repeat(info, t)
                for t in whole
            ]
        else:
            each = [
                op(*(a.select(in_dims[k], i) if k in mapped else a for k, a in enumerate(args)))
                for i in range(info.batch_size)
            ]
            several = isinstance(each[0], tuple)
            split = [torch.stack(t) for t in (zip(*each, strict=True) if several else [each])]
            out = each[0]
        return (tuple(split), (0,) * len(split)) if isinstance(out, tuple) else (split[0], 0)

    return rule


def _repeat(info, t):
    return t.expand(info.batch_size, *t.shape)


if _backend.native_error is None:
    _ops = torch.ops.gankernels_native
    _linear = _ops.filtered_lrelu_linear
    for _name, _rule, _folded in (
        ("filtered_lrelu", _fake, (0,)),
        ("filtered_lrelu_signs", _fake_signs, (0,)),
        ("filtered_lrelu_linear", _fake_linear, (0, 2)),
    ):
        torch.library.register_fake(f"gankernels_native::{_name}")(_rule)
        torch.library.register_vmap(f"gankernels_native::{_name}")(_vmap_rule(getattr(_ops, _name), _folded))
