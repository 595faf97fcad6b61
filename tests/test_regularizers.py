"""Regularisers of fine-tuning: each value against a closed form, each gradient against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoolib import regularizers as reg


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


POSITIVE = torch.tensor([[True, False, True, False], [False, True, False, False], [True, True, True, True]])
CASES: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "l2_sp": (lambda w: reg.squared_distance([w[:2], w[2:]], [rand(2, 3, seed=1), rand(1, 3, seed=2)]), rand(3, 3)),
    "head": (lambda w: reg.squared_distance([w]), rand(3, 3)),
    "ewc": (lambda w: reg.fisher_distance([w], [rand(3, 3, seed=1)], [rand(3, 3, seed=2).square()]), rand(3, 3)),
    "delta": (
        lambda m: reg.behaviour([m, m[:, :2]], [rand(2, 3, 2, 2, seed=1)] * 1 + [rand(2, 2, 2, 2, seed=2)],
                                [torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.9, 0.1]).double()]),
        rand(2, 3, 2, 2),
    ),
    "lwf": (lambda z: reg.distillation(z, rand(4, 5, seed=1), 3.0), rand(4, 5)),
    "bss, few samples": (lambda f: reg.batch_spectral_shrinkage(f, 1), rand(4, 7)),
    "bss, many samples": (lambda f: reg.batch_spectral_shrinkage(f, 2), rand(7, 4)),
    "co_tuning": (lambda z: reg.soft_cross_entropy(z, rand(4, 5, seed=1).softmax(1)), rand(4, 5)),
    "bi_tuning": (lambda s: reg.contrast(s, POSITIVE), rand(3, 4)),
    "feature_distillation": (lambda f: reg.feature_distance(f, rand(4, 6, seed=1)), rand(4, 6)),
    "b_tuning": (lambda y: reg.bayesian(y, [rand(4, 3, seed=1), rand(4, 3, seed=2)], [0.7, 0.3]), rand(4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_finite_differences(name: str):
    function, point = CASES[name]
    point.requires_grad_()
    assert torch.autograd.gradcheck(function, point)
    assert function(point).shape == ()


def test_distances_of_weights_are_those_worked_out_by_hand():
    weights, start = (
        [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])],
        [torch.tensor([0.0, 4.0]), torch.tensor([[1.0]])],
    )
    assert reg.squared_distance(weights, start) == (1 + 4 + 4) / 2
    assert reg.squared_distance(weights) == (1 + 4 + 9) / 2
    fisher = [torch.tensor([2.0, 0.5]), torch.tensor([[0.0]])]
    assert reg.fisher_distance(weights, start, fisher) == (2 * 1 + 0.5 * 4) / 2


def test_the_distance_of_maps_averages_over_pixels_and_sums_over_filters_and_the_batch():
    own, other = torch.zeros(2, 2, 1, 2), torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[2.0, 2.0]]]])
    attention = torch.tensor([0.75, 0.25])
    assert reg.behaviour([own], [other], [attention]) == pytest.approx(2 * (0.75 * (1 + 9) / 2 + 0.25 * 4) / 2)


def test_attention_is_the_softmax_of_a_fifth_of_the_z_score():
    rises = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    z = 1 / (2 / 3) ** 0.5
    expected = torch.tensor([-z / 5, 0.0, z / 5], dtype=torch.float64).exp()
    assert torch.allclose(reg.attention(rises), expected / expected.sum())
    assert torch.allclose(reg.attention(torch.ones(4)), torch.full((4,), 0.25))


def test_distillation_is_the_divergence_at_the_temperature_and_zero_for_a_copy():
    teacher, student = rand(3, 4), rand(3, 4, seed=1)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    assert torch.isclose(reg.distillation(student, teacher, 3.0), (p * (p / q).log()).sum() / 3)
    assert reg.distillation(teacher, teacher, 3.0) == pytest.approx(0, abs=1e-12)


def test_shrinkage_is_the_sum_of_the_smallest_squared_singular_values():
    for shape in ((4, 9), (9, 4)):
        features = rand(*shape)
        sigma = torch.linalg.svdvals(features)
        assert torch.isclose(reg.batch_spectral_shrinkage(features, 2), sigma[-2:].square().sum())


def test_the_relation_is_the_mean_source_prediction_of_each_target_class():
    source = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]], dtype=torch.float64)
    relation = reg.category_relation(source, torch.tensor([1, 1, 0]), 3)
    assert torch.allclose(relation, torch.tensor([[0.2, 0.8], [0.75, 0.25], [0.0, 0.0]], dtype=torch.float64))
    one_hot = torch.eye(4, dtype=torch.float64)[[2, 0]]
    expected = torch.nn.functional.cross_entropy(rand(2, 4), torch.tensor([2, 0]))
    assert torch.isclose(reg.soft_cross_entropy(rand(2, 4), one_hot), expected)


def test_contrast_is_cross_entropy_with_one_positive_and_a_divergence_with_more():
    scores = rand(3, 4)
    single = torch.zeros(3, 4, dtype=torch.bool)
    single[range(3), [1, 0, 3]] = True
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([1, 0, 3]))
    assert torch.isclose(reg.contrast(scores, single), expected)
    uniform = POSITIVE.double() / POSITIVE.sum(1, keepdim=True)
    divergence = torch.xlogy(uniform, uniform).sum() - (uniform * scores.log_softmax(1)).sum()
    assert torch.isclose(reg.contrast(scores, POSITIVE), divergence / 3)
    assert reg.contrast(torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool)) == pytest.approx(0, abs=1e-6)


def test_the_teachers_weighted_prediction_is_the_aim():
    teachers = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    assert reg.bayesian(torch.tensor([[0.75, 0.25]]), teachers, [0.75, 0.25]) == 0
    assert reg.bayesian(torch.tensor([[0.0, 0.0]]), teachers, [0.5, 0.5]) == 0.25
    assert reg.feature_distance(torch.zeros(1, 4), torch.ones(1, 4)) == 1
