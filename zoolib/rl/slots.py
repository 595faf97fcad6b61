"""Methods for Atari games: each builds the encoder that fills the slot of the agent's network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoolib.rl.encoders import Convolutions, Encoder, Plain


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
