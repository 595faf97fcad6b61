"""Atari transfer: the games, the methods in the encoder slot, the scale of each profile. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from zoolib.methods import MethodCard
from zoolib.spec import ControlSettings, unknown

TASK = "atari"
HUB = "atari-policies"
SOURCES = ("seaquest", "riverraid")  # the order of gates and pathway weights everywhere
TARGETS = ("alien", "gopher", "jamesbond")


@dataclass(frozen=True)
class Game:
    """A game and the two scores that normalise every other (Mnih et al. 2015; Wang et al. 2016)."""

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
        ControlSettings(steps=2_000, replay_start=400, eval_every=1_000, eval_episodes=3, max_frames=4_000),
    ),
    "lab": (1, ControlSettings()),
    "paper": (5, ControlSettings()),
}


def game(name: str) -> Game:
    """The game of that name. Raises ZoolibError for an unknown one."""
    if name not in GAMES:
        raise unknown("game", name, GAMES)
    return GAMES[name]


METHODS: dict[str, MethodCard] = {
    card.name: card
    for card in (
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
