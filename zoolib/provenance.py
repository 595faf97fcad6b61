"""How the numbers of a page were made: their cost, what was set or done otherwise than in the papers, where they ran.

Records in, frames and lines out; no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from zoolib.deviations import mended
from zoolib.grid import usual_options
from zoolib.profiles import PROFILES
from zoolib.results import Result, machine_of
from zoolib.spec import Settings
from zoolib.tables import order, title

_COSTS = {  # metric -> heading, digits
    "seconds": ("training (s)", 0),
    "images_per_second": ("images/s", 0),
    "inference_params_m": ("params (M)", 2),
    "params_m": ("params, training (M)", 2),
    "trainable_params_m": ("trained (M)", 2),
    "gmacs": ("GMACs", 3),
    "peak_memory_mb": ("memory (MB)", 0),
}


def with_needed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the seconds of the runs that a run builds on added to its own.

    The seconds of a committee hold those of its members already; a student's are recorded apart from its teachers'.
    """
    recorded = frame[frame["split"] == "cost"]
    needed = recorded[recorded["metric"] == "needed_seconds"].set_index("run_id")["value"]
    of_runs = (frame["split"] == "cost") & (frame["metric"] == "seconds")
    return frame.assign(value=frame["value"] + frame["run_id"].map(needed).fillna(0).where(of_runs, 0))


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """What each method costs, as text: the median over seeds of the recorded cost metrics.

    The median, because a machine that was stopped for a while makes one run of several ten times as long.
    """
    frame = with_needed(frame[frame["split"] == "cost"])
    rows = {}
    for method, member, options in order(frame):
        chosen = frame[(frame[["method", "member", "options"]] == [method, member, options]).all(axis=1)]
        medians = chosen.groupby("metric")["value"].median()
        name = title(method, member, chosen["hub"].iloc[0])
        name = name if name not in rows else f"{name} ({options})"
        rows[name] = {
            heading: f"{medians[metric]:,.{digits}f}" if pd.notna(medians.get(metric)) else "—"
            for metric, (heading, digits) in _COSTS.items()
            if metric in set(frame["metric"])
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    alike = (("trainable_params_m", "params_m"), ("params_m", "inference_params_m"))  # all trained; all kept
    for name, other in ((_COSTS[a][0], _COSTS[b][0]) for a, b in alike):
        if {name, other} <= set(table) and table[name].equals(table[other]):
            table = table.drop(columns=name)
    return table


def differences(records: Sequence[Result]) -> pd.DataFrame:
    """What was set otherwise than in the `paper` profile, among what can change a number: here, there, methods.

    Where it was on some datasets only, those are named after the methods.
    """
    paper = PROFILES["paper"]
    found: dict[tuple[str, str, str], dict[tuple[str, str], None]] = {}
    for result in records:
        spec, given = result.spec, any(text.startswith("the dataset's own") for text in result.deviations)
        theirs = paper.resolve(spec.dataset, spec.task)
        pairs = [
            (f.name, getattr(spec.settings, f.name), getattr(theirs, f.name))
            for f in fields(Settings)
            if f.name != "eval_every"
            and (f.name != "crop_scale" or spec.settings.crop == "resized")
            and (f.name != "val_fraction" or not given)  # no share is held out of data that bring their own
        ]
        defaults = usual_options(spec.method, paper, spec.task)
        pairs += [(option, value, defaults[option]) for option, value in spec.options if option in defaults]
        for setting, here, there in pairs:
            if here != there:
                key = setting, _words(setting, here), _words(setting, there)
                found.setdefault(key, {})[title(spec.method), spec.dataset] = None
    everyone = {title(result.spec.method) for result in records}
    everywhere = {result.spec.dataset for result in records}
    rows = []
    for key, where in found.items():
        methods, datasets = dict.fromkeys(name for name, _ in where), dict.fromkeys(name for _, name in where)
        text = "all" if methods.keys() == everyone else ", ".join(methods)
        rows.append((*key, text if datasets.keys() == everywhere else f"{text} on {', '.join(datasets)}"))
    return pd.DataFrame(rows, columns=["setting", "here", "paper profile", "methods"]).set_index("setting")


def _words(setting: str, value: Any) -> str:
    if setting in ("train_per_class", "test_limit") and value == 0:
        return "all"
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def deviations(records: Sequence[Result]) -> pd.DataFrame:
    """The deviations from the papers that the runs recorded themselves, with their reasons: methods, deviation.

    Older records are completed (see `zoolib.deviations`).

    What more than two runs say each in another way, such as the weights of their teachers, is one row with one of them.
    """
    topics: dict[str, dict[str, None]] = {}
    told = [(result.spec.method, mended(result.spec, result.deviations)) for result in records]
    for _, sentences in told:
        for sentence in sentences:
            topics.setdefault(sentence.partition(": ")[0], {})[sentence] = None
    found: dict[str, list[str]] = {}
    for method, sentences in told:
        for sentence in sentences:
            ways = list(topics[sentence.partition(": ")[0]])
            if len(ways) > 2:
                sentence = f"{ways[0]} (and {len(ways) - 1} others; each record has its own)"
            names = found.setdefault(sentence, [])
            name = title(method)
            names += [name] if name not in names else []
    rows = [(", ".join(names), sentence) for sentence, names in found.items()]
    return pd.DataFrame(rows, columns=["methods", "deviation"]).set_index("methods")


def summary(records: Sequence[Result]) -> str:
    """Where the numbers of a page come from, in one line."""
    if not records:
        return "No run of this page has been computed yet: nothing here is a measured number."
    seeds = sorted({result.spec.seed for result in records})
    origins = [f"{count} {stamp}" for stamp, count in pd.Series([r.stamp for r in records]).value_counts().items()]
    parts = {
        "profile": _distinct(result.spec.profile for result in records),
        "seeds": ", ".join(map(str, seeds)),
        "runs": f"{len(records)} ({', '.join(origins)})",
        "commit": _distinct(_commit(result.provenance) for result in records),
        "machine": _distinct(machine_of(result.provenance, threads=True) for result in records),
        "data": _distinct(result.data for result in records),
        "date": _distinct(result.date for result in records),
        "code": _distinct(str(result.provenance.get("code") or "") for result in records),
    }
    return " · ".join(f"{name}: {value}" for name, value in parts.items() if value)


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted({value for value in values if value}))


def _commit(provenance: Mapping[str, Any]) -> str:
    commit = str(provenance.get("commit") or "unknown")[:7]
    return f"{commit} with local changes" if provenance.get("dirty") else commit
