"""The papers' checkable claims, each tested against the records: supported, not supported, inconclusive or not run.

reference/claims.yaml names for each claim its source, the published numbers, the query on the records and the range
that the effect has to lie in. A case is a dataset and a hub, and its effect is the mean over its seeds. The verdict is
about the 95 % interval of the mean effect over all cases: inside the range, the claim is supported; outside, it is not;
astride a limit, or from fewer than three cases, the records decide nothing. The interval takes cases as independent;
those that share a hub or a dataset are so only in part. No torch.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoolib import reference, stats
from zoolib.paths import results_dir, shared
from zoolib.profiles import profile
from zoolib.queries import HUB_FILTERS, KINDS, Effects, Records
from zoolib.results import ResultStore
from zoolib.spec import ZoolibError, unknown

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN = "supported", "not supported", "inconclusive", "not run"
RATIOS = ("ratio", "time_to_share")  # kinds whose effects are quotients of positive numbers
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN)
MINIMUM = 3  # cases, whatever the number of seeds


class Published(BaseModel):
    """Rows of reference/paper_results.csv that state a claim in numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    table: str
    column: str
    metric: str
    left: str
    right: tuple[str, ...] = ()  # the best of them stands against the left one


class Claim(BaseModel):
    """One claim of a paper, and how the records test it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(pattern=r"^[a-z0-9-]+$")
    claim: str
    source: str
    paper: Published | str  # rows of the published numbers, or words where a figure or a sentence states no number
    kind: str
    query: dict[str, Any]
    wanted: tuple[float | None, float | None]  # the range of the effect in which the claim holds; null is no limit
    effect: str  # what the number is, with its unit
    exact: bool = False  # the effect is computed, not measured: it has no spread, and one case is enough


@dataclass(frozen=True)
class Verdict:
    """What the records of a profile say of a claim."""

    claim: Claim
    verdict: str
    effects: Effects
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan


@functools.cache
def claims() -> tuple[Claim, ...]:
    """Every claim of reference/claims.yaml. Raises ZoolibError naming the claim and the field that is wrong."""
    path = shared("reference") / "claims.yaml"
    found = []
    try:
        entries = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ZoolibError(f"{path}: not readable YAML ({' '.join(str(error).split())})") from None
    for entry in entries:
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ZoolibError(f"{path}: claim {entry.get('id', '?')!r}: {where}: {first['msg']}") from None
        if claim.kind not in KINDS:
            raise unknown(f"query of claim {claim.id!r}", claim.kind, KINDS)
        try:
            bound = inspect.signature(KINDS[claim.kind]).bind(None, **claim.query)
        except TypeError as error:
            raise ZoolibError(f"{path}: claim {claim.id!r}: query: {error}; see zoolib.queries.{claim.kind}") from None
        for name in set(bound.arguments.get("hubs", {})) - set(HUB_FILTERS):
            raise unknown(f"part of the query of claim {claim.id!r}", name, {*bound.arguments, *HUB_FILTERS} - {"hubs"})
        found.append(claim)
    names = [claim.id for claim in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ZoolibError(f"{path}: two claims are called {twice[0]!r}; rename one")
    return tuple(found)


def paper_number(claim: Claim) -> str:
    """What the paper reports, such as `85.63 against 83.41`; its words where it gives no number."""
    paper = claim.paper
    if isinstance(paper, str):
        return paper
    rows = reference.published(paper.table, column=paper.column, metric=paper.metric)
    values = {str(name): float(value) for name, value in zip(rows["method"], rows["value"], strict=True)}
    for name in (paper.left, *paper.right):
        if name not in values:
            raise unknown(f"method of {paper.table} in claim {claim.id!r}", name, values)
    best = min if rows["better"].iloc[0] == "lower" else max
    left = f"{values[paper.left]:g}"
    return f"{left} against {best(values[name] for name in paper.right):g}" if paper.right else left


def interval(values: Sequence[float], exact: bool = False, ratios: bool = False) -> tuple[float, float, float]:
    """Mean and 95 % interval (Student's t) of the effects; of exact ones their range.

    Those of `ratios` are taken of the logarithms: no bound is below 0, and a ratio says the same as its inverse. Open
    for a single effect and for several without a spread, as t divides by it (`stats.paired` has no p there).
    """
    data = np.asarray(values, float)
    mean = float(data.mean())
    if exact:
        return mean, float(data.min()), float(data.max())
    if len(data) < 2 or np.ptp(data) <= stats.ROUNDING * max(1.0, float(np.abs(data).max())):
        return mean, -math.inf, math.inf
    if ratios:
        logs = stats.summarise(np.log(data))
        return math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high)
    found = stats.summarise(data)
    return found.mean, found.low, found.high


def judge(claim: Claim, effects: Effects) -> Verdict:
    """The rule: the interval inside the wanted range, outside it, or neither."""
    values = [value for value in effects.values if math.isfinite(value)]
    if not values:
        return Verdict(claim, NOT_RUN, effects)
    mean, low, high = interval(values, claim.exact, claim.kind in RATIOS)
    least = -math.inf if claim.wanted[0] is None else claim.wanted[0]
    most = math.inf if claim.wanted[1] is None else claim.wanted[1]
    if len(values) < MINIMUM and not claim.exact:
        word = UNDECIDED
    elif low >= least and high <= most and not (low == high == 0 and 0 in (least, most)):
        word = SUPPORTED
    elif high < least or low > most:
        word = CONTRADICTED
    else:
        word = UNDECIDED
    return Verdict(claim, word, effects, mean, low, high)


def verdicts(store: ResultStore, profile_name: str) -> list[Verdict]:
    """Every claim against the records of a profile. Raises ZoolibError for an unknown profile."""
    records = Records(store, profile(profile_name).name)
    return [judge(claim, KINDS[claim.kind](records, **claim.query)) for claim in claims()]


def table(found: Sequence[Verdict]) -> pd.DataFrame:
    """The scoreboard as a reader sees it: claim, verdict, effect with interval, range needed, cases, paper, source."""
    rows = [
        {
            "claim": v.claim.claim,
            "verdict": v.verdict,
            "effect here [95 %]": effect_text(v),
            "needed": needed_text(v.claim),
            "cases": str(len(v.effects.values)) if v.effects.values else "",
            "paper": paper_number(v.claim),
            "source": v.claim.source,
        }
        for v in found
    ]
    return pd.DataFrame(rows)


def needed_text(claim: Claim) -> str:
    """The range in which the claim holds, such as `above 0` or `1.8 to 2.6`."""
    low, high = claim.wanted
    if low is None or high is None:
        return f"below {high:g}" if low is None else f"above {low:g}"
    return f"{low:g} to {high:g}"


def effect_text(verdict: Verdict) -> str:
    """`+2.2 points [0.4, 4.0]`, of a computed effect `2.1 times [2.0 to 2.4]`, or why there is none."""
    if verdict.verdict == NOT_RUN:
        return verdict.effects.lacks
    digits = 1 if "points" in verdict.claim.effect and "NME" not in verdict.claim.effect else 2
    sign = "" if "times" in verdict.claim.effect else "+"
    shown = _digits(verdict.mean, digits, verdict.claim.wanted, sign)
    between = " to " if verdict.claim.exact else ", "  # the range over cases, not an interval
    low, high = (_digits(end, digits, verdict.claim.wanted) for end in (verdict.low, verdict.high))
    ends = f" [{low}{between}{high}]"
    if not math.isfinite(verdict.low):
        ends = " [one case]" if len(verdict.effects.values) == 1 else " [the same in every case]"
    return f"{shown} {verdict.claim.effect}{ends}"


def _digits(value: float, digits: int, limits: Sequence[float | None], sign: str = "") -> str:
    """A number with so many digits, or as many more as tell it from a limit that it does not meet."""
    text = f"{value:{sign}.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"  # no sign of zero
    if digits < 4 and any(limit is not None and float(text) == limit != value for limit in limits):
        return _digits(value, digits + 1, limits, sign)
    return text


def recomputed(store: ResultStore, profile_name: str) -> str:
    """How far the runs of a profile that were computed here are from the committed records of the same runs.

    In a few sentences, with the claims whose verdicts differ; "" where no run has both.
    """
    committed = ResultStore(results_dir())
    before = {r.spec.run_id: r for r in committed.records(profile=profile_name, task="cls")}
    off = []
    for result in store.computed().records(profile=profile_name, task="cls"):
        ours, theirs = (
            r.metrics.get("test", {}).get("top1_accuracy") if r else None
            for r in (result, before.get(result.spec.run_id))
        )
        off += [abs(ours - theirs)] if ours is not None and theirs is not None else []
    if not off:
        return ""
    pairs = zip(verdicts(store, profile_name), verdicts(committed, profile_name), strict=True)
    other = [
        f"{here.claim.id} ({here.verdict}, committed: {then.verdict})"
        for here, then in pairs
        if here.verdict != then.verdict
    ]
    changed = f"Verdicts that this changes: {', '.join(other)}." if other else "No verdict changes."
    return (
        f"{len(off)} runs of image classification were computed here and are committed, too. Their test accuracies "
        f"differ by {np.mean(off):.2f} points on average and {max(off):.1f} at most: where code, versions or processor "
        f"are others, so are the last digits, and training amplifies that as it does another seed. {changed}"
    )


def counts(found: Sequence[Verdict]) -> dict[str, int]:
    """How many claims got each verdict."""
    return {word: sum(v.verdict == word for v in found) for word in VERDICTS}


def headline(found: Sequence[Verdict]) -> str:
    """The counts in words, such as `7 supported, 2 not supported, 5 inconclusive, 20 not run`."""
    return ", ".join(f"{count} {word}" for word, count in counts(found).items())
