"""The papers' cost tables beside what was counted and measured here. Records in, frames out; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from zoolib import reference, tables
from zoolib.plans import costs
from zoolib.results import Result, ResultStore

# our method -> its name in the slides' table of Zoo-Tuning, in their table of Hub-Pathway, in the supplement's table 3
_SLIDES = {"finetune": "single", "ensemble_joint": "ensemble"}
_SUPPLEMENT = {"finetune": "imagenet"}
_STEPS = {"finetune": "single", "ensemble_joint": "ensemble", "hub_pathway": "hub_pathway"}
TITLES = {"finetune": "One model"}

Costs = Mapping[str, float | None]


def records(store: ResultStore, hub: str, profile: str) -> list[Result]:
    """The measurements of one hub that exist, in the order of the methods."""
    return store.records(costs(hub, profile))


def _costs(found: Sequence[Result]) -> dict[str, Costs]:
    return {result.spec.method: result.metrics["cost"] for result in found}


def _paper(table: str, method: str, metric: str, column: str | None = None) -> str:
    frame = reference.published(table)
    frame = frame[(frame["method"] == method) & (frame["metric"] == metric)]
    frame = frame if column is None else frame[frame["column"] == column]
    return f"{frame['value'].iloc[0]:,.3f}".rstrip("0").rstrip(".") if len(frame) else "—"


def _here(cost: Costs | None, name: str, form: str) -> str:
    value = None if cost is None else cost.get(name)
    return tables.NOT_RUN if value is None else format(value, form)


def _frame(rows: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    named = {TITLES.get(name) or tables.title(name): row for name, row in rows.items()}
    return pd.DataFrame.from_dict(named, orient="index").rename_axis("method")


def counted(found: Sequence[Result], methods: Sequence[str]) -> pd.DataFrame:
    """Parameters (M) and multiply-adds (G), in training and at inference, beside the slides' table."""
    measured, table = _costs(found), "zoo_tuning_cost"
    rows = {}
    for name in methods:
        cost, theirs = measured.get(name), _SLIDES.get(name, name)
        rows[name] = {
            "params, training": _here(cost, "params_m", ".2f"),
            "paper's": _paper(table, theirs, "train_params"),
            "params, inference": _here(cost, "inference_params_m", ".2f"),
            "paper's ": _paper(table, theirs, "inference_params"),
            "G, training": _here(cost, "train_gmacs", ".3f"),
            "and once a step": _here(cost, "step_gmacs", ".2f"),
            "paper's  ": _paper(table, theirs, "train_flops"),
            "G, inference": _here(cost, "gmacs_norm", ".3f"),
            "paper's   ": _paper(table, theirs, "inference_flops"),
        }
    return _frame(rows)


def speed(found: Sequence[Result], methods: Sequence[str]) -> pd.DataFrame:
    """Iterations and images a second, and multiples of one model, beside the slides' and the supplement's numbers."""
    measured, table = _costs(found), "hub_pathway_cost"
    one = measured.get("finetune", {})
    rows = {}
    for name in methods:
        cost = measured.get(name)
        theirs = {"finetune": "imagenet", "ensemble_joint": "ensemble"}.get(name, name)
        rows[name] = {
            "training (iterations/s)": _here(cost, "train_iterations_per_second", ".3g"),
            "paper's": _paper(table, theirs, "train_speed"),
            "time over one model": _ratio(one, cost, "train_iterations_per_second"),
            "paper's multiple": _papers_ratio(table, theirs, "train_speed"),
            "inference (images/s)": _here(cost, "samples_per_second", ".4g"),
            "paper's ": _paper(table, theirs, "inference_speed"),
            "time over one": _ratio(one, cost, "samples_per_second"),
            "paper's multiple ": _papers_ratio(table, theirs, "inference_speed"),
        }
    return _frame(rows)


def _ratio(one: Costs, cost: Costs | None, name: str) -> str:
    mine, theirs = one.get(name), None if cost is None else cost.get(name)
    return f"{mine / theirs:.2f}" if mine and theirs else "—"


def _papers_ratio(table: str, method: str, metric: str) -> str:
    """How many times as long as one model the paper's takes, from its speeds."""
    speeds = reference.published(table, metric=metric).set_index("method")["value"]
    return f"{speeds['imagenet'] / speeds[method]:.2f}" if method in speeds else "—"


def complexity(found: Sequence[Result]) -> pd.DataFrame:
    """Supplement table 1: parameters (M) and multiply-adds (G) of one model, the ensemble and Hub-Pathway."""
    measured = _costs(found)
    rows = {}
    for name in _STEPS:
        theirs = _SUPPLEMENT.get(name, name)
        rows[name] = {
            "params (M)": _here(measured.get(name), "params_m", ".2f"),
            "paper's": _paper("supp_table1_complexity", theirs, "params"),
            "FLOPs (G)": _here(measured.get(name), "gmacs_norm", ".3f"),
            "paper's ": _paper("supp_table1_complexity", theirs, "flops"),
        }
    return _frame(rows)


def image_time(found: Sequence[Result]) -> pd.DataFrame:
    """Supplement table 2: seconds for one image, in the generator and in the models."""
    measured, table = _costs(found), "supp_table2_inference_time"
    rows = {}
    for name, theirs in _STEPS.items():
        cost = dict(measured.get(name) or {})
        whole, generator = cost.get("image_seconds"), cost.get("generator_seconds")
        cost["rest"] = None if whole is None or generator is None else whole - generator
        rows[name] = {
            "generator (s)": _here(cost, "generator_seconds", ".4f") if name == "hub_pathway" else "—",
            "paper's": _paper(table, theirs, "time_per_image", "generator"),
            "models (s)": _here(cost, "rest", ".4f"),
            "paper's ": _paper(table, theirs, "time_per_image", "pretrained_models"),
        }
    return _frame(rows)


def memory(found: Sequence[Result]) -> pd.DataFrame:
    """Supplement table 3: megabytes that are loaded, and that each forward step adds."""
    measured, table = _costs(found), "supp_table3_memory"
    rows = {}
    for name, theirs in _STEPS.items():
        cost = measured.get(name)
        rows[name] = {
            "load": _here(cost, "load_mb", ".0f"),
            "paper's": _paper(table, theirs, "memory", "load_models"),
            "generator adds": _here(cost, "generator_mb", ".0f") if name == "hub_pathway" else "—",
            "paper's ": _paper(table, theirs, "memory", "forward_generator_added"),
            "models add": _here(cost, "models_mb", ".0f"),
            "paper's  ": _paper(table, theirs, "memory", "forward_models_added"),
        }
    return _frame(rows)


def growth(found: Sequence[Result]) -> pd.DataFrame:
    """Time of Hub-Pathway as its hub grows, over that of its smallest hub: mode, models, ratio."""
    cost = _costs(found).get("hub_pathway", {})
    rows = []
    for mode in ("train", "eval"):
        start = f"growth_{mode}_"
        times = {int(name.removeprefix(start)): v for name, v in cost.items() if name.startswith(start) and v}
        rows += [(mode, count, times[count] / times[min(times)]) for count in sorted(times)]
    return pd.DataFrame(rows, columns=["mode", "models", "ratio"])


def growth_text(frame: pd.DataFrame) -> str:
    """How much longer a step takes on the largest hub than on the smallest, and whether that is flat within 15 %."""
    if frame.empty:
        return "Not measured for this hub."
    parts = []
    for mode, name in (("train", "a training step"), ("eval", "an evaluation")):
        rows = frame[frame["mode"] == mode].sort_values("models")
        ratio = rows["ratio"].iloc[-1]
        flat = "flat" if abs(ratio - 1) <= 0.15 else "not flat"
        parts.append(f"{name} takes {ratio:.2f} times as long ({flat} within 15 %)")
    counts = sorted(frame["models"].unique())
    return f"From {counts[0]} to {counts[-1]} models, {' and '.join(parts)}."


def methods_of(hub: str, profile: str) -> list[str]:
    """The methods whose costs this hub can show, in the order of their table."""
    return [spec.method for spec in costs(hub, profile)]
