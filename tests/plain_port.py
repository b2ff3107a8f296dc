"""A StyleGAN2 generator in plain PyTorch, under the parameter names of the widespread port, written from the paper."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

TAPS = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def lrelu(x):
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class Holder(nn.Module):
    """Parameters and buffers at dotted names."""

    def put(self, name, tensor, parameter=True):
        head, _, rest = name.partition(".")
        if rest:
            if not hasattr(self, head):
                self.add_module(head, Holder())
            getattr(self, head).put(rest, tensor, parameter)
        elif parameter:
            self.register_parameter(head, nn.Parameter(tensor))
        else:
            self.register_buffer(head, tensor)


class PortGenerator(Holder):
    """16x16 images from `dim` numbers, noise constant."""

    def __init__(self, dim=5, depth=3, channels=(6, 6, 4)):
        super().__init__()
        self.depth, self.channels = depth, channels
        for i in range(depth):
            self.put(f"style.{i + 1}.weight", torch.zeros(dim, dim))
            self.put(f"style.{i + 1}.bias", torch.zeros(dim))
        self.put("input.input", torch.zeros(1, channels[0], 4, 4))
        self.layers = [("conv1", channels[0], channels[0], False)]
        self.images = [("to_rgb1", channels[0])]
        for i, (before, after) in enumerate(itertools.pairwise(channels)):
            self.layers += [(f"convs.{2 * i}", before, after, True), (f"convs.{2 * i + 1}", after, after, False)]
            self.images.append((f"to_rgbs.{i}", after))
        for i, (name, before, after, up) in enumerate(self.layers):
            self._modulated(name, before, after, 3, dim)
            self.put(f"{name}.noise.weight", torch.zeros(1))
            self.put(f"{name}.activate.bias", torch.zeros(after))
            size = 4 << (i + 1) // 2
            self.put(f"noises.noise_{i}", torch.randn(1, 1, size, size), parameter=False)
            if up:
                self.put(f"{name}.conv.blur.kernel", TAPS * 4, parameter=False)
        for name, before in self.images:
            self._modulated(name, before, 3, 1, dim)
            self.put(f"{name}.bias", torch.zeros(1, 3, 1, 1))
            if name != "to_rgb1":
                self.put(f"{name}.upsample.kernel", TAPS * 4, parameter=False)

    def _modulated(self, name, before, after, size, dim):
        self.put(f"{name}.conv.weight", torch.zeros(1, after, before, size, size))
        self.put(f"{name}.conv.modulation.weight", torch.zeros(before, dim))
        self.put(f"{name}.conv.modulation.bias", torch.zeros(before))

    def get(self, name):
        return self.get_parameter(name)

    def convolved(self, name, x, w, up=False, demodulate=True):
        weight = self.get(f"{name}.conv.weight")[0]
        style = F.linear(w, self.get(f"{name}.conv.modulation.weight") / math.sqrt(w.shape[1]))
        style = style + self.get(f"{name}.conv.modulation.bias")
        results = []
        for one, s in zip(x, style, strict=True):
            mine = weight * s[None, :, None, None] / math.sqrt(weight[0].numel())
            if demodulate:
                mine = mine / (mine.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            if up:
                y = F.conv_transpose2d(one[None], mine.transpose(0, 1), stride=2)
                y = F.conv2d(F.pad(y, (1, 1, 1, 1)).transpose(0, 1), TAPS[None, None] * 4).transpose(0, 1)
            else:
                y = F.conv2d(one[None], mine, padding=weight.shape[-1] // 2)
            results.append(y)
        return torch.cat(results)

    @torch.no_grad()
    def forward(self, z):
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.depth):
            weight = self.get(f"style.{i + 1}.weight") * (0.01 / math.sqrt(w.shape[1]))
            w = lrelu(F.linear(w, weight, self.get(f"style.{i + 1}.bias") * 0.01))
        x, image = self.get("input.input").expand(len(z), -1, -1, -1), None
        for i, (name, _, _, up) in enumerate(self.layers):
            noise = self.get_buffer(f"noises.noise_{i}") * self.get(f"{name}.noise.weight")
            x = self.convolved(name, x, w, up) + noise
            x = lrelu(x + self.get(f"{name}.activate.bias")[:, None, None])
            if i % 2 == 0:
                name = self.images[i // 2][0]
                rgb = self.convolved(name, x, w, demodulate=False) + self.get(f"{name}.bias")
                image = rgb if image is None else enlarged(image) + rgb
        return image


def enlarged(image):
    """Twice as large, by the filter 1-3-3-1."""
    n, c, h, w = image.shape
    spread = torch.zeros(n * c, 1, 2 * h, 2 * w)
    spread[:, :, ::2, ::2] = image.reshape(n * c, 1, h, w)
    return F.conv2d(F.pad(spread, (2, 1, 2, 1)), TAPS[None, None] * 4).reshape(n, c, 2 * h, 2 * w)
