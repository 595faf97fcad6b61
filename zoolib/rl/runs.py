"""From a specification of task `atari` to its outcome: network, training, final evaluation, one recorded episode."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch.utils.flop_counter import FlopCounterMode

from zoolib import games, runtime
from zoolib.files import atomic, locked
from zoolib.paths import packaged_weights
from zoolib.rl.der import DuelingHead, Network
from zoolib.rl.encoders import Convolutions
from zoolib.rl.envs import RESTORE, Atari, data_sha256, source_checksums
from zoolib.rl.loop import History, Progress, random_scores, train
from zoolib.spec import ControlSettings, RunSpec, ZoolibError

STRIP = 12  # pictures of a recorded episode, up to twice as many
_LONG = 20_000  # steps from which compiling pays


@dataclass
class GameOutcome:
    """What a run computed."""

    metrics: dict[str, dict[str, float]]
    curves: pd.DataFrame
    samples: pd.DataFrame | None
    deviations: list[str] = field(default_factory=list)
    compiled: bool = False
    past: runtime.Past = field(default_factory=runtime.Past)  # what the processes before a resumed one left
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def source_file(name: str) -> Path:
    """The packaged policy of a source game. Raises ZoolibError where it is absent."""
    path = packaged_weights(f"atari/{name}.safetensors")
    if not path.is_file():
        raise ZoolibError(f"no source policy {path}; {RESTORE}")
    return path


def load_source(path: Path) -> Convolutions:
    """The convolutions of a saved policy.

    Raises ZoolibError for a damaged file, a network of another shape, and a file that is not the one whose checksum the
    provenance.json beside it holds: records name that checksum as what they were computed from.
    """
    content = path.read_bytes()
    try:
        given = load(content)
    except SafetensorError:
        raise ZoolibError(f"{path}: a damaged source policy; {RESTORE}") from None
    convolutions = Convolutions()
    own = convolutions.state_dict()
    for name, tensor in own.items():
        found = given.get(f"encoder.convolutions.{name}")
        if found is None or found.shape != tensor.shape:
            shape = "missing" if found is None else str(tuple(found.shape))
            raise ZoolibError(
                f"{path}: a source network of another shape: {name} is {shape}, {tuple(tensor.shape)} is needed; "
                f"{RESTORE}"
            )
        own[name] = found.to(tensor.dtype)
    if hashlib.sha256(content).hexdigest() != source_checksums(path.parent).get(path.stem):
        raise ZoolibError(f"{path}: its checksum is not the one in the provenance.json beside it; {RESTORE}")
    convolutions.load_state_dict(own)
    return convolutions


def use_compile(wanted: str, steps: int) -> bool:
    """Whether torch.compile is used: "on", "off", or "auto": for long runs, where there is a C++ compiler.

    Never where TORCHDYNAMO_DISABLE=1 makes it do nothing, so that a record says how its run was computed.
    """
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return False
    if wanted != "auto":
        return wanted == "on"
    return steps >= _LONG and any(shutil.which(name) for name in ("g++", "clang++"))


def build(spec: RunSpec, settings: ControlSettings) -> tuple[Network, list[str]]:
    """The network of a specification, drawn from torch's generator, and the method's deviations."""
    card = games.method(spec.method)
    slot = card.load()(lambda name: load_source(source_file(name)), spec.member, dict(spec.options))
    actions = Atari(spec.dataset, 0).num_actions
    head = DuelingHead(actions, settings.atoms, settings.hidden, settings.noisy_sigma)
    return Network(slot.encoder, head), slot.deviations


@contextmanager
def alone(spec: RunSpec, work: Path) -> Iterator[None]:
    """A block that computes, and records, a run in `work`; random play, which writes nothing there, may go on twice.

    Raises ZoolibError while another process does: the two would write one log of frames.
    """

    def busy() -> None:
        raise ZoolibError(f"another process computes {spec.label} in {work}; wait for it, or stop it first")

    if spec.method == "random":
        yield
    else:
        with locked(work / "run.lock", busy):
            yield


def run(spec: RunSpec, work: Path, progress: Progress | None = None) -> GameOutcome:
    """Compute one specification, inside `alone`; its last checkpoint and final policy lie in `work`.

    The checkpoint is for the caller to remove when the outcome is recorded: called again before that, the run ends the
    same at once.
    """
    if spec.method == "random":
        return _random(spec)
    settings = spec.settings
    runtime.seed_everything(spec.seed)
    device = runtime.device()
    network, deviations = build(spec, settings)
    compiled = use_compile(settings.compile, settings.steps)
    origin = {"code": runtime.code_fingerprint(games.TASK), "data": data_sha256(spec)}
    history = train(
        network, spec.dataset, settings, spec.seed, device, compiled, work, progress=progress, origin=origin
    )
    with atomic(work / games.POLICY) as file:
        file.write(save({k: v.cpu().contiguous() for k, v in network.state_dict().items()}))
    samples = episode(network, spec.dataset, settings, spec.seed)
    curves = pd.DataFrame(history.curve, columns=["iteration", "split", "term", "value"])
    metrics = _metrics(spec, network, history, device)
    return GameOutcome(metrics, curves, samples, deviations, compiled, history.past, device)


def _random(spec: RunSpec) -> GameOutcome:
    """Random play in as many games as an evaluation has."""
    settings = spec.settings
    began = time.perf_counter()
    scores = random_scores(spec.dataset, settings.eval_episodes, spec.seed, settings.max_noops, settings.max_frames)
    rows = [(settings.steps, "eval", "score", score) for score in scores]
    curves = pd.DataFrame(rows, columns=["iteration", "split", "term", "value"])
    cost = {"eval_seconds": time.perf_counter() - began}
    return GameOutcome({"test": _test(spec.dataset, scores), "cost": cost}, curves, None)


def _test(name: str, scores: list[float]) -> dict[str, float]:
    """Mean and standard deviation (n - 1) over the games of one evaluation."""
    mean = statistics.fmean(scores)
    return {
        "score": mean,
        "human_normalised_score": games.game(name).human_normalised(mean),
        "episodes": float(len(scores)),
        "score_std": statistics.stdev(scores) if len(scores) > 1 else float("nan"),
    }


def _metrics(spec: RunSpec, network: Network, history: History, device: torch.device) -> dict[str, dict[str, float]]:
    steps = spec.settings.steps
    scores = [value for step, split, term, value in history.curve if (step, split, term) == (steps, "eval", "score")]
    cost = {
        "params_m": sum(p.numel() for p in network.parameters()) / 1e6,
        "trainable_params_m": sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6,
        "gmacs": _operations(network, device) / 2e9,
        "peak_memory_mb": runtime.peak_memory_mb(device),
        "seconds": history.seconds,
        "eval_seconds": history.eval_seconds,
        "steps_per_second": steps / history.seconds,
    }
    return {"test": _test(spec.dataset, scores), "cost": cost}


@torch.no_grad()
def _operations(network: Network, device: torch.device) -> int:
    network.eval()
    observation = torch.zeros(1, 4, 84, 84, dtype=torch.uint8, device=device)
    network(observation)
    with FlopCounterMode(display=False) as counter:
        network(observation)
    return int(counter.get_total_flops())


@torch.no_grad()
def episode(network: Network, game: str, settings: ControlSettings, seed: int) -> pd.DataFrame:
    """One game of the final policy, noise off, one row a step; some rows carry the screen as a PNG.

    Columns: step, action, reward, what the encoder shows (such as `weight:seaquest`), and frame (bytes or None).
    """
    network.eval()
    device = next(network.parameters()).device
    support = torch.linspace(settings.value_min, settings.value_max, settings.atoms, device=device)
    env = Atari(game, seed, settings.max_noops, settings.max_frames)
    env.reset()
    rows: list[dict[str, Any]] = []
    screens: dict[int, np.ndarray] = {}
    ended, stride = False, 1
    while not ended:
        log_probabilities, aux = network(torch.from_numpy(env.stack[None]).to(device))
        action = int((log_probabilities.exp() @ support).argmax(1))
        shown = {name: float(value) for name, value in network.encoder.shown(aux).items()}
        if len(rows) % stride == 0:
            screens[len(rows)] = env.screen()
        if len(screens) == 2 * STRIP:  # the game's length is not known before its end: keep every second picture
            stride *= 2
            screens = {step: screen for step, screen in screens.items() if step % stride == 0}
        reward, ended = env.step(action)[1::2]
        rows.append({"step": len(rows), "action": action, "reward": float(reward), **shown})
    table = pd.DataFrame(rows)
    table["frame"] = [_png(screens[step]) if step in screens else None for step in range(len(rows))]
    return table


def _png(screen: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(screen).quantize(64).save(out, "png", optimize=True)
    return out.getvalue()
