"""Methods for Atari games: each builds the encoder that fills the slot of the agent's network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoolib.deviations import EXPLOIT, dependency, top_k
from zoolib.games import SOURCES
from zoolib.rl.encoders import Aggregated, Convolutions, Encoder, KnowledgeFlow, Pathways, Plain


@dataclass
class Slot:
    """What a method puts into the network, and how it departs from its paper."""

    encoder: Encoder
    deviations: list[str] = field(default_factory=list)


Source = Callable[[str], Convolutions]  # the convolutions of a source policy by its game


def scratch(source: Source, member: str, options: Mapping[str, Any]) -> Slot:
    """Random weights."""
    return Slot(Plain())


def finetune(source: Source, member: str, options: Mapping[str, Any]) -> Slot:
    """The convolutions of one source."""
    return Slot(Plain(source(member)))


def knowledge_flow(source: Source, member: str, options: Mapping[str, Any]) -> Slot:
    """A new network beside the frozen sources."""
    deviations = [
        "each layer of the student looks at the same layer of the sources only; the paper lets it choose among several",
        "the penalty on leaving the last policy is left out: the paper's learner is on-policy, this one is not",
        "evaluation keeps the mixture that training has reached (its shares are recorded); the paper drops the sources",
        dependency(options["dependency_weight"]),
    ]
    return Slot(KnowledgeFlow([source(name) for name in SOURCES], SOURCES, options["dependency_weight"]), deviations)


def zoo_tuning(source: Source, member: str, options: Mapping[str, Any]) -> Slot:
    """Both convolutions aggregated over the sources."""
    deviations = [
        "a hidden unit of the first convolution's gate whose weights sum below zero as drawn has its sign flipped: the "
        "gate has two such units without a bias and sees four nearly equal greys, so that for some seeds both would be "
        "zero on almost every frame and the gate would not depend on the observation",
    ]
    return Slot(Aggregated([source(name) for name in SOURCES], SOURCES, options["alignment"]), deviations)


def hub_pathway(source: Source, member: str, options: Mapping[str, Any]) -> Slot:
    """Routes through the sources' convolutions."""
    deviations = [
        "the paper gives no generator or aggregator for control: here a generator of two small convolutions, and a 1x1 "
        "convolution that starts as the sum of the weighted feature maps",
        EXPLOIT,
    ]
    if options["top_k"] != 2:
        deviations.append(top_k(options["top_k"]))
    encoders = [source(name) for name in SOURCES]
    return Slot(Pathways(encoders, SOURCES, **dict(options)), deviations)
