"""Losses as pure functions, named as in the papers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """H(z) = -sum_i z_i log z_i over the last dimension, with 0 log 0 = 0. Shape (..., m) -> (...)."""
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)


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
