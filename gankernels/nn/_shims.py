"""Stand-ins with the signatures of the operators that are not merged yet."""

import torch.nn.functional as F

_ACTS = {
    "linear": lambda u, a: u,
    "relu": lambda u, a: u.relu(),
    "lrelu": lambda u, a: F.leaky_relu(u, 0.2 if a is None else a),
    "tanh": lambda u, a: u.tanh(),
    "sigmoid": lambda u, a: u.sigmoid(),
    "elu": lambda u, a: F.elu(u),
    "selu": lambda u, a: F.selu(u),
    "softplus": lambda u, a: F.softplus(u),
    "swish": lambda u, a: u.sigmoid() * u,
}


def bias_act(x, bias=None, *, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    assert gain is not None
    assert clamp is None
    if bias is not None:
        x = x + bias.reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)])
    return _ACTS[act](x, alpha) * gain


def batch_norm_act(
    x, weight, bias, running_mean, running_var, *, training, momentum=0.1, eps=1e-5, act="linear", alpha=None, gain=1.0
):
    u = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return bias_act(u, act=act, alpha=alpha, gain=gain)


conv2d, conv_transpose2d = F.conv2d, F.conv_transpose2d
