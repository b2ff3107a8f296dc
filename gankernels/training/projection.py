"""The image of a generator that is nearest to a given one, by descent on its style (Karras et al. 2019, appendix D)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gankernels.data.dataset import keyed_generator
from gankernels.data.images import BadImage, decode
from gankernels.errors import ConfigError, need
from gankernels.metrics import Perceptual, perceptual_lite0, perceptual_vgg16
from gankernels.training import pictures
from gankernels.training.evaluate import opaque
from gankernels.training.generate import need_styles, save_picture

RATE, RAMP_UP, RAMP_DOWN = 0.1, 0.05, 0.25
"""Adam's highest learning rate, and the parts of the run in which it rises and falls."""
STYLE_NOISE, NOISE_PART = 0.05, 0.75
"""Noise added to w, in deviations of w, and the part of the run in which it fades out."""
NOISE_WEIGHT, LEAST = 1e5, 8
"""Weight of the noise maps' regularisation, and the smallest side that it looks at."""
MEAN_OF = 10_000


@dataclass(frozen=True)
class Projection:
    """What was found: w [w_dim], noise maps by buffer name, the image [1, C, H, W], and the distance of each step."""

    w: Tensor
    noise: dict[str, Tensor]
    image: Tensor
    distances: list[float]


def project(
    generator: nn.Module,
    target: Tensor,
    perceptual: Perceptual,
    *,
    iterations: int = 1000,
    seed: int = 0,
    each: Callable[[int, float], None] = lambda step, distance: None,
) -> Projection:
    """Find w, and noise maps where the generator has such, whose image comes near to a target.

    Args:
        generator: one with a mapping network, in eval mode.
        target: an image [1, C, H, W] in [-1, 1] of the generator's size.
        perceptual: the distance that falls.
        iterations: of Adam; the paper's schedule is stretched over them.
        seed: of the latents whose mean w is the start, of the noise on w, and of the first noise maps.
        each: told after each step its number, from 1, and its distance.

    Raises:
        ValueError: a target of another shape.

    Karras et al. 2019, arXiv 1912.04958, appendix D.
    """
    if target.shape != (1, generator.channels, *generator.size):
        raise ValueError(
            f"target must be [1, {generator.channels}, {generator.size[0]}, {generator.size[1]}], "
            f"got {list(target.shape)}"
        )
    device = next(generator.parameters()).device
    with torch.no_grad():
        z = generator.sample_z(MEAN_OF, keyed_generator("projection mean", seed))
        some = torch.cat([generator.styles(part)[:, 0] for part in z.split(1000)])
        wanted = perceptual.to(device).features(opaque(target.to(device)))
    mean = some.mean(0)
    deviation = (some - mean).square().sum(1).mean().sqrt()
    w = mean.clone().requires_grad_()
    draws = keyed_generator("projection", seed)
    maps = {k: v for k, v in generator.synthesis.named_buffers() if k.endswith("noise_const")}
    maps = {k: torch.randn(v.shape, generator=draws).to(v).requires_grad_() for k, v in maps.items()}
    optimiser = torch.optim.Adam([w, *maps.values()], lr=RATE)
    options = {"noise_mode": "const"} if maps else {}

    def show(style: Tensor) -> Tensor:
        ws = style.expand(1, generator.num_ws, -1)
        return generator.enlarged(functional_call(generator.synthesis, dict(maps), (ws,), options))

    distances = []
    for step in range(iterations):
        t = step / iterations
        for group in optimiser.param_groups:
            group["lr"] = RATE * rate(t)
        strength = STYLE_NOISE * deviation * max(1 - t / NOISE_PART, 0) ** 2
        image = show(w + strength * torch.randn(w.shape, generator=draws).to(w))
        distance = perceptual.distance(perceptual.features(opaque(image)), wanted).sum()
        loss = distance + NOISE_WEIGHT * sum(autocorrelation(one) for one in maps.values())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for one in maps.values():
                one.sub_(one.mean()).mul_(one.square().mean().rsqrt())
        distances.append(distance.item())
        each(step + 1, distances[-1])
    with torch.no_grad():
        image = show(w)
    return Projection(w.detach(), {k: v.detach() for k, v in maps.items()}, image, distances)


def rate(t: float) -> float:
    """The learning rate's factor at part t of the run: up linearly, level, down along a cosine."""
    down = min(1.0, (1 - t) / RAMP_DOWN)
    return min(1.0, t / RAMP_UP) * (0.5 - 0.5 * math.cos(math.pi * down))


def autocorrelation(noise: Tensor) -> Tensor:
    """How much a noise map [H, W] resembles itself one pixel further, at its size and at halves of it down to 8."""
    total = noise.new_zeros(())
    x = noise[None, None]
    while True:
        for axis in (2, 3):
            total = total + (x * x.roll(1, axis)).mean().square()
        if min(x.shape[2:]) <= LEAST:
            return total
        x = F.avg_pool2d(x, 2) * 2  # of unit variance again, if the pixels are independent


def read_target(path: Path, generator: nn.Module) -> Tensor:
    """An image file as [1, C, H, W] in [-1, 1], cropped to the middle and resized as training data is.

    Raises:
        ConfigError: it is missing, no image, or the generator's images are not square.
    """
    height, width = generator.size
    if height != width:
        raise ConfigError(f"images are {height}x{width}; a target is read for square ones")
    try:
        pixels = decode(path.read_bytes(), height, generator.channels).pixels
    except (OSError, BadImage) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"target {path} cannot be read as an image ({reason})") from error
    return torch.from_numpy(pixels.copy())[None].float().div(127.5).sub(1)


def write_projection(
    generator: nn.Module,
    out: Path,
    target: Path,
    iterations: int,
    seed: int,
    vgg16: Path | None = None,
    lpips: Path | None = None,
) -> list[Path]:
    """Write projection.png (the target, then what was found) and projection.safetensors (w and the noise maps)."""
    need_styles(generator, "projection was asked")
    if lpips is not None and vgg16 is None:
        raise ConfigError("lpips_weights are those for VGG16: name its --vgg16-weights too")
    save_file = need("safetensors.torch", "train").save_file
    wanted = read_target(target, generator)
    perceptual = perceptual_lite0() if vgg16 is None else perceptual_vgg16(vgg16, lpips)

    def show(step: int, distance: float) -> None:
        if step % max(iterations // 10, 1) == 0:
            print(f"step {step}/{iterations}  perceptual distance {distance:.4f}", flush=True)

    found = project(generator, wanted, perceptual, iterations=iterations, seed=seed, each=show)
    first, last = found.distances[0], found.distances[-1]
    print(f"perceptual distance {first:.4f} at the first step, {last:.4f} at the last of {iterations}")
    picture = pictures.grid(torch.cat([wanted, found.image.cpu()]), 2)
    path = save_picture(picture, out / "projection.png")
    noise = {f"noise.{name}": one.cpu().contiguous() for name, one in found.noise.items()}
    save_file({"w": found.w.cpu(), **noise}, out / "projection.safetensors")
    return [path, out / "projection.safetensors"]
