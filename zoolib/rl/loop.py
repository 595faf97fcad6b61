"""The one training loop for control: act, store, learn, evaluate; stopped, it goes on as if it had not been."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoolib.files import atomic
from zoolib.rl.der import Agent, Network
from zoolib.rl.envs import Atari
from zoolib.rl.replay import Replay
from zoolib.runtime import Past, conditions, restoring
from zoolib.spec import ControlSettings, ZoolibError

Progress = Callable[[int, int, str], None]  # step, steps, a word
Point = tuple[int, str, str, float]  # step, split, term, value


@dataclass
class History:
    """What a run has seen: curve points and the seconds its steps took, in all the processes that it went on in."""

    curve: list[Point] = field(default_factory=list)
    seconds: float = 0.0
    eval_seconds: float = 0.0
    start: int = 0  # steps that were done before this process
    began: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    past: Past = field(default_factory=Past)  # of the processes before it; in the end its own part is added


class Training:
    """Everything that one run changes: agent, game, replay, generators."""

    def __init__(self, network: Network, game: str, settings: ControlSettings, seed: int, agent: Agent) -> None:
        self.settings, self.seed, self.game = settings, seed, game
        self.agent = agent
        self.env = Atari(game, seed, settings.max_noops, settings.max_frames, life_ends=True)
        self.replay = Replay(
            settings.capacity, settings.n_step, settings.discount, settings.priority_exponent, seed + 1
        )
        self.observation = self.env.reset()
        self.first = True  # whether the observation starts an episode
        self.losses: list[float] = []

    def step(self, step: int) -> float | None:
        """One agent step, counted from 1, and a learning step after it; the score of a game that ended with it."""
        settings, env = self.settings, self.env
        frame = self.observation[-1].copy()  # the game's own array changes with its next step
        action = self.agent.act(self.observation)
        self.observation, reward, terminal, ended = env.step(action)
        self.replay.append(frame, action, float(np.clip(reward, -1, 1)), terminal, self.first, ended and not terminal)
        self.first = terminal or ended
        score = env.score if ended else None
        if self.first:
            self.observation = env.reset()
        if step >= settings.replay_start:
            self._learn(step)
        return score

    def _learn(self, step: int) -> None:
        settings = self.settings
        done = (step - settings.replay_start) / max(settings.steps - settings.replay_start, 1)
        beta = settings.priority_beta + (1 - settings.priority_beta) * done
        batch = self.replay.sample(settings.batch_size, beta)
        losses = self.agent.learn(batch, done)
        mean = float(losses.mean())
        if not mean < float("inf"):
            raise ZoolibError(f"the loss is {mean} at step {step}; lower the learning rate ({settings.lr})")
        self.replay.update(batch.place, losses)
        self.losses.append(mean)
        if step % settings.target_every == 0:
            self.agent.update_target()

    def conditions(self) -> dict[str, Any]:
        """What the last digits of the run, and its seconds, depend on beside code and data."""
        return conditions(self.agent.device, "float32") | {"compiled": self.agent.compiled}

    def state(self) -> dict[str, Any]:
        """Everything but the replay's frames; of a GPU's generators, the one that the agent draws from."""
        device = self.agent.device
        return {
            "agent": self.agent.state(),
            "env": _tensors(self.env.state()),
            "replay": _tensors(self.replay.state()),
            "first": self.first,
            "losses": self.losses,
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.agent.restore(state["agent"])
        self.env.restore(_arrays(state["env"]))
        self.observation, self.first = self.env.stack, state["first"]
        self.replay.restore(_arrays(state["replay"]))
        self.losses = list(state["losses"])
        torch.set_rng_state(state["rng"].cpu())
        drawn = state.get("device_rng")  # absent from older checkpoints
        if drawn is not None and self.agent.device.type == "cuda":
            torch.cuda.set_rng_state(drawn.cpu(), self.agent.device)


def _tensors(state: dict[str, Any]) -> dict[str, Any]:
    """Arrays as tensors, which torch.load accepts without unpickling anything else."""
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}


def _arrays(state: dict[str, Any]) -> dict[str, Any]:
    return {k: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in state.items()}


class Checkpoint:
    """A run's state on disk: a log of frames that only grows, and a file that says how much of it counts.

    `origin` names the code and the data of the run. A state of another origin is set aside under a name of its own, and
    taken up again where a run of that origin comes back.
    """

    def __init__(self, folder: Path, origin: dict[str, Any] | None = None) -> None:
        self.file, self.log = folder / "checkpoint.pt", folder / "frames.log"
        self.origin = origin or {}
        self.logged = 0  # steps whose frames are in the log

    def save(self, training: Training, history: History, done: int) -> None:
        """Write the state after `done` steps; killed at any moment, the last state stands whole."""
        replay = training.replay
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("r+b" if self.log.exists() else "w+b") as log:
            first = max(self.logged, replay.count - replay.capacity)  # a frame's place in the log is its step's
            log.seek(first * replay.frames[0].nbytes)
            for step in range(first, replay.count):
                log.write(replay.frames[step % replay.capacity].tobytes())
            log.truncate()
            log.flush()
            os.fsync(log.fileno())  # before the state that counts on it
        self.logged = replay.count
        kept = {"curve": history.curve, "seconds": history.seconds, "eval_seconds": history.eval_seconds, "done": done}
        # The seconds of steps and evaluations are kept above, which a game's record counts instead of all that passed.
        kept["past"] = history.past.then(history.began, 0.0, training.conditions(), done - history.start)
        with atomic(self.file) as file:
            torch.save({"training": training.state(), "origin": self.origin, **kept}, file)

    def load(self, training: Training, history: History) -> None:
        """Put a saved state back, if there is one of this code and data, or one that does not name them.

        One of other code or data is set aside, which a line on standard error says. Raises ZoolibError for a checkpoint
        of another run, for a damaged one, and where memory or the system keeps it from being read.
        """
        if _aside(self.file, self.origin).is_file() and not self.file.is_file():
            _aside(self.file, self.origin).replace(self.file)  # its frames follow, below
        if not self.file.is_file():
            return
        replay = training.replay
        with restoring(self.file, "a damaged checkpoint"):
            state = torch.load(self.file, map_location=training.agent.device, weights_only=True)
        with restoring(self.file, "not a checkpoint of this run ({reason})"):
            if state.get("origin", self.origin) != self.origin:
                self._set_aside(state["origin"], state["done"])
                return self.load(training, history)
            training.restore(state["training"])
            if _aside(self.log, self.origin).is_file():  # or a kill came between the two
                _aside(self.log, self.origin).replace(self.log)
            self._read_frames(replay)
        self.logged = replay.count
        history.curve = [tuple(row) for row in state["curve"]]
        history.seconds, history.eval_seconds, history.start = state["seconds"], state["eval_seconds"], state["done"]
        history.past = Past(**state.get("past", {}))  # absent from older checkpoints

    def _read_frames(self, replay: Replay) -> None:
        """Put the frames that count back. Raises ValueError where the log is missing or cut short."""
        size, oldest = replay.frames[0].nbytes, max(0, replay.count - replay.capacity)
        if not self.log.is_file() or self.log.stat().st_size < replay.count * size:
            raise ValueError(f"{self.log.name} beside it is missing or cut short")
        with self.log.open("rb") as log:
            log.seek(oldest * size)
            for step in range(oldest, replay.count):
                frame = np.frombuffer(log.read(size), np.uint8)
                replay.frames[step % replay.capacity] = frame.reshape(replay.frames[0].shape)

    def _set_aside(self, origin: dict[str, Any], done: int) -> None:
        for path in (self.log, self.file):  # the state last: without it the next start would not come here again
            if path.is_file():
                path.replace(_aside(path, origin))
        print(
            f"{self.file}: {done:,} steps of other code or data; kept as {_aside(self.file, origin).name} until this "
            "run is recorded, which does not go on from it",
            file=sys.stderr,
        )

    def remove(self) -> None:
        """Forget the run, and what was set aside."""
        for path in (self.file, self.log):
            for each in (path, *path.parent.glob(f"{path.name}.*.old")):
                each.unlink(missing_ok=True)


def _aside(path: Path, origin: dict[str, Any]) -> Path:
    """Where a state of that origin is set aside."""
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:8]
    return path.with_name(f"{path.name}.{digest}.old")


def train(
    network: Network,
    game: str,
    settings: ControlSettings,
    seed: int,
    device: torch.device,
    compiled: bool = False,
    folder: Path | None = None,
    checkpoint_every: int = 5_000,
    progress: Progress | None = None,
    origin: dict[str, Any] | None = None,
) -> History:
    """Train a network on a game, in place, and evaluate it every `eval_every` steps and at the end.

    With a `folder` the run is checkpointed there, replay included, and resumed from there; a finished run leaves its
    last state, so that a caller who fails to record it need not train again. A checkpoint of another `origin` (code and
    data) is set aside, and the run starts afresh. Scores are raw; the learner sees rewards clipped to [-1, 1]. Raises
    ZoolibError without ale-py or its ROM, when the loss stops being finite, and for a checkpoint that is damaged or of
    another run.
    """
    training, history = Training(network, game, settings, seed, Agent(network, settings, device, compiled)), History()
    checkpoint = Checkpoint(folder, origin) if folder else None
    if checkpoint:
        checkpoint.load(training, history)
    if progress and history.start:
        progress(history.start, settings.steps, "resumed")
    word = ""
    for step in range(history.start + 1, settings.steps + 1):
        began = time.perf_counter()
        score = training.step(step)
        history.seconds += time.perf_counter() - began
        if score is not None:
            history.curve.append((step, "train", "score", score))
            word = f"score {score:.0f}"
        if step % settings.eval_every == 0 or step == settings.steps:
            _evaluate(training, history, step)
        if checkpoint and (step % checkpoint_every == 0 or step == settings.steps):
            checkpoint.save(training, history, step)
        if progress:
            progress(step, settings.steps, word)
    history.past.parts = history.past.with_part(training.conditions(), settings.steps - history.start)
    return history


def _evaluate(training: Training, history: History, step: int) -> None:
    began = time.perf_counter()
    settings, agent = training.settings, training.agent
    scores = evaluate(agent.online, agent.support, training.game, settings, seed=[training.seed, step])
    history.curve += [(step, "eval", "score", score) for score in scores]
    if training.losses:
        history.curve.append((step, "train", "loss", float(np.mean(training.losses))))
        training.losses = []
    history.eval_seconds += time.perf_counter() - began


@torch.no_grad()
def evaluate(
    network: Network, support: torch.Tensor, game: str, settings: ControlSettings, seed: list[int]
) -> list[float]:
    """Raw scores of full games, noise off, epsilon-greedy, side by side. Draws nothing from torch's generator."""
    rng = np.random.default_rng([*seed, 7])
    training = network.training
    network.eval()
    games = [
        Atari(game, int(rng.integers(2**31)), settings.max_noops, settings.max_frames)
        for _ in range(settings.eval_episodes)
    ]
    for env in games:
        env.reset()
    running, device = list(games), support.device
    while running:
        stacks = torch.from_numpy(np.stack([env.stack for env in running])).to(device)
        actions = (network(stacks)[0].exp() @ support).argmax(1).tolist()
        random = rng.random(len(running)) < settings.eval_epsilon
        after = []
        for env, action, explore in zip(running, actions, random, strict=True):
            ended = env.step(int(rng.integers(env.num_actions)) if explore else action)[3]
            if not ended:
                after.append(env)
        running = after
    network.train(training)
    return [env.score for env in games]


def random_scores(game: str, episodes: int, seed: int, max_noops: int = 30, max_frames: int = 108_000) -> list[float]:
    """Raw scores of full games with uniformly random actions."""
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(episodes):
        env = Atari(game, int(rng.integers(2**31)), max_noops, max_frames)
        env.reset()
        while not env.step(int(rng.integers(env.num_actions)))[3]:
            pass
        scores.append(env.score)
    return scores
