"""Objectives, regularisers and models that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gankernels.errors import ConfigError
from gankernels.losses import objective

if TYPE_CHECKING:
    from gankernels.training.config import TrainConfig

CLASS_MODELS = ("dcgan", "progan", "stylegan", "stylegan2", "stylegan3")
HEAD_MODELS = ("dcgan", "progan", "stylegan")
PLAIN_MODELS = ("gan", "gan-maxout", "gan-conv", "dcgan")


def check_combination(config: TrainConfig) -> None:
    """Raise ConfigError that names the first two settings that contradict each other, and what to do."""
    game = objective(config.objective)
    _check_model(config, game.error)
    rules = (
        ("real_label", config.real_label != 1, game.logistic, "has no logistic loss", "leave it at 1"),
        ("roth", config.roth, game.logistic, "has no logistic loss", "take r1"),
        ("penalty", config.penalty is not None, game.penalty is not None, "has no gradient penalty", "take r1 or r2"),
        ("augment", config.augment, not game.error, "has no logits, whose signs it follows", "leave it out"),
        ("drift", config.drift, not game.error, "has no logits, which it holds near 0", "leave it out"),
        (
            "conditional",
            config.conditional,
            not game.error,
            "has a discriminator that takes no classes",
            "leave it out",
        ),
        ("conditional", config.conditional, config.objective != "infogan", "makes codes of its own", "leave it out"),
    )
    for name, asked, fits, reason, remedy in rules:
        if asked and not fits:
            raise ConfigError(f"{name} is {getattr(config, name)}, and objective {config.objective} {reason}; {remedy}")
    if config.objective == "infogan" and config.categories + config.codes == 0:
        raise ConfigError("categories and codes are 0, and objective infogan needs some; take categories 10")


def _check_model(config: TrainConfig, error: bool) -> None:
    needs = (
        ("objective", config.objective, error or config.objective == "infogan", ("dcgan",), "needs its own networks"),
        ("objective", config.objective, config.objective == "acgan", HEAD_MODELS, "needs a classifying discriminator"),
        ("objective", config.objective, config.objective == "cgan", CLASS_MODELS, "needs networks that take classes"),
        ("conditional", True, config.conditional, CLASS_MODELS, "needs networks that take classes"),
        ("spectral_norm", True, config.spectral_norm, PLAIN_MODELS, "is not for scaled weights"),
        ("orthogonal_init", True, config.orthogonal_init, PLAIN_MODELS, "is not for scaled weights"),
        ("dropout", config.dropout, config.dropout is not None, PLAIN_MODELS, "needs a discriminator with dropout"),
    )
    for name, value, asked, models, reason in needs:
        if asked and config.model not in models:
            raise ConfigError(
                f"{name} is {value}, which {reason}, and model is {config.model}; take {', '.join(models)}"
            )
