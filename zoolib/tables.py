"""Tables of the book: our numbers beside the papers', and their Markdown. Tidy frames in, frames out; no torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from zoolib import reference
from zoolib.data import manifests
from zoolib.data.schema import MemberManifest
from zoolib.grid import usual_options
from zoolib.methods import METHODS
from zoolib.profiles import PROFILES
from zoolib.results import RECOMPUTED
from zoolib.spec import RunSpec, ZoolibError

NOT_RUN, NOT_IN_PAPER = "not run", "not in the paper's table"
_NO_NUMBER = (NOT_RUN, NOT_IN_PAPER, "not possible", "other model")  # what stands where a number would
_UNITS = {"top1_accuracy": "%", "nme": "NME, %"}
_DIGITS = {"nme": 2}  # of our own numbers; 1 for the others

Row = tuple[str, str, str]  # method, member, options


def usual_words(name: str, profile_name: str, models: int | None = None) -> str:
    """A method's options as the profile sets them for a hub of so many models, in the words of a frame of records."""
    options = usual_options(name, PROFILES[profile_name], models=models)
    return ", ".join(f"{key}={value}" for key, value in sorted(options.items()))


def data_title(dataset: str) -> str:
    """A dataset's title; its name where it is no longer there, as records outlast what they are of."""
    try:
        return manifests.dataset(dataset).title
    except ZoolibError:
        return dataset


def members(hub: str) -> list[MemberManifest]:
    """A hub's members; none where it is no longer there."""
    try:
        return manifests.hub(hub).members
    except ZoolibError:
        return []


def title(method: str, member: str = "", hub: str = "") -> str:
    """How tables and figures call a method, or the fine-tuning of one member."""
    name = METHODS[method].title if method in METHODS else method
    return f"{name}, {_member_title(member, hub)}" if member else name


def _member_title(member: str, hub: str) -> str:
    known = {m.name: m.title for m in members(hub)} if hub else {}
    return known.get(member) or reference.SINGLES.get(member, member)


def order(frame: pd.DataFrame) -> list[Row]:
    """The (method, member, options) that occur, in the order of METHODS and of the hub's members."""
    places: dict[str, int] = {}
    for hub in frame["hub"].unique():
        places |= {m.name: i for i, m in enumerate(members(hub))}
    methods = {name: i for i, name in enumerate(METHODS)}
    rows = {(str(a), str(b), str(c)) for a, b, c in frame[["method", "member", "options"]].itertuples(index=False)}
    return sorted(rows, key=lambda row: (methods.get(row[0], len(methods)), places.get(row[1], len(places)), row))


def opening(specs: Sequence[RunSpec]) -> str:
    """What a page shows, in one sentence: dataset, hub, profile, seeds and methods of one grid."""
    spec = specs[0]
    data, hub, seeds = manifests.dataset(spec.dataset), manifests.hub(spec.hub), {s.seed for s in specs}
    names = list(dict.fromkeys(title(s.method) for s in specs))
    what = f"{data.num_classes} classes" if data.landmarks is None else f"{data.landmarks.points} points"
    return (
        f"**{data.title}** (`{data.name}`, {what}) from **{hub.title}** (`{hub.name}`, "
        f"{len(hub.members)} models); profile `{spec.profile}`, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}; "
        f"methods: {', '.join(names)}."
    )


def compare(
    frame: pd.DataFrame,
    published: pd.DataFrame,
    metric: str = "top1_accuracy",
    specs: Sequence[RunSpec] = (),
    split: str = "test",
) -> pd.DataFrame:
    """One row a method: our mean and standard deviation (n - 1) over seeds beside the published value.

    Columns: method, member, title, mean, std, seeds, planned, stamp, paper, paper_std, and `published`, the paper's row
    that it stands beside: a member has one only where the hub is the papers'. A row of `specs` or of the paper that has
    no record has seeds 0. `attrs["note"]` says why the numbers do not compare with the paper's.
    Raises ZoolibError when the frame mixes datasets, hubs or profiles, or holds one seed twice.
    """
    for name in ("dataset", "hub", "profile"):
        if frame[name].nunique() > 1:
            raise ZoolibError(f"compare takes one {name}, not {', '.join(frame[name].unique())}; filter the frame")
    ours = frame[(frame["metric"] == metric) & (frame["split"] == split)]
    hub = next(iter([*frame["hub"], *(spec.hub for spec in specs)]), "")
    planned = pd.DataFrame([_plan(spec) for spec in specs], columns=["method", "member", "options", "seed", "hub"])
    theirs = published[published["metric"] == metric].assign(listed=lambda rows: rows.get("listed", True))
    theirs = theirs.set_index("method")
    papers_own = bool(hub) and reference.is_papers_hub(hub)
    keys = order(pd.concat([ours[list(planned.columns)], planned], ignore_index=True))
    variants = pd.Series([key[:2] for key in keys]).value_counts()
    rows = []
    for key in keys:
        chosen = ours[(ours[["method", "member", "options"]] == list(key)).all(axis=1)]
        if chosen["seed"].duplicated().any():
            raise ZoolibError(f"two records of one seed of {title(*key[:2], hub)}; pass the frame of one grid of specs")
        suffix = f" ({key[2]})" if variants[key[:2]] > 1 else ""
        wanted = len(planned[(planned[["method", "member", "options"]] == list(key)).all(axis=1)])
        rows.append({"method": key[0], "member": key[1], "title": title(*key[:2], hub) + suffix, "planned": wanted})
        single = key[1] if papers_own and key[0] == "finetune" else ""  # the papers' rows of a member are fine-tuned
        rows[-1] |= _seeds(chosen) | _paper(theirs, single if key[1] else key[0])
    titles, shown = {str(row["title"]) for row in rows}, {row["published"] for row in rows}
    for name in (name for name in theirs.index[theirs["listed"]] if name not in shown):
        method, member = ("finetune", name) if name in reference.SINGLES else (name, "")
        rows.append({"method": method, "member": member, "title": papers_title(name, titles), "planned": 0})
        rows[-1] |= _seeds(ours[:0]) | _paper(theirs, name)
    columns = ["method", "member", "title", "mean", "std", "seeds", "planned", "stamp", "paper", "paper_std"]
    table = pd.DataFrame(rows, columns=[*columns, "published"])
    table.attrs = {"metric": metric, "note": note(frame) if len(frame) else ""}
    return table


def papers_title(name: str, taken: Collection[str]) -> str:
    """How a row of the paper alone is called, so that no row of a namesake here (`taken`) is."""
    found = title("finetune", name) if name in reference.SINGLES else title(name)
    return f"{found} (the paper's)" if found in taken else found


def _plan(spec: RunSpec) -> tuple[str, str, str, int, str]:
    options = ", ".join(f"{name}={value}" for name, value in spec.options)
    return spec.method, spec.member, options, spec.seed, spec.hub


def _seeds(chosen: pd.DataFrame) -> dict[str, Any]:
    commits = chosen["commit"].fillna("").astype(str).str[:7]
    stamps = chosen["origin"].where(chosen["origin"] == RECOMPUTED, (chosen["origin"] + " " + commits).str.rstrip())
    counts = stamps.value_counts(sort=False)
    stamp = ", ".join(f"{name} ({count})" if len(counts) > 1 else str(name) for name, count in counts.items())
    mean, std = chosen["value"].mean(), chosen["value"].std()
    return {"mean": mean, "std": std, "seeds": len(chosen), "stamp": stamp or NOT_RUN}


def _paper(theirs: pd.DataFrame, name: str) -> dict[str, Any]:
    found = theirs[theirs.index == name]
    return {"paper": found["value"].mean(), "paper_std": found["std"].mean(), "published": name}  # no row: nan


def note(frame: pd.DataFrame) -> str:
    """Why a frame's numbers do not compare with the paper's, in one sentence; empty where they do."""
    reasons = []
    for name in frame["profile"].unique():
        if name != "paper":
            described = PROFILES[name].description if name in PROFILES else "not a packaged profile"
            reasons.append(f"the profile is {name} ({described})")
    others = [name for name in frame["dataset"].unique() if manifests.dataset(name).paper_column is None]
    if others:
        listed = " or ".join(filter(None, [", ".join(others[:-1]), others[-1]]))
        reasons.append(f"the paper has no {listed}")
    for hub in frame["hub"].unique():
        if not reference.is_papers_hub(hub):
            reasons.append(f"the hub is {hub}, not the paper's")
    for dataset, name in frame[["dataset", "data"]].drop_duplicates().itertuples(index=False):
        for variant in manifests.dataset(dataset).variants:
            if variant.name == name and not variant.official:
                reasons.append(f"the data is the variant {name} ({variant.note.strip()})")
        for source in manifests.dataset(dataset).sources:
            if source.name == name and not source.official:
                reasons.append(f"the data is from the source {name} ({source.note.strip()})")
    return f"Not comparable with the paper: {'; '.join(reasons)}." if reasons else ""


def with_numbers(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A comparison's rows that have a number, here or in the paper, and a sentence that names the others."""
    empty = (table["seeds"] == 0) & table["paper"].isna()
    names = "; ".join(table["title"][empty])
    return table[~empty], f"Neither run nor in the paper's table: {names}." if names else ""


def text(table: pd.DataFrame) -> pd.DataFrame:
    """A comparison as a reader sees it: `mean ± std`, the words for what is missing, one row a method."""
    unit = _UNITS.get(table.attrs.get("metric", ""), "")
    unit = f" ({unit})" if unit else ""
    columns: dict[str, list[str]] = {f"here{unit}": [], "seeds": [], "computed": [], f"paper{unit}": []}
    here, seeds, computed, paper = columns.values()
    digits = _DIGITS.get(table.attrs.get("metric", ""), 1)
    for row in table.to_dict("records"):
        n, planned = row["seeds"], row["planned"]
        here.append(plus_minus(row["mean"], row["std"], digits) if n else NOT_RUN)
        seeds.append(f"{n} of {planned}" if 0 < n < planned else str(n) if n else "")
        computed.append(row["stamp"] if n else "")
        paper.append(NOT_IN_PAPER if pd.isna(row["paper"]) else plus_minus(row["paper"], row["paper_std"], 2))
    return pd.DataFrame(columns, index=pd.Index(table["title"], name="method"))


def beside_published(comparison: pd.DataFrame, published: pd.DataFrame, here: str) -> pd.DataFrame:
    """A comparison's own numbers in one column beside every column of a published table, one row a method.

    `here` heads our column, and `seeds` the number of seeds of its mean. Methods of the paper that have no record say
    "not run"; values keep the paper's digits.
    """
    digits = _DIGITS.get(comparison.attrs.get("metric", ""), 1)
    columns, rows = list(dict.fromkeys(published["column"])), {}
    for row in comparison.to_dict("records"):
        ours = plus_minus(row["mean"], row["std"], digits) if row["seeds"] else NOT_RUN
        rows[row["title"]] = ours, str(row["seeds"] or ""), row["published"]
    shown = {name for _, _, name in rows.values()}
    for name in (name for name in dict.fromkeys(published["method"]) if name not in shown):
        rows[papers_title(name, list(rows))] = NOT_RUN, "", name
    cells = {}
    for heading, (ours, seeds, name) in rows.items():
        theirs = published[published["method"] == name].set_index("column")["value"]
        values = {c: f"{theirs[c]:.2f}" if c in theirs.index else NOT_IN_PAPER for c in columns}
        cells[heading] = {here: ours, "seeds": seeds, **values}
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis("method")


def plus_minus(value: float, std: float, digits: int = 1) -> str:
    """`mean ± standard deviation`; the mean alone where there is no spread (one seed)."""
    return f"{value:,.{digits}f}" + ("" if pd.isna(std) else f" ± {std:,.{digits}f}")


def at_an_end(noun: str, chosen: Mapping[str, tuple[float | None, Collection[float]]]) -> str:
    """Which methods have the lowest or highest value that was tried of them, in one sentence; empty where none does.

    `chosen` is title -> its value and all that were tried, `noun` what they are, such as "rate".
    """
    several = {name: (value, tried) for name, (value, tried) in chosen.items() if len(tried) > 1}
    found = []
    for word, end in (("lowest", min), ("highest", max)):
        if names := [name for name, (value, tried) in several.items() if value == end(tried)]:
            found.append(f"the {word} {noun} for {', '.join(names)}")
    where = " and ".join(found)
    return f"The choice is at an end of what was tried, {where}: one further out may be better still." if found else ""


def markdown(table: pd.DataFrame) -> str:
    """A frame as a Markdown table: its index first, columns of numbers to the right; "none" without rows."""
    if not len(table):
        return "none"
    flat = table.reset_index() if table.index.name else table
    rows = [["" if pd.isna(v) else str(v) for v in row] for row in flat.itertuples(index=False)]
    numeric = [_numbers([row[i] for row in rows]) for i in range(flat.shape[1])]
    lines = [[str(name) for name in flat.columns], ["---:" if right else "---" for right in numeric], *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _numbers(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers, bold or signed ones too, besides what stands where there is none.

    A number with more than one word behind it is a sentence, which must be free to break.
    """
    values = [cell.replace("<br>", " ").strip("*") for cell in cells if cell not in ("", "—", *_NO_NUMBER)]
    return bool(values) and all(
        value.lstrip("+-−")[:1].isdigit() and len(re.findall(r"[^\W\d_]{2,}", value)) <= 1 for value in values
    )


def _cell(text: str) -> str:
    """A cell's text on one line; a value stays together with its spread."""
    return text.replace("|", "\\|").replace("\n", " ").replace(" ± ", "\u00a0±\u00a0")
