"""Model soups: exact means, and a greedy choice that never loses on validation."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from zoolib.data import loaders
from zoolib.data.manifests import dataset
from zoolib.methods import soup
from zoolib.methods.soup import greedy_soup, uniform_soup
from zoolib.spec import Settings
from zoolib.tasks import Classification
from zoolib.train import Machine


def states(values):
    return [{"w": torch.full((2, 2), float(v)), "n": torch.tensor(7 + i)} for i, v in enumerate(values)]


def test_a_uniform_soup_is_the_mean_of_the_weights_exactly():
    soup = uniform_soup(states([1, 2, 6]))
    assert torch.equal(soup["w"], torch.full((2, 2), 3.0)) and soup["n"] == 7
    (only,) = states([5])
    assert torch.equal(uniform_soup([only])["w"], only["w"])


def scorer(table):
    return lambda state: table[round(state["w"][0, 0].item(), 6)]


def test_the_greedy_soup_starts_at_the_best_and_keeps_what_does_not_hurt():
    # alone 0.5, 0.7, 0.6; with the second (best), the third helps, the first then hurts
    table = {0.0: 0.5, 3.0: 0.7, 6.0: 0.6, 4.5: 0.8, 3.0 + 1e-9: 0.0}
    table[round((3.0 + 6.0 + 0.0) / 3, 6)] = 0.7  # the mean of all three: below 0.8
    assert greedy_soup(states([0, 3, 6]), scorer(table)) == [1, 2]


def test_a_soup_that_ties_takes_the_ingredient_in():
    assert sorted(greedy_soup(states([0, 2]), lambda state: 1.0)) == [0, 1]


def test_the_greedy_soup_is_never_worse_on_validation_than_its_best_ingredient():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        pool = states(torch.randn(4, generator=generator).tolist())
        target = torch.randn((), generator=generator).item()

        def accuracy(state, target=target):
            return -abs(state["w"][0, 0].item() - target)

        chosen = uniform_soup([pool[i] for i in greedy_soup(pool, accuracy)])
        assert accuracy(chosen) >= max(accuracy(state) for state in pool) - 1e-6


def test_running_statistics_are_averaged_and_counters_are_kept():
    norms = [torch.nn.BatchNorm1d(2) for _ in range(2)]
    for norm, value in zip(norms, (1.0, 3.0), strict=True):
        norm.running_mean.fill_(value)
    soup = uniform_soup([norm.state_dict() for norm in norms])
    assert soup["running_mean"].tolist() == [2.0, 2.0] and soup["num_batches_tracked"].item() == 0


@pytest.mark.parametrize("count", [1, 3])
def test_equal_ingredients_make_themselves(count):
    assert torch.equal(uniform_soup(states([4] * count))["w"], torch.full((2, 2), 4.0))


def test_a_greedy_soup_is_chosen_on_validation_even_where_another_is_better_on_test(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path))
    settings = Settings(
        image_size=16, decode_size=16, batch_size=8, iterations=1, crop="shift", test_crops=1, train_per_class=4,
        test_limit=30, val_fraction=0.2, eval_every=1, channels_last=False,
    )  # fmt: skip
    data, task = loaders.load(dataset("digits"), settings), Classification(10)
    only = {"val": np.flatnonzero(data.train.labels == 0)[:4], "test": np.flatnonzero(data.test.labels == 1)[:4]}
    ctx = SimpleNamespace(
        data=dataclasses.replace(data, rows=data.rows | only),
        spec=SimpleNamespace(settings=settings),
        machine=Machine(torch.device("cpu"), "float32"),
        task=task,
    )
    pot = soup.Pot(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))  # type: ignore[arg-type]
    always = [
        {"head.weight": torch.zeros(10, 768), "head.bias": level * torch.eye(10)[label]}
        for label, level in ((1, 3.0), (0, 2.0))  # all test images are ones, all validation images zeros
    ]
    found = soup._scored(ctx, pot, always, "greedy").metrics
    assert (found["val"]["top1_accuracy"], found["test"]["top1_accuracy"], found["val"]["ingredients"]) == (100, 0, 1)
    mixed = soup._scored(ctx, pot, always, "uniform").metrics
    assert (mixed["val"]["top1_accuracy"], mixed["test"]["top1_accuracy"], mixed["val"]["ingredients"]) == (0, 100, 2)
