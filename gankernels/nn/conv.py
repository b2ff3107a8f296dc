"""Convolutions as modules over `ops.conv2d` and `ops.conv_transpose2d`."""

import torch
from torch import Tensor

from gankernels import ops


class Conv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` on `ops.conv2d`: the same arguments, parameters and state-dict names.

    Raises: ValueError for a padding mode other than "zeros", or padding given in words.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        _check_padding(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, H', W']."""
        return ops.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` on `ops.conv_transpose2d`: the same arguments, parameters and state-dict names.

    Raises: ValueError for a padding mode other than "zeros".
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        _check_padding(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, H', W']."""
        return ops.conv_transpose2d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


def _check_padding(module: torch.nn.Module) -> None:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ValueError(
            f"{type(module).__name__}: padding_mode {module.padding_mode!r} with padding {module.padding!r}, expected "
            "'zeros' and numbers; pad the input first (torch.nn.functional.pad)"
        )
