"""Losses as pure functions, named as in the papers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """H(z) = -sum_i z_i log z_i over the last dimension, with 0 log 0 = 0. Shape (..., m) -> (...)."""
    # Not xlogy, whose gradient at 0 is not a number: a model whose weight underflows could never be found again.
    return -(probabilities * probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()).sum(-1)


def explore(weights: Tensor) -> Tensor:
    """Hub-Pathway eq. 4: minus the entropy of the batch mean of the pathway weights G(x), shape (B, m) -> scalar.

    At its least, -log m, when the hub's models are used equally on average; 0 when the hub has collapsed to one model.
    """
    return -entropy(weights.mean(0))


def exploit(member_losses: Tensor, active: Tensor) -> Tensor:
    """Hub-Pathway eq. 5: the sum over models of the mean over data of the task loss of each activated model.

    `member_losses` (B, m) holds l(Theta_i(x), y), `active` (B, m) is true where model i is on x's pathway. The mean
    runs over all B samples, inactive ones counting zero, as the expectation over the data does.
    """
    return torch.where(active, member_losses, member_losses.new_zeros(())).sum(1).mean()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) against labels (B,), one value a sample: (B,)."""
    return F.cross_entropy(logits.float(), target, reduction="none")


def distillation(logits: Tensor, soft_targets: Tensor, temperature: float) -> Tensor:
    """T^2 KL(q || softmax(z / T)), the batch mean, for logits z (B, C) and probabilities q (B, C) softened at T.

    Hinton et al. (2015): gradients of the softened loss shrink as 1 / T^2, so the factor keeps its share against a loss
    on labels whatever T; as T grows, the gradient becomes (z - v) / C for teacher logits v, both of mean zero.
    """
    log_student = (logits.float() / temperature).log_softmax(-1)
    divergence = torch.special.xlogy(soft_targets, soft_targets) - soft_targets * log_student
    return temperature**2 * divergence.sum(-1).mean()


def dependency(scores: Tensor) -> Tensor:
    """Knowledge Flow's dependency loss: - sum over layers of log w_student, for scores (L, 1 + m) -> scalar.

    w = softmax(scores) are the normalised weights of the student's own layer (first column) and of the m teachers'. At
    its least, 0, every layer's student has weight 1 and the teachers have none.
    """
    return -scores.log_softmax(-1)[:, 0].sum()


def feature_distance(mimic: Tensor, features: Tensor) -> Tensor:
    """Mean squared difference of features (B, D) over the batch and the dimensions."""
    return (mimic.float() - features.float()).square().mean()
