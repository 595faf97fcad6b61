"""What each way of using a hub was worth, case by case, from records. No torch."""

from __future__ import annotations

import pandas as pd

from zoolib.data import manifests
from zoolib.methods import METHODS
from zoolib.profiles import PROFILES
from zoolib.tables import NOT_RUN, title

KEY = ["dataset", "hub", "profile"]

#: what a reader can do with a hub -> heading, networks to train and networks to run at test time, of m models
STRATEGIES = {
    "random": ("one model at random, fine-tuned", "1", "1"),
    "logme": ("LogME's first, fine-tuned", "1", "1"),
    "validation": ("all fine-tuned, the best on validation images kept", "m", "1"),
    "l2_sp": ("LogME's first, with L2-SP", "1", "1"),
    "b_tuning": ("B-Tuning with LogME's first three as teachers", "1", "1"),
    "distill": ("the ensemble distilled into one", "m + 1", "1"),
    "lite_zoo_tuning": ("Lite Zoo-Tuning", "1 of m kernels", "1"),
    "zoo_tuning": ("Zoo-Tuning", "1 of m kernels", "1, gated"),
    "hub_pathway": ("Hub-Pathway", "m together", "k and a generator"),
    "ensemble": ("ensemble of all fine-tuned", "m", "m"),
}


def strategies(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean test accuracy over seeds of each of `STRATEGIES`, wherever records hold it.

    Columns: dataset, hub, profile, strategy, accuracy. `random` is the mean over fine-tuned members; only a dataset and
    hub with every member is a case at all. A method that takes one member counts where it took LogME's first. Methods
    with options count as the profile sets them.
    """
    rows = []
    for key, group in frame.groupby(KEY, sort=False):
        accuracy = group[group["metric"] == "top1_accuracy"]
        tuned = accuracy[accuracy["method"] == "finetune"].pivot_table(
            index=["member", "seed"], columns="split", values="value"
        )
        scores = group[(group["method"] == "rank") & (group["metric"] == "logme")].set_index("member")["value"]
        names = {member.name for member in manifests.hub(str(key[1])).members}
        if set(tuned.index.get_level_values("member")) != names:
            continue
        means = tuned["test"].groupby("member").mean()
        kept = tuned.loc[tuned["val"].groupby("seed").idxmax(), "test"]
        found = {"random": means.mean(), "validation": kept.mean()}
        first = str(scores.idxmax()) if len(scores) == len(names) else ""
        if first:
            found["logme"] = means[first]
        test = accuracy[(accuracy["split"] == "test") & accuracy["member"].isin(["", first])]
        for name in STRATEGIES.keys() - {"random", "logme", "validation"}:
            here = test[(test["method"] == name) & (test["options"] == _usual(name, str(key[2])))]
            if len(here):
                found[name] = here["value"].mean()
        rows += [dict(zip(KEY, key, strict=True)) | {"strategy": n, "accuracy": v} for n, v in found.items()]
    return pd.DataFrame(rows, columns=[*KEY, "strategy", "accuracy"])


def _usual(name: str, profile_name: str) -> str:
    """A method's options as the profile sets them, in the words of a frame of records."""
    options = {**METHODS[name].options, **PROFILES[profile_name].options.get(name, {})}
    return ", ".join(f"{key}={value}" for key, value in sorted(options.items()))


def strategies_text(found: pd.DataFrame) -> pd.DataFrame:
    """One row a strategy: what it trains and runs, over how many cases, and its points over a model at random."""
    wide = found.pivot_table(index=KEY, columns="strategy", values="accuracy")
    rows = []
    for name, (heading, trained, tested) in STRATEGIES.items():
        if name in wide:
            gain = (wide[name] - wide["random"]).dropna()
            gains = f"{gain.mean():+.1f} ({gain.min():+.1f} to {gain.max():+.1f})" if name != "random" else "0"
            rows.append({"what you do": heading, "trains": trained, "runs at test time": tested} |
                        {"cases": str(len(gain)), "points above a model at random": gains})  # fmt: skip
    return pd.DataFrame(rows)


def cases_text(found: pd.DataFrame) -> pd.DataFrame:
    """One row a dataset, hub and profile, one column a strategy: test accuracy in percent."""
    wide = found.pivot_table(index=KEY, columns="strategy", values="accuracy", sort=False)
    wide = wide.reindex(columns=[name for name in STRATEGIES if name in wide])
    text = wide.map(lambda value: NOT_RUN if pd.isna(value) else f"{value:.1f}").reset_index()
    text.insert(0, "case", [f"{d} · {h} · {p}" for d, h, p in text[KEY].to_numpy()])
    return text.drop(columns=KEY).rename(columns=_SHORT)


_SHORT = {"random": "at random", "logme": "LogME", "validation": "validation"} | {
    name: title(name, "") for name in STRATEGIES.keys() - {"random", "logme", "validation"}
}
