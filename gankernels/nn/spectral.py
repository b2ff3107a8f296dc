"""Spectral normalisation of a whole network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gankernels import ops

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class SpectralNorm(nn.Module):
    """A network whose layers' weights are divided by their largest singular values: `ops.spectral_norm`, in one call.

    It does what `torch.nn.utils.parametrizations.spectral_norm` of every layer does: each forward pass in training
    mode runs the power method and moves u and v; in evaluation mode they stay.

    Args:
        module: one layer or a network of any depth. Its parameters stay where they are, unnormalised; while it runs,
            the attribute `name` of its layers is the normalised weight.
        name: of the parameter, in every layer that has one of 2 or more dimensions.
        n_power_iterations, eps: as PyTorch's.
        dim: of the outputs in the weight; 1 for PyTorch's transposed convolutions and their subclasses and 0 for
            others unless given.

    State-dict names: those of `module` after "module.", and for each weight buffers of its path with "__" for ".",
    then "_u" and "_v": "0__weight_u".
    Raises: ValueError where nothing has such a parameter.

    Miyato et al. 2018, arXiv 1802.05957.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str = "weight",
        n_power_iterations: int = 1,
        eps: float = 1e-12,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.module, self.name, self.n_power_iterations, self.eps, self.dim = (
            module, name, n_power_iterations, eps, dim,
        )  # fmt: skip
        self.paths: list[str] = []
        seen = set()
        for path, layer in module.named_modules():
            weight = layer._parameters.get(name)
            if weight is not None and weight.ndim > 1 and weight not in seen:
                seen.add(weight)
                self.paths.append(path)
        if not self.paths:
            raise ValueError(
                f"SpectralNorm: no layer of {type(module).__name__} has a parameter {name!r} of 2 or more dimensions"
            )
        with torch.no_grad():
            weights = self._weights()
            us, vs = (
                [nn.functional.normalize(torch.randn_like(w.flatten(1)[*at]), dim=0, eps=eps) for w in weights]
                for at in ((slice(None), 0), (0, slice(None)))
            )
            _, us, vs = ops.spectral_norm(weights, us, vs, iterations=15, eps=eps)
        for path, u, v in zip(self.paths, us, vs, strict=True):
            self.register_buffer(self._buffer(path, "u"), u.clone())
            self.register_buffer(self._buffer(path, "v"), v.clone())

    def _buffer(self, path: str, which: str) -> str:
        return "__".join([*filter(None, path.split(".")), self.name]) + "_" + which

    def _dim(self, layer: nn.Module) -> int:
        return self.dim if self.dim is not None else int(isinstance(layer, _TRANSPOSED))

    def _weights(self) -> list[Tensor]:
        """The parameters, outputs in front."""
        layers = [self.module.get_submodule(path) for path in self.paths]
        return [layer._parameters[self.name].movedim(self._dim(layer), 0) for layer in layers]

    @contextlib.contextmanager
    def normalized(self) -> Iterator[None]:
        """Inside, the layers' weights are the normalised ones. In training mode u and v move on as it is entered."""
        us, vs = ([getattr(self, self._buffer(path, which)) for path in self.paths] for which in "uv")
        iterations = self.n_power_iterations if self.training else 0
        weights, new_us, new_vs = ops.spectral_norm(self._weights(), us, vs, iterations=iterations, eps=self.eps)
        if iterations:
            with torch.no_grad():
                for old, new in zip(us + vs, new_us + new_vs, strict=True):
                    old.copy_(new)
        layers = [self.module.get_submodule(path) for path in self.paths]
        for layer, w in zip(layers, weights, strict=True):
            # An attribute of the instance hides the parameter, which keeps its place among the others.
            layer.__dict__[self.name] = w.movedim(0, self._dim(layer))
        try:
            yield
        finally:
            for layer in layers:
                del layer.__dict__[self.name]

    def forward(self, *args, **kwargs):
        """What `module` returns with its weights normalised."""
        with self.normalized():
            return self.module(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"name={self.name}, n_power_iterations={self.n_power_iterations}, weights={len(self.paths)}"
