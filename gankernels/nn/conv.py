"""Convolutions as modules over `ops.conv2d` and `ops.conv_transpose2d`."""

from collections.abc import Sequence

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

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """[N, C, H, W] -> [N, O, H', W']; `output_size`, [H', W'] or a shape that ends so, replaces output_padding.

        Raises: ValueError for a size that the layer cannot give.
        """
        extra = self.output_padding if output_size is None else self._extra(x, tuple(output_size))
        return ops.conv_transpose2d(
            x, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _extra(self, x: Tensor, output_size: tuple[int, ...]) -> tuple[int, ...]:
        least = [
            (x.shape[2 + d] - 1) * self.stride[d]
            - 2 * self.padding[d]
            + self.dilation[d] * (self.kernel_size[d] - 1)
            + 1
            for d in (0, 1)
        ]
        most = [least[d] + max(self.stride[d], self.dilation[d]) - 1 for d in (0, 1)]
        wanted = output_size[-2:]
        if len(output_size) not in (2, x.ndim) or any(not least[d] <= wanted[d] <= most[d] for d in (0, 1)):
            raise ValueError(
                f"ConvTranspose2d: output_size is {list(output_size)}, expected from {least} to {most} for x of "
                f"{list(x.shape)}"
            )
        return tuple(wanted[d] - least[d] for d in (0, 1))
