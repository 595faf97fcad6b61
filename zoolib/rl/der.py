"""Data-Efficient Rainbow (van Hasselt et al. 2019): noisy dueling distributional network, double-Q target, agent."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoolib.rl.encoders import FEATURES, Encoder
from zoolib.rl.replay import Batch
from zoolib.spec import ControlSettings, ZoolibError


class NoisyLinear(nn.Module):
    """y = (mu_w + sigma_w * f(e_out) f(e_in)^T) x + mu_b + sigma_b * f(e_out), f(e) = sign(e) sqrt|e|.

    Factorised Gaussian noise (Fortunato et al. 2018): one value an input and one an output, kept until `redraw`.
    Without noise (evaluation) only mu is used. x (B, I) -> (B, O). sigma_w starts at sigma0 / sqrt(I) as in the paper,
    sigma_b at sigma0 / sqrt(O) as in public re-implementations, where the paper has sigma0 / sqrt(I) for both.
    """

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, in_features: int, out_features: int, sigma0: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma0 * bound))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma0 / math.sqrt(out_features)))
        self.register_buffer("noise_in", torch.zeros(in_features))  # f(e_in)
        self.register_buffer("noise_out", torch.zeros(out_features))  # f(e_out)

    @torch.no_grad()
    def redraw(self) -> None:
        """New noise from torch's generator."""
        for noise in (self.noise_in, self.noise_out):
            drawn = torch.randn_like(noise)
            noise.copy_(drawn.sign() * drawn.abs().sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        bias = self.bias + self.bias_sigma * self.noise_out
        if not torch.is_grad_enabled() and len(x) == 1:  # one observation: no need to write the noisy matrix down
            noisy = F.linear(x * self.noise_in, self.weight_sigma) * self.noise_out
            return F.linear(x, self.weight, bias) + noisy
        return F.linear(x, self.weight + self.weight_sigma * torch.outer(self.noise_out, self.noise_in), bias)


class DuelingHead(nn.Module):
    """Features (B, 576) -> log probabilities of the return's atoms (B, A, N): value + advantage - mean advantage."""

    def __init__(self, num_actions: int, atoms: int, hidden: int, sigma0: float) -> None:
        super().__init__()
        self.num_actions, self.atoms = num_actions, atoms
        self.value_hidden = NoisyLinear(FEATURES, hidden, sigma0)
        self.value = NoisyLinear(hidden, atoms, sigma0)
        self.advantage_hidden = NoisyLinear(FEATURES, hidden, sigma0)
        self.advantage = NoisyLinear(hidden, num_actions * atoms, sigma0)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 576) -> (B, A, N)."""
        value = self.value(F.relu(self.value_hidden(features))).unflatten(1, (1, self.atoms))
        advantage = self.advantage(F.relu(self.advantage_hidden(features)))
        advantage = advantage.unflatten(1, (self.num_actions, self.atoms))
        return (value + advantage - advantage.mean(1, keepdim=True)).log_softmax(-1)


class Network(nn.Module):
    """An encoder slot under the dueling head: observations (B, 4, 84, 84) uint8 -> log probabilities (B, A, N)."""

    def __init__(self, encoder: Encoder, head: DuelingHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, observation: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Log probabilities and what the encoder wants to show or to penalise."""
        features, aux = self.encoder(observation.float() / 255)
        return self.head(features), aux

    def redraw(self) -> None:
        """New noise in every noisy layer."""
        for module in self.modules():
            if isinstance(module, NoisyLinear):
                module.redraw()


def project(probabilities: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """The distribution of reward + discount * Z on the fixed atoms (Bellemare et al. 2017, eq. 7).

    Each moved atom, clipped to the support, shares its mass among its two neighbours in proportion to nearness.
    `probabilities` (B, N), `reward` and `discount` (B,), `support` (N,) evenly spaced -> (B, N).
    """
    step = (support[-1] - support[0]) / (len(support) - 1)
    moved = (reward[:, None] + discount[:, None] * support).clamp(support[0], support[-1])  # (B, N) T z_j
    share = (1 - (moved[:, None, :] - support[:, None]).abs() / step).clamp(0, 1)  # (B, N target, N source)
    return (share @ probabilities[..., None]).squeeze(-1)


def double_q_target(online: Tensor, target: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """The projected target distribution (B, N): the online network chooses the next action, the target one judges it.

    `online` and `target` are log probabilities at the next observations, (B, A, N).
    """
    best = (online.exp() @ support).argmax(1)  # (B,)
    chosen = target[torch.arange(len(best), device=best.device), best].exp()  # (B, N)
    return project(chosen, reward, discount, support)


def cross_entropy(log_probabilities: Tensor, target: Tensor) -> Tensor:
    """-sum_i m_i log p_i over the atoms: (..., N) -> (...)."""
    return -(target * log_probabilities).sum(-1)


LossOf = Callable[..., tuple[Tensor, Tensor]]


def make_loss(online: Network, target: Network, support: Tensor) -> LossOf:
    """The training loss of one batch as a function of tensors alone, so that it can be compiled."""

    def loss(
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        following: Tensor,
        discount: Tensor,
        weight: Tensor,
        progress: Tensor,
    ) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(action), device=action.device)
        with torch.no_grad():
            wanted = double_q_target(online(following)[0], target(following)[0], reward, discount, support)
        log_probabilities, aux = online(observation)
        each = cross_entropy(log_probabilities[rows, action], wanted)  # (B,)

        def member_loss(features: Tensor) -> Tensor:  # (B, m, 576) -> (B, m)
            batch, count = features.shape[:2]
            prediction = online.head(features.flatten(0, 1)).unflatten(0, (batch, count))
            return weight[:, None] * cross_entropy(prediction[rows, :, action], wanted[:, None])

        terms = online.encoder.penalties(aux, member_loss, progress)
        return (weight * each).mean() + sum(terms.values(), torch.zeros_like(progress)), each.detach()

    return loss


@contextmanager
def compiling() -> Iterator[None]:
    """A block that may compile: what torch.compile cannot build, a file of its cache cut short say, is one line.

    Raises ZoolibError that names the cache and how to do without; other errors pass.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        cause = getattr(error, "inner_exception", error)
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise ZoolibError(
            f"torch.compile could not build the loss ({reason.strip()}); remove its cache, the folder torchinductor_* "
            "among the temporary files, and run again, or set TORCHDYNAMO_DISABLE=1 to train without it, more slowly"
        ) from error


class Agent:
    """Online and target network with their optimiser; every random number comes from torch's generator."""

    def __init__(self, network: Network, settings: ControlSettings, device: torch.device, compiled: bool) -> None:
        self.settings, self.device = settings, device
        self.online = network.to(device).train()
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.support = torch.linspace(settings.value_min, settings.value_max, settings.atoms, device=device)
        trained = [p for p in self.online.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(trained, settings.lr, eps=settings.adam_eps, fused=True)
        self.trained = trained
        loss = make_loss(self.online, self.target, self.support)
        self.compiled = compiled
        self.loss: LossOf = torch.compile(loss, dynamic=False) if compiled else loss

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> int:
        """The greedy action for one observation (4, 84, 84), under fresh noise."""
        self.online.redraw()
        log_probabilities, _ = self.online(torch.from_numpy(observation[None]).to(self.device))
        return int((log_probabilities.exp() @ self.support).argmax(1))

    def learn(self, batch: Batch, progress: float) -> np.ndarray:
        """One optimiser step; returns the cross-entropy of each transition (B,), its new priority before exponent."""
        self.target.redraw()
        tensors = [
            torch.from_numpy(array).to(self.device)
            for array in (
                batch.observation, batch.action, batch.reward, batch.next_observation, batch.discount, batch.weight
            )
        ]  # fmt: skip
        self.optimiser.zero_grad(set_to_none=True)
        with compiling():
            loss, each = self.loss(*tensors, torch.tensor(progress, device=self.device))
            loss.backward()
        for parameter in self.trained:
            if parameter.grad is None:  # of an encoder that got no sample: zero, as the compiled loss gives it
                parameter.grad = torch.zeros_like(parameter)
        nn.utils.clip_grad_norm_(self.trained, self.settings.clip_norm)
        self.optimiser.step()
        return np.asarray(each.cpu().numpy())

    def update_target(self) -> None:
        """Copy the online network to the target network."""
        self.target.load_state_dict(self.online.state_dict())

    def state(self) -> dict[str, Any]:
        """Networks and optimiser."""
        return {name: getattr(self, name).state_dict() for name in ("online", "target", "optimiser")}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for name in ("online", "target", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
