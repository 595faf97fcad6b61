"""The papers' published numbers as tidy frames. No torch."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import pandas as pd

from zoolib.data import manifests
from zoolib.paths import shared
from zoolib.spec import unknown

COLUMNS = ("source", "table", "method", "column", "metric", "unit", "value", "std", "better")

# Rows of the classification tables that are one fine-tuned pretrained model.
SINGLES = {
    "imagenet": "ImageNet supervised",
    "moco": "MoCo",
    "maskrcnn": "Mask R-CNN",
    "deeplab": "DeepLabV3",
    "keypoint": "Keypoint R-CNN",
    "mobilenet_v3_large": "MobileNetV3-Large",
    "efficientnet_b3": "EfficientNet-B3",
    "swin_t": "Swin-T",
    "convnext_tiny": "ConvNeXt-T",
}
# Rows of the slides' B-Tuning: of all ten sets of three teachers the best, and the one that LogME ranks first.
SETS = {
    "best_of_10_finetunings": "B-Tuning, best of ten sets",
    "b_tuning_top3_by_logme": "B-Tuning, LogME's three",
}
# The tables of further methods with the hub of a table.
_MORE = {"table1_homogeneous": ("table4_ablation", "table5_data_dependent", "supp_table1_feature_baselines")}
# Rows that go by another name than the method here.
ALIASES = {"ensemble_top2": "ensemble_top_k", "ensemble_independent": "ensemble"}


@functools.cache
def _read() -> pd.DataFrame:
    text = dict.fromkeys(("source", "table", "method", "column", "metric", "unit", "better"), str)
    frame = pd.read_csv(shared("reference") / "paper_results.csv", dtype=text, keep_default_na=False, na_values=[""])
    return frame.assign(method=frame["method"].replace(ALIASES))


def published(table: str | None = None, **filters: Any) -> pd.DataFrame:
    """The published numbers: source, table, method, column, metric, unit, value, std, better.

    Filters are columns; a filter value may be a list. Raises ZoolibError for a name or value that occurs nowhere.
    """
    frame = _read()
    for name, value in {"table": table, **filters}.items():
        if name not in COLUMNS:
            raise unknown("column of the published numbers", name, COLUMNS)
        if value is None:
            continue
        wanted = list(value) if isinstance(value, Collection) and not isinstance(value, str) else [value]
        for item in wanted:
            if item not in set(_read()[name]):
                raise unknown(f"published {name}", item, {str(known) for known in _read()[name].dropna()})
        frame = frame[frame[name].isin(wanted)]
    return frame.reset_index(drop=True)


def table_of(hub: str) -> str:
    """The Hub-Pathway table that a hub's numbers belong beside: 1 for one architecture, 2 for several."""
    return "table1_homogeneous" if manifests.hub(hub).homogeneous else "table2_heterogeneous"


def beside(dataset: str, hub: str) -> pd.DataFrame:
    """The published numbers to set beside ours: the dataset's column in the table of task and hub; empty where none.

    `listed` is False for rows of the papers' further tables of a hub of one architecture: values for who has that
    method here, and no row for who has not.
    """
    manifest = manifests.dataset(dataset)
    table = "table3_landmarks" if manifest.task == "landmarks" else table_of(hub)
    frames = [published(name).assign(listed=name == table) for name in (table, *_MORE.get(table, ()))]
    frame = pd.concat(frames).drop_duplicates(["method", "column", "metric"])
    return frame[frame["column"] == manifest.paper_column].reset_index(drop=True)


def is_papers_hub(hub: str) -> bool:
    """Whether a hub holds the papers' pretrained models: the single models of its table, none with random weights."""
    members = manifests.hub(hub).members
    singles = set(published(table_of(hub))["method"]) & set(SINGLES)
    return {member.name for member in members} == singles and all(m.weights != "random" for m in members)
