"""``torch_utils.ops.bias_act``."""

from typing import NamedTuple

from gankernels import ops
from gankernels.compat import _impl
from gankernels.ops.bias_act import ACTIVATIONS

_init = _impl.warm_up


class Activation(NamedTuple):
    """What networks read of an activation: the alpha and gain that None stands for."""

    def_alpha: float
    def_gain: float


activation_funcs = {
    name: Activation(alpha if name == "lrelu" else 0.0, gain) for name, (_, alpha, gain) in ACTIVATIONS.items()
}


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
    """`gankernels.ops.bias_act`; `impl` "ref" runs plain PyTorch, "cuda" the fastest kernel there is for x."""
    with _impl.backend(impl):
        return ops.bias_act(x, b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp)
