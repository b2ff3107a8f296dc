"""The gradient of a network's output in its input, itself differentiable: what every gradient penalty is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gankernels import nn
from gankernels.ops import _check

FORMS = ("double_backward", "adjoint", "tangent")


def chosen_form(op: str, network, form: str | None, allowed: tuple[str, ...]) -> str:
    """The form that runs here; raises where it, or any, would be wrong."""
    compiling = torch.compiler.is_compiling()
    if form is None:
        form = "adjoint" if compiling else "double_backward"
    if form not in allowed:
        raise ValueError(f"{op}: form is {form!r}, expected {', '.join(map(repr, allowed))} or None")
    if _in_functional_transform():
        raise RuntimeError(
            f"{op}: cannot run inside torch.func.grad, vjp, jvp or vmap, whose derivatives of compiled kernels are "
            "wrong or missing; call it on its own and differentiate by torch.autograd.grad or backward()"
        )
    if compiling and form == "double_backward":
        raise RuntimeError(
            f"{op}: torch.compile has no second derivative; pass form='adjoint' (the default there), or call the "
            "penalty outside the compiled function"
        )
    if not compiling and torch.is_inference_mode_enabled():
        raise RuntimeError(f"{op}: no gradient exists in torch.inference_mode(); use torch.no_grad() for its value")
    if not compiling and form == "double_backward" and _is_compiled(network):
        raise RuntimeError(
            f"{op}: the network is compiled, and torch.compile has no second derivative; pass the plain module "
            "(its _orig_mod) or compile the function that calls the penalty"
        )
    if form != "double_backward" and not isinstance(network, torch.nn.Module):
        raise TypeError(
            f"{op}: form {form!r} needs a torch.nn.Module, got {type(network).__name__}; register its derivative "
            "by gankernels.nn.register_linearization, or use form='double_backward' outside torch.compile"
        )
    return form


@torch.compiler.assume_constant_result  # evaluated while tracing, where the transform being traced is on the stack
def _in_functional_transform() -> bool:
    return bool(torch._C._functorch.get_interpreter_stack())


def _is_compiled(network) -> bool:
    return getattr(network, "_orig_mod", None) is not None or getattr(network, "_compiled_call_impl", None) is not None


def input_gradient(
    op: str, network, x: Tensor, c: Tensor | None, form: str, cotangent: Callable[[Tensor], Tensor]
) -> Tensor:
    """The gradient in x of ``<network(x), cotangent(network(x))>``, the cotangent held constant; [N, ...] as x.

    A graph of it is recorded where gradients are enabled.
    """
    if form == "adjoint":
        y, derivative = nn.linearize(network, x, c)
        return derivative.adjoint(cotangent(y))
    record = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        y = network(x) if c is None else network(x, c)
        weights = cotangent(y)
        if not y.requires_grad:
            raise ValueError(f"{op}: the network's output does not depend on its input through differentiable code")
        (g,) = torch.autograd.grad(y, x, weights, create_graph=record, allow_unused=True)
    if g is None:
        raise ValueError(f"{op}: the network's output does not depend on its input")
    return g


def ones_per_sample(op: str, n: int) -> Callable[[Tensor], Tensor]:
    """The cotangent that asks for the gradient of every sample's own output; checks that there is one number each."""

    def ones(y: Tensor) -> Tensor:
        _check.tensor(op, "the discriminator's output", y)
        if y.ndim < 1 or y.shape[0] != n or y.numel() != n:
            raise ValueError(
                f"{op}: the discriminator returned shape {list(y.shape)}, expected one number a sample, [{n}] or "
                f"[{n}, 1, ...]; reduce its output to that"
            )
        return torch.ones_like(y)

    return ones


def directional(op: str, network, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """(derivative of the summed output along g, g), g the gradient in x, a constant.

    The derivative's value is |g|^2, and its parameter gradient half that of |g|^2; see `r1_penalty`.
    """
    y, derivative = nn.linearize(network, x, c)
    with torch.no_grad():
        g = derivative.adjoint(ones_per_sample(op, x.shape[0])(y))
    return derivative.tangent(g), g
