"""What a training run is made of, and the named presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gankernels.errors import ConfigError
from gankernels.losses import objective
from gankernels.training.combinations import check_combination
from gankernels.training.ranges import check_ranges


@dataclass(frozen=True)
class TrainConfig:
    """A training run; the defaults are those of the published DCGAN, at 32x32."""

    model: str = "dcgan"
    """gan, gan-maxout, gan-conv, dcgan, progan, stylegan, stylegan2 or stylegan3."""
    data: str = "fashion-mnist"
    """fashion-mnist, emoji, emoji:CATEGORY (or its beginning), or the path of an image folder or zip file."""
    out: Path | None = None
    """Folder of the run; runs/MODEL-DATA-RESOLUTION unless given."""
    resolution: int = 32
    """Side of the images in pixels."""
    channels: int | None = None
    """1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; unless given 1 for fashion-mnist and 3 for everything else."""
    mirror: bool = False
    """Show each image flipped left to right half of the time."""
    augment: str | None = None
    """Adaptive augmentation of what the discriminator sees: bgc (the paper's choice), bg, blit, geom, color, filter,
    noise, cutout, bgcf, bgcfn or bgcfnc; unless given none."""
    augment_target: float = 0.6
    """Mean sign of the discriminator's output for real images that augmentation steers towards."""
    augment_images: int = 500_000
    """Images over which the probability of augmentation can rise from 0 to 1."""
    augment_every: int = 4
    """Minibatches between its steps."""
    width: int | None = None
    """Feature maps of the layer at the highest resolution; unless given the model's own."""
    z_dim: int | None = None
    """Length of the latent vector; unless given the model's own."""
    max_width: int | None = None
    """Upper bound of the feature maps; unless given the model's own."""
    w_dim: int | None = None
    """Length of the intermediate latent (stylegan*); unless given the model's own."""
    mapping_layers: int | None = None
    """Layers of the mapping network (stylegan*); unless given the model's own."""
    latent: Literal["normal", "uniform"] | None = None
    """Latent distribution, N(0, 1) or uniform in [-1, 1]; unless given the model's own."""
    mbstd_group: int | None = None
    """Samples whose deviation the discriminator takes together (progan, stylegan*), 0 for the whole batch; unless given
    the model's own."""
    equivariance: Literal["t", "r"] = "t"
    """stylegan3's configuration: to translation, or to rotation too."""
    precision: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    """Of the blocks at the highest resolutions (progan, stylegan*); weights, and all else, float32. float64: all."""
    half_resolutions: int = 4
    """Resolutions that run in 16 bits where precision is one of those, the highest ones."""
    half_on_cpu: bool = False
    """Run them in 16 bits on a CPU too, which spares memory and no time; else they are float32 there."""
    objective: Literal[
        "gan", "gan-ns", "lsgan", "wgan", "wgan-gp", "dragan", "cgan", "infogan", "acgan", "ebgan", "began", "hinge"
    ] = "gan-ns"
    """Loss: gan is the saturating form, gan-ns the non-saturating one. cgan and acgan take the data's classes; infogan,
    ebgan and began are dcgan's alone."""
    conditional: bool = False
    """Networks take the data's classes, under any objective (dcgan, progan, stylegan*)."""
    head_weight: float = 1.0
    """Weight of acgan's classification, and of infogan's codes, in both players' losses."""
    categories: int = 10
    """infogan: values of the categorical code; 0 for none."""
    codes: int = 2
    """infogan: continuous codes, each uniform in [-1, 1]."""
    margin: float = 1.0
    """ebgan: error of generated images that the discriminator is content with."""
    pull_away: float = 0.1
    """ebgan: weight of the term that keeps the codes of generated images apart."""
    balance: float = 0.5
    """began: ratio of the errors, generated to real, that is kept."""
    balance_rate: float = 1e-3
    """began: how fast the share of generated images in the discriminator's loss follows."""
    penalty: float | None = None
    """Weight of the gradient penalty of wgan-gp and dragan; unless given 10."""
    r1: float = 0.0
    """gamma of the gradient penalty on real images; 0 for none."""
    r2: float = 0.0
    """gamma of that on generated images."""
    r1_every: int = 16
    """Discriminator steps to one of these penalties; 1 adds them to every step's loss."""
    roth: float = 0.0
    """gamma of Roth's gradient regularisation, of the logistic objectives."""
    consensus: float = 0.0
    """gamma of consensus optimisation: the squared gradient of both players' losses, in both losses."""
    instance_noise: float = 0.0
    """Deviation at first of the Gaussian noise on all that the discriminator sees."""
    instance_noise_images: int = 500_000
    """Images over which that noise falls to 0."""
    real_label: float = 1.0
    """What the logistic objectives take real images for; 0.9 is one-sided label smoothing."""
    spectral_norm: bool = False
    """Divide the discriminator's weights by their largest singular values (gan*, dcgan)."""
    dropout: float | None = None
    """Probability of the discriminator's dropout (gan*, dcgan); unless given the model's own."""
    orthogonal: float = 0.0
    """Weight of orthogonal regularisation, of both networks."""
    orthogonal_init: bool = False
    """Start from orthogonal weights (gan*, dcgan)."""
    path_length: float = 0.0
    """Weight of the path length penalty (stylegan, stylegan2); 0 for none."""
    path_length_every: int = 4
    """Generator steps to one of that penalty."""
    mixing: float = 0.0
    """Probability that an image takes its styles from two latents, the finer ones from the second (stylegan*)."""
    blur: float = 0.0
    """Deviation in pixels of the Gaussian that blurs all that the discriminator sees at first (StyleGAN3-R: 10)."""
    blur_images: int = 200_000
    """Images over which that blur falls to 0."""
    drift: float = 0.0
    """Weight of the mean square of the discriminator's output for real images."""
    grow_from: int | None = None
    """Resolution that growth starts at (progan, stylegan); unless given the whole network trains from the start."""
    fade_images: int = 600_000
    """Images over which each new resolution is faded in."""
    stable_images: int = 600_000
    """Images at each resolution before the next."""
    images: int = 1_000_000
    """Length of the run in real images shown to the discriminator."""
    minutes: float | None = None
    """Stop sooner, and regularly, once this many minutes of training have passed."""
    batch: int = 64
    """Real images of a step, of all processes together."""
    accumulate: int = 1
    """Rounds in which a process runs its images of a step, one after the other: as many times less memory."""
    d_steps: int = 1
    """Discriminator steps to one generator step."""
    lr: float = 2e-4
    """Adam's learning rate, of both networks."""
    d_lr: float | None = None
    """The discriminator's own, where it differs."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates, of both networks."""
    clip: float | None = None
    """Clip the discriminator's weights to +-this after each of its steps; unless given the objective's (wgan: 0.01)."""
    ema: float = 10_000
    """Half-life, in images, of the generator's moving average; 0 samples from the generator itself."""
    ema_rampup: float = 0.05
    """The half-life is at most this part of the images seen so far."""
    seed: int = 0
    """Seeds initial weights, order of the data, latents and every other draw."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes cuda where there is one."""
    backend: Literal["auto", "cpu", "cuda", "triton", "reference"] = "auto"
    """Force one backend of our operators; auto is the documented rule."""
    sample_every: int = 20_000
    """Images between sample grids."""
    checkpoint_every: int = 50_000
    """Images between checkpoints."""
    log_every: int = 1_280
    """Images between lines of metrics.jsonl."""
    process_timeout: float = 60.0
    """Seconds that a process waits for the others (torchrun) before it takes them for lost and ends."""
    keep: int = 2
    """Checkpoints kept, the newest ones; 0 keeps all."""
    metric: Literal["kid", "fid"] = "kid"
    """What `metrics_every` computes, on EfficientNet-Lite0 features."""
    metrics_every: int | None = None
    """Images between values of it; the checkpoint of the lowest is kept as best.safetensors. Unless given none."""
    metrics_count: int = 1_000
    """Generated images for it, and at most as many real ones."""

    def check(self) -> None:
        """Raise ConfigError that names the first field out of its range."""
        check_ranges(self)
        check_combination(self)

    @property
    def steps(self) -> int:
        """Generator steps of the whole run."""
        return -(-self.images // self.images_per_step)

    @property
    def images_per_step(self) -> int:
        return self.batch * self.d_steps

    @property
    def classes(self) -> bool:
        """Whether the networks are told the data's classes."""
        return self.conditional or self.objective in ("cgan", "acgan")

    @property
    def judges_classes(self) -> bool:
        """Whether the discriminator is told the class, and does not say it."""
        return self.classes and self.objective != "acgan"

    @property
    def heads(self) -> bool:
        """Whether the discriminator's second output is wanted: classes, codes, or an autoencoder's code."""
        return self.objective in ("acgan", "infogan") or (self.objective == "ebgan" and self.pull_away > 0)

    @property
    def weight_clip(self) -> float | None:
        return objective(self.objective).weight_clip if self.clip is None else self.clip

    def half_on(self, device: torch.device) -> bool:
        """Whether blocks run in 16 bits on this device."""
        return self.precision in ("float16", "bfloat16") and (device.type == "cuda" or self.half_on_cpu)

    def folder(self) -> Path:
        if self.out is not None:
            return self.out
        stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(self.data).stem)
        return Path("runs") / f"{self.model}-{stem}-{self.resolution}"

    def torch_device(self) -> torch.device:
        """The device of the run; raises ConfigError where it cannot be had."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device {self.device!r} cannot be used ({reason}); take cpu or cuda") from error
        return device

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return values | {"out": None if self.out is None else str(self.out), "betas": list(self.betas)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_json`. A field that an earlier version did not write yet takes its default.

        Raises:
            ConfigError: a field that this version does not know, or none where every version wrote one.
            TypeError: no dict.
        """
        if not isinstance(values, dict):
            raise TypeError(f"its configuration is a {type(values).__name__}")
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(
                f"the configuration has {', '.join(map(str, unknown))}, which this version does not know; use "
                "the version that wrote it"
            )
        missing = sorted(_FIRST - set(values))
        if missing:
            raise ConfigError(f"the configuration lacks {', '.join(missing)}; it is damaged, take another checkpoint")
        out = None if values["out"] is None else Path(values["out"])
        return cls(**values | {"out": out, "betas": tuple(values["betas"])})


_FIRST = frozenset(
    (
        *(
            "model",
            "data",
            "out",
            "resolution",
            "channels",
            "mirror",
            "width",
            "z_dim",
            "latent",
            "objective",
            "images",
        ),
        *("minutes", "batch", "d_steps", "lr", "betas", "clip", "ema", "ema_rampup", "seed", "device", "backend"),
        *("sample_every", "checkpoint_every", "log_every", "keep"),
    )
)
"""Fields that all versions wrote. The default of a field added since must be what runs did before there was one."""

FREE_ON_RESUME = frozenset(
    (
        *("out", "images", "minutes", "device", "backend", "sample_every", "checkpoint_every", "log_every", "keep"),
        *("accumulate", "process_timeout", "metrics_every"),
    )
)
"""Fields that a resumed run may set anew; the others decide what it computes and stay those of the checkpoint."""


def resumed(stored: TrainConfig, asked: TrainConfig) -> TrainConfig:
    """The configuration of a resumed run: `asked`, which may differ from `stored` in FREE_ON_RESUME alone."""
    for field in dataclasses.fields(TrainConfig):
        before, now = getattr(stored, field.name), getattr(asked, field.name)
        if before != now and field.name not in FREE_ON_RESUME:
            raise ConfigError(
                f"--{field.name} is {before!r} in the checkpoint and cannot become {now!r} on resuming; "
                f"leave it out, or start a new run"
            )
    return asked
