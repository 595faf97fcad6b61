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
    family: str = "hub"  # "hub": a way to use a hub, part of "all"; other families are named by themselves
    source_head: bool = False  # needs the classifier that a member was pre-trained with
    deterministic: bool = False  # one run serves all seeds
    needs: str = ""  # the method whose runs (every member, same seed) must exist first
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def load(self) -> Callable[..., Any]:
        """Import the recipe function."""
        module, function = self.recipe.split(":")
        recipe: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return recipe


_ZOO = "Zoo-Tuning (ICML 2021)"
_HUB = "Hub-Pathway (NeurIPS 2022)"

_SLIDES = "Transferability in Deep Learning (slides)"


def _tuning(name: str, title: str, summary: str, paper: str, head: bool = False, **options: Any) -> MethodCard:
    """The card of a regularised fine-tuning of one member."""
    recipe = f"zoolib.methods.regularized:{name}"
    return MethodCard(
        name, title, recipe, summary, paper, per_member=True, family="regularised", source_head=head, options=options
    )


_TUNING = (
    _tuning("l2_sp", "L2-SP", "fine-tuning that pulls every weight back to where it started", "Li et al., ICML 2018",
            backbone_weight=0.01, head_weight=0.01),
    _tuning("ewc", "EWC", "L2-SP with each weight's pull in proportion to its Fisher information",
            "Kirkpatrick et al., PNAS 2017", head=True, backbone_weight=0.01, fisher_images=128),
    _tuning("delta", "DELTA", "keeps the feature maps that matter for the target close to the pretrained ones",
            "Li et al., ICLR 2019", backbone_weight=0.01, head_weight=0.01, attention_images=16),
    _tuning("lwf", "LwF", "the source head goes on to answer as the pretrained network does on the target images",
            "Li and Hoiem, ECCV 2016", head=True, trade_off=4.0, temperature=3.0),
    _tuning("bss", "BSS", "shrinks the smallest singular values of each batch of features", "Chen et al., NeurIPS 2019",
            trade_off=0.001, smallest=1),
    _tuning("co_tuning", "Co-Tuning", "the source head learns to answer with the source classes of each target class",
            "You et al., NeurIPS 2020", head=True, trade_off=2.3),
    _tuning("bi_tuning", "Bi-Tuning", "two contrastive losses: of classifier against features, and between projections",
            "Zhong et al., 2020", trade_off=1.0, queue=40, momentum=0.999, temperature=0.07, projection=128),
    MethodCard("b_tuning", "B-Tuning", "zoolib.methods.btuning:b_tuning",
               "one member learns to predict what the teachers' Bayesian linear models do, weighted by their LogME",
               _SLIDES + "; You et al., JMLR 2022", per_member=True, family="teachers",
               options={"teachers": "3", "trade_off": 100.0, "temperature": 0.1}),
    MethodCard("feature_distillation", "Feature distillation", "zoolib.methods.btuning:feature_distillation",
               "one member also learns to predict each teacher's features by a linear map, all teachers alike",
               _SLIDES, per_member=True, family="teachers", options={"teachers": "3", "trade_off": 1.0}),
    MethodCard("rank", "Transferability scores", "zoolib.methods.ranking:rank",
               "no training: LogME and its rivals from the features of each frozen member",
               "You et al., ICML 2021 and JMLR 2022", per_member=True, family="ranking", deterministic=True,
               options={"neighbours": 5, "probe_images": 10_000}),
)  # fmt: skip

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
        *_TUNING,
    )
}

#: methods that are asked for together; "all" is every way to use a hub
SETS: dict[str, tuple[str, ...]] = {
    "all": tuple(name for name, card in METHODS.items() if card.family == "hub"),
    "regularised": ("finetune", *(name for name, card in METHODS.items() if card.family == "regularised")),
    "teachers": tuple(name for name, card in METHODS.items() if card.family == "teachers"),
}


def method(name: str) -> MethodCard:
    """The card of that method. Raises ZoolibError for an unknown one."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
