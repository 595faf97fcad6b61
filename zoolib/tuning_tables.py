"""Tables of tuning: sets of teachers, one member taught, and accuracy over shares of the labels. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from zoolib.results import Result
from zoolib.tables import NOT_RUN, members, plus_minus, title, usual_words

# Teachers -------------------------------------------------------------------------------------------------------------


def triple_table(
    frame: pd.DataFrame, ranking: pd.DataFrame, member: str = "", method: str = "b_tuning"
) -> pd.DataFrame:
    """Accuracy of every set of teachers of one target model, the sets in the order of their accuracy.

    `member` is that model; "" takes runs of all. Runs with other options than the profile's, but for their teachers,
    are left out. Where LogME's choice was run by its number too, its row is that run, which every other table shows.

    Columns: teachers (tuple), mean, std, seeds, chosen (whether LogME's top-K is that set).
    """
    tuned = frame[(frame["method"] == method) & (frame["metric"] == "top1_accuracy") & (frame["split"] == "test")]
    tuned = _taught(tuned[tuned["member"].isin([member]) | (not member)])
    order = list(ranking["member"])
    if any(len(order) < len(members(str(hub))) for hub in tuned["hub"].unique()):
        tuned = tuned[:0]  # LogME's first are not known before every member has a score
    runs = [(teachers_of(str(options)), group["value"]) for options, group in tuned.groupby("options", sort=False)]
    rows = []
    for value, values in sorted(runs, key=lambda run: not run[0].isdigit()):
        names = tuple(order[: int(value)]) if value.isdigit() else tuple(sorted(value.split(","), key=order.index))
        chosen = set(names) == set(order[: len(names)])
        rows.append(
            {"teachers": names, "mean": values.mean(), "std": values.std(), "seeds": len(values), "chosen": chosen}
        )
    table = pd.DataFrame(rows, columns=["teachers", "mean", "std", "seeds", "chosen"])
    table = table.drop_duplicates("teachers", ignore_index=True)
    return table.sort_values("mean", ascending=False, ignore_index=True)


def _taught(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows whose options are the profile's, whatever the teachers."""
    rows = frame[["options", "method", "profile"]].astype(str).itertuples(index=False)
    kept = [_but_teachers(options) == _but_teachers(usual_words(name, profile)) for options, name, profile in rows]
    return frame[np.array(kept, dtype=bool)]


def _but_teachers(options: str) -> list[str]:
    return [part for part in options.split(", ") if "=" in part and not part.startswith("teachers=")]


def teachers_of(options: str) -> str:
    """The value of `teachers` in a record's options in words."""
    parts = options.split("teachers=", 1)[-1].split(", ")
    names = [parts[0]]
    for part in parts[1:]:
        if "=" in part:
            break
        names.append(part)
    return ",".join(names)


def triple_text(table: pd.DataFrame, ranking: pd.DataFrame) -> pd.DataFrame:
    """The slides' table: one row a set of teachers, a mark under each of its members (highest LogME first)."""
    titles: Mapping[str, Any] = dict(zip(ranking["member"], ranking["title"], strict=True))
    rows = []
    for row in table.to_dict("records"):
        marks = {titles[name]: "✓" if name in row["teachers"] else "" for name in titles}
        accuracy = plus_minus(row["mean"], row["std"])
        rows.append(
            marks | {"accuracy (%)": accuracy, "seeds": str(row["seeds"]), "LogME's": "✓" if row["chosen"] else ""}
        )
    out = pd.DataFrame(rows)
    out.index = pd.Index([str(i + 1) for i in range(len(out))], name="place")
    return out


def taught_text(frame: pd.DataFrame, member: str, pulls: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One member fine-tuned alone, with plain feature distillation, and with B-Tuning from LogME's teachers.

    The gain over fine-tuning is paired over the seeds that both have. `pulls` are those of `tradeoff_tables.pulls`: a
    column for how much of the loss each method's term is.
    """
    test = frame[(frame["member"] == member) & (frame["metric"] == "top1_accuracy") & (frame["split"] == "test")]
    rows, plain = {}, test[test["method"] == "finetune"].set_index("seed")["value"]
    for method in ("finetune", "feature_distillation", "b_tuning"):
        own = test[test["method"] == method]
        if method != "finetune":
            own = _taught(own)
            own = own[own["options"].map(lambda options: teachers_of(str(options)).isdigit()).astype(bool)]
        value = own.set_index("seed")["value"]
        gain = (value - plain).dropna()
        rows[title(method)] = {
            "accuracy (%)": plus_minus(value.mean(), value.std()) if len(value) else NOT_RUN,
            "seeds": str(len(value)) if len(value) else "",
            "points over fine-tuning": plus_minus(gain.mean(), gain.std())
            if len(gain) and method != "finetune"
            else "",
        }
        if pulls is not None:
            rows[title(method)]["term / task"] = pulls.get(method, "") if method != "finetune" else ""
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


# Label fractions ------------------------------------------------------------------------------------------------------


def fractions(records: Sequence[Result]) -> pd.DataFrame:
    """One row a method and share of labels: method, member, fraction, mean, std, seeds, gain, gain_std.

    The gain is the accuracy less that of fine-tuning, paired over the seeds that both have; NaN where there are none.
    """
    rows = [
        {"method": r.spec.method, "member": r.spec.member, "fraction": r.spec.settings.train_fraction,
         "seed": r.spec.seed, "value": r.metrics["test"]["top1_accuracy"]}
        for r in records if "top1_accuracy" in r.metrics.get("test", {})
    ]  # fmt: skip
    same = ["member", "fraction", "seed"]
    frame = pd.DataFrame(rows, columns=["method", *same, "value"])
    plain = frame[frame["method"] == "finetune"].set_index(same)["value"]
    frame["gain"] = frame["value"] - frame.join(plain.rename("plain"), on=same)["plain"]
    return frame.groupby(["method", "member", "fraction"], sort=False).agg(
        mean=("value", "mean"), std=("value", "std"), seeds=("value", "count"),
        gain=("gain", "mean"), gain_std=("gain", "std"),
    ).reset_index()  # fmt: skip


def _cell(row: pd.Series[Any], most: int) -> str:
    seeds = int(row["seeds"])
    fewer = f" ({seeds} seed{'s' if seeds > 1 else ''})" if seeds < most else ""
    return plus_minus(row["mean"], row["std"]) + fewer


def fractions_text(found: pd.DataFrame, methods: Mapping[str, str], shares: Sequence[float]) -> pd.DataFrame:
    """One row a method by its title, one column a share of the labels: `mean ± std`, or what stands for no run.

    A cell of fewer seeds than others of its share says how many.
    """
    rows = {}
    most = found.groupby("fraction")["seeds"].max()
    for method, words in methods.items():
        cells = {}
        for share in shares:
            here = found[(found["method"] == method) & (found["fraction"] == share)]
            cells[f"{share:.0%}"] = _cell(here.iloc[0], int(most[share])) if len(here) else NOT_RUN
        rows[words] = cells
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("accuracy (%) by share of labels")
