"""What the augmentation draws: numbers from a generator, or from a key for each sample that no batching changes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankernels import _backend

_WORD = 0xFFFFFFFF


def _mix(word: Tensor) -> Tensor:
    """Scrambles 32 bits, held in int64: multiplications and shifts, each of which can be undone."""
    word = word ^ (word >> 16)
    word = (word * 0x21F0AAAD) & _WORD
    word = word ^ (word >> 15)
    word = (word * 0x735A2D97) & _WORD
    return word ^ (word >> 15)


def sample_keys(step: int | Tensor, index: Tensor, seed: int = 0) -> Tensor:
    """Keys for `AugmentPipe`: what sample `index` of step `step` draws, however the batch is split among processes.

    Args:
        step: the number of the batch, or of the call where a step has several; a tensor [] spares a compiled step
            another compilation.
        index: [N] int64, the samples' places in the whole batch of all processes, below 2^32.
        seed: another one gives other draws.

    Returns: [N] int64.
    """
    step = torch.as_tensor(step, dtype=torch.int64, device=index.device)
    high = _mix((_mix(step & _WORD) ^ _mix(((step >> 32) + 1) & _WORD)) ^ (_mix_int(seed) & _WORD))
    return (high << 32) | (index & _WORD)


def _mix_int(seed: int) -> int:
    low, high = (int(_mix(torch.tensor(part & _WORD))) for part in (seed, (seed >> 32) + 0x5BD1))
    return low ^ (high * 3 & _WORD)


def keyed_uniform(keys: Tensor, count: int, stream: int, dtype: torch.dtype) -> Tensor:
    """Numbers of 24 bits between 0 and 1, neither of them; each of `count` and `stream` others.

    Args:
        keys: [N] int64.
        count: numbers for each sample; number j is the same whatever the count.
        stream: 0 or more, below 2^32.
        dtype: torch.float32 or torch.float64.

    Returns: [N, count]: on the CPU by a compiled kernel, elsewhere (and where `gankernels.backend` forces another one
        than "cpu") by PyTorch's integer operators; bit for bit the same.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or size.
    """
    return _draw(keys, count, stream, dtype, False)


def keyed_normal(keys: Tensor, count: int, stream: int, dtype: torch.dtype) -> Tensor:
    """N(0, 1) numbers: `normal` of `keyed_uniform`, with its arguments and errors.

    The compiled kernel errs by at most 6e-7 (float32) or 2e-15 (float64) of the number, at each of the 2^24 there are,
    PyTorch's erfinv on the CPU by 1.2e-7 or less: so near are the numbers of two devices.
    """
    return _draw(keys, count, stream, dtype, True)


def _draw(keys: Tensor, count: int, stream: int, dtype: torch.dtype, gaussian: bool) -> Tensor:
    if not isinstance(keys, Tensor) or keys.dtype != torch.int64 or keys.ndim != 1:
        what = f"{keys.dtype} {list(keys.shape)}" if isinstance(keys, Tensor) else type(keys).__name__
        raise ValueError(f"keyed_draws: keys is {what}, expected torch.int64 [N]; see sample_keys")
    if isinstance(count, float) or count < 0:
        raise ValueError(f"keyed_draws: count is {count}, expected an integer of 0 or more")
    if isinstance(stream, float) or not 0 <= stream < 2**32:
        raise ValueError(f"keyed_draws: stream is {stream}, expected an integer of 0 or more, below 2^32")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"keyed_draws: dtype is {dtype}, expected torch.float32 or torch.float64")
    compiled = keys.device.type == "cpu" and _backend.preferred(keys.device) == "cpu"
    run = torch.ops.gankernels_native.keyed_draws if compiled else reference
    return run(keys, count, stream, dtype, gaussian)


def reference(keys: Tensor, count: int, stream: int, dtype: torch.dtype, gaussian: bool) -> Tensor:
    sample = _mix(_mix(keys & _WORD) ^ ((keys >> 32) & _WORD))
    place = _mix(torch.arange(count, device=keys.device) + (stream + 1) * 0x1000193)
    words = _mix(sample[:, None] ^ (place & _WORD))
    # In float32 the largest of these rounds to 1.
    uniform = (((words >> 8).to(dtype) + 0.5) * 2**-24).clamp_max(1 - 2**-24)
    return normal(uniform) if gaussian else uniform


def normal(uniform: Tensor) -> Tensor:
    """Normal numbers of the same rank as uniform ones between 0 and 1."""
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def _rule(info, in_dims, keys, *args):
    """A vmap rule: each key draws for itself."""
    drawn = torch.ops.gankernels_native.keyed_draws(keys.movedim(in_dims[0], 0).flatten(), *args)
    return drawn.unflatten(0, (info.batch_size, -1)), 0


_backend.register_plain("keyed_draws", reference)
if _backend.native_error is None:
    torch.library.register_fake(
        "gankernels_native::keyed_draws",
        lambda keys, count, stream, dtype, gaussian: keys.new_empty((keys.shape[0], count), dtype=dtype),
    )
    torch.library.register_vmap("gankernels_native::keyed_draws", _rule)
