"""The mapping network of the StyleGANs: latents, and labels where there are any, to intermediate latents w."""

import torch
from torch import Tensor, nn

from gankernels import ops
from gankernels.nn import EqualizedLinear


class MappingNetwork(nn.Module):
    """Dense layers from z (and an embedded label) to w, with w's moving average and truncation towards it.

    Args:
        z_dim: numbers per latent; 0 for none (a discriminator's, which maps labels alone).
        c_dim: numbers per label, one-hot or not; 0 for none.
        w_dim: numbers per w.
        num_ws: copies of w in the result, [N, num_ws, w_dim]; None gives [N, w_dim].
        num_layers: dense layers ``fc0``, ``fc1``, ...
        embed_features, layer_features: widths of the embedded label and the hidden layers; w_dim unless given.
        activation: of `ops.bias_act`.
        lr_multiplier: of the dense layers; the embedding's is 1.
        w_avg_beta: decay of the moving average ``w_avg``; None for none, and no truncation.

    State-dict names: embed.weight, embed.bias, fc{i}.weight, fc{i}.bias, w_avg.

    Karras et al. 2018, arXiv 1812.04948.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.998,
    ) -> None:
        super().__init__()
        if z_dim + c_dim < 1 or w_dim < 1 or num_layers < 1:
            raise ValueError(
                f"MappingNetwork: z_dim {z_dim}, c_dim {c_dim}, w_dim {w_dim}, num_layers {num_layers}, expected each "
                "1 or more, one of z_dim and c_dim maybe 0"
            )
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.num_ws, self.num_layers, self.w_avg_beta = num_ws, num_layers, w_avg_beta
        embedded = (embed_features or w_dim) if c_dim else 0
        self.embed = EqualizedLinear(c_dim, embedded) if c_dim else None
        features = [z_dim + embedded, *[layer_features or w_dim] * (num_layers - 1), w_dim]
        for i in range(num_layers):
            layer = EqualizedLinear(features[i], features[i + 1], act=activation, lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> [N, num_ws, w_dim] (or [N, w_dim]), dtype of the parameters.

        Args:
            c: labels; None or [N, 0] for a network without.
            truncation_psi: w becomes ``w_avg + psi * (w - w_avg)``; 1 leaves it.
            truncation_cutoff: how many of the num_ws entries are truncated, the first ones; None for all.
            update_emas: move w_avg towards this batch's mean first.

        Raises: ValueError for a latent or a label of another shape, or one that is missing.
        """
        parts = []
        if self.z_dim:
            parts.append(ops.pixel_norm(self._checked("z", z, self.z_dim)))
        if self.c_dim:
            parts.append(ops.pixel_norm(self.embed(self._checked("c", c, self.c_dim))))
        elif c is not None and c.numel():
            raise ValueError(f"MappingNetwork: c has shape {list(c.shape)}, but the network has no labels (c_dim 0)")
        x = torch.cat(parts, 1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        if self.num_ws is None:
            return x
        if update_emas and self.w_avg_beta is not None:
            with torch.no_grad():
                self.w_avg.lerp_(x.detach().mean(0).to(self.w_avg.dtype), 1 - self.w_avg_beta)
        ws = x.unsqueeze(1).expand(-1, self.num_ws, -1)
        return ws if truncation_psi == 1 else self._truncated(ws, truncation_psi, truncation_cutoff)

    def _truncated(self, ws: Tensor, psi: float, cutoff: int | None) -> Tensor:
        if self.w_avg_beta is None:
            raise ValueError(f"MappingNetwork: truncation_psi is {psi}, which needs w_avg; give it a w_avg_beta")
        near = torch.lerp(self.w_avg.to(ws.dtype), ws, psi)
        return near if cutoff is None else torch.cat([near[:, :cutoff], ws[:, cutoff:]], 1)

    def _checked(self, name: str, t: Tensor | None, features: int) -> Tensor:
        if t is None or t.ndim != 2 or t.shape[1] != features:
            got = "None" if t is None else f"of shape {list(t.shape)}"
            raise ValueError(f"MappingNetwork: {name} is {got}, expected [N, {features}]")
        return t.to(self.fc0.weight.dtype)

    def extra_repr(self) -> str:
        return f"z_dim={self.z_dim}, c_dim={self.c_dim}, w_dim={self.w_dim}, num_ws={self.num_ws}"
