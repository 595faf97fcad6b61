"""The one table of transfer methods. Importing it imports no method, so planning and listing need no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from zoolib.spec import unknown


@dataclass(frozen=True)
class MethodCard:
    """What a reader and the workflow need to know of a method before it is imported."""

    name: str
    title: str
    recipe: str  # "module:function", a plain function from a Context to an Outcome
    summary: str
    paper: str
    homogeneous: bool = False  # needs hub members of one architecture
    per_member: bool = False  # one run for each member of the hub
    needs: str = ""  # the method whose runs (every member, same seed) must exist first
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def load(self) -> Callable[..., Any]:
        """Import the recipe function."""
        module, function = self.recipe.split(":")
        recipe: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return recipe


_ZOO = "Zoo-Tuning (ICML 2021)"
_HUB = "Hub-Pathway (NeurIPS 2022)"

METHODS: dict[str, MethodCard] = {
    card.name: card
    for card in (
        MethodCard(
            "scratch",
            "From scratch",
            "zoolib.methods.single:scratch",
            "the first member's architecture with random weights: what transfer has to beat",
            "baseline of both papers",
        ),
        MethodCard(
            "finetune",
            "Fine-tuning",
            "zoolib.methods.single:finetune",
            "every weight of one pretrained member, under a new head",
            "baseline of both papers",
            per_member=True,
        ),
        MethodCard(
            "ensemble",
            "Ensemble",
            "zoolib.methods.committee:ensemble",
            "the independently fine-tuned members; their probabilities are averaged",
            _HUB + ", table 1",
            needs="finetune",
            options={"combine": "probabilities"},
        ),
        MethodCard(
            "zoo_tuning",
            "Zoo-Tuning",
            "zoolib.methods.zoo:zoo_tuning",
            "every convolution is a gated sum of the members' aligned kernels, one gate a sample and layer",
            _ZOO,
            homogeneous=True,
            options={"alignment": "authors"},
        ),
        MethodCard(
            "lite_zoo_tuning",
            "Lite Zoo-Tuning",
            "zoolib.methods.zoo:lite_zoo_tuning",
            "Zoo-Tuning with one gate for the whole batch, so that a single fixed kernel remains",
            _ZOO,
            homogeneous=True,
            options={"alignment": "authors", "gate_momentum": 0.1},
        ),
        MethodCard(
            "hub_pathway",
            "Hub-Pathway",
            "zoolib.methods.hubpathway:hub_pathway",
            "a generator routes each image through the k members it weighs highest; an aggregator joins their logits",
            _HUB,
            options={"top_k": 2, "explore_weight": 0.3, "generator_width": 64, "generator_size": 224},
        ),
    )
}


def method(name: str) -> MethodCard:
    """The card of that method. Raises ZoolibError for an unknown one."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
