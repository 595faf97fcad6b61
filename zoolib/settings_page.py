"""The book's page of profiles: every setting side by side, and the exceptions. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoolib import apidoc, games, markdown, rates
from zoolib.profiles import PROFILES, Profile
from zoolib.spec import Settings, ZoolibError

#: settings whose name says it all in the code, in words for the page of profiles
_MEANING = {
    "batch_size": "images (of games: stored steps) a step",
    "iterations": "steps of the optimiser",
    "lr": "learning rate of every parameter",
    "momentum": "of stochastic gradient descent",
    "nesterov": "Nesterov's form of the momentum",
    "weight_decay": "of every parameter",
    "gamma": "factor of the learning rate at each milestone",
    "precision": "auto, float32 or bfloat16; auto takes bfloat16 on GPUs that have it",
    "channels_last": "memory layout of images and kernels",
    "n_step": "steps of reward before the target looks at the network",
    "discount": "of the reward, per step",
    "priority_exponent": "of the loss, in the probability that a step is drawn",
    "adam_eps": "Adam's epsilon",
    "clip_norm": "largest norm of the gradient",
    "atoms": "points of the return's distribution",
    "value_min": "the first atom",
    "value_max": "the last atom",
    "noisy_sigma": "noise of the noisy layers at the start",
    "hidden": "width of both streams",
    "max_noops": "random no-ops at a game's start, at most",
    "eval_episodes": "games of one evaluation",
    "eval_epsilon": "share of random actions in evaluation",
}


def page() -> str:
    """The page of all profiles: every setting side by side (bold where it differs from `paper`) and the exceptions."""
    settings = {name: (profile.seeds, profile.settings) for name, profile in PROFILES.items()}
    parts = [
        "# Profiles\n",
        "A profile fixes everything about data and optimisation that changes a number. Every record carries all of its "
        "settings, and a page always says which profile its numbers come from.\n",
        markdown.table(("profile", "meant for"), [(f"`{name}`", _description(p)) for name, p in PROFILES.items()]),
        "## Settings\n",
        "**Bold** marks a value that differs from the `paper` profile.\n",
        _settings_table("Settings", settings),
        "## Exceptions for single datasets and methods\n",
        *(_exceptions(name, profile) for name, profile in PROFILES.items()),
        "## Atari games\n",
        "Runs of games have settings of their own, those of Data-Efficient Rainbow.\n",
        _settings_table("ControlSettings", games.PROFILES),
    ]
    return "\n".join(parts)


def _settings_table(kind: str, profiles: Mapping[str, tuple[int, Any]]) -> str:
    """Every field of a dataclass of zoolib.spec, a column a profile: (seeds, settings) by name."""
    module = apidoc.read(Path(__file__).with_name("spec.py"), "zoolib.spec")
    seeds, paper = profiles["paper"]
    counts = [count if count == seeds else f"**{count}**" for count, _ in profiles.values()]
    rows = [("seeds", *counts, "runs of each method; tables show mean ± standard deviation over them")]
    for field in apidoc.fields(module, apidoc.find_class(module, kind)):
        values = [getattr(settings, field.name) for _, settings in profiles.values()]
        shown = [markdown.words(v) if v == getattr(paper, field.name) else f"**{markdown.words(v)}**" for v in values]
        rows.append((f"`{field.name}`", *shown, _MEANING.get(field.name) or apidoc.prose(field.comment)))
    return markdown.table(("setting", *(f"`{name}`" for name in profiles), "meaning"), rows)


def _description(profile: Profile) -> str:
    return f"{profile.title}. {profile.description[0].upper()}{profile.description[1:]}."


def _exceptions(name: str, profile: Profile) -> str:
    known = {field.name for field in dataclasses.fields(Settings)}
    rows = []
    exceptions = {f"task `{task}`": changes for task, changes in profile.tasks.items()}
    exceptions |= {f"dataset `{dataset}`": changes for dataset, changes in profile.datasets.items()}
    for what, changes in exceptions.items():
        if wrong := set(changes) - known:
            raise ZoolibError(f"profile {name!r} changes {', '.join(sorted(wrong))} for {what}, which is no setting")
        rows.append((what, "; ".join(f"`{key}` {markdown.words(value)}" for key, value in changes.items())))
    for method, options in profile.options.items():
        rows.append(
            (f"method `{method}`", "; ".join(f"`{key}` {markdown.words(value)}" for key, value in options.items()))
        )
    for hub, chosen in rates.CHOSEN.items() if name in rates.PROFILES else ():
        each = [
            f"`lr` {lr:g} for {', '.join(m for m in chosen if chosen[m] == lr)}" for lr in sorted({*chosen.values()})
        ]
        rows.append((f"hub `{hub}`", "; ".join(each) + " (chosen on validation images, on the page of learning rates)"))
    body = markdown.table(("for", "changed"), rows) if rows else "None.\n"
    return f"### {profile.title.split(':')[0]}\n\n{body}"
