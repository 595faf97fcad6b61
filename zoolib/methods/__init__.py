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
    weights: bool = False  # it starts from the weights of those runs, not from their logits alone
    trains: bool = True  # False: it computes its predictions from those of the runs it needs
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    tasks: tuple[str, ...] = ("cls",)  # that it is defined for
    task_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # task -> changed options

    def load(self) -> Callable[..., Any]:
        """Import the recipe function."""
        module, function = self.recipe.split(":")
        recipe: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return recipe


_ZOO = "Zoo-Tuning (ICML 2021)"
_HUB = "Hub-Pathway (NeurIPS 2022)"
_BOTH = ("cls", "landmarks")
_GENERATOR = {"generator_width": 64, "generator_size": 224}  # the paper's; profiles have smaller ones

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
            tasks=_BOTH,
        ),
        MethodCard(
            "finetune",
            "Fine-tuning",
            "zoolib.methods.single:finetune",
            "every weight of one pretrained member, under a new head",
            "baseline of both papers",
            per_member=True,
            tasks=_BOTH,
        ),
        MethodCard(
            "ensemble",
            "Ensemble",
            "zoolib.methods.committee:ensemble",
            "the independently fine-tuned members; their probabilities, or heatmaps, are averaged",
            _HUB + ", table 1",
            needs="finetune",
            options={"combine": "probabilities"},
            trains=False,
            task_options={"landmarks": {"combine": "heatmaps"}},
            tasks=_BOTH,
        ),
        MethodCard(
            "best_single",
            "Best single",
            "zoolib.methods.committee:best_single",
            "the fine-tuned member that validates best",
            _HUB + ", table 5",
            needs="finetune",
            trains=False,
        ),
        MethodCard(
            "ensemble_top_k",
            "Ensemble of the top k",
            "zoolib.methods.committee:ensemble_top_k",
            "the k fine-tuned members that validate best, combined; the same k for every image",
            _HUB + ", table 5",
            needs="finetune",
            options={"combine": "probabilities", "top_k": 2},
            trains=False,
        ),
        MethodCard(
            "oracle",
            "Oracle",
            "zoolib.methods.committee:oracle",
            "for each image the fine-tuned member that does best on it, chosen with its label: a bound, not a method",
            _HUB + ", table 5",
            needs="finetune",
            trains=False,
        ),
        MethodCard(
            "ensemble_joint",
            "Joint ensemble",
            "zoolib.methods.committee:ensemble_joint",
            "all members trained at once on the loss of their mean probability",
            _HUB + ", supplement, table 1",
        ),
        MethodCard(
            "distill",
            "Distillation",
            "zoolib.methods.distill:distill",
            "the ensemble of the fine-tuned members distilled into one network",
            "Hinton et al. 2015; baseline of both papers",
            needs="finetune",
            weights=True,
            options={"temperature": 4.0, "soft_weight": 0.5},
            tasks=_BOTH,
        ),
        MethodCard(
            "knowledge_flow",
            "Knowledge Flow",
            "zoolib.methods.flow:knowledge_flow",
            "a student whose stages lean on those of all members, and learn to do without",
            "Liu, Peng and Schwing, ICLR 2019; baseline of both papers",
            homogeneous=True,
            options={"dependency_weight": 1.0},
            tasks=_BOTH,
        ),
        MethodCard(
            "model_soups",
            "Model Soups",
            "zoolib.methods.soup:model_soups",
            "the mean of the weights of several fine-tunings of one member",
            "Wortsman et al., ICML 2022; baseline of Hub-Pathway",
            homogeneous=True,
            needs="finetune",
            weights=True,
            options={"soup": "greedy"},
        ),
        MethodCard(
            "zoo_tuning",
            "Zoo-Tuning",
            "zoolib.methods.zoo:zoo_tuning",
            "every convolution is a gated sum of the members' aligned kernels, one gate a sample and layer",
            _ZOO,
            homogeneous=True,
            options={"alignment": "authors"},
            tasks=_BOTH,
        ),
        MethodCard(
            "lite_zoo_tuning",
            "Lite Zoo-Tuning",
            "zoolib.methods.zoo:lite_zoo_tuning",
            "Zoo-Tuning with one gate for the whole batch, so that a single fixed kernel remains",
            _ZOO,
            homogeneous=True,
            options={"alignment": "authors", "gate_momentum": 0.1},
            tasks=_BOTH,
        ),
        MethodCard(
            "hub_pathway",
            "Hub-Pathway",
            "zoolib.methods.hubpathway:hub_pathway",
            "a generator routes each image through the k members it weighs highest; an aggregator joins their logits",
            _HUB,
            options={"top_k": 2, "explore_weight": 0.3, **_GENERATOR},
            tasks=_BOTH,
        ),
        MethodCard(
            "hub_pathway_random_path",
            "Hub-Pathway with random paths",
            "zoolib.methods.hubpathway:random_path",
            "random weights in the place of the generator's",
            _HUB + ", table 4",
            options={"top_k": 2},
        ),
        MethodCard(
            "hub_pathway_no_explore",
            "Hub-Pathway without explore",
            "zoolib.methods.hubpathway:no_explore",
            "without the exploration loss, which is λ = 0",
            _HUB + ", table 4",
            options={"top_k": 2, **_GENERATOR},
        ),
        MethodCard(
            "hub_pathway_no_exploit",
            "Hub-Pathway without exploit",
            "zoolib.methods.hubpathway:no_exploit",
            "without the loss of each activated member on its own",
            _HUB + ", table 4",
            options={"top_k": 2, "explore_weight": 0.3, **_GENERATOR},
        ),
        MethodCard(
            "hub_pathway_task_level",
            "Hub-Pathway with one path for all",
            "zoolib.methods.hubpathway:task_level",
            "one learned set of weights for the whole task in the place of the generator's",
            _HUB + ", section 4.4, in its own terms",
            options={"top_k": 2, "explore_weight": 0.3},
        ),
        MethodCard(
            "fe",
            "FE",
            "zoolib.methods.features:fe",
            "a linear classifier on the concatenated features of the pretrained members, which stay as they are",
            "Zoo-Tuning, supplement, table 1",
        ),
        MethodCard(
            "fe_finetuned",
            "FE + fine-tuned",
            "zoolib.methods.features:fe_finetuned",
            "the same on the features of the fine-tuned members",
            "Zoo-Tuning, supplement, table 1",
            needs="finetune",
            weights=True,
        ),
        MethodCard(
            "ced",
            "CED",
            "zoolib.methods.features:ced",
            "the members' features distilled into one backbone with a head for each; a classifier reads all heads",
            "Zoo-Tuning, supplement, table 1",
            options={"feature_weight": 1.0},
        ),
        MethodCard(
            "ced_finetuned",
            "CED + fine-tuned",
            "zoolib.methods.features:ced_finetuned",
            "the same with the features of the fine-tuned members",
            "Zoo-Tuning, supplement, table 1",
            needs="finetune",
            weights=True,
            options={"feature_weight": 1.0},
        ),
        *_TUNING,
    )
}


def _family(name: str) -> tuple[str, ...]:
    return tuple(card.name for card in METHODS.values() if card.family == name)


#: methods that are asked for together: "all" is every way to use a hub, the others are named for what they fill
SETS: dict[str, tuple[str, ...]] = {
    "all": _family("hub"),
    "regularised": ("finetune", *_family("regularised")),
    "teachers": _family("teachers"),
    "core": ("scratch", "finetune", "ensemble", "zoo_tuning", "lite_zoo_tuning", "hub_pathway"),
    "table1": (
        "finetune",
        "ensemble",
        "distill",
        "knowledge_flow",
        "model_soups",
        "lite_zoo_tuning",
        "zoo_tuning",
        "hub_pathway",
    ),
    "table2": ("finetune", "ensemble", "distill", "hub_pathway"),
    "table3": ("scratch", "finetune", "ensemble", "distill", "knowledge_flow", "zoo_tuning", "hub_pathway"),
    "table4": ("hub_pathway_random_path", "hub_pathway_no_explore", "hub_pathway_no_exploit", "hub_pathway"),
    "table5": ("best_single", "ensemble_top_k", "hub_pathway", "oracle"),
    "features": ("ced", "ced_finetuned", "fe", "fe_finetuned", "zoo_tuning"),
}


def method(name: str) -> MethodCard:
    """The card of that method. Raises ZoolibError for an unknown one."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
