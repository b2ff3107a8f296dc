"""Convolutions as modules over `ops.conv2d` and `ops.conv_transpose2d`."""

import torch
from torch import Tensor

from gankernels import ops


class Conv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` on `ops.conv2d`: the same arguments, parameters and state-dict names.

    Raises: ValueError for a padding mode other than "zeros".
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.padding_mode != "zeros":
            raise ValueError(
                f"Conv2d: padding_mode is {self.padding_mode!r}, expected 'zeros'; pad the input first "
                "(torch.nn.functional.pad)"
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, H', W']."""
        return ops.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` on `ops.conv_transpose2d`: the same arguments, parameters and state-dict names."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, H', W']."""
        return ops.conv_transpose2d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )
