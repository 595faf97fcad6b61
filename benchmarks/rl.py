"""What an agent's step costs on Atari, and what the methods in the encoder slot add to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from unittest import mock

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import Row, Step, interleaved
from zoolib.games import SOURCES
from zoolib.rl.der import Agent, DuelingHead, Network
from zoolib.rl.encoders import Aggregated, Convolutions, Encoder, Pathways, Plain
from zoolib.rl.envs import Atari
from zoolib.rl.replay import Batch, Replay
from zoolib.rl.runs import use_compile
from zoolib.spec import ControlSettings

ACTIONS, SETTINGS = 18, ControlSettings()
HEADROOM = 1.6  # a ratio passes up to this multiple of its limit: memory traffic, which operations do not count


def _agent(encoder: Encoder, compiled: bool = False) -> Agent:
    head = DuelingHead(ACTIONS, SETTINGS.atoms, SETTINGS.hidden, SETTINGS.noisy_sigma)
    return Agent(Network(encoder, head), SETTINGS, torch.device("cpu"), compiled)


def _replay(steps: int) -> Replay:
    """Random frames and rewards."""
    rng = np.random.default_rng(0)
    replay = Replay(steps, SETTINGS.n_step, SETTINGS.discount, SETTINGS.priority_exponent, 0)
    for step in range(steps):
        frame = rng.integers(0, 256, (84, 84)).astype(np.uint8)
        replay.append(frame, int(rng.integers(ACTIONS)), float(rng.normal()), step % 50 == 49, step % 50 == 0)
    return replay


def _learn(agent: Agent, batch: Batch) -> Step:
    def step() -> None:
        agent.learn(batch, 0.5)

    return step


def _play(env: Atari) -> Step:
    def step() -> None:
        if env.step(1)[3]:
            env.reset()

    return step


def _operations(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def run() -> list[Row]:
    """Ratios to the plain agent's learning step, and that step's speed; minutes, where there is a compiler.

    Compiled, as long runs are, Hub-Pathway computes both encoders and masks one; eager, it routes.
    """
    torch.manual_seed(0)
    replay = _replay(2_000)
    batch = replay.sample(SETTINGS.batch_size, 0.5)
    encoders: dict[str, Callable[[], Encoder]] = {
        "scratch": Plain,
        "zoo_tuning": lambda: Aggregated([Convolutions() for _ in SOURCES], SOURCES),
        "hub_pathway": lambda: Pathways([Convolutions() for _ in SOURCES], SOURCES),
    }
    agents = {name: _agent(encoder()) for name, encoder in encoders.items()}
    env = Atari("jamesbond", 0)
    env.reset()
    steps: dict[str, Step] = {name: _learn(agent, batch) for name, agent in agents.items()}
    counts = {name: _operations(step) for name, step in steps.items()}
    steps["environment step"] = _play(env)
    steps["action"] = lambda: agents["scratch"].act(batch.observation[0])
    steps["replay sample"] = lambda: replay.sample(SETTINGS.batch_size, 0.5)
    times = interleaved(steps, repeats=40, seconds=20)
    rows = [Row("learning steps a second, scratch, eager", 1 / times["scratch"], float("nan"), None, True)]
    for name in ("environment step", "action", "replay sample"):
        what = f"time of one {name} over a learning step"
        rows.append(Row(what, times[name] / times["scratch"], float("nan"), None, higher_is_better=False))
    for name in ("zoo_tuning", "hub_pathway"):
        limit = counts[name] / counts["scratch"]
        what = f"time of a learning step of {name} over scratch"
        rows.append(Row(what, times[name] / times["scratch"], limit, HEADROOM * limit, higher_is_better=False))
    return rows + (_compiled(encoders, batch) if use_compile("auto", SETTINGS.steps) else [])


def _compiled(encoders: Mapping[str, Callable[[], Encoder]], batch: Batch) -> list[Row]:
    with mock.patch("torch.compiler.is_compiling", return_value=True):  # counted as they are compiled, run eagerly
        counts = {name: _operations(_learn(_agent(encoder()), batch)) for name, encoder in encoders.items()}
    steps: dict[str, Step] = {name: _learn(_agent(encoder(), True), batch) for name, encoder in encoders.items()}
    for step in steps.values():
        step()  # compiles
    times = interleaved(steps, repeats=40, seconds=20)
    rows = [Row("learning steps a second, scratch, compiled", 1 / times["scratch"], float("nan"), None, True)]
    for name in ("zoo_tuning", "hub_pathway"):
        limit = counts[name] / counts["scratch"]
        what = f"time of a compiled learning step of {name} over scratch"
        rows.append(Row(what, times[name] / times["scratch"], limit, HEADROOM * limit, higher_is_better=False))
    return rows
