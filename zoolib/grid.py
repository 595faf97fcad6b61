"""From names to run specifications. Torch-free: validates every name and value before anything is computed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from zoolib import games
from zoolib.data import manifests
from zoolib.data.schema import HubManifest
from zoolib.methods import METHODS, SETS, MethodCard, method
from zoolib.profiles import Profile, profile
from zoolib.spec import RunSpec, ZoolibError, split_names, unknown

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


_MOST_SEEDS = 1000


def _seeds(seeds: int | Iterable[int] | str, planned: int) -> list[int]:
    if isinstance(seeds, str):  # as a command line hands it on: '[0, 2]'
        with suppress(ValueError):
            seeds = json.loads(seeds)
    if isinstance(seeds, bool) or not isinstance(seeds, int | Iterable) or isinstance(seeds, str):
        raise ZoolibError(
            f"seeds is {seeds!r}; use a count such as 3, a list such as [0, 1, 2], or 0 for the profile's"
        )
    if isinstance(seeds, int):
        if seeds < 0:
            raise ZoolibError(f"seeds is {seeds}; use a count such as 3, or 0 for the profile's")
        if seeds > _MOST_SEEDS:
            raise ZoolibError(f"seeds is {seeds}; that many runs are not planned at once, use up to {_MOST_SEEDS}")
        return list(range(seeds or planned))
    chosen = list(seeds)
    if not chosen or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in chosen):
        raise ZoolibError(f"seeds is {chosen!r}; use whole numbers from 0")
    if max(chosen) >= 2**32:  # torch's generator on the CPU looks at 32 bits: larger ones would repeat others' draws
        raise ZoolibError(f"seeds is {chosen!r}; use numbers below 2**32")
    return chosen


def usual_options(name: str, profile: Profile, task: str = "cls", models: int | None = None) -> dict[str, Any]:
    """A method's options as a profile sets them for a task; none for a method that is not of the one table.

    Of a hub of so many models no more can be activated, or teach.
    """
    card = METHODS.get(name)
    own = {**card.options, **card.task_options.get(task, {})} if card else {}
    options = {**own, **profile.options.get(name, {})}
    if models and str(options.get("teachers", "")).isdigit():
        options["teachers"] = str(min(int(options["teachers"]), models))
    if models and "top_k" in options:
        options["top_k"] = min(options["top_k"], models)
    return options


def _options(
    card: MethodCard, task: str, profile: Profile, changed: dict[str, Any], hub: HubManifest
) -> tuple[tuple[str, Any], ...]:
    options = usual_options(card.name, profile, task, len(hub.members))
    return tuple(sorted({**options, **{k: v for k, v in changed.items() if k in options}}.items()))


# What an option may be, whichever method it belongs to: one of some names, a whole number from 1, or a number from 0.
_CHOICES = {"alignment": ("authors", "all", "none"), "soup": ("greedy", "uniform")}
_COMBINE = {"cls": ("probabilities", "votes"), "landmarks": ("heatmaps",)}
_COUNTS = ("top_k", "neighbours", "probe_images", "fisher_images", "attention_images", "smallest", "queue",
           "projection", "generator_width", "generator_size")  # fmt: skip
_MOST = {"soft_weight": 1.0, "momentum": 1.0, "gate_momentum": 1.0}
_ABOVE_ZERO = ("temperature", "gate_momentum")
_NUMBERS = (*_ABOVE_ZERO, "soft_weight", "momentum", "dependency_weight", "explore_weight", "feature_weight",
            "backbone_weight", "head_weight", "trade_off")  # fmt: skip


def check_option(name: str, value: Any, task: str, members: Sequence[str]) -> None:
    """Raises ZoolibError for a value that no method can use, naming the option, the value and what to use instead.

    An option that no packaged method has is left to the method that has it.
    """
    if fix := _fix(name, value, task, members):
        raise ZoolibError(f"{name} is {value!r}; use {fix}")


def _fix(name: str, value: Any, task: str, members: Sequence[str]) -> str:
    """What should stand in the place of an option's value; empty where it is fine."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    names = _COMBINE.get(task, _COMBINE["cls"]) if name == "combine" else _CHOICES.get(name)
    if names:
        return "" if value in names else " or ".join(names)
    if name == "teachers":
        asked = split_names(str(value))
        if len(asked) == 1 and asked[0].isdigit():
            fits = 1 <= int(asked[0]) <= len(members)
        else:
            fits = bool(asked) and set(asked) <= {*members} and len({*asked}) == len(asked)
        return "" if fits else f"1 to {len(members)}, or names among {', '.join(members)}, each once"
    if name in _COUNTS:
        most = len(members) if name == "top_k" else math.inf
        counts = f"1 to {most}, the number of models in the hub" if name == "top_k" else "a whole number from 1"
        return "" if number and isinstance(value, int) and 1 <= value <= most else counts
    if name not in _NUMBERS:
        return ""
    least, most = ("above 0" if name in _ABOVE_ZERO else "from 0"), _MOST.get(name, math.inf)
    fits = number and (value > 0 if name in _ABOVE_ZERO else value >= 0) and value <= most
    return "" if fits else f"a number {least}" + (f" to {most:g}" if math.isfinite(most) else "")


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
        if hub != games.HUB:
            raise unknown("hub", hub, [games.HUB])
        if label_fraction != 1:
            raise ZoolibError(f"label_fraction is {label_fraction}; a game has no labels: use 1")
        planned_seeds = games.PROFILES[profile(profile_name).name][0]
        planned = games.grid(dataset, methods, profile_name, _seeds(seeds, planned_seeds), options, members)
        for name, value in (option for spec in planned for option in spec.options):
            check_option(name, value, task, games.SOURCES)
        return planned
    if task not in (*TASKS, "cost"):
        raise unknown("task", task, [*TASKS, "cost", games.TASK])
    data, models, chosen_profile = manifests.dataset(dataset), manifests.hub(hub), profile(profile_name)
    if data.task != task and task != "cost":
        raise ZoolibError(
            f"dataset {dataset!r} is for the task {data.task!r}, not {task!r}; `list datasets` shows others"
        )
    if dataset not in manifests.datasets() and data.name in manifests.own():
        dataset = data.name  # its YAML may move; its name does not
    hub = os.path.normpath(hub)  # ./mine.yaml and mine.yaml are one
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
            values = _options(card, task, chosen_profile, options, models)
            for name, value in values:
                check_option(name, value, data.task, [member.name for member in models.members])
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
