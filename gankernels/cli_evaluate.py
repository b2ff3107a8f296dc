"""The command `gankernels evaluate`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gankernels.cli_generate import choose, truncate
from gankernels.errors import ConfigError
from gankernels.training import TrainConfig
from gankernels.training.evaluate import NOT_COMPARABLE, Metric

LABELS = {
    "fid": "FID (lower is better)",
    "kid": "KID (lower is better)",
    "precision": "precision (higher is better)",
    "recall": "recall (higher is better)",
    "is": "IS (higher is better)",
    "ppl": "PPL (lower is better)",
}


@dataclass
class Evaluate:
    """Print how far generated images are from real ones: FID, KID, precision and recall, IS, PPL."""

    checkpoint: Path
    """A checkpoint, a run's folder for its newest one, or what `gankernels convert` wrote."""
    metrics: tuple[Metric, ...] = ("kid",)
    """Any of fid, kid, pr (precision and recall), is, ppl."""
    data: str | None = None
    """Real images; those of the run unless given."""
    count: int = 1000
    """How many generated images; published FID takes 50000."""
    real_count: int | None = None
    """How many real images; as many as generated unless given, 0 for all, as published FID takes them."""
    seed: int = 0
    """Seeds latents and the choice of real images."""
    inception_weights: Path | None = None
    """Take the features of Inception, from torch-fidelity's file of its weights, for numbers as they are published."""
    vgg16_weights: Path | None = None
    """ppl: measure the distance on VGG16, whose state dict of torchvision this is, not on EfficientNet-Lite0."""
    lpips_weights: Path | None = None
    """ppl: the linear layers of LPIPS for VGG16, for numbers as they are published."""
    neighbours: Path | None = None
    """Also write neighbours.png in this folder: generated images, each beside the real ones nearest to it."""
    label: str | None = None
    """Class of generated and real images of a conditional network, by the name that the run's data has for it, or by
    number; as frequent as in the data unless given. Of infogan the category; continuous codes are drawn."""
    truncation: float = 1.0
    """Truncation psi (stylegan*) of the generated images."""
    json: Path | None = None
    """Also write the values into this file."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes cuda where there is one."""

    def run(self) -> int:
        from gankernels import metrics
        from gankernels.training import evaluate

        self._check()
        device = TrainConfig(device=self.device).torch_device()
        generator, images = evaluate.load(self.checkpoint, self.data, device)
        real = {None: self.count, 0: None}.get(self.real_count, self.real_count)
        if self.label is not None:
            choose(generator, self.label)
        there = len(evaluate.comparable(generator, images))
        evaluate.check_real(images, there if real is None else min(real, there), self.metrics)
        truncate(generator, self.truncation, None)
        weights = self.inception_weights
        extract = metrics.lite0_extractor(device) if weights is None else metrics.inception_extractor(weights, device)
        perceptual = self._perceptual() if "ppl" in self.metrics else None
        samples = evaluate.sample(generator, extract, images, self.count, real, self.seed)
        found = evaluate.evaluate(generator, samples, self.metrics, self.seed, perceptual)
        note = "" if weights else f"; {NOT_COMPARABLE}"
        print(
            f"{extract.name} features of {self.count} generated and {len(samples.real_chosen)} real images of "
            f"{images.name}{', of that class' if there < len(images) else ''}{note}"
        )
        for name, label in LABELS.items():
            if name in found:
                spread = f" +- {found['is_deviation']:.3f} over 10 splits" if name == "is" else ""
                of = f", paths on {self._distance()}" if name == "ppl" else ""
                print(f"{label}: {found[name]:.5f}{spread}{of}")
        if self.neighbours is not None:
            print(f"wrote {evaluate.write_neighbours(samples, self.neighbours)}")
        if self.json is not None:
            counts = {"generated": self.count, "real": len(samples.real_chosen), "features": extract.name}
            self._write(found | counts | {"data": images.name, "seed": self.seed, "truncation": self.truncation})
        return 0

    def _check(self) -> None:
        least = {"count": 2, "real_count": 0, "seed": 0}
        for name, value in ((name, getattr(self, name)) for name in least):
            if value is not None and value < least[name]:
                raise ConfigError(f"{name} must be at least {least[name]}, got {value}")
        if not self.metrics:
            raise ConfigError("metrics must name at least one of fid, kid, pr, is, ppl")
        for metric, needed in (("is", 10), ("pr", 4)):
            if metric in self.metrics and self.count < needed:
                raise ConfigError(f"count must be at least {needed} for {metric}, got {self.count}")
        if self.lpips_weights is not None and self.vgg16_weights is None:
            raise ConfigError("lpips_weights are those for VGG16: name its --vgg16-weights too")

    def _distance(self) -> str:
        if self.vgg16_weights is None:
            return f"EfficientNet-Lite0; {NOT_COMPARABLE.replace('Inception-FID', 'published PPL')}"
        return "VGG16" if self.lpips_weights is None else "LPIPS of VGG16"

    def _perceptual(self):
        from gankernels import metrics

        if self.vgg16_weights is None:
            return metrics.perceptual_lite0()
        return metrics.perceptual_vgg16(self.vgg16_weights, self.lpips_weights)

    def _write(self, values: dict) -> None:
        try:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            self.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {self.json} ({error.strerror}); name another file") from error
        print(f"wrote {self.json}")
