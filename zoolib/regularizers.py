"""Regularisers of fine-tuning as pure functions, named as in the papers: scalars, without their trade-offs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def full(x: Tensor) -> Tensor:
    """At least single precision, whatever autocast made of it."""
    return x if x.dtype == torch.float64 else x.float()


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in at least single precision; autocast would lower even operands that are in it."""
    with torch.autocast(a.device.type, enabled=False):
        return full(a) @ full(b)


def squared_distance(parameters: Iterable[Tensor], anchors: Iterable[Tensor] | None = None) -> Tensor:
    """1/2 |w - w0|^2 over all tensors, w0 = 0 without anchors (L2-SP, Li et al. 2018, eq. 3)."""
    if anchors is None:
        return torch.stack([p.square().sum() for p in parameters]).sum() / 2
    return torch.stack([(p - a).square().sum() for p, a in zip(parameters, anchors, strict=True)]).sum() / 2


def fisher_distance(parameters: Iterable[Tensor], anchors: Iterable[Tensor], fisher: Iterable[Tensor]) -> Tensor:
    """1/2 sum_i F_i (w_i - w0_i)^2 with a diagonal Fisher information (EWC, Kirkpatrick et al. 2017, eq. 3)."""
    terms = [(f * (p - a).square()).sum() for p, a, f in zip(parameters, anchors, fisher, strict=True)]
    return torch.stack(terms).sum() / 2


def behaviour(maps: Sequence[Tensor], anchors: Sequence[Tensor], attention: Sequence[Tensor]) -> Tensor:
    """DELTA's distance of feature maps (Li et al. 2019, eq. 5 and 6).

    maps and anchors (B, C, H, W) a layer, attention (C,) summing to 1: C/2 sum_c a_c |map_c - anchor_c|^2 / (H W),
    summed over layers and over the batch. The factor C, by which a filter of average attention weighs 1, is the
    published code's, whose trade-off of 0.01 goes with it.
    """
    terms = []
    for own, other, weights in zip(maps, anchors, attention, strict=True):
        distance = (full(own) - full(other)).square().flatten(2).mean(2)  # (B, C)
        terms.append(len(weights) * (distance * weights).sum())
    return torch.stack(terms).sum() / 2


def attention(rises: Tensor) -> Tensor:
    """DELTA's weights of a layer's filters: softmax(z-score / 5) of the loss's rise without each. (C,) -> (C,)."""
    spread = rises.std(correction=0)
    scores = (rises - rises.mean()) / spread if spread > 0 else torch.zeros_like(rises)
    return torch.softmax(scores / 5, 0)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher / T) || softmax(logits / T)), mean over the batch (LwF, Li and Hoiem 2016). (B, Cs) both."""
    own = F.log_softmax(full(logits) / temperature, 1)
    return F.kl_div(own, F.softmax(full(teacher) / temperature, 1), reduction="batchmean")


def batch_spectral_shrinkage(features: Tensor, smallest: int = 1) -> Tensor:
    """Sum of the k smallest squared singular values of a batch of features (B, D) (BSS, Chen et al. 2019, eq. 5).

    They are the smallest eigenvalues of the smaller Gram matrix.
    """
    features = full(features)
    few = features.shape[0] <= features.shape[1]
    gram = product(features, features.T) if few else product(features.T, features)
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues[:smallest].sum()


def soft_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """-sum_s p_s log softmax(logits)_s, mean over the batch: Co-Tuning's loss of the source head (You et al. 2020).

    (B, Cs) both, each row of probabilities summing to 1.
    """
    return -(probabilities * F.log_softmax(full(logits), 1)).sum(1).mean()


def category_relation(source: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """p(source class | target class), the mean source softmax of each target class: (N, Cs), (N,) -> (C, Cs)."""
    sums = torch.zeros(num_classes, source.shape[1], dtype=source.dtype).index_add_(0, labels, source)
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1)
    return sums / counts[:, None]


def contrast(similarities: Tensor, positive: Tensor) -> Tensor:
    """KL from the uniform distribution over each row's positives to softmax(similarities), mean over the batch.

    Both of Bi-Tuning's losses (Zhong et al. 2020, eq. 3 and 4): (B, K) similarities over the temperature, (B, K) bool
    with at least one positive a row.
    """
    count = positive.sum(1)
    log_share = F.log_softmax(full(similarities), 1)
    own = torch.where(positive, log_share, log_share.new_zeros(())).sum(1) / count
    return -(own + count.log()).mean()


def feature_distance(features: Tensor, teacher: Tensor) -> Tensor:
    """|phi_k(x) - W_k phi_t(x)|^2 / D_k, mean over the batch, for mapped features and a teacher's, both (B, D_k)."""
    return F.mse_loss(full(features), full(teacher))


def bayesian(prediction: Tensor, teachers: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Squared distance to the teachers' weighted predictions, mean over batch and outputs (B-Tuning).

    `prediction` (B, C) is the target's linear posterior prediction m_t^T phi_t(x), `teachers` K of (B, C).
    """
    aim = torch.stack([weight * full(teacher) for weight, teacher in zip(weights, teachers, strict=True)]).sum(0)
    return F.mse_loss(full(prediction), aim)
