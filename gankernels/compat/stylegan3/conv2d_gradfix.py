"""``torch_utils.ops.conv2d_gradfix``: convolutions whose derivatives of every order are convolutions of their own."""

from gankernels.compat._conv import Convolutions

enabled = True
"""Set by training code; these convolutions are what they are either way."""

_convolutions = Convolutions()
conv2d = _convolutions.conv2d
conv_transpose2d = _convolutions.conv_transpose2d
no_weight_gradients = _convolutions.no_weight_gradients
gated = _convolutions.gated
