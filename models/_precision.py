"""Which blocks of a network run in 16 bits and in which memory format."""

from collections.abc import Sequence

import torch
from torch import Tensor

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Precision:
    """Dtype and layout of the images inside one block.

    Args:
        half: the block is one of those at the highest resolutions, which run in 16 bits.
        half_dtype: "float16" or "bfloat16".
        half_devices: kinds of device on which they do; elsewhere the block keeps its parameters' dtype.
        channels_last: memory format; None for channels_last in 16 bits alone.
    """

    def __init__(self, half: bool, half_dtype: str, half_devices: Sequence[str], channels_last: bool | None) -> None:
        if half_dtype not in HALVES:
            raise ValueError(f"half_dtype {half_dtype!r}, expected one of {', '.join(HALVES)}")
        self.half, self.dtype = half, HALVES[half_dtype]
        self.devices, self.channels_last = tuple(half_devices), channels_last

    def __call__(self, x: Tensor, full: torch.dtype, force_fp32: bool) -> Tensor:
        """`x` as the block takes it; `full` is its parameters' dtype, which `force_fp32` makes it keep."""
        half = self.half and not force_fp32 and x.device.type in self.devices
        last = half if self.channels_last is None else self.channels_last
        layout = torch.channels_last if last else torch.contiguous_format
        return x.to(self.dtype if half else full).contiguous(memory_format=layout)
