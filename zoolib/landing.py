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
    """The records that the landing page is about: of the first profile that has Hub-Pathway with outputs."""
    for profile in _PROFILES:
        for result in store.records(profile=profile, method="hub_pathway", standard=True):
            spec = result.spec
            embedded = (
                manifests.datasets()[spec.dataset].source == "embedded"
                if spec.dataset in manifests.datasets()
                else False
            )
            if result.outputs is not None and embedded and result.spec.hub in manifests.hubs():
                return [result, *store.records(profile=profile, dataset=spec.dataset, hub=spec.hub, standard=True)]
    return []


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
    parts = [
        f'<p class="zl-result">{html.escape(where)}: {_scores(records, spec.options)}.',
        f"Claims of the papers here: {claims.headline(found)}.</p>",
        standalone(widgets.explorer(first, titles, most)),
    ]
    return "\n".join(parts)


def _scores(records: Sequence[Result], options: Any) -> str:
    """`From scratch 66.4 %, best single model 88.4 %, …`, the mean over seeds of each."""
    scores = []
    for method in _METHODS:
        members: dict[str, list[float]] = {}
        for r in records:
            value = r.metrics.get("test", {}).get("top1_accuracy")
            if r.spec.method == method and value is not None and (method != "hub_pathway" or r.spec.options == options):
                members.setdefault(r.spec.member, []).append(value)
        if members:
            best = max(sum(values) / len(values) for values in members.values())
            name = "best single model" if method == "finetune" else tables.title(method)
            scores.append(f"{html.escape(name)} <b>{best:.1f} %</b>")
    return ", ".join(scores)
