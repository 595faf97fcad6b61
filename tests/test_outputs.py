"""What a record keeps for a reader to explore: each member's own answer, every k, and the hub over training."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from zoolib import experiment, losses
from zoolib.data.loaders import Dataset, Images
from zoolib.grid import grid
from zoolib.layers.pathway import PathwayGenerator
from zoolib.method import Method, Output
from zoolib.methods.hubpathway import HubPathway
from zoolib.nets import tiny_resnet
from zoolib.recipe import _few_rows, score
from zoolib.results import Result, ResultStore
from zoolib.spec import Settings
from zoolib.tasks import Classification
from zoolib.train import Machine

IMAGES = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Member(nn.Sequential):
    """A stand-in for HubModel: any backbone with a name and a feature size."""

    def __init__(self, name: str) -> None:
        super().__init__(tiny_resnet())
        self.name, self.num_features = name, 64


@pytest.fixture
def method() -> HubPathway:
    torch.manual_seed(0)
    members = [Member(name) for name in "abc"]
    made = HubPathway(members, Classification(4), PathwayGenerator(3, 4, 16), top_k=2).eval()  # type: ignore[arg-type]
    nn.init.normal_(made.aggregator.weight)
    return made


@torch.no_grad()
def test_the_alternative_at_each_k_is_what_a_model_with_that_k_predicts(method: HubPathway) -> None:
    named = method.alternatives(IMAGES)
    assert list(named) == ["member:a", "member:b", "member:c", "k:1", "k:2", "k:3"]
    for k in (1, 2, 3):
        method.top_k = k
        assert torch.allclose(named[f"k:{k}"], method(IMAGES).prediction, atol=1e-5)
    assert torch.allclose(named["member:b"], method.members[1](IMAGES), atol=1e-5)


def test_loads_add_up_to_k_and_a_collapsed_hub_has_no_entropy(method: HubPathway) -> None:
    mixed = method.summary({"weight": torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])})
    assert [mixed[f"load:{name}"] for name in "abc"] == [0.5, 1.0, 0.5]
    assert mixed["weight:a"] == pytest.approx(0.35)
    mean = torch.tensor([0.35, 0.3, 0.35])
    assert mixed["entropy"] == pytest.approx(losses.entropy(mean).item())
    even, gone = torch.full((5, 3), 1 / 3), torch.tensor([[1.0, 0.0, 0.0]]).repeat(5, 1)
    assert method.summary({"weight": even})["entropy"] == pytest.approx(math.log(3), rel=1e-6)
    assert method.summary({"weight": gone})["entropy"] == 0


def test_other_methods_offer_no_alternative() -> None:
    class Plain(Method):
        def forward(self, x):
            raise NotImplementedError

    assert Plain().alternatives(IMAGES) == {} and Plain().summary({}) == {}


@pytest.mark.parametrize(("classes", "expected"), [(10, 200), (196, 196), (300, 200)])
def test_the_few_images_are_balanced_and_at_most_the_count(classes: int, expected: int) -> None:
    labels = np.repeat(np.arange(classes), 30)
    images = Images(np.zeros((len(labels), 1, 1, 3), np.uint8), labels, [str(i) for i in range(classes)], "")
    data = Dataset(SimpleNamespace(), images, images, {"test": np.arange(len(labels))}, "")  # type: ignore[arg-type]
    rows = _few_rows(data, 200)
    assert len(rows) == expected and len(np.unique(rows)) == expected
    assert np.bincount(labels[rows], minlength=classes).max() == max(1, expected // classes)


def test_a_run_records_outputs_that_agree_with_its_samples(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    store = ResultStore(tmp_path / "records")
    (spec,) = grid("cls", "digits", "digits-zoo", "hub_pathway", "smoke", 1)
    experiment.run(spec, store)
    result = store.load(spec)
    assert result.outputs is not None and result.samples is not None and result.curves is not None
    both = result.outputs.merge(result.samples, on="index", suffixes=("", "_all"))
    assert len(both) == len(result.outputs) == 60 and (both["label"] == both["label_all"]).all()
    assert [top[0] for top in both["top:k:2"]] == both["prediction"].tolist()
    assert np.allclose([p[0] for p in both["probability:k:2"]], both["confidence"], atol=2e-3)
    assert all(len(top) == 3 and len(set(top)) == 3 for top in both["top:member:jigsaw"])
    curves = result.curves[result.curves["split"] == "val"]
    assert {"entropy", "load:rotation", "weight:corruption"} <= set(curves["term"])
    loads = curves[curves["term"].str.startswith("load:")].groupby("iteration")["value"].sum()
    assert np.allclose(loads, spec.option("top_k"))


def test_outputs_survive_the_store_and_a_record_without_them_reads_as_none(tmp_path) -> None:
    store = ResultStore(tmp_path)
    with_, without = grid("cls", "digits", "digits-zoo", "hub_pathway", "smoke", 2)
    table = pd.DataFrame({"index": [3], "label": [1], "top:k:1": [[1, 0]], "probability:k:1": [[0.75, 0.25]]})
    store.save(Result(with_, {}, outputs=table))
    store.save(Result(without, {}))
    again = store.load(with_).outputs
    assert again is not None and again["top:k:1"][0].tolist() == [1, 0]
    assert again["probability:k:1"][0].tolist() == [0.75, 0.25] and store.load(without).outputs is None


def test_the_recorded_weights_and_gates_stand_in_the_row_of_their_image():
    class Bright(Method):
        """Says of each image how bright it is: as a weight, and as a gate of two layers."""

        def __init__(self):
            super().__init__()
            self.recorded = {"weight": ["a", "b"], "gates": ["first", "second"]}

        def forward(self, x):
            share = x.mean((1, 2, 3))[:, None]
            gates = torch.stack([share.expand(-1, 3), share.expand(-1, 3) / 2], 1)  # (B, 2, 3)
            return Output(
                torch.cat([share, 1 - share], 1), {"weight": torch.cat([share, 1 - share], 1), "gates": gates}
            )

    pixels = (np.arange(8, dtype=np.uint8) * 30)[:, None, None, None] * np.ones((8, 4, 4, 3), np.uint8)
    images = Images(pixels, np.arange(8) % 2, ["x", "y"], "")
    rows = {"val": np.array([0, 1]), "test": np.array([1, 2, 5, 7])}
    few = Dataset(SimpleNamespace(flip=False), images, images, rows, "")  # type: ignore[arg-type]
    few = dataclasses.replace(few, manifest=SimpleNamespace(flip=False))
    settings = Settings(image_size=4, decode_size=4, batch_size=2, iterations=1, test_crops=1, channels_last=False)
    samples = score(Bright(), few, Classification(2), settings, Machine(torch.device("cpu"), "float32")).samples
    assert samples["index"].tolist() == [1, 2, 5, 7] and samples["label"].tolist() == [1, 0, 1, 1]
    level = samples["index"].to_numpy() * 30 / 255
    assert np.allclose(samples["weight:a"], level, atol=1e-3) and np.allclose(samples["weight:b"], 1 - level, atol=1e-3)
    assert np.allclose(np.stack(samples["gates:first"]), level[:, None].repeat(3, 1), atol=1e-3)
    assert np.allclose(np.stack(samples["gates:second"]), level[:, None].repeat(3, 1) / 2, atol=1e-3)
