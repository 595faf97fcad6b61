"""Plan which runs an experiment is made of. Torch-free: validates every name, builds the specifications."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from zoolib.data import manifests
from zoolib.data.manifests import HubManifest
from zoolib.methods import METHODS, MethodCard, method
from zoolib.spec import Profile, RunSpec, ZoolibError, profile, unknown

#: what `make book` computes afresh in each profile: (dataset, hub, methods)
CORE: dict[str, tuple[tuple[str, str, str], ...]] = {
    "smoke": (("digits", "imagenet-lite", "all"), ("digits", "digits-zoo", "all")),
    "mini": (
        ("digits", "imagenet-lite", "all"),
        ("digits", "digits-zoo", "all"),
        ("tiles", "mini-zoo", "all"),
    ),
    "lab": (),
    "paper": (),
}

#: targets of the packaged hubs that need no file
TARGETS = ("digits", "textures", "shapes", "gliders", "tiles")
#: and those of the lab profile
LAB_TARGETS = ("cifar100-novel", *TARGETS[1:])

#: Zoo-Tuning on the papers' architecture: a few steps from random weights show that it runs and what it costs
RESNET50 = ("digits", "resnet50-random", "scratch,zoo_tuning,lite_zoo_tuning")

#: every record of a profile, for `make reproduce`
ALL: dict[str, tuple[tuple[str, str, str], ...]] = {
    "smoke": (*CORE["smoke"], RESNET50),
    "mini": tuple(
        dict.fromkeys((*CORE["mini"], *((name, hub, "all") for hub in ("mini-zoo", "mini-hub") for name in TARGETS)))
    ),
    "lab": (
        ("cifar100", "imagenet-lite", "all"),
        ("cars", "imagenet-lite", "all"),
        *((name, hub, "all") for hub in ("mini-zoo", "mini-hub") for name in LAB_TARGETS),
    ),
    "paper": (("cifar100", "imagenet-lite", "all"), ("cars", "imagenet-lite", "all")),
}


#: steps of training at which the zoos with and without common ancestry are compared
LENGTHS = (30, 100, 300)
ANCESTRY = ("cifar100-novel", ("mini-zoo", "mini-zoo-independent"))

#: the target whose right sources are known, the hubs that are routed through, and how many models a route takes
ROUTING = ("mixture", ("mini-pair", "mini-zoo"), (1, 2))


def allowed(card: MethodCard, hub: HubManifest) -> bool:
    """Whether a hub is of the kind that a method needs."""
    return hub.homogeneous or not card.homogeneous


def choose_methods(methods: str | Iterable[str], hub: HubManifest) -> list[MethodCard]:
    """The cards of "all" (every method this hub allows), of a comma-separated list or of a list of names.

    Raises ZoolibError for an unknown name, and for a method that needs one architecture on a hub of several.
    """
    names = [part.strip() for part in methods.split(",")] if isinstance(methods, str) else list(methods)
    if names == ["all"]:
        return [card for card in METHODS.values() if allowed(card, hub)]
    cards = [method(name) for name in dict.fromkeys(name for name in names if name)]
    if not cards:
        raise ZoolibError("no method was named; use 'all' or some of: " + ", ".join(METHODS))
    for card in cards:
        if not allowed(card, hub):
            raise ZoolibError(
                f"{card.name} needs a hub of one architecture, because it adds kernels position by position, and "
                f"{hub.name!r} mixes several; use hub_pathway or ensemble, or a homogeneous hub"
            )
    return cards


def _seeds(seeds: int | Iterable[int], profile: Profile) -> list[int]:
    if isinstance(seeds, bool) or not isinstance(seeds, int | Iterable) or isinstance(seeds, str):
        raise ZoolibError(
            f"seeds is {seeds!r}; use a count such as 3, a list such as [0, 1, 2], or 0 for the profile's"
        )
    if isinstance(seeds, int):
        if seeds < 0:
            raise ZoolibError(f"seeds is {seeds}; use a count such as 3, or 0 for the profile's")
        return list(range(seeds or profile.seeds))
    chosen = list(seeds)
    if not chosen or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in chosen):
        raise ZoolibError(f"seeds is {chosen!r}; use whole numbers from 0")
    return chosen


def _options(card: MethodCard, profile: Profile, changed: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    options = {**card.options, **profile.options.get(card.name, {})}
    return tuple(sorted({**options, **{k: v for k, v in changed.items() if k in options}}.items()))


def grid(
    task: str,
    dataset: str,
    hub: str,
    methods: str | Iterable[str] = "all",
    profile_name: str = "mini",
    seeds: int | Iterable[int] = 0,
    **options: Any,
) -> list[RunSpec]:
    """Every run of (dataset, hub, methods, profile, seeds), seed by seed, runs that others need first.

    `options` (such as top_k=1) change the options of the methods that have them. Raises ZoolibError for an unknown or
    unfitting name or value, before anything is computed.
    """
    if task != "cls":
        raise unknown("task", task, ["cls"])
    data, models, chosen_profile = manifests.dataset(dataset), manifests.hub(hub), profile(profile_name)
    known = {name for card in METHODS.values() for name in card.options}
    for name in options:
        if name not in known:
            raise unknown("method option", name, known)
    settings = chosen_profile.resolve(data.name)
    specs = []
    for seed in _seeds(seeds, chosen_profile):
        for card in choose_methods(methods, models):
            members = [member.name for member in models.members] if card.per_member else [""]
            values = _options(card, chosen_profile, options)
            specs += [RunSpec(task, dataset, hub, card.name, m, seed, profile_name, settings, values) for m in members]
    return specs


def needed(spec: RunSpec) -> list[RunSpec]:
    """The runs that must exist before this one: for an ensemble, the fine-tuned members of its seed and settings."""
    needs = METHODS[spec.method].needs
    if not needs:
        return []
    runs = grid(spec.task, spec.dataset, spec.hub, [needs], spec.profile, [spec.seed])
    return [dataclasses.replace(run, settings=spec.settings) for run in runs]


def ancestry(seeds: int | Iterable[int] = 0) -> list[RunSpec]:
    """Every method on the zoo with and without common ancestry, trained for several lengths (profile lab)."""
    dataset, hubs = ANCESTRY
    out = []
    for spec in [run for hub in hubs for run in grid("cls", dataset, hub, "all", "lab", seeds)]:
        for length in LENGTHS:
            milestones = tuple(round(share * length) for share in (0.6, 0.87))
            settings = dataclasses.replace(
                spec.settings, iterations=length, milestones=milestones, eval_every=length, val_fraction=0.04
            )
            out.append(dataclasses.replace(spec, settings=settings))
    return out


def targets(hub: str, profile_name: str, seeds: int | Iterable[int] = 0) -> list[RunSpec]:
    """Every method from one packaged hub on every target of a profile."""
    names = LAB_TARGETS if profile_name == "lab" else TARGETS
    return [spec for name in names for spec in grid("cls", name, hub, "all", profile_name, seeds)]


def routing(seeds: int | Iterable[int] = 0) -> list[RunSpec]:
    """Hub-Pathway on the target whose right sources are known, and each member fine-tuned on it (profile lab)."""
    dataset, hubs, routes = ROUTING
    specs = grid("cls", dataset, hubs[-1], "finetune", "lab", seeds)
    return specs + [
        spec for hub in hubs for k in routes for spec in grid("cls", dataset, hub, "hub_pathway", "lab", seeds, top_k=k)
    ]


def planned(profile_name: str, which: str = "core") -> list[RunSpec]:
    """The specifications of a profile's core (what the book computes) or of all its records, needed runs included."""
    table = {"core": CORE, "all": ALL}[which][profile(profile_name).name]
    specs = [spec for dataset, hub, methods in table for spec in grid("cls", dataset, hub, methods, profile_name)]
    if (profile_name, which) == ("lab", "all"):
        specs += [*ancestry(), *routing()]
    everything = [run for spec in specs for run in [*needed(spec), spec]]
    return list(dict.fromkeys(everything))
