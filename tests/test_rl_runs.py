"""Runs on real games: the environment, and runs that are killed and go on."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from zoolib import games, runtime
from zoolib.files import locked
from zoolib.grid import grid
from zoolib.rl import envs, loop, runs
from zoolib.rl.der import Agent, DuelingHead, Network
from zoolib.rl.encoders import Aggregated, Convolutions, Encoder, KnowledgeFlow, Pathways, Plain
from zoolib.rl.envs import Atari
from zoolib.rl.replay import Batch
from zoolib.spec import ControlSettings, ZoolibError

TINY = ControlSettings(
    steps=90, replay_start=40, batch_size=4, hidden=8, max_frames=200, eval_every=45, eval_episodes=2, capacity=64,
    target_every=20,
)  # fmt: skip


def network(actions: int, slot: Callable[[], Encoder] = Plain) -> Network:
    torch.manual_seed(0)
    return Network(slot(), DuelingHead(actions, 51, 8, 0.1))


def test_a_second_process_on_one_run_is_refused_but_random_play_keeps_nothing(tmp_path: Path) -> None:
    random, spec = grid(games.TASK, "jamesbond", games.HUB, "random,scratch", "smoke", 1)
    with locked(tmp_path / "run.lock", lambda: None):
        with pytest.raises(ZoolibError, match="another process computes"), runs.alone(spec, tmp_path):
            pass
        with runs.alone(random, tmp_path):
            pass


# Environment ----------------------------------------------------------------------------------------------------------


def test_resize_equals_torchs_bilinear_interpolation() -> None:
    image = np.random.default_rng(0).integers(0, 256, (210, 160)).astype(np.uint8)
    tensor = torch.from_numpy(image)[None, None].float()
    oracle = torch.nn.functional.interpolate(tensor, size=(84, 84), mode="bilinear", align_corners=False)
    assert np.abs(oracle[0, 0].numpy() - envs.resize(image)).max() <= 0.501  # rounded to whole gray values


@pytest.mark.parametrize(("game", "actions"), [("gopher", 8), ("jamesbond", 18)])
def test_a_step_holds_its_action_for_four_frames_and_shows_the_maximum_of_the_last_two(game: str, actions: int) -> None:
    env = Atari(game, seed=0, max_noops=0)
    assert env.num_actions == actions
    first = env.reset().copy()
    assert not first[:3].any()
    assert first[3].any()
    plain = Atari(game, seed=0, max_noops=0)
    plain.reset()
    seen = first[3:]
    for action in (1, 2, 3, 1, 0, 4):
        screens, expected = [], 0.0
        for _ in range(4):
            expected += plain._ale.act(plain._actions[action])
            screens.append(plain._ale.getScreenGrayscale())
        observation, reward, _, _ = env.step(action)
        assert reward == expected
        seen = np.concatenate([seen, envs.resize(np.maximum(screens[2], screens[3]))[None]])
    assert np.array_equal(observation, seen[-4:])


def test_the_reward_of_a_step_is_the_sum_over_its_four_frames() -> None:
    env, plain = Atari("alien", seed=0, max_noops=0), Atari("alien", seed=0, max_noops=0)
    env.reset()
    plain.reset()
    rewards, early, ended = [], 0.0, False
    for action in np.random.default_rng(0).integers(env.num_actions, size=507).tolist():
        if not ended:
            frames = [plain._ale.act(plain._actions[action]) for _ in range(4)]
            _, reward, _, ended = env.step(action)
            assert reward == sum(frames)
            rewards.append(reward)
            early += sum(frames[:3])
    assert early > 0, "the case must have rewards before the last frame"
    assert env.score == sum(rewards)


def test_a_lost_life_is_terminal_in_training_only_and_the_game_goes_on() -> None:
    rng = np.random.default_rng(0)
    training, full = Atari("jamesbond", 0, life_ends=True), Atari("jamesbond", 0)
    training.reset()
    full.reset()
    lost = 0
    while True:
        action = int(rng.integers(18))
        _, gain, terminal, ended = training.step(action)
        assert full.step(action)[1:] == (gain, ended, ended)
        if terminal and not ended:
            lost += 1
            score = training.score
            observation = training.reset()
            assert not observation[:3].any()
            assert training.score == score
        if ended:
            break
    assert lost >= 2
    assert training.score == full.score > 0


def test_a_game_is_cut_at_its_frame_limit_and_starts_with_random_noops() -> None:
    env = Atari("alien", 0, max_noops=30, max_frames=120)
    starts = set()
    for _ in range(6):
        env.reset()
        starts.add(env._ale.getEpisodeFrameNumber())
        steps, terminal, ended = 0, False, False
        while not ended:
            terminal, ended = env.step(0)[2:]
            steps += 1
        assert not terminal
        assert steps <= 30
    assert len(starts) > 2
    assert max(starts) <= 30


def test_games_have_no_sticky_actions_and_training_is_on_such_a_game_with_random_noops() -> None:
    starts = set()
    for seed in range(6):
        net = network(18)
        env = loop.Training(net, "jamesbond", TINY, seed, Agent(net, TINY, torch.device("cpu"), False)).env
        assert env._ale.getFloat("repeat_action_probability") == 0
        assert env._ale.getInt("frame_skip") == 1
        assert env.life_ends
        starts.add(env._ale.getEpisodeFrameNumber())
    assert len(starts) > 2
    assert max(starts) <= 30


def test_a_restored_game_goes_on_as_the_original() -> None:
    env = Atari("seaquest", 3, life_ends=True)
    rng = np.random.default_rng(0)
    env.reset()
    for action in rng.integers(18, size=50).tolist():
        if env.step(action)[2]:
            env.reset()
    state = env.state()
    other = Atari("seaquest", 99, life_ends=True)
    other.restore(state)
    for action in rng.integers(18, size=400).tolist():
        (a, *one), (b, *two) = env.step(action), other.step(action)
        assert one == two
        assert np.array_equal(a, b)
        if one[1] or one[2]:
            assert np.array_equal(env.reset(), other.reset())
    assert env.score == other.score


def test_a_missing_emulator_or_rom_is_one_line_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning), pytest.raises(ZoolibError, match=r"no ROM of 'pong_2601'; .*zoolib\[atari\]"):
        Atari("pong_2601", 0)
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(ZoolibError, match=r"no ROM of 'alien' \(FileNotFoundError.*zoolib\[atari\]") as caught:
        Atari("alien", 0)
    assert "\n" not in str(caught.value)
    (tmp_path / "alien.bin").write_bytes(b"another game")
    with pytest.raises(ZoolibError, match=r"no ROM of 'alien' \(OSError"):
        Atari("alien", 0)
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    with pytest.raises(ZoolibError, match=r"need ale-py.*zoolib\[atari\]") as caught:
        Atari("alien", 0)
    assert "\n" not in str(caught.value)


# Runs -----------------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a signal that cannot be caught."""


def train(
    folder: Path | None,
    stop: int = 0,
    settings: ControlSettings = TINY,
    every: int = 20,
    slot: Callable[[], Encoder] = Plain,
    compiled: bool = False,
    **origin: str,
) -> tuple[loop.History, Network]:
    def progress(step: int, steps: int, word: str) -> None:
        if step == stop:
            raise Killed

    net = network(18, slot)
    torch.manual_seed(1)
    history = loop.train(net, "jamesbond", settings, 5, torch.device("cpu"), compiled, folder, every, progress, origin)
    return history, net


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "plain": Plain,
    "aggregated": lambda: Aggregated([Convolutions(), Convolutions()], "ab"),
    "pathways": lambda: Pathways([Convolutions(), Convolutions()], "ab"),  # draws noise in its forward pass, too
    "knowledge_flow": lambda: KnowledgeFlow([Convolutions(), Convolutions()], "ab"),
}


@pytest.mark.parametrize(("encoder", "compiled"), [*((name, False) for name in ENCODERS), ("pathways", True)])
def test_a_killed_run_resumes_and_ends_with_the_same_scores_and_weights(
    tmp_path: Path, encoder: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # no C++ compiler
    slot = ENCODERS[encoder]
    whole, oracle = train(None, slot=slot, compiled=compiled)
    for stop in (35, 78):  # before learning starts; after the replay has begun to forget
        with pytest.raises(Killed):
            train(tmp_path, stop, slot=slot, compiled=compiled)
        assert (tmp_path / "checkpoint.pt").is_file()
    torch._dynamo.reset()  # as in a new process: nothing compiled is at hand
    resumed, net = train(tmp_path, slot=slot, compiled=compiled)
    assert resumed.start == 60
    assert resumed.curve == whole.curve
    assert any(split == "eval" for _, split, _, _ in whole.curve)
    for name, tensor in oracle.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name


class Player:
    """An agent that acts at random, and keeps what it saw and did."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)
        self.seen: list[np.ndarray] = []
        self.did: list[int] = []

    def act(self, observation: np.ndarray) -> int:
        self.seen.append(observation.copy())
        self.did.append(int(self.rng.integers(18)))
        return self.did[-1]


@pytest.mark.parametrize("steps", [150, 700])  # before the replay forgets, and after
def test_what_the_replay_gives_is_what_the_agent_saw_did_and_got_in_a_real_game(steps: int) -> None:
    n, capacity, discount = 20, 300, 0.99
    settings = dataclasses.replace(
        TINY, steps=10**6, replay_start=10**6, capacity=capacity, n_step=n, discount=discount, max_frames=1000
    )
    player = Player()
    training = loop.Training(None, "jamesbond", settings, 5, player)  # type: ignore[arg-type]
    play, came = training.env.step, []

    def step(action: int) -> tuple[np.ndarray, float, bool, bool]:
        observation, reward, terminal, ended = play(action)
        came.append((float(np.clip(reward, -1, 1)), terminal, ended and not terminal))
        return observation, reward, terminal, ended

    training.env.step = step  # type: ignore[method-assign]
    for number in range(1, steps + 1):
        training.step(number)
    expected = {}  # step -> return, and whether the game went on for n steps
    for t in range(max(0, steps - capacity + 3), steps):  # a stack of four frames must be there whole
        window = came[t : t + n]
        end = next((k for k, (_, terminal, cut) in enumerate(window) if terminal or cut), n)
        if (end == n and t + n < steps) or (end < len(window) and window[end][1]):
            gain = sum(discount**k * reward for k, (reward, _, _) in enumerate(window[: end + 1]))
            expected[t] = gain, end == n
    oldest = max(0, steps - capacity)
    batch = training.replay.sample(5_000, 1.0)
    drawn = [oldest + (int(place) - oldest) % capacity for place in batch.place]
    assert set(drawn) == set(expected)
    for row, t in enumerate(drawn):
        gain, alive = expected[t]
        assert np.array_equal(batch.observation[row], player.seen[t]) and batch.action[row] == player.did[t], t
        assert batch.reward[row] == pytest.approx(gain, abs=1e-6)
        assert batch.discount[row] == pytest.approx(discount**n if alive else 0.0)
        assert not alive or np.array_equal(batch.next_observation[row], player.seen[t + n]), t
    ends = [t for t, (_, terminal, cut) in enumerate(came) if terminal or cut]
    assert steps < 700 or (len(ends) > 3 and any(came[t][2] for t in ends) and any(g for g, _ in expected.values()))


def test_the_target_network_stays_until_it_is_updated_and_then_is_the_online_network() -> None:
    def parameters(net: Network) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in net.parameters()]

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    rng, agent = np.random.default_rng(0), Agent(network(18), TINY, torch.device("cpu"), False)
    stacks = rng.integers(0, 256, (2, 4, 4, 84, 84)).astype(np.uint8)
    ones = np.ones(4, np.float32)
    batch = Batch(np.arange(4), stacks[0], rng.integers(18, size=4), ones, stacks[1], ones, ones)
    begun = parameters(agent.online)
    assert same(begun, parameters(agent.target))
    agent.learn(batch, 0.5)
    assert same(begun, parameters(agent.target)) and not same(begun, parameters(agent.online))
    agent.update_target()
    learned = parameters(agent.online)
    assert same(learned, parameters(agent.target))
    agent.learn(batch, 0.5)
    assert same(learned, parameters(agent.target)) and not same(learned, parameters(agent.online))


def test_a_replay_smaller_than_the_steps_between_two_checkpoints_is_put_back(tmp_path: Path) -> None:
    small = dataclasses.replace(TINY, capacity=30, n_step=5)
    whole, oracle = train(None, settings=small)
    with pytest.raises(Killed):
        train(tmp_path, 85, small, 40)
    resumed, net = train(tmp_path, settings=small, every=40)
    assert resumed.start == 80
    assert resumed.curve == whole.curve
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in oracle.state_dict().items())


def test_half_a_run_of_other_code_or_data_is_set_aside_but_one_that_names_neither_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(**origin: str) -> int:
        history, net = loop.History(), network(18)
        training = loop.Training(net, "jamesbond", TINY, 5, Agent(net, TINY, torch.device("cpu"), False))
        loop.Checkpoint(tmp_path, origin).load(training, history)
        return history.start

    with pytest.raises(Killed):
        train(tmp_path, 25, code="a", data="b")
    assert start(code="a", data="b") == 20
    files = [tmp_path / name for name in ("checkpoint.pt", "frames.log")]
    whole = [path.read_bytes() for path in files]
    for origin in ({"code": "other", "data": "b"}, {"code": "a", "data": "other"}):
        capsys.readouterr()
        assert start(**origin) == 0
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "20 steps of other code or data; kept as checkpoint.pt." in said
        assert not any(path.exists() for path in files)
        assert start(code="a", data="b") == 20, "the run of that code and data goes on"
        assert [path.read_bytes() for path in files] == whole and len(list(tmp_path.iterdir())) == 2
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "origin"}, tmp_path / "checkpoint.pt")
    assert start(code="other", data="b") == 20
    assert capsys.readouterr().err == ""


def test_a_kill_while_half_a_run_is_set_aside_or_taken_up_again_loses_nothing(tmp_path: Path) -> None:
    def load(code: str) -> tuple[int, np.ndarray]:
        history, net = loop.History(), network(18)
        training = loop.Training(net, "jamesbond", TINY, 5, Agent(net, TINY, torch.device("cpu"), False))
        loop.Checkpoint(tmp_path, {"code": code}).load(training, history)
        return history.start, training.replay.frames[:20].copy()

    with pytest.raises(Killed):
        train(tmp_path, 25, code="a")
    _, frames = load("a")
    for name in ("checkpoint.pt", "frames.log"):
        load("b")
        (aside,) = tmp_path.glob(f"{name}.*.old")
        aside.replace(tmp_path / name)  # the process died before it moved the other one
        start, found = load("a")
        assert start == 20 and np.array_equal(found, frames)


def test_what_was_set_aside_outlasts_the_new_runs_checkpoints_and_goes_with_them(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, 25, code="a")
    with pytest.raises(Killed):
        train(tmp_path, 45, code="b")
    done = {path.suffix: torch.load(path, weights_only=True)["done"] for path in tmp_path.glob("checkpoint.pt*")}
    assert done == {".pt": 40, ".old": 20}
    (log,) = tmp_path.glob("frames.log.*.old")
    assert log.stat().st_size == 20 * 84 * 84
    with pytest.raises(Killed):
        train(tmp_path, 65, code="a")
    done = {path.suffix: torch.load(path, weights_only=True)["done"] for path in tmp_path.glob("checkpoint.pt*")}
    assert done == {".pt": 60, ".old": 40}, "forth and back, neither is lost"
    loop.Checkpoint(tmp_path).remove()
    assert not list(tmp_path.iterdir())


def test_the_frames_are_on_the_disk_before_the_state_that_counts_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fsync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Killed):
        train(tmp_path, 25)
    log, state = synced
    assert log == "frames.log" and "checkpoint.pt" in state


def test_a_state_holds_the_generator_of_the_agents_gpu_and_of_no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    net, asked = network(18), []
    training = loop.Training(net, "jamesbond", TINY, 5, Agent(net, TINY, torch.device("cpu"), False))
    training.step(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or torch.tensor([7]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append((state.tolist(), device)))
    training.restore(training.state())
    assert not asked, "a run on the CPU asks no GPU"
    training.agent.device = torch.device("cuda:1")
    training.restore(training.state())
    assert asked == [torch.device("cuda:1"), ([7], torch.device("cuda:1"))]


def test_a_run_names_its_code_rom_and_sources_to_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        seen.update(kwargs["origin"])  # type: ignore[call-overload]
        raise Killed

    seen: dict[str, object] = {}
    (spec,) = grid("atari", "alien", "atari-policies", "scratch", "smoke", 1)
    monkeypatch.setattr(runs, "train", stop)
    with pytest.raises(Killed):
        runs.run(spec, tmp_path)
    assert seen == {"code": runtime.code_fingerprint("atari"), "data": envs.data_sha256(spec)}


def test_a_checkpoint_of_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, 25)
    with pytest.raises(ZoolibError, match="delete it to start the run afresh") as caught:
        loop.train(network(8), "gopher", TINY, 5, torch.device("cpu"), folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_one_line_without_torchs_advice(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, 25)
    file, log = tmp_path / "checkpoint.pt", tmp_path / "frames.log"
    whole, frames = file.read_bytes(), log.read_bytes()
    damaged = "damaged checkpoint; delete it to start the run afresh"
    for state, logged, words in (
        (b"", frames, damaged),
        (b"junk", frames, damaged),
        (whole[: len(whole) // 2], frames, damaged),
        (whole, frames[:-1], "frames.log beside it is missing or cut short.*delete it to start"),
        (whole, None, "frames.log beside it is missing or cut short.*delete it to start"),
    ):
        file.write_bytes(state)
        log.unlink(missing_ok=True)
        if logged is not None:
            log.write_bytes(logged)
        with pytest.raises(ZoolibError, match=words) as caught:
            train(tmp_path)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    log.write_bytes(frames)
    assert train(tmp_path)[0].start == 20


def test_evaluation_leaves_training_as_it_was() -> None:
    net, support = network(18).train(), torch.linspace(-10, 10, 51)
    before = torch.get_rng_state()
    one = loop.evaluate(net, support, "alien", TINY, [0, 1])
    assert torch.equal(before, torch.get_rng_state())
    assert net.training
    assert one == loop.evaluate(net, support, "alien", TINY, [0, 1])
    assert len(one) == 2


# The loop's rules, on a game whose rewards are written down -----------------------------------------------------------

REWARDS = (3.0, -2.0, 0.5, 0.0)
GAME = 25  # steps


class Scripted:
    """A game of 25 steps with the same rewards over and over; every other one is cut, and a life is lost at step 10.

    `made` lists what the games were asked for, and what was done in them.
    """

    num_actions = 3
    made: list[Scripted]

    def __init__(
        self, game: str, seed: int, max_noops: int = 30, max_frames: int = 108_000, life_ends: bool = False
    ) -> None:
        self.stack, self.steps, self.score = np.zeros((4, 84, 84), np.uint8), 0, 0.0
        self.asked, self.life_ends, self.over = (game, max_noops, max_frames), life_ends, True
        self.actions: list[int] = []
        self.made.append(self)

    def reset(self) -> np.ndarray:
        self.score = 0.0 if self.over else self.score
        return self.stack

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        self.actions.append(action)
        reward = REWARDS[self.steps % len(REWARDS)]
        self.steps, self.score = self.steps + 1, self.score + reward
        self.over = self.steps % GAME == 0
        terminal = self.steps % (2 * GAME) == GAME or (self.life_ends and self.steps == 10)
        return self.stack, reward, terminal, self.over


class Watched:
    """An agent that learns nothing and counts what it is told to do; its network notes in which mode it is asked."""

    device, compiled = torch.device("cpu"), False

    def __init__(self, network: torch.nn.Module, *args: object) -> None:
        self.online, self.support = network, torch.linspace(-10, 10, 51)
        self.learned: list[float] = []
        self.losses: list[tuple[list[int], list[float]]] = []  # of which places, and what they were
        self.copied: list[int] = []

    def act(self, observation: np.ndarray) -> int:
        return 1

    def learn(self, batch: Batch, progress: float) -> np.ndarray:
        self.learned.append(progress)
        losses = 1.0 + np.arange(len(batch.reward)) + len(self.learned)
        self.losses.append((batch.place.tolist(), losses.tolist()))
        return losses

    def update_target(self) -> None:
        self.copied.append(len(self.learned))


class Asked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.modes.append(self.training)
        return torch.zeros(len(x), 3, 51).log_softmax(-1), {}


class Loop:
    """The loop on a scripted game: what the replay was given, asked and told."""

    settings = dataclasses.replace(TINY, steps=60, replay_start=40, target_every=7, eval_every=60, max_noops=9)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.network, agents, Scripted.made = Asked(), [], []
        self.stored: list[tuple[float, bool, bool, bool]] = []  # reward, terminal, first, cut
        self.betas: list[float] = []
        self.updated: list[tuple[list[int], list[float]]] = []
        append, sample, update = loop.Replay.append, loop.Replay.sample, loop.Replay.update

        def appended(replay: loop.Replay, *row: object) -> None:
            self.stored.append(row[2:])  # type: ignore[arg-type]
            append(replay, *row)  # type: ignore[arg-type]

        def sampled(replay: loop.Replay, size: int, beta: float) -> Batch:
            self.betas.append(beta)
            return sample(replay, size, beta)

        def updated(replay: loop.Replay, index: np.ndarray, loss: np.ndarray) -> None:
            self.updated.append((index.tolist(), loss.tolist()))
            update(replay, index, loss)

        monkeypatch.setattr(loop, "Atari", Scripted)
        monkeypatch.setattr(loop, "Agent", lambda *args: agents.append(Watched(*args)) or agents[-1])
        for name, watched in (("append", appended), ("sample", sampled), ("update", updated)):
            monkeypatch.setattr(loop.Replay, name, watched)
        device = torch.device("cpu")
        self.history = loop.train(self.network, "scripted", self.settings, 0, device)  # type: ignore[arg-type]
        (self.agent,) = agents


def test_the_loop_clips_rewards_waits_to_learn_corrects_fully_at_the_end_and_evaluates_without_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Loop(monkeypatch)
    agent, network, curve = seen.agent, seen.network, seen.history.curve
    assert [row[0] for row in seen.stored] == [max(-1.0, min(1.0, REWARDS[step % 4])) for step in range(60)]
    assert len(agent.learned) == 21, "from step 40 to step 60"
    first = seen.settings.priority_beta
    assert seen.betas == pytest.approx([first + (1 - first) * index / 20 for index in range(21)])
    assert agent.copied == [3, 10, 17], "at steps 42, 49 and 56"
    assert network.modes and not any(network.modes) and network.training
    raw = [sum(REWARDS[step % 4] for step in range(start, start + GAME)) for start in (0, 25)]
    assert [row[3] for row in curve if row[1:3] == ("train", "score")] == raw
    assert [row[3] for row in curve if row[1:3] == ("eval", "score")] == [raw[0]] * 2


def test_every_learning_step_gives_what_it_drew_new_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Loop(monkeypatch)
    assert len(seen.updated) == 21
    assert seen.updated == seen.agent.losses


def test_the_replay_is_told_of_lost_lives_ends_and_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Loop(monkeypatch).stored
    steps = {
        name: [i for i, row in enumerate(stored, 1) if row[column]] for column, name in enumerate("rtfc") if column
    }
    assert steps == {"t": [10, 25], "f": [1, 11, 26, 51], "c": [50]}, "terminal, first, cut"


def test_lives_end_episodes_in_training_alone_and_all_games_have_the_settings_noops_and_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Loop(monkeypatch)
    assert [game.life_ends for game in Scripted.made] == [True, False, False]
    assert {game.asked for game in Scripted.made} == {("scripted", 9, TINY.max_frames)}


def test_evaluation_takes_a_share_epsilon_of_random_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Atari", Scripted)
    shares = []
    for epsilon in (0.0, 0.3, 1.0):
        Scripted.made = []
        settings = dataclasses.replace(TINY, eval_episodes=80, eval_epsilon=epsilon)
        loop.evaluate(Asked(), torch.linspace(-10, 10, 51), "scripted", settings, [0])  # type: ignore[arg-type]
        actions = [action for game in Scripted.made for action in game.actions]
        assert len(actions) == 80 * GAME
        shares.append(float(np.mean([action != 0 for action in actions])))  # the greedy action is 0
    assert shares == pytest.approx([0.0, 0.3 * 2 / 3, 2 / 3], abs=0.04)


def test_the_loops_parts_get_data_efficient_rainbows_hyper_parameters() -> None:
    given = ControlSettings()
    assert dataclasses.asdict(given) == {
        "steps": 100_000, "replay_start": 1600, "n_step": 20, "discount": 0.99, "batch_size": 32, "target_every": 2000,
        "capacity": 100_000, "priority_exponent": 0.5, "priority_beta": 0.4, "lr": 1e-4, "adam_eps": 1.5e-4,
        "clip_norm": 10.0, "atoms": 51, "value_min": -10.0, "value_max": 10.0, "noisy_sigma": 0.1, "hidden": 256,
        "max_noops": 30, "max_frames": 108_000, "eval_every": 10_000, "eval_episodes": 10, "eval_epsilon": 0.001,
        "compile": "auto",
    }  # fmt: skip
    assert games.PROFILES["lab"] == games.PROFILES["paper"] == (5, given)
    (spec,) = grid("atari", "jamesbond", games.HUB, "scratch", "lab", [0])
    net, _ = runs.build(spec, given)
    training = loop.Training(net, "jamesbond", given, 0, Agent(net, given, torch.device("cpu"), False))
    replay, (group,) = training.replay, training.agent.optimiser.param_groups
    assert (replay.capacity, replay.n_step, replay.discount, replay.exponent) == (100_000, 20, 0.99, 0.5)
    assert (group["lr"], group["eps"], group["betas"]) == (1e-4, 1.5e-4, (0.9, 0.999))
    assert training.agent.support[[0, -1]].tolist() == [-10, 10]
    assert (len(training.agent.support), net.head.atoms) == (51, 51)
    assert net.head.value_hidden.weight.shape == (256, 576)
    assert net.head.value.weight_sigma.unique().tolist() == pytest.approx([0.1 / 256**0.5])
    assert (training.env.max_noops, training.env.max_frames) == (30, 108_000)
