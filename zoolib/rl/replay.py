"""Prioritised n-step replay (Schaul et al. 2016) that stores every frame once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class SumTree:
    """Non-negative priorities in the leaves of a binary tree whose nodes hold the sum of their two children."""

    def __init__(self, capacity: int) -> None:
        self.leaves = 1 << (capacity - 1).bit_length()
        self.nodes = np.zeros(2 * self.leaves)  # the root is nodes[1]

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self.nodes[1])

    def get(self, index: np.ndarray) -> np.ndarray:
        """Priorities at leaf indices (B,)."""
        return np.asarray(self.nodes[self.leaves + index])

    def set(self, index: np.ndarray, priority: np.ndarray | float) -> None:
        """Set priorities at leaf indices (B,); of equal indices the last one counts."""
        node = self.leaves + index
        self.nodes[node] = priority
        while node[0] > 1:
            node = node >> 1
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def find(self, value: np.ndarray) -> np.ndarray:
        """The leaf in whose stretch of the cumulative sum each value (B,) in [0, total) falls."""
        node, value = np.ones(len(value), np.intp), value.copy()
        while node[0] < self.leaves:
            left = self.nodes[2 * node]
            right = (value >= left) & (self.nodes[2 * node + 1] > 0)  # rounding must not lead to an empty leaf
            value -= np.where(right, left, 0)
            node = 2 * node + right
        return node - self.leaves


class Batch(NamedTuple):
    """Transitions of n steps; all arrays start with the batch."""

    place: np.ndarray  # (B,) where `update` puts the new priorities
    observation: np.ndarray  # (B, history, H, W) uint8
    action: np.ndarray  # (B,)
    reward: np.ndarray  # (B,) sum_k discount^k r_{t+k} up to the end of the episode
    next_observation: np.ndarray  # (B, history, H, W) uint8, n steps later
    discount: np.ndarray  # (B,) discount^n, 0 where the episode ended within the n steps
    weight: np.ndarray  # (B,) importance-sampling weights, the batch's largest is 1


class Replay:
    """The last `capacity` steps; sampled with probability priority^exponent / sum.

    A step can be drawn once its n-step window is known: n steps later, or at its episode's end, so that the last n - 1
    steps of an episode are kept. It enters with the largest priority seen so far. Steps within n of a cut (a game that
    ran out of time, not out of lives) have no known return and are left out.

    Raises ValueError for a capacity that does not hold one window.
    """

    def __init__(
        self,
        capacity: int,
        n_step: int,
        discount: float,
        exponent: float,
        seed: int,
        frame: tuple[int, int] = (84, 84),
        history: int = 4,
    ) -> None:
        if capacity <= n_step + history:
            raise ValueError(f"capacity is {capacity}; use more than n_step + history = {n_step + history}")
        self.capacity, self.n_step, self.history = capacity, n_step, history
        self.discount, self.exponent = discount, exponent
        self.frames = np.zeros((capacity, *frame), np.uint8)
        self.actions = np.zeros(capacity, np.int64)
        self.rewards = np.zeros(capacity, np.float32)
        self.terminal = np.zeros(capacity, bool)
        self.first = np.zeros(capacity, bool)  # whether an episode starts here
        self.tree = SumTree(capacity)
        self.count = 0  # steps ever appended
        self.pending = 0  # the oldest step that cannot be drawn yet, counted like `count`
        self.drawable = 0
        self.largest = 1.0
        self.rng = np.random.default_rng(seed)

    def append(
        self, frame: np.ndarray, action: int, reward: float, terminal: bool, first: bool, cut: bool = False
    ) -> None:
        """Add a step: the newest frame (H, W) of what was observed, then what was done and came of it."""
        step, at = self.count, self.count % self.capacity
        if step >= self.capacity:  # the steps whose stacks hold the frame that is overwritten now
            self._set((np.arange(step, step + self.history)) % self.capacity, 0.0)
        self.frames[at], self.actions[at], self.rewards[at] = frame, action, reward
        self.terminal[at], self.first[at] = terminal, first
        self.count += 1
        if terminal:
            self._set(np.arange(self.pending, step + 1) % self.capacity, self.largest)
            self.pending = step + 1
            return
        if step - self.pending >= self.n_step:
            self._set(np.array([self.pending % self.capacity]), self.largest)
            self.pending += 1
        if cut:
            self.pending = step + 1

    def _set(self, index: np.ndarray, priority: float) -> None:
        before = int(np.count_nonzero(self.tree.get(index)))
        self.tree.set(index, priority)
        self.drawable += (len(index) if priority else 0) - before

    def sample(self, size: int, beta: float) -> Batch:
        """Draw one transition from each of `size` equal stretches of the priorities' sum.

        Weights are (N P(i))^-beta over the batch's largest (Schaul et al. 2016, section 3.4).
        """
        stretch = self.tree.total / size
        index = self.tree.find((np.arange(size) + self.rng.random(size)) * stretch)
        weight = (self.drawable * self.tree.get(index) / self.tree.total) ** -beta
        window = (index[:, None] + np.arange(self.n_step)) % self.capacity  # (B, n)
        ended = np.logical_or.accumulate(self.terminal[window], axis=1)
        alive = np.concatenate([np.ones((size, 1), bool), ~ended[:, :-1]], axis=1)
        gains = self.rewards[window] * alive * self.discount ** np.arange(self.n_step)
        return Batch(
            index,
            self.observations(index),
            self.actions[index],
            gains.sum(1).astype(np.float32),
            self.observations((index + self.n_step) % self.capacity),
            (self.discount**self.n_step * ~ended[:, -1]).astype(np.float32),
            (weight / weight.max()).astype(np.float32),
        )

    def observations(self, index: np.ndarray) -> np.ndarray:
        """The stacks (B, history, H, W) at indices (B,), blank before their episode's start."""
        back = (index[:, None] - np.arange(self.history)) % self.capacity  # (B, history), newest first
        begun = np.logical_or.accumulate(self.first[back], axis=1)
        shown = np.concatenate([np.ones((len(index), 1), bool), ~begun[:, :-1]], axis=1)
        stacks = self.frames[back[:, ::-1]]
        stacks[~shown[:, ::-1]] = 0
        return stacks

    def update(self, index: np.ndarray, loss: np.ndarray) -> None:
        """New priorities loss^exponent for drawn transitions."""
        priority = np.maximum(loss, 1e-8).astype(np.float64) ** self.exponent
        self.largest = max(self.largest, float(priority.max()))
        self.tree.set(index, priority)

    def state(self) -> dict[str, Any]:
        """Everything but the frames."""
        kept = min(self.count, self.capacity)
        arrays = {name: getattr(self, name)[:kept].copy() for name in ("actions", "rewards", "terminal", "first")}
        priorities = self.tree.get(np.arange(kept))
        numbers = {name: getattr(self, name) for name in ("count", "pending", "drawable", "largest")}
        return {**arrays, "priorities": priorities, **numbers, "rng": self.rng.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; the frames are put back by whoever kept them."""
        for name in ("actions", "rewards", "terminal", "first"):
            getattr(self, name)[: len(state[name])] = state[name]
        for name in ("count", "pending", "drawable", "largest"):
            setattr(self, name, state[name])
        self.tree.set(np.arange(len(state["priorities"])), state["priorities"])
        self.rng.bit_generator.state = state["rng"]
