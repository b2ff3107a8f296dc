"""self_attention2d: attention between the pixels of an image, as SAGAN and BigGAN have it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check

_NAME = "self_attention2d"


def self_attention2d(q: Tensor, k: Tensor, v: Tensor, *, scale: float = 1.0, second_order: bool = True) -> Tensor:
    """``out[n, :, i] = sum_j softmax_j(scale * <q[n, :, i], k[n, :, j]>) v[n, :, j]``, i and j pixels.

    Args:
        q: queries [N, D, H, W], SAGAN's f of the pixels that ask; float16, bfloat16, float32 or float64.
        k: keys [N, D, h, w], dtype and device of q. SAGAN has h, w = H, W; BigGAN pools, h, w = H/2, W/2.
        v: values [N, E, h, w]; E need not be D.
        scale: of the scores; both papers use 1 (transformers ``D ** -0.5``).
        second_order: whether a second derivative may be wanted, as a gradient penalty does. False saves memory.

    Returns: [N, E, H, W], dtype and memory format of q. The softmax is float32 or better; under autocast all three take
        its dtype. Every backend is PyTorch's own. Where a derivative may be wanted it is two products around a softmax
        in float32 (float64 for float64), which keeps the [N, H W, h w] weights. Where none can be (no input requires
        grad, or under torch.no_grad), or `second_order` is False, it is
        `torch.nn.functional.scaled_dot_product_attention`, whose fused kernels keep no weights: on CUDA tensors the
        memory-efficient one takes E other than D (multiples of 8, of 4 for float32), the flash kernels want E = D, 16
        bits, at most 256; float64, and on the CPU E other than D, are products as well. Its fused kernels have no
        second derivative: PyTorch raises when it is taken. Differentiable in q, k and v to any order (to the first with
        ``second_order=False``).
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device.

    Zhang et al. 2019, arXiv 1805.08318; Brock et al. 2019, arXiv 1809.11096.
    """
    _check.floating(_NAME, "q", q)
    dtype = _check.autocast_dtype(q)
    q, k, v = (_cast(t, dtype) for t in (q, k, v))
    for name, t, shape in (("q", q, "[N, D, H, W]"), ("k", k, "[N, D, h, w]"), ("v", v, "[N, E, h, w]")):
        _check.like(_NAME, name, t, q, "q")
        _check.rank(_NAME, name, t, 4, shape)
        _check.channels(_NAME, name, t)
    if k.shape[:2] != q.shape[:2]:
        raise ValueError(
            f"{_NAME}: k has shape {list(k.shape)}, expected [{q.shape[0]}, {q.shape[1]}, h, w] as q has "
            f"{list(q.shape)}"
        )
    if v.shape[0] != q.shape[0] or v.shape[2:] != k.shape[2:]:
        raise ValueError(
            f"{_NAME}: v has shape {list(v.shape)}, expected [{q.shape[0]}, E, {k.shape[2]}, {k.shape[3]}] as k has "
            f"{list(k.shape)}"
        )
    if 0 in k.shape[2:]:
        raise ValueError(f"{_NAME}: k has shape {list(k.shape)}, expected one pixel or more to attend to")
    scale = _check.finite(_NAME, "scale", scale)
    return _backend.pick(_NAME, q)(q, k, v, scale, second_order)


def _cast(t: Tensor, dtype: torch.dtype | None) -> Tensor:
    floating = isinstance(t, Tensor) and t.is_floating_point()
    return t if dtype is None or not floating or t.dtype == torch.float64 else t.to(dtype)


def reference(q: Tensor, k: Tensor, v: Tensor, scale: float, second_order: bool) -> Tensor:
    """Products and softmax written out, in float32 or better."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scores = torch.einsum("ndi,ndj->nij", q.flatten(2).to(wide), k.flatten(2).to(wide)) * scale
        out = torch.einsum("nij,nej->nei", scores.softmax(2), v.flatten(2).to(wide)).to(q.dtype)
    return _image(out, q)


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float, second_order: bool) -> Tensor:
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    if not q.numel() or not v.numel() or (differentiable and second_order):
        return reference(q, k, v, scale, second_order)
    # [N, 1, pixels, D or E]: the fused kernels want channels innermost, which channels_last images have.
    heads = [t.flatten(2).transpose(1, 2).contiguous().unsqueeze(1) for t in (q, k, v)]
    with torch.autocast(q.device.type, enabled=False):
        out = F.scaled_dot_product_attention(*heads, scale=scale).squeeze(1)
    return _image(out.transpose(1, 2), q)


def _image(pixels: Tensor, q: Tensor) -> Tensor:
    """[N, E, H W] as [N, E, H, W], laid out as q is."""
    return pixels.unflatten(2, q.shape[2:]).contiguous(memory_format=_check.kept_format(q))


_backend.compounds.add(_NAME)
_backend.register(_NAME, reference=reference, cpu=_attention, cuda=_attention, triton=_attention)
