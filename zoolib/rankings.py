"""Tables of transferability: who leads, whether the scores were right, what they cost. No torch."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from itertools import permutations

import numpy as np
import pandas as pd

from zoolib.spec import ZoolibError
from zoolib.tables import NOT_RUN, data_title, members, title, usual_words
from zoolib.transferability import weighted_kendall

FLOOR = "logme_floor"  # what LogME is for features that say nothing
SCORES = {  # metric -> heading, digits
    "logme": ("LogME", 4),
    "leep": ("LEEP", 3),
    "nce": ("NCE", 3),
    "h_score": ("H-score", 2),
    "transrate": ("TransRate", 1),
    "linear_probe": ("linear probe (%)", 1),
    "nearest_neighbours": ("k-NN (%)", 1),
}
_KEY = ["dataset", "hub", "profile"]
_INTERVAL_FROM = 5  # models; with fewer, most draws repeat the same few orders and the bootstrap is falsely certain
_EXACT_TO = 7  # models whose orders are all counted: 5040


def ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of one ranking a dataset, hub, profile and member: the one with the profile's options where there is."""
    found = frame[frame["method"] == "rank"]
    usual = [o == usual_words("rank", str(p)) for o, p in zip(found["options"], found["profile"], strict=True)]
    runs = found.assign(other=~np.array(usual, dtype=bool)).sort_values(["other", "options", "seed"], kind="stable")
    first = runs.drop_duplicates([*_KEY, "member"])["run_id"]
    return found[found["run_id"].isin(first)]


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The scores of every member of one hub on one dataset, the highest LogME first: member, title, scores.

    Members of equal LogME keep the hub's order, as B-Tuning takes its teachers. Raises ZoolibError when the frame mixes
    datasets, hubs or profiles.
    """
    frame = ranked(frame)
    for name in _KEY:
        if frame[name].nunique() > 1:
            raise ZoolibError(f"a ranking takes one {name}, not {', '.join(frame[name].unique())}; filter the frame")
    wide = frame[frame["metric"].isin([*SCORES, FLOOR])].pivot_table(
        index="member", columns="metric", values="value", dropna=False
    )
    wide = wide.reindex(columns=[*SCORES, FLOOR]).reset_index()
    hub = next(iter(frame["hub"]), "")
    wide.insert(1, "title", [_name(name, hub) for name in wide["member"]])
    places = {member.name: place for place, member in enumerate(members(hub))}
    wide = wide.sort_values("member", key=lambda names: names.map(places), kind="stable")
    return wide.sort_values("logme", ascending=False, kind="stable", ignore_index=True)


def _name(member: str, hub: str) -> str:
    return title("", member, hub).lstrip(", ")


def text(ranking: pd.DataFrame) -> pd.DataFrame:
    """A ranking as a reader sees it; a score that a model cannot have is a dash.

    So is the LogME of features that fit the labels exactly, which has no bound: it comes last, for it ranks nothing.
    """
    gains = ranking["logme"] - ranking[FLOOR]
    gain = [f"{value:+.4f}" if np.isfinite(value) else "—" for value in gains]
    columns: dict[str, list[str]] = {"LogME": [], "above the floor": gain}
    for metric, (heading, digits) in SCORES.items():
        if metric == "logme" or ranking[metric].notna().any():
            columns[heading] = ["—" if pd.isna(value) else f"{value:.{digits}f}" for value in ranking[metric]]
    return pd.DataFrame(columns, index=pd.Index(ranking["title"], name="model"))


# Were the scores right? -----------------------------------------------------------------------------------------------


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Each member's scores beside its fine-tuned test accuracy, wherever records hold both; one row a seed.

    Columns: dataset, hub, profile, member, seed, accuracy and the scores.
    """
    scored = ranked(frame)
    scored = scored[scored["metric"].isin(SCORES)]
    tuned = frame[(frame["method"] == "finetune") & (frame["split"] == "test") & (frame["metric"] == "top1_accuracy")]
    wide = scored.pivot_table(index=[*_KEY, "member"], columns="metric", values="value").reset_index()
    tuned = tuned[[*_KEY, "member", "seed", "value"]].rename(columns={"value": "accuracy"})
    joined = tuned.merge(wide, on=[*_KEY, "member"])
    return joined.reindex(columns=[*_KEY, "member", "seed", "accuracy", *SCORES])


def correlations(joined: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Weighted Kendall tau of every score against the mean accuracy over seeds, for each dataset, hub and profile.

    Columns: dataset, hub, profile, score, models, seeds, tau, low, high, p. The interval holds the middle 95 % of tau
    over bootstrap draws of the models and, within each, of the seeds; NaN with fewer than five models, and where all
    draws agree. p is the share of random orders of the models that reach as high a tau.
    """
    rows = []
    for key, group in joined.groupby(_KEY, sort=False):
        for metric in SCORES:
            here = group[group[metric].notna() & np.isfinite(group[metric])]
            members = [part for _, part in here.groupby("member", sort=False)]
            if len(members) < 2:
                continue
            scores = _digits([part[metric].iloc[0] for part in members])
            seeds = [part["accuracy"].to_numpy() for part in members]
            means = _digits([values.mean() for values in seeds])
            tau, enough = weighted_kendall(scores, means), len(members) >= _INTERVAL_FROM
            low, high = _bootstrap(scores, seeds, draws, seed) if enough else (np.nan, np.nan)
            found = dict(zip(_KEY, key, strict=True)) | {"score": metric, "models": len(members)}
            rows.append(found | {"seeds": max(map(len, seeds)), "tau": tau, "low": low, "high": high})
            rows[-1]["p"] = _as_high(scores, means, tau, draws, seed)
    return pd.DataFrame(rows, columns=[*_KEY, "score", "models", "seeds", "tau", "low", "high", "p"])


def _digits(values: Iterable[float]) -> np.ndarray:
    """Values to nine digits: what differs by less differs by rounding, and is a tie."""
    return np.array([float(f"{value:.9g}") for value in values])


def _tau(scores: np.ndarray, means: np.ndarray) -> float:
    """`weighted_kendall`, which depends on the two orders alone: of few models most draws repeat a few of them."""
    return _tau_of(*(tuple(np.unique(values, return_inverse=True)[1].tolist()) for values in (scores, means)))


@functools.lru_cache(maxsize=1 << 16)
def _tau_of(scores: tuple[int, ...], means: tuple[int, ...]) -> float:
    return weighted_kendall(np.array(scores), np.array(means))


def _as_high(scores: np.ndarray, means: np.ndarray, tau: float, draws: int, seed: int) -> float:
    """The share of orders of the models whose tau is as high: of all orders of a few models, else of random ones.

    A drawn share counts the given order as one of the draws, so that it is never 0.
    """
    if np.isnan(tau):
        return np.nan
    exact, rng = len(means) <= _EXACT_TO, np.random.default_rng(seed)
    orders = map(np.array, permutations(means)) if exact else (rng.permutation(means) for _ in range(draws))
    reached = [_tau(scores, order) >= tau - 1e-9 for order in orders]
    return float(np.mean(reached if exact else [True, *reached]))


def _bootstrap(scores: np.ndarray, seeds: Sequence[np.ndarray], draws: int, seed: int) -> tuple[float, float]:
    rng, taus = np.random.default_rng(seed), []
    models = rng.integers(len(scores), size=(draws, len(scores)))
    each = [values[rng.integers(len(values), size=(draws, len(values)))].mean(1) for values in seeds]  # (M, draws)
    for chosen, means in zip(models, np.take_along_axis(np.array(each).T, models, axis=1), strict=True):
        if len(np.unique(means)) > 1 and len(np.unique(scores[chosen])) > 1:
            taus.append(_tau(scores[chosen], means))
    low, high = np.quantile(taus, [0.025, 0.975]) if taus else (np.nan, np.nan)
    return (float(low), float(high)) if high - low > 1e-9 else (np.nan, np.nan)  # no width: an order without a mistake


def correlations_text(found: pd.DataFrame) -> pd.DataFrame:
    """One row a dataset, hub and profile, one column a score: tau, its interval where there is one, and p, by lines."""
    rows: dict[str, dict[str, str]] = {}
    for row in found.to_dict("records"):
        name = f"{data_title(row['dataset'])} · {row['hub']} · {row['profile']}"
        here = found[(found[_KEY] == [row[key] for key in _KEY]).all(axis=1)]
        most = here["models"].max()
        line = rows.setdefault(name, {"models, seeds": f"{most}, {here['seeds'].max()}"})
        spread = [f"[{row['low']:.2f},", f"{row['high']:.2f}]"] if pd.notna(row["low"]) else []
        lines = [f"{row['tau']:.2f}", *spread, f"p {row['p']:.2f}"]
        lines += [f"{row['models']} models"] if row["models"] < most else []
        line[_short(row["score"])] = "—" if pd.isna(row["tau"]) else "<br>".join(lines)
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("—").rename_axis("dataset · hub · profile")
    return table[[name for name in ("models, seeds", *map(_short, SCORES)) if name in table]]


def _short(score: str) -> str:
    return SCORES[score][0].split(" (")[0]


def choices(joined: pd.DataFrame) -> pd.DataFrame:
    """What each score's first choice is worth: mean accuracy of the model it ranks first, and what that gives away.

    Of several first ones the mean counts; a score that is the same for all models chooses none, and is no case.

    Columns: dataset, hub, profile, score, chosen, accuracy, best, average, lost (points below the best model).
    """
    rows = []
    for key, group in joined.groupby(_KEY, sort=False):
        means = group.groupby("member")["accuracy"].mean()
        for metric in SCORES:
            scores = group.groupby("member")[metric].first().dropna()
            scores[:] = _digits(scores)
            if len(scores) == len(means) > 1 and scores.nunique() > 1:
                chosen = scores.index[scores == scores.max()]
                accuracy = means[chosen].mean()
                found = {"chosen": ", ".join(chosen), "accuracy": accuracy, "best": means.max()}
                found |= {"average": means.mean(), "score": metric, "lost": means.max() - accuracy}
                rows.append(dict(zip(_KEY, key, strict=True)) | found)
    return pd.DataFrame(rows, columns=[*_KEY, "score", "chosen", "accuracy", "best", "average", "lost"])


def choices_text(found: pd.DataFrame) -> pd.DataFrame:
    """One row a score: over how many datasets and hubs, how often it named the best model, and the points it lost.

    Scores that some models cannot have, that are the same for all, or that have no bound, have fewer cases: the last
    column has what the first choices of a row and of LogME lost in the cases of both.
    """
    rows = {}
    lost = found.pivot_table(index=_KEY, columns="score", values="lost")
    for metric in SCORES:
        here = found[found["score"] == metric]
        if len(here):
            rows[_short(metric)] = {
                "cases": str(len(here)),
                "named the best model": str(int((here["lost"] < 1e-9).sum())),
                "points below the best": f"{here['lost'].mean():.2f}",
                "points above a model at random": f"{(here['accuracy'] - here['average']).mean():.2f}",
                "on LogME's cases: it, LogME": _beside_logme(lost, metric),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("first choice by")


def _beside_logme(lost: pd.DataFrame, metric: str) -> str:
    if metric == "logme" or "logme" not in lost:
        return ""
    both = lost[[metric, "logme"]].dropna()
    return f"{both[metric].mean():.2f}, {both['logme'].mean():.2f} ({len(both)})" if len(both) else ""


def unlabelled(joined: pd.DataFrame) -> pd.DataFrame:
    """Members that were pre-trained without labels, as their manifests say, among the others of their hub.

    One row a case and member: LogME, accuracy (the mean over seeds, %), and its places by both, 1 the highest. `joined`
    is that of `pairs`.
    """
    rows = []
    for key, group in joined.groupby(_KEY, sort=False):
        each = group.groupby("member", sort=False)[["accuracy", "logme"]].mean()
        without = [member.name for member in members(str(key[1])) if member.self_supervised]
        places = each[["logme", "accuracy"]].rank(ascending=False, method="min")
        for member in each.index[each.index.isin(without) & each["logme"].notna()]:
            row = {
                "case": f"{data_title(str(key[0]))} · {key[1]} · {key[2]}",
                "model": _name(str(member), str(key[1])),
            }
            row |= {"LogME": f"{each.loc[member, 'logme']:.4f}", "accuracy (%)": f"{each.loc[member, 'accuracy']:.1f}"}
            row["place by LogME"], row["by accuracy"] = (
                f"{places.loc[member, name]:.0f} of {len(each)}" for name in ("logme", "accuracy")
            )
            rows.append(row)
    return pd.DataFrame(rows)


# What does it cost? ---------------------------------------------------------------------------------------------------


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """The slides' cost table for every dataset and hub with records: features alone, LogME, fine-tuning; per model.

    Seconds and MB as text: the arrays that features and LogME hold, and the peak of the process that computed them or
    fine-tuned, network included. Columns: what, seconds, arrays, process, machine.
    """
    cost = frame[frame["split"] == "cost"]
    rows = []
    for (dataset, hub, profile), group in cost.groupby(_KEY, sort=False):
        ranked, tuned = (group[group["method"] == name] for name in ("rank", "finetune"))
        if ranked.empty:
            continue
        where = f"{data_title(str(dataset))} · {hub} · {profile}"
        typical = ranked.groupby("metric")["value"].median()  # one run of several may have been stopped for a while
        machine = ", ".join(sorted(set(ranked["machine"])))
        peak = typical.get("peak_memory_mb")
        rows.append((where, "features alone", typical["features_seconds"], typical["features_mb"], peak, machine))
        seconds = typical["features_seconds"] + typical["logme_seconds"]
        rows.append((where, "LogME", seconds, typical["logme_mb"], peak, machine))
        typical = tuned.groupby("metric")["value"].median()
        machine = ", ".join(sorted(set(tuned["machine"]))) or NOT_RUN
        rows.append((where, "fine-tuning", typical.get("seconds"), None, typical.get("peak_memory_mb"), machine))
    shown = [
        (where, what, _amount(seconds), "—" if what == "fine-tuning" else _amount(arrays), _amount(peak), machine)
        for where, what, seconds, arrays, peak, machine in rows
    ]
    columns = ["dataset · hub · profile", "what", "seconds", "arrays (MB)", "process (MB)", "machine"]
    return pd.DataFrame(shown, columns=columns)


def _amount(value: float | None) -> str:
    if value is None or pd.isna(value):
        return NOT_RUN
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"
