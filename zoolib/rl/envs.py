"""Atari games on ale-py, preprocessed as in Data-Efficient Rainbow. ale-py is GPL, optional, imported when used."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from zoolib.paths import packaged_weights
from zoolib.spec import RunSpec, ZoolibError, reason

FRAME = 84  # pixels; side of the square that the agent sees
HISTORY = 4  # frames in one observation
REPEAT = 4  # emulator frames one action is held for
RESTORE = "a checkout holds the source policies and their provenance: restore both with git checkout"
_EXTRA = "pip install 'zoolib[atari]'"
_ROMS = f"install a wheel that carries the ROMs ({_EXTRA}), and leave ALE_ROMS_DIR unset"


def _ale() -> Any:
    """The ale_py package. Raises ZoolibError where it is not installed."""
    try:
        import ale_py
    except ImportError:
        raise ZoolibError(f"Atari games need ale-py, which carries their ROMs; install it: {_EXTRA}") from None
    return ale_py


def rom(game: str) -> Path:
    """The ROM file that ale-py's wheel carries. Raises ZoolibError without ale-py or where it has no such ROM."""
    _ale()
    from ale_py import roms

    try:
        path = roms.get_rom_path(game)
    except OSError as error:  # absent, or of another checksum
        raise ZoolibError(f"this ale-py has no ROM of {game!r} ({reason(error)}); {_ROMS}") from None
    if path is None or not Path(path).is_file():
        raise ZoolibError(f"this ale-py has no ROM of {game!r}; {_ROMS}")
    return Path(path)


def rom_sha256(game: str) -> str:
    """The checksum of the ROM that a run plays. Raises ZoolibError as `rom`."""
    return hashlib.sha256(rom(game).read_bytes()).hexdigest()


def data_sha256(spec: RunSpec) -> dict[str, str]:
    """The files a run's numbers depend on beside the code: the ROM and the source policies.

    Raises ZoolibError without ale-py or its ROM, and as `source_checksums`.
    """
    found = {"rom": rom_sha256(spec.dataset)}
    if spec.method not in ("random", "scratch"):
        found |= source_checksums(packaged_weights("atari"))
    return found


def source_checksums(folder: Path) -> dict[str, str]:
    """The sha256 of each source policy in a folder by its game, as its provenance.json names them.

    Raises ZoolibError where that file is absent or damaged.
    """
    return {note["game"]: note["sha256"] for note in source_notes(folder)}


def source_notes(folder: Path) -> list[dict[str, Any]]:
    """What the provenance.json of a folder says of each source policy. Raises ZoolibError as `source_checksums`."""
    path = folder / "provenance.json"
    try:
        return [
            {**note, "game": str(note["game"]), "sha256": str(note["sha256"])} for note in json.loads(path.read_text())
        ]
    except (OSError, ValueError, KeyError, TypeError):
        raise ZoolibError(f"{path}: absent or damaged; {RESTORE}") from None


@functools.cache
def _line(size: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each target pixel its two source pixels and the weight of the second, pixel centres aligned."""
    position = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    low = np.floor(position).astype(np.intp)
    return low, np.minimum(low + 1, size - 1), (position - low).astype(np.float32)


def resize(image: np.ndarray, side: int = FRAME) -> np.ndarray:
    """Bilinear interpolation without smoothing: gray uint8 (H, W) -> uint8 (side, side)."""
    top, bottom, down = _line(image.shape[0], side)
    rows = image[top] * (1 - down)[:, None] + image[bottom] * down[:, None]  # (side, W)
    left, right, across = _line(image.shape[1], side)
    return np.rint(rows[:, left] * (1 - across) + rows[:, right] * across).astype(np.uint8)


class Atari:
    """One game: minimal actions, each held for 4 frames; the last two frames' maximum, gray, 84 x 84, 4 stacked.

    No sticky actions. Every game starts with up to `max_noops` random no-ops and is cut after `max_frames` frames. With
    `life_ends` (training) a lost life is terminal for the learner while the game goes on: the next `reset` clears the
    stack and continues. Raises ZoolibError without ale-py or its ROM.
    """

    def __init__(
        self, game: str, seed: int, max_noops: int = 30, max_frames: int = 108_000, life_ends: bool = False
    ) -> None:
        ale_py, path = _ale(), rom(game)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for every game
        self._ale = ale_py.ALEInterface()
        self._ale.setInt("random_seed", seed % 2**31)
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.setInt("frame_skip", 1)
        self._ale.loadROM(path)
        self._state_type = ale_py.ALEState
        self._actions = self._ale.getMinimalActionSet()
        self.num_actions = len(self._actions)
        self.max_noops, self.max_frames, self.life_ends = max_noops, max_frames, life_ends
        self._rng = np.random.default_rng(seed)
        self.stack = np.zeros((HISTORY, FRAME, FRAME), np.uint8)
        self.score = 0.0  # raw reward of the game so far
        self._playing = False  # whether a lost life, not the game's end, was the last boundary

    def reset(self) -> np.ndarray:
        """Start a game, or go on after a lost life; returns the observation (4, 84, 84), the first frame last."""
        if not self._playing:
            self._ale.reset_game()
            self.score = 0.0
            for _ in range(self._rng.integers(self.max_noops + 1)):
                self._ale.act(0)
                if self._ale.game_over():
                    self._ale.reset_game()
        self._playing = True
        self.stack[:] = 0
        self.stack[-1] = resize(self._ale.getScreenGrayscale())
        return self.stack

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        """Hold an action: observation (4, 84, 84), raw reward, terminal for the learner, game ended or cut.

        The array is the environment's own and changes with the next step.
        """
        lives, reward, frames = self._ale.lives(), 0.0, []
        for index in range(REPEAT):
            reward += float(self._ale.act(self._actions[action]))
            if index >= REPEAT - 2:
                frames.append(self._ale.getScreenGrayscale())
            if over := self._ale.game_over():
                break
        seen = np.maximum(*frames) if len(frames) == 2 else self._ale.getScreenGrayscale()
        self.stack[:-1] = self.stack[1:]
        self.stack[-1] = resize(seen)
        self.score += reward
        cut = self._ale.getEpisodeFrameNumber() >= self.max_frames
        terminal = over or (self.life_ends and self._ale.lives() < lives)
        self._playing = not (over or cut)
        return self.stack, reward, terminal, over or cut

    def screen(self) -> np.ndarray:
        """The game's own picture, uint8 (210, 160, 3)."""
        return np.asarray(self._ale.getScreenRGB())

    def state(self) -> dict[str, Any]:
        """Everything that the future of this game depends on, as arrays and plain values."""
        emulator = self._ale.cloneState(include_rng=True).__getstate__()
        return {
            "ale": np.frombuffer(emulator, np.uint8).copy(),
            "rng": self._rng.bit_generator.state,
            "stack": self.stack.copy(),
            "score": self.score,
            "playing": self._playing,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self._ale.restoreState(self._state_type(state["ale"].tobytes()))
        self._rng.bit_generator.state = state["rng"]
        self.stack[:] = state["stack"]
        self.score, self._playing = state["score"], state["playing"]
