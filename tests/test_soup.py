"""Model soups: exact means, and a greedy choice that never loses on validation."""

import pytest
import torch

from zoolib.methods.soup import greedy_soup, uniform_soup


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
