"""What the augmentation draws: numbers from a generator, or from a key for each sample that no batching changes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
    """[N, count] numbers of 24 bits between 0 and 1, neither of them; each of `count` and `stream` others."""
    sample = _mix(_mix(keys & _WORD) ^ ((keys >> 32) & _WORD))
    place = _mix(torch.arange(count, device=keys.device) + (stream + 1) * 0x1000193)
    words = _mix(sample[:, None] ^ (place & _WORD))
    # In float32 the largest of these rounds to 1.
    return (((words >> 8).to(dtype) + 0.5) * 2**-24).clamp_max(1 - 2**-24)


def normal(uniform: Tensor) -> Tensor:
    """Normal numbers of the same rank as uniform ones between 0 and 1."""
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)
