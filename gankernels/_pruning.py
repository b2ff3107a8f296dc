"""Which gradients a backward written in Python has to compute.

`ctx.needs_input_grad` of a Python autograd function says only which inputs require a gradient, not which are asked for
(pytorch issue 56500). The engine knows; this asks it.
"""

from __future__ import annotations

import torch


def wanted(ctx, *inputs: bool) -> list[bool]:
    """For each tensor input of the forward, in order (False where None was passed): is its gradient asked for?"""
    edges = iter(ctx.next_functions)
    return [_runs(next(edges)[0]) if given else False for given in inputs]


def _runs(node: torch.autograd.graph.Node | None) -> bool:
    if node is None:
        return False
    if torch._C._current_graph_task_id() == -1:
        return True
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError as error:
        if "leaf node" in str(error):  # a leaf that torch.autograd.grad was asked for: it is captured, not executed
            return True
        raise
