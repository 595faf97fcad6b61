"""Which runs the book and its studies are made of: what `make book` computes and what `make reproduce` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import combinations
from typing import Any, NamedTuple

from zoolib import games, rates, tradeoffs
from zoolib.data import manifests
from zoolib.grid import allowed, choose_methods, grid, needed, usual_options
from zoolib.methods import method
from zoolib.profiles import profile
from zoolib.spec import RunSpec, unknown


class Plan(NamedTuple):
    """Runs that are computed together: a grid, by its arguments."""

    dataset: str
    hub: str
    methods: str
    seeds: int = 0  # 0: the profile's
    options: tuple[tuple[str, Any], ...] = ()


#: the hub of the landmark pages
LANDMARK_HUB = "mini-zoo"

#: what `make book` computes afresh in each profile, with a page of its own for each dataset and hub
CORE: dict[str, tuple[tuple[Any, ...], ...]] = {
    "smoke": (("digits", "imagenet-lite", "core"), ("digits", "digits-zoo", "core")),
    "mini": (
        Plan("digits", "imagenet-lite", "core", 1),  # one seed: the others are committed
        ("digits", "digits-zoo", "core"),
        Plan("tiles", "mini-zoo", "core", 1),
        Plan("faces-rendered", LANDMARK_HUB, "scratch,finetune,ensemble,zoo_tuning,hub_pathway", 1),
    ),
    "lab": (),
    "paper": (),
}

#: the hubs that this project pre-trains, and their targets: those of `mini` need no file
PACKAGED = ("mini-zoo", "mini-hub")
TARGETS = ("digits", "textures", "shapes", "gliders", "tiles")
LAB_TARGETS = ("cifar100-novel", *TARGETS[1:])

#: the values at which the analyses try k and lambda; Hub-Pathway's own are among them
EXPLORE_WEIGHTS = (0.0, 0.1, 0.3, 1.0)  # 0 is the method hub_pathway_no_explore


def sweep(dataset: str, hub: str, seeds: int = 0) -> tuple[Plan, ...]:
    """Hub-Pathway with k = 1, ..., m models, and with each lambda."""
    counts = range(1, len(manifests.hub(hub).members) + 1)
    by_k = [Plan(dataset, hub, "hub_pathway", seeds, (("top_k", k),)) for k in counts]
    by_lambda = [Plan(dataset, hub, "hub_pathway", seeds, (("explore_weight", w),)) for w in EXPLORE_WEIGHTS if w]
    return (*by_k, *by_lambda, Plan(dataset, hub, "hub_pathway_no_explore", seeds))


def published(dataset: str, hub: str, ablation: bool = False, features: bool = False) -> tuple[Plan, ...]:
    """The runs behind the papers' tables on one dataset: 1 or 2 by kind of hub, 5, and 4 with its figures if asked."""
    sets = ["table1" if manifests.hub(hub).homogeneous else "table2", "table5"]
    sets += ["table4"] * ablation + ["features"] * features
    return (*(Plan(dataset, hub, name) for name in sets), *(sweep(dataset, hub) if ablation else ()))


# Where the ablation with its figures and the feature baselines are computed too: two targets of the homogeneous zoo.
_EXTRAS = {("tiles", "mini-zoo"): (True, True), ("textures", "mini-zoo"): (True, True)}

#: what the book computes besides, on its smallest hub and with one seed: every other method, and other k
ANALYSES: dict[str, tuple[Plan, ...]] = {
    name: (
        Plan("digits", "digits-zoo", "all", 1),
        *(Plan("digits", "digits-zoo", "hub_pathway", 1, (("top_k", k),)) for k in (1, 3)),
    )
    for name in ("smoke", "mini")
}

#: hubs whose costs are measured, by what is planned and profile
COSTS: dict[str, dict[str, tuple[str, ...]]] = {
    "core": {},
    "all": {"mini": ("digits-zoo", "imagenet-lite", *PACKAGED), "paper": ("resnet50-random",)},
}

#: what the cost tables measure: one network, all at once, and the ways between (no data, no training)
COST_METHODS = "finetune,ensemble_joint,distill,knowledge_flow,lite_zoo_tuning,zoo_tuning,hub_pathway"


def costs(hub: str, profile_name: str, dataset: str = "cifar100") -> list[RunSpec]:
    """The measurements of one hub's costs: the methods that fit it, with one member for all where there is one each.

    The dataset lends its number of classes; no image of it is read.
    """
    models = manifests.hub(hub)
    cards = [method(name) for name in COST_METHODS.split(",") if allowed(method(name), models)]
    specs = grid("cost", dataset, hub, [card.name for card in cards], profile_name, 1)
    return [spec for spec in specs if spec.member in ("", models.members[0].name)]


#: Zoo-Tuning on the papers' architecture: a few steps from random weights show that it runs and what it costs
RESNET50 = ("digits", "resnet50-random", "scratch,zoo_tuning,lite_zoo_tuning")

#: every record of a profile, for `make reproduce`
ALL: dict[str, tuple[tuple[Any, ...], ...]] = {
    "smoke": (*CORE["smoke"], *ANALYSES["smoke"], RESNET50),
    "mini": (
        *CORE["mini"],
        Plan("digits", "imagenet-lite", "core"),
        Plan("faces-rendered", LANDMARK_HUB, "all"),
        Plan("digits", "digits-zoo", "all"),
        *sweep("digits", "digits-zoo"),
        *(Plan(name, hub, "core") for hub in PACKAGED for name in TARGETS),
        *(plan for hub in PACKAGED for name in TARGETS for plan in published(name, hub, *_EXTRAS.get((name, hub), ()))),
        *published("digits", "imagenet-lite"),
    ),
    "lab": (
        *(Plan(name, "imagenet-lite", "core") for name in ("cifar100", "cars")),
        *(Plan(name, hub, "core") for hub in PACKAGED for name in LAB_TARGETS),
        *(plan for hub in PACKAGED for name in LAB_TARGETS for plan in published(name, hub)),
        *(Plan(name, "mini-zoo", "table4") for name in LAB_TARGETS),
        *published("cifar100", "imagenet-lite"),
        *published("cars", "imagenet-lite", ablation=True),
        Plan("faces68", LANDMARK_HUB, "all"),
    ),
    # As the papers do: tables 1, 2 and 5 on all seven, 3 on faces, the ablation on two, the feature baselines on three.
    "paper": (
        *(
            plan
            for name in ("cifar100", "coco70", "aircraft", "cars", "indoors", "dmlab", "eurosat")
            for plan in (
                *published(name, "resnet50-zoo", name in ("coco70", "cars"), name in ("cifar100", "coco70", "indoors")),
                Plan(name, "heterogeneous", "table2"),
            )
        ),
        *(Plan(name, "resnet50-zoo", "table3") for name in ("300w", "wflw", "cofw")),
    ),
}

#: the same for Atari: (game, methods); what needs a source policy waits until it is packaged
GAMES_CORE: dict[str, tuple[tuple[str, str], ...]] = {
    "smoke": (("jamesbond", "all"),),
    "mini": (("jamesbond", "random,scratch,zoo_tuning,hub_pathway"),),
    "lab": (),
    "paper": (),
}
GAMES_ALL: dict[str, tuple[tuple[str, str], ...]] = {
    **GAMES_CORE,
    **dict.fromkeys(("lab", "paper"), tuple((game, "all") for game in games.TARGETS)),
}


#: steps of training at which the zoos with and without common ancestry are compared
LENGTHS = (30, 100, 300)
ANCESTRY = ("cifar100-novel", ("mini-zoo", "mini-zoo-independent"))
KIN = "scratch,finetune,ensemble,model_soups,zoo_tuning,lite_zoo_tuning,hub_pathway"

#: the target whose right sources are known, the hubs that are routed through, and how many models a route takes
ROUTING = ("mixture", ("mini-pair", "mini-zoo"), (1, 2))

#: whose members are scored without training: (dataset, hub); `make book` computes those of its profile
RANKED: dict[str, tuple[tuple[str, str], ...]] = {
    "smoke": (("digits", "imagenet-lite"), ("digits", "digits-zoo")),
    "mini": (("digits", "imagenet-lite"), ("digits", "digits-zoo")),
    "lab": (("cifar100", "imagenet-lite"), ("cars", "imagenet-lite")),
    "paper": (("cifar100", "imagenet-lite"), ("cars", "imagenet-lite")),
}

#: the same for `make reproduce`: their records are committed
RANKED_ALL: dict[str, tuple[tuple[str, str], ...]] = {
    **RANKED,
    "mini": (*RANKED["mini"], *((name, hub) for hub in ("mini-zoo", "mini-hub") for name in TARGETS)),
    "lab": (
        *RANKED["lab"],
        *((name, hub) for hub in ("mini-zoo", "mini-hub") for name in LAB_TARGETS),
        (ANCESTRY[0], "mini-zoo-independent"),
        (ROUTING[0], "mini-zoo"),
    ),
}

#: fine-tuning one member with every regulariser on shares of the labels: (dataset, hub, member)
TUNED: dict[str, tuple[tuple[str, str, str], ...]] = {
    "smoke": (),
    "mini": (("tiles", "mini-zoo", "supervised"),),
    "lab": (("cars", "imagenet-lite", "efficientnet_lite0"), ("cifar100-novel", "mini-zoo", "supervised")),
    "paper": (("cars", "imagenet-lite", "efficientnet_lite0"),),
}
SHARES = (0.15, 0.3, 0.5, 1.0)

#: B-Tuning and feature distillation of one member with LogME's three teachers, and with every three of the hub
TAUGHT: dict[str, tuple[tuple[str, str, str], ...]] = {
    "smoke": (),
    "mini": (("tiles", "mini-zoo", "supervised"),),
    "lab": (("cars", "imagenet-lite", "efficientnet_lite0"), ("cifar100-novel", "mini-zoo", "supervised")),
    "paper": (),
}


def rankings(profile_name: str, which: str = "core") -> list[RunSpec]:
    """The transferability scores of a profile's book, or (which "all") of all its records."""
    plans = {"core": RANKED, "all": RANKED_ALL}[which][profile_name]
    return [spec for dataset, hub in plans for spec in grid("cls", dataset, hub, ["rank"], profile_name)]


def shares(profile_name: str, dataset: str, hub: str, member: str, published: bool = False) -> list[RunSpec]:
    """Every way of fine-tuning a member on each share of the labels, at the trade-offs of `tradeoffs.CHOSEN`.

    Or at the published ones.
    """
    cards = choose_methods("regularised", manifests.hub(hub))
    factors = {c.name: 1.0 if published else tradeoffs.factor(profile_name, dataset, c.name) for c in cards}
    return [
        spec
        for share in SHARES
        for name, factor in factors.items()
        for spec in _tuned(profile_name, dataset, hub, member, name, factor, label_fraction=share)
    ]


def trade_offs(profile_name: str, dataset: str, hub: str, member: str) -> list[RunSpec]:
    """Every regulariser at every multiple of its published trade-off that is tried, on all labels."""
    seeds = tradeoffs.SEEDS.get((profile_name, dataset), 0)
    return [
        spec
        for card in choose_methods("regularised", manifests.hub(hub))
        for factor in tradeoffs.FACTORS.get(card.name, ())
        for spec in _tuned(profile_name, dataset, hub, member, card.name, factor, seeds=seeds)
    ]


def _tuned(
    profile_name: str, dataset: str, hub: str, member: str, name: str, factor: float, **chosen: Any
) -> list[RunSpec]:
    options: dict[str, Any] = {**tradeoffs.options(name, usual_options(name, profile(profile_name)), factor)}
    return grid("cls", dataset, hub, [name], profile_name, members=[member], **chosen, **options)


def tunings(profile_name: str) -> list[RunSpec]:
    """Every regularised fine-tuning of a profile, share by share, their trade-offs, and its runs with teachers."""
    specs = []
    for case in TUNED[profile_name]:
        specs += [*shares(profile_name, *case), *trade_offs(profile_name, *case)]
        if (profile_name, case[0]) not in tradeoffs.SEEDS:  # where one seed of the choice is dear, one table has to do
            specs += shares(profile_name, *case, published=True)
    for dataset, hub, member in TAUGHT[profile_name]:
        specs += grid("cls", dataset, hub, "feature_distillation", profile_name, members=[member])
        for teachers in ("3", *teacher_sets(hub)):
            specs += grid("cls", dataset, hub, "b_tuning", profile_name, members=[member], teachers=teachers)
    return specs


def teacher_sets(hub: str, size: int = 3) -> list[str]:
    """Every set of `size` members of a hub with more, as the value of the option `teachers`: ten for five members."""
    names = [member.name for member in manifests.hub(hub).members]
    return [",".join(chosen) for chosen in combinations(names, size)] if len(names) > size else []


def ancestry(seeds: int | Iterable[int] = 0) -> list[RunSpec]:
    """The methods of KIN on the zoo with and without common ancestry, trained for several lengths (profile lab)."""
    dataset, hubs = ANCESTRY
    out = []
    for spec in _at_one_rate([run for hub in hubs for run in grid("cls", dataset, hub, KIN, "lab", seeds)]):
        for length in LENGTHS:
            milestones = tuple(round(share * length) for share in (0.6, 0.87))
            settings = dataclasses.replace(
                spec.settings, iterations=length, milestones=milestones, eval_every=length, val_fraction=0.04
            )
            out.append(dataclasses.replace(spec, settings=settings))
    return out


def targets(hub: str, profile_name: str, seeds: int | Iterable[int] = 0) -> list[RunSpec]:
    """The core methods from one packaged hub on every target of a profile."""
    names = LAB_TARGETS if profile_name == "lab" else TARGETS
    return [spec for name in names for spec in grid("cls", name, hub, "core", profile_name, seeds)]


def routing(seeds: int | Iterable[int] = 0) -> list[RunSpec]:
    """Hub-Pathway on the target whose right sources are known, and each member fine-tuned on it (profile lab)."""
    dataset, hubs, routes = ROUTING
    specs = grid("cls", dataset, hubs[-1], "finetune", "lab", seeds)
    specs += [
        spec for hub in hubs for k in routes for spec in grid("cls", dataset, hub, "hub_pathway", "lab", seeds, top_k=k)
    ]
    return _at_one_rate(specs)


def _at_one_rate(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The same runs at the first of the rates that are tried: studies whose hubs differ compare them at one rate."""
    return [dataclasses.replace(s, settings=dataclasses.replace(s.settings, lr=rates.TRIED[0])) for s in specs]


def rate_study(hub: str) -> list[RunSpec]:
    """Every method that trains and fits the hub at every rate of `rates.tried`, on the targets of `rates.TARGETS`.

    Raises ZoolibError for a hub whose rates are not chosen so.
    """
    if hub not in rates.TARGETS:
        raise unknown("hub with chosen learning rates", hub, rates.TARGETS)
    names = [name for name in rates.METHODS if allowed(method(name), manifests.hub(hub))]
    plans = [grid("cls", target, hub, names, rates.CHOSEN_IN, [rates.SEED]) for target in rates.TARGETS[hub]]
    return [
        dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, lr=lr))
        for specs in plans
        for spec in specs
        for lr in rates.tried(hub)
    ]


def rate_studies() -> list[RunSpec]:
    """The studies of every hub whose learning rates are chosen so."""
    return [spec for hub in rates.TARGETS for spec in rate_study(hub)]


def planned(profile_name: str, which: str = "core") -> list[RunSpec]:
    """The specifications of a profile's core (what the book computes) or of all its records, needed runs included."""
    name = profile(profile_name).name
    plans = [Plan(*entry) for entry in (ALL[name] if which == "all" else (*CORE[name], *ANALYSES.get(name, ())))]
    specs: list[RunSpec] = []
    for plan in plans:
        task = manifests.dataset(plan.dataset).task
        specs += grid(task, plan.dataset, plan.hub, plan.methods, name, plan.seeds, **dict(plan.options))
    specs += (rankings(name, which) if plans else []) + (tunings(name) if which == "all" else [])
    if (name, which) == ("lab", "all"):
        specs += [*ancestry(), *routing()]
    if (name, which) == (rates.CHOSEN_IN, "all"):
        specs += rate_studies()
    plays = [
        spec
        for game, methods in {"core": GAMES_CORE, "all": GAMES_ALL}[which][name]
        for spec in grid(games.TASK, game, games.HUB, games.possible(methods), name)
    ]
    specs += sorted(plays, key=lambda spec: spec.seed)  # one seed of every game and method before a second one of any
    everything = [run for spec in specs for run in [*needed(spec), spec]]
    everything += [spec for hub in COSTS[which].get(name, ()) for spec in costs(hub, name)]
    return list(dict.fromkeys(everything))
