"""Atari transfer: the games, the methods in the encoder slot, the scale of each profile. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from zoolib.methods import MethodCard
from zoolib.paths import packaged_weights
from zoolib.spec import ControlSettings, RunSpec, ZoolibError, unknown

TASK = "atari"
HUB = "atari-policies"
POLICY = "policy.safetensors"  # the final network, in the run's work folder
SOURCES = ("seaquest", "riverraid")  # the order of gates and pathway weights everywhere
TARGETS = ("alien", "gopher", "jamesbond")


@dataclass(frozen=True)
class Game:
    """A game and the two scores that normalise every other (random: Mnih et al. 2015; human: Wang et al. 2016)."""

    name: str
    title: str
    random: float
    human: float

    def human_normalised(self, score: float) -> float:
        """0 for the published random player, 1 for the human tester."""
        return (score - self.random) / (self.human - self.random)


GAMES = {
    game.name: game
    for game in (
        Game("alien", "Alien", 227.8, 7127.7),
        Game("gopher", "Gopher", 257.6, 2412.5),
        Game("jamesbond", "James Bond", 29.0, 302.8),
        Game("riverraid", "River Raid", 1338.5, 17118.0),
        Game("seaquest", "Seaquest", 68.4, 42054.7),
    )
}

#: profile -> seeds and settings
PROFILES: dict[str, tuple[int, ControlSettings]] = {
    "smoke": (
        1,
        ControlSettings(
            steps=60, replay_start=40, batch_size=8, hidden=16, max_frames=240, eval_every=60, eval_episodes=1
        ),
    ),
    "mini": (
        1,
        ControlSettings(steps=600, replay_start=300, eval_every=300, eval_episodes=2, max_frames=4_000),
    ),
    "lab": (5, ControlSettings()),
    "paper": (5, ControlSettings()),
}


def title(method: str, member: str = "") -> str:
    """How tables and figures call a method, or the fine-tuning of one source."""
    return METHODS[method].title + (f", {GAMES[member].title}" if member else "")


def game(name: str) -> Game:
    """The game of that name. Raises ZoolibError for an unknown one."""
    if name not in GAMES:
        raise unknown("game", name, GAMES)
    return GAMES[name]


METHODS: dict[str, MethodCard] = {
    card.name: card
    for card in (
        MethodCard(
            "random",
            "Random play",
            "",
            "uniformly random actions: what learning has to beat",
            "yardstick of the benchmark",
        ),
        MethodCard(
            "scratch",
            "From scratch",
            "zoolib.rl.slots:scratch",
            "Data-Efficient Rainbow with random weights",
            "baseline of both papers",
        ),
        MethodCard(
            "finetune",
            "Fine-tuning",
            "zoolib.rl.slots:finetune",
            "the convolutions of one source policy under new noisy layers",
            "baseline of both papers",
            per_member=True,
        ),
        MethodCard(
            "knowledge_flow",
            "Knowledge Flow",
            "zoolib.rl.slots:knowledge_flow",
            "a new network that mixes the frozen sources' layers into its own, and is weaned from them",
            "Liu, Peng and Schwing (ICLR 2019); baseline of both papers",
            options={"dependency_weight": 0.1},
        ),
        MethodCard(
            "zoo_tuning",
            "Zoo-Tuning",
            "zoolib.rl.slots:zoo_tuning",
            "both convolutions are gated sums of the sources' aligned kernels, one gate an observation and layer",
            "Zoo-Tuning (ICML 2021)",
            homogeneous=True,
            options={"alignment": "all"},
        ),
        MethodCard(
            "hub_pathway",
            "Hub-Pathway",
            "zoolib.rl.slots:hub_pathway",
            "a generator routes each observation through the k source encoders it weighs highest",
            "Hub-Pathway (NeurIPS 2022)",
            options={"top_k": 1, "explore_weight": 0.3, "generator_width": 8},
        ),
    )
}


def method(name: str) -> MethodCard:
    """The card of that method for control. Raises ZoolibError for an unknown one."""
    if name not in METHODS:
        raise unknown("method for Atari games", name, METHODS)
    return METHODS[name]


def source_packaged() -> bool:
    """Whether the source policies lie in the package, which every method but `scratch` needs."""
    return all(packaged_weights(f"atari/{name}.safetensors").is_file() for name in SOURCES)


def possible(methods: str) -> str:
    """Those of the named methods that need no source, where the source policies are not packaged; else all."""
    if source_packaged():
        return methods
    names = [card.name for card in _chosen(methods) if card.name in ("random", "scratch")]
    return ",".join(names)


def _chosen(methods: str | Iterable[str]) -> list[MethodCard]:
    names = [part.strip() for part in methods.split(",")] if isinstance(methods, str) else list(methods)
    if names == ["all"]:
        return list(METHODS.values())
    cards = [method(name) for name in dict.fromkeys(name for name in names if name)]
    if not cards:
        raise ZoolibError("no method was named; use 'all' or some of: " + ", ".join(METHODS))
    return cards


def grid(
    name: str,
    methods: str | Iterable[str],
    profile: str,
    seeds: Iterable[int],
    options: Mapping[str, Any] | None = None,
    members: Iterable[str] = (),
) -> list[RunSpec]:
    """Every run of (game, methods, profile, seeds), seed by seed; of one run a source, those of `members` if any.

    Raises ZoolibError for an unknown game, method, profile, option or member.
    """
    options, only = options or {}, list(members)
    for member in only:
        if member not in SOURCES:
            raise unknown(f"member of hub {HUB!r}", member, SOURCES)
    known = {option for card in METHODS.values() for option in card.options}
    for option in options:
        if option not in known:
            raise unknown("method option", option, known)
    settings, specs = PROFILES[profile][1], []
    for seed in seeds:
        for card in _chosen(methods):
            changed = {k: v for k, v in options.items() if k in card.options}
            values = tuple(sorted({**card.options, **changed}.items()))
            for member in (only or SOURCES) if card.per_member else ("",):
                specs.append(RunSpec(TASK, game(name).name, HUB, card.name, member, seed, profile, settings, values))
    return specs
