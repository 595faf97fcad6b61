"""Plan which runs an experiment is made of. Torch-free: validates every name, builds the specifications."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zoolib import games
from zoolib.data import manifests
from zoolib.data.manifests import HubManifest
from zoolib.methods import METHODS, MethodCard, method
from zoolib.spec import Profile, RunSpec, ZoolibError, profile, unknown

#: what `make book` computes afresh in each profile: (dataset, hub, methods)
CORE: dict[str, tuple[tuple[str, str, str], ...]] = {
    "smoke": (("digits", "imagenet-lite", "all"), ("digits", "digits-zoo", "all")),
    "mini": (("digits", "imagenet-lite", "all"), ("digits", "digits-zoo", "all")),
    "lab": (),
    "paper": (),
}

#: Zoo-Tuning on the papers' architecture: a few steps from random weights show that it runs and what it costs
RESNET50 = ("digits", "resnet50-random", "scratch,zoo_tuning,lite_zoo_tuning")

#: every record of a profile, for `make reproduce`
ALL: dict[str, tuple[tuple[str, str, str], ...]] = {
    "smoke": (*CORE["smoke"], RESNET50),
    "mini": CORE["mini"],
    "lab": (("cifar100", "imagenet-lite", "all"), ("cars", "imagenet-lite", "all")),
    "paper": (("cifar100", "imagenet-lite", "all"), ("cars", "imagenet-lite", "all")),
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


def _seeds(seeds: int | Iterable[int], planned: int) -> list[int]:
    if isinstance(seeds, bool) or not isinstance(seeds, int | Iterable) or isinstance(seeds, str):
        raise ZoolibError(
            f"seeds is {seeds!r}; use a count such as 3, a list such as [0, 1, 2], or 0 for the profile's"
        )
    if isinstance(seeds, int):
        if seeds < 0:
            raise ZoolibError(f"seeds is {seeds}; use a count such as 3, or 0 for the profile's")
        return list(range(seeds or planned))
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
    if task == games.TASK:
        planned_seeds = games.PROFILES[profile(profile_name).name][0]
        return games.grid(dataset, methods, profile_name, _seeds(seeds, planned_seeds), options)
    if task != "cls":
        raise unknown("task", task, ["cls", games.TASK])
    data, models, chosen_profile = manifests.dataset(dataset), manifests.hub(hub), profile(profile_name)
    known = {name for card in METHODS.values() for name in card.options}
    for name in options:
        if name not in known:
            raise unknown("method option", name, known)
    settings = chosen_profile.resolve(data.name)
    specs = []
    for seed in _seeds(seeds, chosen_profile.seeds):
        for card in choose_methods(methods, models):
            members = [member.name for member in models.members] if card.per_member else [""]
            values = _options(card, chosen_profile, options)
            specs += [RunSpec(task, dataset, hub, card.name, m, seed, profile_name, settings, values) for m in members]
    return specs


def needed(spec: RunSpec) -> list[RunSpec]:
    """The runs that must exist before this one: for an ensemble, the fine-tuned members of its seed."""
    if spec.task == games.TASK:
        return []
    needs = METHODS[spec.method].needs
    return grid(spec.task, spec.dataset, spec.hub, [needs], spec.profile, [spec.seed]) if needs else []


def planned(profile_name: str, which: str = "core") -> list[RunSpec]:
    """The specifications of a profile's core (what the book computes) or of all its records, needed runs included."""
    table = {"core": CORE, "all": ALL}[which][profile(profile_name).name]
    specs = [spec for dataset, hub, methods in table for spec in grid("cls", dataset, hub, methods, profile_name)]
    for game, methods in {"core": GAMES_CORE, "all": GAMES_ALL}[which][profile_name]:
        specs += grid(games.TASK, game, games.HUB, games.possible(methods), profile_name)
    everything = [run for spec in specs for run in [*needed(spec), spec]]
    return list(dict.fromkeys(everything))
