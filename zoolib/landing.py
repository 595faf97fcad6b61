"""What the landing page shows of the records: one result, the state of the claims, and a widget. No torch."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoolib import claims, tables, widgets
from zoolib.data import manifests
from zoolib.results import Result, ResultStore

_PROFILES = ("mini", "lab", "paper", "smoke")  # in the order in which the landing page prefers them
_METHODS = ("scratch", "finetune", "ensemble", "zoo_tuning", "hub_pathway")


def standalone(widget: Any, name: str = "zw-landing") -> str:
    """A widget as a fragment of HTML: its state, its script, and a model that keeps them; no kernel and no manager."""
    state = {key: value for key, value in widget.get_state().items() if not key.startswith("_")}
    parts = {
        "CSS": widget._css,
        "NAME": name,
        "SCRIPT": base64.b64encode(widget._esm.encode()).decode(),
        "STATE": json.dumps(state).replace("</", "<\\/"),
    }
    text = Path(__file__).with_name("static").joinpath("standalone.html").read_text()
    for mark, value in parts.items():
        text = text.replace(f"@{mark}@", value)
    return text


def _chosen(store: ResultStore) -> list[Result]:
    """The records that the landing page is about: Hub-Pathway's with outputs, then all of its case.

    Of the first profile that has any on an embedded dataset, and there of the case in which the best member gains most
    over training from scratch: where nothing is transferred, no way of transferring can be compared.
    """
    for profile in _PROFILES:
        cases: dict[tuple[str, str], list[Result]] = {}
        for result in store.records(profile=profile, method="hub_pathway", standard=True):
            dataset, hub = case = (result.spec.dataset, result.spec.hub)
            known = dataset in manifests.datasets() and hub in manifests.hubs() and case not in cases
            if known and result.outputs is not None and manifests.dataset(dataset).source == "embedded":
                cases[case] = [result, *store.records(profile=profile, dataset=dataset, hub=hub, standard=True)]
        if cases:
            return max(cases.values(), key=lambda records: _gain(records[1:]))
    return []


def _gain(records: Sequence[Result]) -> float:
    """Points on the test images that the best fine-tuned member has over one from scratch; 0 without both records."""
    means = {method: _means(records, method) for method in ("scratch", "finetune")}
    return max(means["finetune"].values()) - means["scratch"][""] if all(means.values()) else 0.0


def _means(records: Sequence[Result], method: str) -> dict[str, float]:
    """Member ("" for none) -> mean test accuracy of a method over seeds, in percent."""
    found: dict[str, list[float]] = {}
    for result in records:
        value = result.metrics.get("test", {}).get("top1_accuracy")
        if result.spec.method == method and value is not None:
            found.setdefault(result.spec.member, []).append(value)
    return {member: sum(values) / len(values) for member, values in found.items()}


def fragment(store: ResultStore, most: int = 40) -> str:
    """The landing page's result and widget as HTML; says "not run" where the records lack."""
    chosen = _chosen(store)
    if not chosen:
        return '<p class="zl-result">Hub-Pathway: <b>not run</b> yet on a dataset that comes with the package.</p>\n'
    first, records = chosen[0], chosen[1:]
    spec = first.spec
    titles = {member.name: member.title for member in manifests.hub(spec.hub).members}
    found = claims.verdicts(store, spec.profile)
    where = f"{manifests.dataset(spec.dataset).title} from {manifests.hub(spec.hub).title}, profile {spec.profile}"
    where += ", the case where transfer gains most (some members are near relatives of their targets)"
    parts = [
        f'<p class="zl-result">{html.escape(where)}: {_scores(records, spec.options)}.',
        f"Claims of the papers in profile {spec.profile}: {claims.headline(found)}; those near a limit may change "
        "when runs are computed again (see the page of claims).</p>",
        f"<p>Below, a sample of the test images of Hub-Pathway's run with seed {spec.seed}.</p>",
        standalone(widgets.explorer(first, titles, most)),
    ]
    return "\n".join(parts)


def _scores(records: Sequence[Result], options: Any) -> str:
    """`From scratch 66.4 %, best member on the test images 88.4 %, …`, the mean over seeds of each."""
    same = [r for r in records if r.spec.method != "hub_pathway" or r.spec.options == options]
    scores = []
    for method in _METHODS:
        if means := _means(same, method):
            name = "best member on the test images" if method == "finetune" else tables.title(method)
            scores.append(f"{html.escape(name)} <b>{max(means.values()):.1f} %</b>")
    return ", ".join(scores)
