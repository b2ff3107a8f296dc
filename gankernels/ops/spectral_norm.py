"""spectral_norm: the weights of a whole network divided by their largest singular values, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, spectral_norm_op

_NAME = "spectral_norm"


def spectral_norm(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor] | None = None,
    *,
    iterations: int = 1,
    eps: float = 1e-12,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Each weight over its largest singular value, estimated by power iteration, for many weights at once.

    A weight is the matrix W of its first dimension by all others. An iteration is ``u = normalize(W v)``, then ``v =
    normalize(W^T u)`` (``normalize(x) = x / max(|x|, eps)``), and the result ``W / sigma`` with ``sigma = u^T W v``, as
    in `torch.nn.utils.parametrizations.spectral_norm`. Without `vs` it is Miyato's order: ``v = normalize(W^T u)``
    first, then ``u``, so that u alone has to be kept.

    Args:
        weights: one or more tensors [O, ...] of 2 or more dimensions, none of them 0, of one dtype and device; float16,
            bfloat16, float32 or float64. Shapes may differ. Turn the output channels of a transposed convolution in
            front first (``weight.transpose(0, 1)``).
        us: for each weight a vector [O], all of the weights' dtype or all of float32 (float64 for float64).
        vs: for each weight a vector of the product of its other dimensions; or None. us and vs are not changed.
        iterations: of the power method, 0 or more. 0 takes u and v as they are (v = normalize(W^T u) without vs).
        eps: least length that is divided by, over 0.

    Returns: (the weights over sigma, contiguous; the us and the vs after the iterations, which need no gradient). Sums
        are float32 or better; autocast changes nothing. cpu reads the weights twice in one call of all of them, rows
        being used for W v and W^T u while in cache; cuda takes 2 launches an iteration and one for the division for up
        to 16 weights, triton the same for any number in a packed copy. Differentiable in the weights: first and second
        order run on kernels, u and v being constants; the third raises (backend "reference" has it). triton computes
        the gradients of all weights together.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device.

    Miyato et al. 2018, arXiv 1802.05957.
    """
    weights = _tensors("weights", weights)
    if not weights:
        raise ValueError(f"{_NAME}: weights is empty, expected one tensor or more")
    first = weights[0]
    for i, w in enumerate(weights):
        _check.floating(_NAME, f"weights[{i}]", w)
        _check.like(_NAME, f"weights[{i}]", w, first, "weights[0]")
        if w.ndim < 2 or 0 in w.shape:
            raise ValueError(
                f"{_NAME}: weights[{i}] has shape {list(w.shape)}, expected 2 or more dimensions, none of them 0"
            )
    u = _packed("us", us, [w.shape[0] for w in weights], first)
    v = None if vs is None else _packed("vs", vs, [w.numel() // w.shape[0] for w in weights], first)
    if not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 0:
        raise ValueError(f"{_NAME}: iterations is {iterations!r}, expected an integer of 0 or more")
    eps = _check.finite(_NAME, "eps", eps)
    if eps <= 0:
        raise ValueError(f"{_NAME}: eps is {eps}, expected more than 0")
    ys, new_u, new_v, _ = _backend.pick(_NAME, first)(weights, u, v, iterations, eps)
    rows, columns = [w.shape[0] for w in weights], [w.numel() // w.shape[0] for w in weights]
    dtype = us[0].dtype
    return list(ys), list(new_u.to(dtype).split(rows)), list(new_v.to(dtype).split(columns))


def _tensors(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    if not isinstance(tensors, (list, tuple)):
        raise ValueError(f"{_NAME}: {name} is {type(tensors).__name__}, expected a list of tensors")
    return list(tensors)


def _packed(name: str, vectors: Sequence[Tensor], lengths: list[int], w: Tensor) -> Tensor:
    """The vectors one after the other, in the dtype of sums."""
    vectors = _tensors(name, vectors)
    if len(vectors) != len(lengths):
        raise ValueError(f"{_NAME}: {name} has {len(vectors)} tensors, expected {len(lengths)}, one for each weight")
    wide = torch.promote_types(w.dtype, torch.float32)
    for i, (t, length) in enumerate(zip(vectors, lengths, strict=True)):
        _check.tensor(_NAME, f"{name}[{i}]", t)
        if t.dtype not in (w.dtype, wide) or t.dtype != vectors[0].dtype:
            raise ValueError(
                f"{_NAME}: {name}[{i}] has dtype {t.dtype}, expected {w.dtype} as the weights, or {wide}, the same for "
                "all; convert it"
            )
        if t.device != w.device:
            raise ValueError(f"{_NAME}: {name}[{i}] is on {t.device}, expected {w.device} as the weights; move it")
        if tuple(t.shape) != (length,):
            raise ValueError(f"{_NAME}: {name}[{i}] has shape {list(t.shape)}, expected [{length}]")
    return torch.cat([t.detach() for t in vectors]).to(wide)


def reference(weights: list[Tensor], u: Tensor, v: Tensor | None, iterations: int, eps: float):
    rows = [w.shape[0] for w in weights]
    columns = [w.numel() // w.shape[0] for w in weights]
    us = list(u.split(rows))
    vs = [None] * len(us) if v is None else list(v.split(columns))
    ys, sigmas = [], []
    for i, w in enumerate(weights):
        matrix = w.flatten(1).to(u.dtype)
        us[i], vs[i] = _power(matrix.detach(), us[i], vs[i], iterations, eps)
        sigma = us[i] @ (matrix @ vs[i])
        ys.append((matrix / sigma).to(w.dtype).view(w.shape))
        sigmas.append(sigma.detach())
    return ys, torch.cat(us), torch.cat(vs), torch.stack(sigmas)


def _power(matrix: Tensor, u: Tensor, v: Tensor | None, iterations: int, eps: float) -> tuple[Tensor, Tensor]:
    # u @ matrix: of matrix.mT @ u onnxruntime's optimizer makes another product.
    classic = v is None
    if classic:
        v = F.normalize(u @ matrix, dim=0, eps=eps)
    for i in range(iterations):
        u = F.normalize(matrix @ v, dim=0, eps=eps)
        if not classic or i + 1 < iterations:
            v = F.normalize(u @ matrix, dim=0, eps=eps)
    return u, v


_backend.register(
    _NAME,
    reference=reference,
    cpu=_backend.native(_NAME),
    cuda=_backend.native(_NAME),
    triton=spectral_norm_op.triton,
)


def _packed_reference(w: Tensor, u: Tensor, v: Tensor | None, rows, columns, iterations: int, eps: float):
    parts = w.split([r * c for r, c in zip(rows, columns, strict=True)])
    weights = [t.view(r, c) for t, r, c in zip(parts, rows, columns, strict=True)]
    ys, *others = reference(weights, u, v, iterations, eps)
    return torch.cat([y.reshape(-1) for y in ys]), *others


_backend.register_plain("packed_spectral_norm", _packed_reference)
