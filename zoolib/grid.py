"""From names to run specifications. Torch-free: validates every name and value before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from zoolib import games
from zoolib.data import manifests
from zoolib.data.schema import HubManifest
from zoolib.methods import METHODS, SETS, MethodCard, method
from zoolib.profiles import Profile, profile
from zoolib.spec import RunSpec, ZoolibError, unknown

TASKS = ("cls", "landmarks")


def allowed(card: MethodCard, hub: HubManifest) -> bool:
    """Whether a hub is of the kind that a method needs."""
    return (hub.homogeneous or not card.homogeneous) and bool(_members(card, hub))


def _members(card: MethodCard, hub: HubManifest, only: Iterable[str] = ()) -> list[str]:
    """The members that a method has a run for, those of `only` where it names any; [""] for the whole hub."""
    if not card.per_member:
        return [""]
    names = [hub.member(name).name for name in only] or [member.name for member in hub.members]
    return [name for name in names if hub.member(name).source_head or not card.source_head]


def choose_methods(methods: str | Iterable[str], hub: HubManifest, task: str = "cls") -> list[MethodCard]:
    """The cards of a set such as "all" (what hub and task allow), of a comma-separated list or a list of names.

    Raises ZoolibError for an unknown name, for a method that needs one architecture on a hub of several, and for one
    that the task has not.
    """
    names = [part.strip() for part in methods.split(",")] if isinstance(methods, str) else list(methods)
    if len(names) == 1 and names[0] in SETS:
        found = [card for card in METHODS.values() if card.name in SETS[names[0]] and allowed(card, hub)]
        return [card for card in found if task in card.tasks]
    cards = [method(name) for name in dict.fromkeys(name for name in names if name)]
    if not cards:
        raise ZoolibError(f"no method was named; use one of {', '.join(SETS)}, or some of: {', '.join(METHODS)}")
    for card in cards:
        if not _members(card, hub):
            raise ZoolibError(
                f"{card.name} needs the classifier of the pre-training, and no member of {hub.name!r} has one; "
                "use a hub of classifiers such as imagenet-lite"
            )
        if task not in card.tasks:
            raise ZoolibError(f"{card.name} is not defined for the task {task}; it runs on: {', '.join(card.tasks)}")
        if not allowed(card, hub):
            raise ZoolibError(
                f"{card.name} needs a hub of one architecture, because it joins layers position by position, and "
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


def _options(card: MethodCard, task: str, profile: Profile, changed: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    options = {**card.options, **card.task_options.get(task, {}), **profile.options.get(card.name, {})}
    return tuple(sorted({**options, **{k: v for k, v in changed.items() if k in options}}.items()))


def grid(
    task: str,
    dataset: str,
    hub: str,
    methods: str | Iterable[str] = "all",
    profile_name: str = "mini",
    seeds: int | Iterable[int] = 0,
    members: Iterable[str] = (),
    label_fraction: float = 1.0,
    **options: Any,
) -> list[RunSpec]:
    """Every run of (dataset, hub, methods, profile, seeds), seed by seed, runs that others need first.

    `members` keeps only these where a method has a run for each; `label_fraction` trains on that share of the labels.
    `options` (such as top_k=1) change the options of the methods that have them. Raises ZoolibError for an unknown or
    unfitting name or value, before anything is computed.
    """
    if task == games.TASK:
        planned_seeds = games.PROFILES[profile(profile_name).name][0]
        return games.grid(dataset, methods, profile_name, _seeds(seeds, planned_seeds), options)
    if task not in (*TASKS, "cost"):
        raise unknown("task", task, [*TASKS, "cost", games.TASK])
    data, models, chosen_profile = manifests.dataset(dataset), manifests.hub(hub), profile(profile_name)
    if data.task != task and task != "cost":
        raise ZoolibError(
            f"dataset {dataset!r} is for the task {data.task!r}, not {task!r}; `list datasets` shows others"
        )
    if dataset not in manifests.datasets() and data.name in manifests.own():
        dataset = data.name  # its YAML may move; its name does not
    known = {name for card in METHODS.values() for name in card.options}
    for name in options:
        if name not in known:
            raise unknown("method option", name, known)
    settings = dataclasses.replace(chosen_profile.resolve(data.name, task), train_fraction=label_fraction)
    chosen, chosen_seeds = list(members), _seeds(seeds, chosen_profile.seeds)
    if task == "cost" and profile_name == "paper":
        settings = dataclasses.replace(settings, batch_size=12)  # at which Hub-Pathway's supplement measures
    specs = []
    for seed in chosen_seeds:
        for card in choose_methods(methods, models, data.task):
            if card.deterministic and seed != chosen_seeds[0]:
                continue
            names = _members(card, models, chosen)
            values = _options(card, task, chosen_profile, options)
            lr = chosen_profile.resolve(data.name, task, hub, card.name).lr
            own = dataclasses.replace(settings, lr=lr)
            specs += [RunSpec(task, dataset, hub, card.name, m, seed, profile_name, own, values) for m in names]
    return specs


def needed(spec: RunSpec) -> list[RunSpec]:
    """The runs that must exist before this one: for an ensemble, the fine-tuned members of its seed and settings."""
    if spec.task == games.TASK:
        return []
    needs = METHODS[spec.method].needs
    if not needs or spec.task == "cost":
        return []
    found = grid(spec.task, spec.dataset, spec.hub, [needs], spec.profile, [spec.seed])
    return [dataclasses.replace(other, settings=spec.settings) for other in found]
