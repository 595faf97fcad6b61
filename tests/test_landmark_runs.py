"""Landmark runs from a specification to a record: every method of the table, on a few rendered faces."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from zoolib import experiment, heatmaps, nme
from zoolib.data import portraits
from zoolib.grid import grid
from zoolib.results import ResultStore

METHODS = (
    "scratch",
    "finetune",
    "ensemble",
    "distill",
    "knowledge_flow",
    "zoo_tuning",
    "lite_zoo_tuning",
    "hub_pathway",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Records of every method with one seed, on 60 training and 40 test faces."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("runs")
    patch.setenv("ZOOLIB_BUILD", str(folder / "build"))
    render = portraits.render
    patch.setattr(portraits, "render", lambda split, count: render(split, 60 if split == "train" else 40))
    store = ResultStore(folder / "records")
    for spec in specs():
        if not store.has(spec):
            experiment.run(spec, store)
    yield store
    patch.undo()


def specs(**changes):
    found = grid("landmarks", "faces-rendered", "digits-zoo", "all", "smoke", 1)
    small = dataclasses.replace(found[0].settings, iterations=2, batch_size=4, eval_every=1, milestones=(1,), **changes)
    return [dataclasses.replace(spec, settings=small) for spec in found]


def test_every_method_of_the_table_ends_as_a_record_of_errors(store):
    records = store.records()
    assert {record.spec.method for record in records} == set(METHODS) and len(records) == 7 + 3
    for record in records:
        test = record.metrics["test"]
        assert {"nme", "fr_08", "fr_10", "auc_08", "auc_10", "nme_mean_face"} <= set(test)
        assert test["nme"] == pytest.approx(100 * record.samples["nme"].mean(), rel=1e-5)
        assert len(record.samples) == 40 and sum(p is not None for p in record.samples["points"]) == 24
        assert record.metrics["cost"]["gmacs"] > 0


def test_curves_hold_the_validation_error_at_each_point(store):
    curves = store.records(method="zoo_tuning")[0].curves
    assert curves[(curves["split"] == "val") & (curves["term"] == "nme")]["iteration"].tolist() == [1, 2]


def test_zoo_tuning_records_a_gate_a_layer_and_hub_pathway_a_weight_a_member(store):
    gated = store.records(method="zoo_tuning")[0].samples
    assert len([name for name in gated if name.startswith("gates:")]) == 9
    weights = store.records(method="hub_pathway")[0].samples.filter(like="weight:")
    assert np.allclose(weights.sum(axis=1), 1, atol=2e-3)


def test_an_ensemble_decodes_the_mean_of_its_members_heatmaps(store):

    maps = []
    for record in store.records(method="finetune"):
        with np.load(experiment.work_dir(record.spec) / "logits.npz") as file:
            maps.append(file["test"].astype(np.float32))
            truth = file["test_labels"]

    points = heatmaps.decode(torch.from_numpy(np.mean(maps, axis=0))).numpy()
    expected = 100 * nme.errors(points, truth, (36, 45)).mean()
    assert store.records(method="ensemble")[0].metrics["test"]["nme"] == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_numbers(store, tmp_path):
    spec = next(spec for spec in specs() if spec.method == "hub_pathway")
    again = experiment.run(spec, ResultStore(tmp_path))
    assert again.metrics["test"] == store.load(spec).metrics["test"]
