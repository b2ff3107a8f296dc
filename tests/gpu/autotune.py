"""Autotuning without a clock: every configuration runs and must agree, or one is drawn."""

import contextlib
import random

import torch
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import OutOfResources

# How far two configurations' results may lie apart, relative to the largest: their sums differ in order.
AGREEMENT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class ConfigsDisagree(AssertionError):
    """Two configurations of one kernel gave different results."""


def _agree(first, other):
    if not first.is_floating_point():
        return torch.equal(first, other)
    tolerance = AGREEMENT[first.dtype]
    first, other = first.double(), other.double()
    if not torch.equal(first.isnan(), other.isnan()):
        return False
    first, other = first.nan_to_num(), other.nan_to_num()
    largest = first.abs().max().item() if first.numel() else 0.0
    return bool(((first - other).abs() <= tolerance * largest).all())


class _Tuning:
    """One autotuned call: its tensors, and what they held before."""

    def __init__(self, tuner, args, kwargs):
        self.tuner, self.args, self.kwargs = tuner, args, kwargs
        named = {**dict(zip(tuner.arg_names, args, strict=False)), **kwargs}
        self.tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
        self.before = self.values()

    def values(self):
        return {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def restore(self):
        for name, value in self.before.items():
            # Inputs are left alone: a graph may hold them, and PyTorch refuses to copy into expanded ones.
            if not torch.equal(self.tensors[name], value):
                self.tensors[name].detach().copy_(value)

    def run(self, config):
        if config.pre_hook is not None:
            config.pre_hook({**self.tuner.nargs, **self.kwargs, **config.all_kwargs()})
        return self.tuner.fn.run(*self.args, **self.kwargs, **config.all_kwargs())


def _run_all(tuning, configs, log):
    """Runs every configuration from the same inputs; the last that fits is the launch, the others are trials.

    The tuner's reset_to_zero and restore_value hooks are left out: a GPU runs them only while tuning, so a kernel
    may not need them.
    """
    first, fitting = None, []
    log.tuning = True
    try:
        for config in configs:
            try:
                tuning.run(config)
            except OutOfResources as error:
                log.unfit.append((tuning.tuner.base_fn.__name__, str(config), str(error)))
                tuning.restore()
                continue
            fitting.append(config)
            values = tuning.values()
            first = values if first is None else first
            for name in values:
                if not _agree(first[name], values[name]):
                    raise ConfigsDisagree(
                        f"{tuning.tuner.base_fn.__name__}: argument {name} differs between {fitting[0]} and {config}"
                    )
            tuning.restore()
    finally:
        log.tuning = False
    if not fitting:
        raise OutOfResources(0, 0, "resources: no configuration fits")
    return tuning.run(fitting[-1])


@contextlib.contextmanager
def tuning(log, configs, seed=0):
    """Inside, autotuned kernels run all their configurations ("all") or one drawn each call ("one")."""
    if configs not in ("all", "one"):
        raise ValueError(f"configs: got {configs!r}, expected 'all' or 'one'")
    draw = random.Random(seed)
    original = Autotuner.run

    def run(self, *args, **kwargs):
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        candidates = self.prune_configs(kwargs) if len(self.configs) > 1 else self.configs
        call = _Tuning(self, args, kwargs)
        if configs == "all" and not log.tuning:
            result = _run_all(call, candidates, log)
        else:
            result = _run_one(call, candidates, log, draw)
        self.nargs = None
        return result

    Autotuner.run = run
    try:
        yield
    finally:
        Autotuner.run = original


def _run_one(tuning, candidates, log, draw):
    candidates = draw.sample(candidates, len(candidates))
    for config in candidates[:-1]:
        try:
            return tuning.run(config)
        except OutOfResources as error:  # what a tuner does: the configuration is not for this GPU
            log.unfit.append((tuning.tuner.base_fn.__name__, str(config), str(error)))
    return tuning.run(candidates[-1])
