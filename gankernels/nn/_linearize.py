"""A network's derivative in its input, forwards and backwards, as ordinary differentiable code.

`torch.compile` knows no second derivative. A gradient written out as forward code needs none: each operator's adjoint
is again an operator with a derivative of its own. Gradient penalties under `torch.compile` take this path.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module


class Linearization(NamedTuple):
    """The derivative of a map at one input, as two functions built of differentiable operators.

    tangent: a direction of the input to the derivative of the output along it.
    adjoint: a cotangent of the output to its gradient in the input.
    """

    tangent: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


Rule = Callable[..., tuple[Tensor, Linearization]]

_RULES: dict[type, tuple[Rule, bool]] = {}


def register_linearization(*kinds: type[torch.nn.Module]) -> Callable[[Rule], Rule]:
    """Decorator: how modules of these classes are linearized, ``rule(module, x) -> (y, Linearization)``.

    y must be what `module(x)` returns, side effects included, once. A rule that takes a third argument, ``c``, serves a
    network that is called with a condition. Build rules of `linearize` for the parts and of the functions in
    `gankernels.nn.linearized`. A subclass inherits the rule unless it has its own `forward`.
    """

    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            raise ValueError(f"register_linearization: got {kind!r}, expected classes of torch.nn.Module")

    def register(rule: Rule) -> Rule:
        takes_c = len(inspect.signature(rule).parameters) > 2
        for kind in kinds:
            _RULES[kind] = (rule, takes_c)
        return rule

    return register


def linearize(module: torch.nn.Module, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Linearization]:
    """``module(x)``, or ``module(x, c)``, and its derivative in x there: (y, `Linearization`).

    Both functions of the result are differentiable in everything that the module's output is, and in what they are
    given; each may be called any number of times. The module runs once.

    Raises: TypeError where the module, or a part of it, has no rule, or something that a rule would not see (a forward
        of its own in a subclass, hooks); the message says what to do.
    """
    rule, takes_c = _rule_of(module)
    if takes_c:
        return rule(module, x, c)
    if c is not None:
        raise TypeError(f"linearize: {_name(module)} got a condition c, but the rule of its class takes none")
    return rule(module, x)


def pullback(module: torch.nn.Module, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """``module(x)`` and the function from its cotangent to the gradient in x; see `linearize`."""
    y, derivative = linearize(module, x, c)
    return y, derivative.adjoint


def pushforward(
    module: torch.nn.Module, x: Tensor, direction: Tensor, c: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``module(x)`` and its derivative along `direction`, a tensor like x; see `linearize`."""
    y, derivative = linearize(module, x, c)
    return y, derivative.tangent(direction)


def chain(*parts: Linearization) -> Linearization:
    """The derivative of maps applied one after the other, the first first."""

    def tangent(t: Tensor) -> Tensor:
        for part in parts:
            t = part.tangent(t)
        return t

    def adjoint(g: Tensor) -> Tensor:
        for part in reversed(parts):
            g = part.adjoint(g)
        return g

    return Linearization(tangent, adjoint)


def total(*parts: Linearization) -> Linearization:
    """The derivative of a sum of maps of the same input, such as a layer and its skip connection."""

    def tangent(t: Tensor) -> Tensor:
        return sum(part.tangent(t) for part in parts[1:]) + parts[0].tangent(t)

    def adjoint(g: Tensor) -> Tensor:
        return sum(part.adjoint(g) for part in parts[1:]) + parts[0].adjoint(g)

    return Linearization(tangent, adjoint)


def _name(module) -> str:
    return type(module).__name__


def _rule_of(module) -> tuple[Rule, bool]:
    kind = type(module)
    known = next((k for k in kind.__mro__ if k in _RULES), None)
    if known is None:
        raise TypeError(
            f"linearize: {_name(module)} has no rule for its derivative; build it of gankernels.nn's layers and "
            "torch.nn.Sequential, give it one by gankernels.nn.register_linearization, or take the penalty outside "
            "torch.compile with form='double_backward'"
        )
    if kind.forward is not known.forward or "forward" in module.__dict__:
        raise TypeError(
            f"linearize: {_name(module)} has a forward of its own, which the rule of {known.__name__} does not "
            "describe; give it a rule by gankernels.nn.register_linearization"
        )
    hooks = (module._forward_hooks, module._forward_pre_hooks, torch_module._global_forward_hooks)
    if any(len(h) for h in hooks) or len(torch_module._global_forward_pre_hooks):
        raise TypeError(
            f"linearize: {_name(module)} has forward hooks, which its rule does not run; remove them, or take the "
            "penalty outside torch.compile with form='double_backward'"
        )
    return _RULES[known]
