"""The papers' classification tables, recomputed: methods down, datasets across. Records in, frames out; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from zoolib import reference, stats, tables
from zoolib.data import manifests
from zoolib.grid import grid
from zoolib.methods import METHODS
from zoolib.results import ResultStore
from zoolib.spec import RunSpec, ZoolibError, unknown

#: published table -> the set of methods that fills it, and its title
CONTENTS = {
    "table1_homogeneous": ("table1", "Hub-Pathway, table 1: a homogeneous hub (one architecture)"),
    "table2_heterogeneous": ("table2", "Hub-Pathway, table 2: a heterogeneous hub (several architectures)"),
    "table4_ablation": ("table4", "Hub-Pathway, table 4: ablation"),
    "table5_data_dependent": ("table5", "Hub-Pathway, table 5: one model, the best two, or one for each image"),
    "supp_table1_feature_baselines": ("features", "Zoo-Tuning, supplement, table 1: feature baselines"),
}
NOT_RANKED = ("oracle",)  # reads the labels
_METRIC = "top1_accuracy"


def specs_of(table: str, hub: str, datasets: Sequence[str], profile: str, seeds: int = 0) -> dict[str, list[RunSpec]]:
    """The runs that fill a published table, by dataset. Raises ZoolibError for an unknown table or name."""
    if table not in CONTENTS:
        raise unknown("published table of methods", table, CONTENTS)
    if not datasets:
        raise ZoolibError("no dataset was named; use some of: " + ", ".join(manifests.datasets()))
    return {name: grid("cls", name, hub, CONTENTS[table][0], profile, seeds) for name in datasets}


def values(store: ResultStore, specs: dict[str, list[RunSpec]]) -> pd.DataFrame:
    """Test accuracy in percent: one row a dataset and seed, one column a method (`title` of it), nan where not run."""
    every = [spec for planned in specs.values() for spec in planned]
    frame = store.frame(every, split="test", metric=_METRIC)
    columns = list(dict.fromkeys(tables.title(s.method, s.member, s.hub) for s in every))
    if frame.empty:
        empty = pd.MultiIndex.from_arrays([[], []], names=["dataset", "seed"])
        return pd.DataFrame(columns=columns, index=empty, dtype=float)
    titles = [tables.title(*row) for row in frame[["method", "member", "hub"]].itertuples(index=False)]
    wide = frame.assign(column=titles).pivot(index=["dataset", "seed"], columns="column", values="value")
    return wide.reindex(columns=columns)


def ranked(wide: pd.DataFrame) -> pd.DataFrame:
    """The columns that compete: all but those that read the labels."""
    return wide[[name for name in wide if name not in {tables.title(method) for method in NOT_RANKED}]]


def compare(store: ResultStore, table: str, specs: dict[str, list[RunSpec]]) -> pd.DataFrame:
    """Our means beside the published numbers, one pair of columns a dataset, then the averages; cells are text.

    Bold is significantly best of its column (paired over seeds). Averages are over all datasets with any record, of the
    seeds that a method has on every one of them; `attrs.get("average")` says over what.
    """
    wide = values(store, specs)
    hub = next(spec.hub for planned in specs.values() for spec in planned)
    rows = _rows(table, specs, hub)
    columns: dict[str, list[str]] = {}
    for dataset in specs:
        here = wide[wide.index.get_level_values("dataset") == dataset]
        champion = stats.best(ranked(here))
        most = int(here.notna().sum().max()) if len(here) else 0
        columns[f"{dataset}, here"] = [_cell(here, name, name == champion, most) for name in rows]
        if (column := manifests.dataset(dataset).paper_column) is not None:
            columns[f"{dataset}, paper"] = _published(table, column, list(rows.values()))
    done = [name for name in specs if name in wide.index.get_level_values("dataset")]
    result = pd.DataFrame(columns, index=pd.Index(list(rows), name="method"))
    if len(done) > 1:
        means = averages(wide)
        champion = stats.best(ranked(means))
        most = int(means.notna().sum().max())
        result["average, here"] = [_cell(means, n, n == champion, most) if n in means else "—" for n in rows]
        result.attrs["average"] = (
            f"The average here is over {', '.join(done)}, of the seeds that a method has on every one of them: {most}, "
            "or as many as stand in brackets. The paper's is over its own datasets and stands in its table below."
        )
    return result


def averages(wide: pd.DataFrame) -> pd.DataFrame:
    """The mean over datasets, one row a seed: nan where a method lacks that seed on any dataset.

    Methods without one complete seed and seeds without one complete method are left out.
    """
    by_seed, count = wide.groupby(level="seed"), wide.index.get_level_values("dataset").nunique()
    means = by_seed.mean().where(by_seed.count() == count)
    return means.dropna(how="all").dropna(axis=1, how="all")


def _rows(table: str, specs: dict[str, list[RunSpec]], hub: str) -> dict[str, str]:
    """Title of each row -> the published method it stands beside ("" for none), planned ones first.

    The others of the published table follow where one of the datasets is among its columns.
    """
    papers_own = reference.is_papers_hub(hub)
    rows = {
        tables.title(s.method, s.member, s.hub): (s.member if papers_own and s.method == "finetune" else "")
        if s.member
        else s.method
        for planned in specs.values()
        for s in planned
    }
    beside = any(manifests.dataset(name).paper_column is not None for name in specs)
    for name in dict.fromkeys(reference.published(table)["method"]):
        if beside and name not in rows.values():
            rows[tables.papers_title(name, rows)] = name
    return rows


def _cell(wide: pd.DataFrame, name: str, bold: bool, most: int) -> str:
    """A method's mean, with the number of its seeds where it is one, or where another method has more, `most`."""
    found = stats.summarise(wide.get(name, []))
    if not found.n:
        return tables.NOT_RUN
    text = tables.plus_minus(found.mean, found.std)
    text = f"**{text}**" if bold else text
    return text + (" (1 seed)" if found.n == 1 else f" ({found.n} seeds)" if found.n < most else "")


def _published(table: str, column: str, names: Sequence[str]) -> list[str]:
    frame = reference.published(table)
    found = frame[frame["column"] == column].set_index("method")
    return [_number(found.loc[name]) if name in found.index else "—" for name in names]


def _number(row: Any) -> str:
    return tables.plus_minus(row["value"], row["std"], 3 if row["metric"] == "logme" else 2)


def intervals(wide: pd.DataFrame, focus: str) -> pd.DataFrame:
    """Mean, standard deviation and 95 % interval of each method on one dataset, and its distance to `focus`.

    The distance is focus minus the method, paired over the seeds that both have, with its interval and p. Raises
    ZoolibError for a focus that is no method.
    """
    known = {str(name) for name in wide} | {card.title for card in METHODS.values()}
    if focus not in known:  # a method that has not been run may be one's focus
        raise unknown("method to focus on", focus, known)
    rows = {}
    for name in wide:
        found = stats.summarise(wide[name])
        if not found.n:
            continue
        row = {"seeds": str(found.n), "mean": f"{found.mean:.2f}", "std": _text(found.std)}
        row["95 % interval"] = _range(found.low, found.high)
        other = stats.paired(wide[focus], wide[name]) if focus in wide and name != focus else None
        row[f"{focus} minus it"] = _text(other.difference if other else float("nan"), "+.2f")
        row["its 95 % interval"] = _range(other.low, other.high) if other else "—"
        row["p"] = _text(other.p if other else float("nan"), ".3f")
        rows[str(name)] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _text(value: float, form: str = ".2f") -> str:
    return "—" if pd.isna(value) else format(value, form)


def _range(low: float, high: float) -> str:
    return "—" if pd.isna(low) else f"{low:.2f} to {high:.2f}"


#: names of the published tables of scores -> as a reader sees them
WORDS = {
    "vision": "images", "nlp": "language", "fine_tune": "fine-tuning", "extract_features": "features alone",
    "logme": "LogME", "moco_v1": "MoCo v1", "moco_v2": "MoCo v2", "moco_800": "MoCo v2, 800 epochs",
    "aircraft": "Aircraft", "dsprites": "dSprites", "top1_accuracy": "accuracy (%)", "mse": "mean squared error",
}  # fmt: skip


def published(table: str) -> pd.DataFrame:
    """A published table as the paper prints it: methods down, columns across."""
    frame = reference.published(table)
    order = list(dict.fromkeys(frame["method"])), list(dict.fromkeys(frame["column"]))
    text = frame.assign(text=[_number(row) for row in frame.to_dict("records")])
    wide = text.pivot(index="method", columns="column", values="text").reindex(index=order[0], columns=order[1])
    wide.index = pd.Index(
        [(reference.SINGLES | reference.SETS).get(name, tables.title(name)) for name in order[0]], name="method"
    )
    return wide.rename_axis(columns=None).fillna("—")


def note(store: ResultStore, specs: dict[str, list[RunSpec]]) -> str:
    """Why these numbers do not compare with the paper's; empty without a record or where they do."""
    frame = store.frame([spec for planned in specs.values() for spec in planned])
    return tables.note(frame) if len(frame) else ""
