"""What each way of using a hub was worth, case by case, from records. No torch."""

from __future__ import annotations

import numpy as np
import pandas as pd

from zoolib.data import manifests
from zoolib.methods import METHODS
from zoolib.rankings import ranked
from zoolib.tables import NOT_RUN, members, title, usual_words

KEY = ["dataset", "hub", "profile"]

#: what a reader can do with a hub -> heading, networks to train and networks to run at test time, of m models
STRATEGIES = {
    "random": ("one model at random, fine-tuned", "1", "1"),
    "logme": ("LogME's first, fine-tuned", "1", "1"),
    "validation": ("all fine-tuned, the best on validation images kept", "m", "1"),
    "l2_sp": ("LogME's first, with L2-SP as published", "1", "1"),
    "b_tuning": ("LogME's first, B-Tuning with its top three", "1", "1"),
    "distill": ("the ensemble distilled into one", "m + 1", "1"),
    "lite_zoo_tuning": ("Lite Zoo-Tuning", "1, with m kernels a layer", "1"),
    "model_soups": ("Model Soups", "2m", "1"),
    "zoo_tuning": ("Zoo-Tuning", "1, with m kernels a layer", "1, gated"),
    "hub_pathway": ("Hub-Pathway", "m together", "k and a generator"),
    "ensemble": ("ensemble of all fine-tuned", "m", "m"),
}
REFERENCE = "validation"  # what every strategy is set beside: it needs no method, only time


def strategies(frame: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of each of `STRATEGIES` wherever records hold it, one row a seed that all fine-tuned members have.

    Columns: dataset, hub, profile, strategy, seed, accuracy. `random` is the mean over fine-tuned members; only a
    dataset and hub with a seed of every member is a case at all. A method that takes one member counts where it took
    LogME's first; `attrs["others"]` holds the (dataset, hub, profile, strategy) of those that were run on another one
    alone. Methods with options count as the profile sets them.
    """
    rows, others = [], set()
    for key, group in frame.groupby(KEY, sort=False):
        tested = group[(group["metric"] == "top1_accuracy") & (group["split"] == "test")]
        elsewhere = tested[~tested["member"].isin(["", _first(group, str(key[1]))])]
        others |= {(*key, name) for name in set(elsewhere["method"]) & STRATEGIES.keys()}
        for name, accuracy in _of_case(group, str(key[1]), str(key[2])).items():
            case = dict(zip(KEY, key, strict=True)) | {"strategy": name}
            rows += [case | {"seed": seed, "accuracy": value} for seed, value in accuracy.items()]
    found = pd.DataFrame(rows, columns=[*KEY, "strategy", "seed", "accuracy"])
    found.attrs["others"] = others - set(found[[*KEY, "strategy"]].itertuples(index=False, name=None))
    return found


def _of_case(group: pd.DataFrame, hub: str, profile_name: str) -> dict[str, pd.Series[float]]:
    """Strategy -> test accuracy by seed in one case; empty without a seed of every fine-tuned member."""
    names = {member.name for member in members(hub)}
    accuracy = group[group["metric"] == "top1_accuracy"]
    tuned = accuracy[accuracy["method"] == "finetune"]
    test, val = (tuned[tuned["split"] == s].pivot_table(index="seed", columns="member", values="value").dropna()
                 for s in ("test", "val"))  # fmt: skip
    seeds = test.index.intersection(val.index)
    if not names or not names <= set(test) & set(val) or not len(seeds):
        return {}
    test, kept = test.loc[seeds], val.loc[seeds, list(test)].to_numpy().argmax(1)
    found = {"random": test.mean(axis=1)}
    found["validation"] = pd.Series(test.to_numpy()[np.arange(len(seeds)), kept], index=seeds)
    if first := _first(group, hub):
        found["logme"] = test[first]
    others = accuracy[(accuracy["split"] == "test") & accuracy["member"].isin(["", first])]
    for name in STRATEGIES.keys() - {"random", "logme", "validation"}:
        here = others[(others["method"] == name) & (others["options"] == usual_words(name, profile_name, len(names)))]
        by_seed = here.groupby("seed")["value"].mean()
        found[name] = by_seed[by_seed.index.isin(seeds)]
    return {name: values for name, values in found.items() if len(values)}


def _first(group: pd.DataFrame, hub: str) -> str:
    """LogME's first of one case; "" before every member has a score. Of equal scores the hub's own order decides."""
    rows = ranked(group)
    scores = rows[rows["metric"] == "logme"].set_index("member")["value"]
    scores = scores.reindex([member.name for member in members(hub)])
    return "" if scores.isna().all() or len(rows["member"].unique()) < len(scores) else str(scores.idxmax())


def strategies_text(found: pd.DataFrame) -> pd.DataFrame:
    """One row a strategy: what it trains and runs, its points over a model at random and over `REFERENCE`.

    Both are paired: of each case, the mean difference over the seeds that the strategy has; then the mean over cases
    and, in brackets, the smallest and the largest. Every case has both of these, so a strategy's cases are all shared.
    """
    wide = found.pivot_table(index=[*KEY, "seed"], columns="strategy", values="accuracy")
    rows = []
    for name, (heading, trained, tested) in STRATEGIES.items():
        cases = len(wide[wide[name].notna()].groupby(level=KEY)) if name in wide else 0
        row = {"what you do": heading, "trains": trained, "runs": tested, "cases": str(cases or "")}
        for other in ("random", REFERENCE):
            row[f"points over {other}"] = _paired(wide, name, other) if cases else NOT_RUN
        rows.append(row)
    return pd.DataFrame(rows)


def _paired(wide: pd.DataFrame, name: str, other: str) -> str:
    """`+2.0 (-1.0 to +4.0)`: the difference of two strategies on the cases and seeds that both have."""
    gain = (wide[name] - wide[other]).dropna().groupby(level=KEY).mean()
    if name == other:
        return "0"
    return _signed(gain.mean()) + (f" ({_signed(gain.min())} to {_signed(gain.max())})" if len(gain) > 1 else "")


def _signed(value: float) -> str:
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def cases_text(found: pd.DataFrame) -> pd.DataFrame:
    """One row a dataset, hub and profile, one column a strategy: test accuracy in percent, the mean over its seeds."""
    wide = found.pivot_table(index=KEY, columns="strategy", values="accuracy", sort=False)
    wide = wide.reindex(columns=[name for name in STRATEGIES if name in wide])
    text = wide.map(lambda value: NOT_RUN if pd.isna(value) else f"{value:.1f}")
    for *case, name in found.attrs.get("others", ()):
        if name in text and tuple(case) in text.index and METHODS[name].per_member:
            text.loc[tuple(case), name] = "other model"  # it was run, and not on LogME's first
    text = text.reset_index()
    for name in (name for name in text if name in METHODS and METHODS[name].homogeneous):
        apart = [not manifests.hub(hub).homogeneous for hub in text["hub"]]
        text.loc[apart, name] = "not possible"  # its members differ in architecture
    text.insert(0, "case", [f"{d} · {h} · {p}" for d, h, p in text[KEY].to_numpy()])
    return text.drop(columns=KEY).rename(columns=_SHORT)


_SHORT = {"random": "at random", "logme": "LogME", "validation": "validation"} | {
    name: title(name, "") for name in STRATEGIES.keys() - {"random", "logme", "validation"}
}
