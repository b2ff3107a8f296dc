"""What a discriminator's further heads learn: the class (ACGAN), or the latent code (InfoGAN)."""

import math

from torch import Tensor
from torch.nn import functional as F

from gankernels.losses._widen import widen


def acgan(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of class logits [N, K] against labels: [N] indices, or [N, K] one-hot or probabilities.

    Both players minimise it: the discriminator on real and on generated images, the generator on its own.

    Odena et al. 2016, "Conditional Image Synthesis with Auxiliary Classifier GANs", arXiv 1610.09585.
    """
    _check("acgan", "class_logits", class_logits)
    if labels.is_floating_point():
        labels = widen(labels)
    return F.cross_entropy(widen(class_logits), labels)


def infogan_categorical(code_logits: Tensor, code: Tensor, weight: float = 1.0) -> Tensor:
    """``weight * mean -log Q(c | x)`` of categorical codes: logits [N, K], code [N] or [N, K] as in `acgan`.

    Chen et al. 2016, "InfoGAN", arXiv 1606.03657.
    """
    return acgan(code_logits, code) * weight


def infogan_gaussian(mean: Tensor, log_variance: Tensor, code: Tensor, weight: float = 1.0) -> Tensor:
    """``weight * mean over samples of -log N(code; mean, exp(log_variance))`` of continuous codes, all [N, K].

    The K codes of a sample are independent, their log-likelihoods added. arXiv 1606.03657.
    """
    _check("infogan_gaussian", "mean", mean)
    if not mean.shape == log_variance.shape == code.shape:
        raise ValueError(
            f"infogan_gaussian: mean {list(mean.shape)}, log_variance {list(log_variance.shape)}, code "
            f"{list(code.shape)}, expected one shape [N, K]"
        )
    mean, log_variance, code = widen(mean), widen(log_variance), widen(code)
    each = log_variance + math.log(2 * math.pi) + (code - mean).square() * (-log_variance).exp()
    return each.sum(1).mean() * (weight / 2)


def _check(op: str, name: str, t: Tensor) -> None:
    if t.ndim != 2:
        raise ValueError(f"{op}: {name} has shape {list(t.shape)}, expected [N, K]")
