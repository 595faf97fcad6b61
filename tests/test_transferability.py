"""Transferability scores against direct optimisation, closed forms and numbers worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from zoolib import evidence, features, own
from zoolib.probes import linear_probe, nearest_neighbours
from zoolib.spec import ZoolibError
from zoolib.transferability import (
    ALGORITHMS,
    LogME,
    h_score,
    leep,
    logme,
    nce,
    one_hot,
    softmax_weights,
    transrate,
    weighted_kendall,
)

EVERY = ["auto", *ALGORITHMS]


def direct_maximum(features: np.ndarray, y: np.ndarray) -> float:
    """max of log N(y; 0, F F^T / alpha + I / beta) / N by a general optimiser from many starts."""
    values, vectors = np.linalg.eigh(features.astype(float) @ features.astype(float).T)
    values, z2 = np.maximum(values, 0), (vectors.T @ y) ** 2

    def loss(logs: np.ndarray) -> float:
        variance = np.exp(-logs[0]) * values + np.exp(-logs[1])
        return 0.5 * float(len(y) * np.log(2 * np.pi) + np.log(variance).sum() + (z2 / variance).sum())

    found = []
    for alpha in range(-10, 30, 8):
        for beta in (0, 5, 10):
            rough = minimize(loss, [alpha, beta], method="L-BFGS-B", bounds=[(-60, 60)] * 2).x
            found.append(minimize(loss, rough, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11}).fun)
    return -min(found) / len(y)


def classes(count: int, number: int) -> np.ndarray:
    return np.arange(count) % number


def clusters(labels: np.ndarray, width: int, seed: int, signal: float = 1.0) -> np.ndarray:
    """Gaussian features whose means depend on the class."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(labels), width)) + signal * rng.normal(size=(labels.max() + 1, width))[labels]


def regimes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    y, rng = classes(90, 3), np.random.default_rng(5)
    unbalanced = np.r_[np.zeros(100, int), np.ones(17, int), np.full(3, 2)]
    tall = clusters(y, 8, 0, 0.6)
    return {
        "N > D": (tall, y),
        "N = D": (clusters(y, 90, 8), y),
        "N < D": (clusters(y[:40], 70, 1), y[:40]),
        "rank-deficient": (tall @ rng.normal(size=(8, 25)), y),
        "N < D and rank-deficient": (clusters(y, 12, 6) @ rng.normal(size=(12, 120)), y),
        "duplicated columns": (np.hstack([tall, tall, tall[:, :2]]), y),
        "constant and empty columns": (np.hstack([tall, np.full((90, 2), 3.0), np.zeros((90, 1))]), y),
        "one sample per class": (np.random.default_rng(2).normal(size=(8, 20)), np.arange(8)),
        "unbalanced classes": (clusters(unbalanced, 10, 3), unbalanced),
        "float16": (tall.astype(np.float16), y),
        "features that say nothing": (np.random.default_rng(4).normal(size=(90, 10)), y),
        "no features at all": (np.zeros((6, 3)), classes(6, 2)),
        "badly scaled": (clusters(y, 6, 7) * 10.0 ** np.arange(-3, 3), y),
    }


@pytest.mark.parametrize("regime", regimes())
def test_logme_is_the_maximum_of_the_true_log_marginal_likelihood_and_its_algorithms_agree(regime: str):
    features, labels = regimes()[regime]
    expected = np.array([direct_maximum(features, y) for y in one_hot(labels).T])
    for algorithm in EVERY:
        result = logme(features, labels, algorithm)
        assert result.per_output == pytest.approx(expected, rel=1e-7, abs=1e-7), algorithm
        assert result.score == pytest.approx(expected.mean(), rel=1e-7)
    assert (logme(features, labels).per_output >= expected - 1e-12).all()


def density(features: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """log N(y; 0, F F^T / alpha + I / beta) / N in 60 digits."""
    with mpmath.workdps(60):
        f, target = mpmath.matrix(features.astype(float).tolist()), mpmath.matrix(y.tolist())
        covariance = f * f.T / mpmath.mpf(alpha) + mpmath.eye(len(y)) / mpmath.mpf(beta)
        root = mpmath.cholesky(covariance)
        white = mpmath.lu_solve(root, target)
        volume = 2 * mpmath.fsum(mpmath.log(root[i, i]) for i in range(len(y)))
        return float(-(len(y) * mpmath.log(2 * mpmath.pi) + volume + mpmath.fsum(v**2 for v in white)) / 2 / len(y))


@pytest.mark.parametrize(("count", "width", "size", "kind"), [
    (24, 5, 1e8, np.float64), (24, 5, 1e9, np.float64), (12, 30, 1e8, np.float64), (24, 5, 6e4, np.float16),
])  # fmt: skip
def test_a_huge_column_hides_no_maximum_of_the_small_ones(count: int, width: int, size: float, kind: type):
    labels = classes(count, 3)
    small = clusters(labels, width, 0, 3.0) * (1e-4 if kind is np.float16 else 1.0)
    features = np.hstack([np.full((count, 1), size), small]).astype(kind)
    result = logme(features, labels)
    assert result.algorithm == "auto (svd)"
    best = np.max([logme(features, labels, name).per_output for name in ALGORITHMS], axis=0)
    assert (result.per_output >= best - 1e-7).all()
    for y, alpha, beta, score in zip(one_hot(labels).T, result.alpha, result.beta, result.per_output, strict=True):
        if np.isfinite(alpha) and np.isfinite(beta):
            assert score == pytest.approx(density(features, y, alpha, beta), abs=1e-7)


def test_features_that_are_always_zero_need_no_slower_way():
    labels = classes(90, 3)
    features = clusters(labels, 8, 0, 0.6)
    dead = logme(np.hstack([features, np.zeros((90, 4))]), labels)
    assert dead.algorithm == "auto (gram)"
    assert dead.per_output == pytest.approx(logme(features, labels).per_output, rel=1e-12)
    assert dead.weights.shape == (12, 3) and not dead.weights[8:].any()


def test_regression_on_several_outputs_is_the_mean_of_each_alone():
    rng = np.random.default_rng(0)
    features, values = rng.normal(size=(50, 7)), rng.normal(size=(50, 2))
    values[:, 0] += features @ rng.normal(size=7)
    both = logme(features, values, regression=True)
    assert both.per_output == pytest.approx([direct_maximum(features, y) for y in values.T], rel=1e-7)
    alone = [logme(features, y, regression=True).score for y in values.T]
    assert both.score == pytest.approx(np.mean(alone), rel=1e-12)
    assert both.weights.shape == (7, 2) and both.alpha.shape == both.beta.shape == (2,)


@pytest.mark.parametrize(("count", "width"), [(60, 9), (20, 45)])
def test_alpha_beta_and_weights_give_the_score_back_and_solve_the_normal_equations(count: int, width: int):
    labels = classes(count, 3)
    features = clusters(labels, width, 1, 0.3)
    result = logme(features, labels)
    for y, alpha, beta, weights, score in zip(
        one_hot(labels).T, result.alpha, result.beta, result.weights.T, result.per_output, strict=True
    ):
        if np.isfinite([alpha, beta]).all():
            covariance = np.eye(count) / beta + features @ features.T / alpha
            assert multivariate_normal(cov=covariance).logpdf(y) / count == pytest.approx(score, rel=1e-9)
            normal = alpha * np.eye(width) + beta * features.T @ features
            assert weights == pytest.approx(beta * np.linalg.solve(normal, features.T @ y), rel=1e-6, abs=1e-9)
        else:
            assert (np.isinf(alpha) and not weights.any()) or (
                np.isinf(beta) and features @ weights == pytest.approx(y)
            )
    assert result.predict(features) == pytest.approx(features @ result.weights)


def test_a_target_that_the_features_fit_exactly_has_no_maximum_and_says_so():
    labels = classes(30, 3)
    features = np.hstack([one_hot(labels), np.random.default_rng(0).normal(size=(30, 4))])
    result = logme(features, labels)
    assert result.score == math.inf and np.isinf(result.beta).all() and np.isfinite(result.alpha).all()
    assert features @ result.weights == pytest.approx(one_hot(labels))
    nearly = features + 1e-6 * np.random.default_rng(1).normal(size=features.shape)
    assert 5 < logme(nearly, labels).score < 20


@pytest.mark.parametrize(("count", "width"), [(100, 90), (100, 99), (400, 395), (16, 15)])
def test_a_class_that_one_feature_gives_away_is_not_lost_in_the_rounding_of_the_gram_matrix(count: int, width: int):
    labels = np.r_[np.zeros(count // 2, int), np.ones(count - count // 2 - 1, int), 2]
    for seed in range(4):  # of the first shape half of the seeds had a finite number for the third class
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(count, width))
        features[:, 0] = labels == 2
        assert logme(features, labels).per_output[2] == math.inf, seed
        features[:, 0] += 1e-9 * rng.normal(size=count)
        found = logme(features, labels)
        exact = evidence.maximise(evidence.by_svd(features, one_hot(labels))).log_evidence / count
        assert found.per_output == pytest.approx(exact, rel=1e-9), seed


def test_the_global_maximum_is_found_where_the_published_iteration_stops_at_a_lower_one():
    rng = np.random.default_rng(3)
    left, _ = np.linalg.qr(rng.normal(size=(40, 6)))
    features = left * [30, 30, 30, 0.03, 0.03, 0.03]
    y = left @ [3.0, 3.0, 3.0, 1.0, 1.0, 1.0] + 1e-3 * rng.normal(size=40)
    result = logme(features, y, regression=True)
    covariance = np.eye(40) / result.beta + features @ features.T / result.alpha
    density = -(40 * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + y @ np.linalg.solve(covariance, y)) / 2
    assert density / 40 == pytest.approx(result.score, rel=1e-6)
    grid = np.linspace(-40, 40, 4001)
    levels = evidence.profile(evidence.by_svd(features, y[:, None]), np.exp(grid))[:, 0] / 40
    maxima = levels[1:-1][(levels[1:-1] > levels[:-2]) & (levels[1:-1] > levels[2:])]
    assert len(maxima) > 1 and result.score == pytest.approx(maxima.max(), abs=1e-4)
    assert min(logme(features, y, name, regression=True).score for name in ALGORITHMS) < result.score


def test_the_score_does_not_depend_on_the_basis_or_the_scale_of_the_features():
    labels = classes(80, 4)
    features = clusters(labels, 12, 3, 0.5)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))
    score = logme(features, labels).score
    assert logme(features @ rotation, labels).score == pytest.approx(score, rel=1e-12)
    assert logme(1e-3 * features, labels).score == pytest.approx(score, rel=1e-12)
    wide, large = clusters(labels[:30], 60, 4), np.linalg.qr(np.random.default_rng(1).normal(size=(60, 60)))[0]
    assert logme(wide @ large, labels[:30]).score == pytest.approx(logme(wide, labels[:30]).score, rel=1e-10)


@pytest.mark.parametrize("shape", [(40, 70), (18, 40), (60, 9)])
@pytest.mark.parametrize("algorithm", EVERY)
def test_every_algorithm_finds_the_same_maximum_whatever_the_scale_of_the_features(shape, algorithm: str):
    count, width = shape
    labels = classes(count, 3)
    features = clusters(labels, width, 0, 2.0)
    expected = logme(features, labels)
    for scale in (1e-12, 1e-9, 1e-4, 3e3, 1e6, 1e12):
        found = logme(scale * features, labels, algorithm)
        assert found.per_output == pytest.approx(expected.per_output, rel=1e-8), scale


def test_half_precision_features_are_scored_as_the_numbers_they_are():
    labels = classes(5000, 3)
    half = clusters(labels, 900, 3, 0.1).astype(np.float16)  # several blocks of conversion
    assert logme(half, labels).score == pytest.approx(logme(half.astype(np.float64), labels).score, rel=1e-12)
    wide = half[:50]
    assert logme(wide, labels[:50]).score == pytest.approx(logme(wide.astype(float), labels[:50]).score, rel=1e-12)


def test_the_gram_matrix_is_left_for_the_singular_values_where_it_would_cost_digits():
    labels = classes(200, 3)
    features = clusters(labels, 10, 0, 0.4)
    assert logme(features, labels).algorithm == "auto (gram)"
    left, sigma, right = np.linalg.svd(features, full_matrices=False)
    ill = left * (sigma * 10.0 ** -np.arange(10.0)) @ right  # sigma over nine decades: its square needs eighteen digits
    result = logme(ill, labels)
    assert result.algorithm == "auto (svd)"
    assert result.per_output == pytest.approx([direct_maximum(ill, y) for y in one_hot(labels).T], rel=1e-7)


def test_the_widely_used_formula_is_right_for_full_rank_and_impossible_for_fewer_samples_than_dimensions():
    labels = classes(60, 3)
    tall, wide = clusters(labels, 10, 0), clusters(labels, 200, 0)
    for values in (tall, wide):
        spectrum, maximum, _ = evidence.solve(values, one_hot(labels))
        wrong = evidence.without_prior_term(spectrum, maximum, values.shape[1]).mean() / 60
        right = logme(values, labels).score
        assert wrong == pytest.approx(right) if values is tall else wrong > right + 1


def published_evidence(features: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """Equation 2 of LogME as the widely used code writes it, with the singular values of the shorter side."""
    count, width = features.shape
    left, sigma, right = np.linalg.svd(features, full_matrices=False)
    mean = right.T @ (beta * sigma / (alpha + beta * sigma**2) * (left.T @ y))
    found = width / 2 * np.log(alpha) + count / 2 * np.log(beta) - np.log(alpha + beta * sigma**2).sum() / 2
    return (
        found - beta / 2 * ((features @ mean - y) ** 2).sum() - alpha / 2 * mean @ mean - count / 2 * np.log(2 * np.pi)
    )


def test_the_formula_of_the_figure_is_what_the_widely_used_code_writes():
    labels = classes(40, 3)
    for width in (12, 90):
        features = clusters(labels, width, 1)
        spectrum, t = evidence.by_svd(features, one_hot(labels)), np.ones(3)
        maximum = evidence._with_precisions(
            spectrum, t, evidence.at(spectrum, t)
        )  # with the best beta for alpha / beta = 1
        wrong = evidence.without_prior_term(spectrum, maximum, width)
        for column, y in enumerate(one_hot(labels).T):
            theirs = published_evidence(features, y, maximum.alpha[column], maximum.beta[column])
            assert wrong[column] == pytest.approx(theirs, rel=1e-8), (width, column)


# The convergence theorem ----------------------------------------------------------------------------------------------


def spectrum_of(squared: list[float], seen: list[float], rest: float, count: int) -> evidence.Spectrum:
    pieces = np.array(squared), np.array(seen)[:, None], np.array([rest])
    return evidence.Spectrum(count, *pieces, 0, lambda t: np.zeros((len(squared), 1)))


def orbit(spectrum: evidence.Spectrum, steps: int) -> float:
    t = np.ones(1)
    for _ in range(steps):
        t = evidence.fixed_point_map(spectrum, t)
    return float(t[0])


def test_the_pairwise_condition_is_the_double_sum_over_all_coordinates():
    rng = np.random.default_rng(0)
    for _ in range(20):
        squared, seen, count = rng.random(4), rng.random(4), 9
        rest = rng.random()
        s, z = np.r_[squared, np.zeros(5)], np.r_[seen, rest, np.zeros(4)]
        pairs = ((z[:, None] - z) * (s[:, None] - s)).sum()
        assert evidence.converges(spectrum_of(list(squared), list(seen), rest, count))[0] == (pairs > 0)


def test_where_the_theorem_holds_the_iteration_comes_to_the_maximum_of_the_evidence():
    spectrum = spectrum_of([4.0, 2.0, 0.5], [5.0, 1.0, 0.3], 2.0, 20)
    assert evidence.converges(spectrum)[0]
    t = orbit(spectrum, 2000)
    assert 0 < t < np.inf and evidence.fixed_point_map(spectrum, np.array([t]))[0] == pytest.approx(t, rel=1e-10)
    assert t == pytest.approx(evidence.maximise(spectrum).t[0], rel=1e-7)


def test_where_the_pairwise_condition_fails_the_iteration_runs_away_and_the_maximum_lies_at_infinity():
    spectrum = spectrum_of([4.0, 2.0, 0.5], [0.01, 0.02, 0.05], 2.0, 20)
    assert not evidence.converges(spectrum)[0]
    assert orbit(spectrum, 100) > 1e3
    best = evidence.maximise(spectrum)
    assert best.t[0] == np.inf and best.alpha[0] == np.inf and best.beta[0] == pytest.approx(20 / 2.08)


def test_the_pairwise_condition_is_sufficient_and_not_necessary():
    spectrum = spectrum_of([0.5, 100.0], [5.0, 0.0], 0.5, 20)
    assert not evidence.converges(spectrum)[0]
    assert orbit(spectrum, 5000) == pytest.approx(evidence.maximise(spectrum).t[0], rel=1e-6)


def test_where_the_rank_equals_the_number_of_samples_the_noise_may_vanish():
    spectrum = spectrum_of([4.0, 2.0, 0.5], [4.0, 2.0, 0.5], 0.0, 3)
    assert not evidence.converges(spectrum)[0]
    best = evidence.maximise(spectrum)
    assert best.t[0] == 0 and best.alpha[0] == pytest.approx(1) and best.beta[0] == np.inf
    assert best.log_evidence[0] == pytest.approx(-1.5 * (1 + np.log(2 * np.pi)) - np.log(4.0) / 2)


def test_an_iteration_that_does_not_come_to_rest_says_so():
    with pytest.raises(ZoolibError, match="use algorithm='auto'"):
        evidence.iterate(lambda t: 3 - t if t != 1.5 else 2.0, 0.0, 10.0, limit=50)


# LEEP, NCE, H-score, TransRate ----------------------------------------------------------------------------------------


def test_leep_and_nce_of_a_case_worked_out_by_hand():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
    # P(y, z) = [[3/8, 1/8], [0, 1/2]], so P(0 | z) = [1, 1/5] and P(1 | z) = [0, 4/5]: 1, 3/5, 4/5, 4/5 of the labels
    assert leep(probabilities, labels) == pytest.approx(np.log(1 * 0.6 * 0.8 * 0.8) / 4)
    source = np.array([7, 3, 3, 3])  # of the three 3s one is class 0: H(Y | Z) = 3/4 H(1/3)
    third = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
    assert nce(source, labels) == pytest.approx(-0.75 * third)


def test_leep_of_certain_predictions_is_nce_and_perfect_predictions_score_0():
    labels = classes(60, 3)
    source = np.random.default_rng(0).integers(0, 5, 60)
    assert leep(np.eye(5)[source], labels) == pytest.approx(nce(source, labels))
    assert leep(np.eye(3)[labels], labels) == pytest.approx(0, abs=1e-12) == nce(labels, labels)
    constant = np.tile([0.3, 0.7], (60, 1))
    assert leep(constant, labels) == pytest.approx(np.log(1 / 3))  # knows the class frequencies and nothing else


def test_h_score_is_the_trace_of_whitened_class_means_and_lies_between_0_and_classes_less_one():
    labels = np.r_[np.zeros(20, int), np.ones(30, int), np.full(10, 2)]
    features = clusters(labels, 4, 0)
    means = np.stack([features[labels == c].mean(0) for c in labels])
    between = np.cov(means.T, bias=True)
    expected = np.trace(np.linalg.inv(np.cov(features.T, bias=True)) @ between)
    assert h_score(features, labels) == pytest.approx(expected, rel=1e-10)
    assert h_score(np.hstack([features, features]), labels) == pytest.approx(expected, rel=1e-10)
    assert h_score(one_hot(labels), labels) == pytest.approx(2)


def test_a_constant_feature_is_no_direction():
    labels = classes(100, 4)
    features = 0.1 * clusters(labels, 10, 0, 0.5)
    dead = np.hstack([features, np.full((100, 1), 3.3), np.zeros((100, 1))])
    assert h_score(dead, labels) == pytest.approx(h_score(features, labels), rel=1e-9)
    assert transrate(dead, labels) == pytest.approx(transrate(features, labels), rel=1e-9)
    assert h_score(np.full((100, 3), 0.1), labels) == 0
    new = dead[:20] + np.r_[np.zeros(10), 1e-3, 1e-3]  # what a new sample has there is no evidence of any class
    assert linear_probe(dead, labels, new, labels[:20]) == linear_probe(features, labels, features[:20], labels[:20])


def test_transrate_equals_its_definition_and_separated_classes_score_more():
    labels = classes(40, 2)
    features = clusters(labels, 3, 0, 2.0)

    def rate(z: np.ndarray) -> float:
        return float(np.linalg.slogdet(np.eye(3) + z.T @ z / (len(z) * 1e-4))[1] / 2)

    centred = features - features.mean(0)
    expected = rate(centred) - np.mean([rate(centred[labels == c]) for c in (0, 1)])
    assert transrate(features, labels) == pytest.approx(expected, rel=1e-10)
    assert transrate(features, labels) > transrate(features, np.random.default_rng(0).permutation(labels))
    assert transrate(features[:5].repeat(3, 1), labels[:5]) > 0  # N < D
    few = np.r_[:30, 31, 33, 35]  # 15 samples of one class, 18 of the other
    part, of = features[few] - features[few].mean(0), labels[few]
    assert (of == 0).sum() != (of == 1).sum()
    shares = sum((of == c).mean() * rate(part[of == c]) for c in (0, 1))
    assert transrate(features[few], of) == pytest.approx(rate(part) - shares, rel=1e-10)


# Baselines and the comparison of rankings -----------------------------------------------------------------------------


def test_a_linear_probe_and_neighbours_separate_what_is_separable_and_guess_where_nothing_is():
    labels = classes(300, 3)
    features = clusters(labels, 5, 0, 5.0)
    for judge in (linear_probe, nearest_neighbours):
        assert judge(features[:200], labels[:200], features[200:], labels[200:]) > 95
        noise = np.random.default_rng(0).normal(size=(300, 5))
        assert 15 < judge(noise[:200], labels[:200], noise[200:], labels[200:]) < 52
        assert judge(features[:200], labels[:200], features[:200], labels[:200]) > 95


def test_the_linear_probe_stands_at_the_minimum_of_its_objective():
    from sklearn.linear_model import LogisticRegression

    labels, rng = classes(120, 3), np.random.default_rng(1)
    features, new = clusters(labels, 6, 1, 0.7), rng.normal(size=(400, 6))
    mean, scale = features.mean(0), features.std(0)
    theirs = LogisticRegression(C=1 / (1e-3 * 120), max_iter=5000, tol=1e-10).fit((features - mean) / scale, labels)
    told = theirs.predict((new - mean) / scale)
    assert linear_probe(features, labels, new, told) > 99.4


def test_one_neighbour_is_the_label_of_the_nearest_direction():
    features, labels = np.array([[1.0, 0], [0, 1], [-1, 0]]), np.array([0, 1, 1])
    new = np.array([[9.0, 1], [1, 9], [-5, 1]])
    assert nearest_neighbours(features, labels, new, np.array([0, 1, 1]), k=1) == 100


def test_near_neighbours_outvote_more_of_them_that_are_far():
    features, labels = np.array([[1.0, 0.0], [-0.8, 0.6], [-0.8, -0.6]]), np.array([0, 1, 1])
    # cosines with (1, 0) are 1, -0.8 and -0.8: class 0 has 2 votes, class 1 has 0.4; heads would elect class 1
    assert nearest_neighbours(features, labels, np.array([[1.0, 0.0]]), np.array([0]), k=3) == 100


def test_weighted_kendall_of_the_same_and_the_reverse_order_and_its_weight_on_the_top():
    models = np.arange(5.0)
    assert weighted_kendall(models, models**3) == pytest.approx(1) == -weighted_kendall(models, -models)
    top, bottom = np.array([0, 1, 2, 4, 3.0]), np.array([1, 0, 2, 3, 4.0])
    assert weighted_kendall(models, top) < weighted_kendall(models, bottom) < 1
    assert math.isnan(weighted_kendall(models, np.ones(5)))


def test_teachers_are_weighted_by_the_softmax_of_their_score_at_temperature_a_tenth():
    weights = softmax_weights({"a": 0.947, "b": 0.936, "c": 0.936})
    assert weights["a"] / weights["b"] == pytest.approx(np.exp(0.11)) and sum(weights.values()) == pytest.approx(1)
    with pytest.raises(ZoolibError, match="leave it out"):
        softmax_weights({"a": math.inf, "b": 1.0})


# Bad input ------------------------------------------------------------------------------------------------------------

F, Y = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 1, 2, 0, 1, 2])
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "labels from 1": (lambda: logme(F, Y + 1), "class 0 of 0..3 has no sample"),
    "a class without samples": (lambda: logme(F, np.array([0, 1, 3, 0, 1, 3])), "class 2 of 0..3 has no sample"),
    "negative labels": (lambda: logme(F, Y - 1), "labels start at -1"),
    "labels beyond the samples": (lambda: logme(F, np.array([0, 1, 2, 0, 1, 10**9])), "class 3 of 0..1000000000"),
    "labels that are numbers": (lambda: logme(F, Y / 2), "regression=True"),
    "one class": (lambda: logme(F, Y * 0), "one class only"),
    "two-dimensional labels": (lambda: logme(F, np.eye(6, dtype=int)), r"labels are \(6, 6\)"),
    "NaN": (lambda: logme(np.where(F.max() - 1e-9 < F, np.nan, F), Y), "are not finite"),
    "infinity": (lambda: logme(F.astype(np.float16) * np.float16(65504), Y), "are not finite"),
    "no samples": (lambda: logme(F[:0], Y[:0]), r"labels are \(0,\)"),
    "no dimensions": (lambda: logme(F[:, :0], Y), "at least one sample and one dimension"),
    "shapes that do not match": (lambda: logme(F[:5], Y), "5 features and 6 labels"),
    "flat features": (lambda: logme(F[:, 0], Y), r"pass \(N, D\)"),
    "complex features": (lambda: logme(F * 1j, Y), "pass real numbers"),
    "unknown algorithm": (lambda: logme(F, Y, "fast"), "unknown LogME algorithm 'fast'"),
    "zero target": (lambda: logme(F, np.zeros(6), regression=True), "output 0 of the targets is zero"),
    "NaN target": (lambda: logme(F, F[:, 0] * np.nan, regression=True), "targets of sample 0 are not finite"),
    "no distribution": (lambda: leep(np.abs(F), Y), "pass a softmax"),
    "NCE of scores": (lambda: nce(F[:, 0], Y), "pass 6 whole numbers"),
    "no distortion": (lambda: transrate(F, Y, 0.0), "positive distortion"),
    "no neighbours": (lambda: nearest_neighbours(F, Y, F, Y, k=0), "at least 1 neighbour"),
    "half a neighbour": (lambda: nearest_neighbours(F, Y, F, Y, k=2.5), "k is 2.5; use a whole number"),  # type: ignore
    "new labels as a column": (lambda: nearest_neighbours(F, Y, F, Y[:, None]), r"new labels are \(6, 1\)"),
    "one new label": (lambda: nearest_neighbours(F, Y, F, np.array(1)), r"new labels are \(\)"),
    "new labels that are words": (lambda: linear_probe(F, Y, F, Y.astype(str)), "pass .* whole numbers"),
    "new labels that are numbers": (lambda: linear_probe(F, Y, F, Y / 1), "pass .* whole numbers"),
    "new labels of no class": (lambda: linear_probe(F, Y, F, Y + 1), "from 1 to 3; the classes are 0..2"),
    "NaN penalty": (lambda: linear_probe(F, Y, F, Y, penalty=math.nan), "penalty is nan"),
    "negative penalty": (lambda: linear_probe(F, Y, F, Y, penalty=-1), "penalty is -1"),
    "ragged features": (lambda: logme([[1.0], [1.0, 2.0]], Y), "features are no array"),  # type: ignore
    "ragged labels": (lambda: logme(F, [[1], [1, 2]]), "labels are no array"),  # type: ignore
    "masked features": (lambda: logme(np.ma.masked_less(F, 0), Y), "features have masked values"),
    "features that are times": (lambda: logme((100 * F).astype("m8[s]"), Y), "features are of type timedelta"),
    "a list of algorithms": (lambda: logme(F, Y, ["naive"]), "LogME algorithm"),
    "epsilon in words": (lambda: transrate(F, Y, "a"), "epsilon is a; use"),
    "penalty in words": (lambda: linear_probe(F, Y, F, Y, penalty="x"), "penalty is x; use"),
    "complex target": (lambda: logme(F, F[:, 0] * 1j, regression=True), "targets are of type complex128"),
    "targets that are words": (lambda: logme(F, Y.astype(str), regression=True), "targets are of type <U"),
    "huge target": (lambda: logme(F, 1e200 * F[:, 0], regression=True), "targets reach .e.200; scale them"),
    "tiny target": (lambda: logme(F, 1e-200 * F[:, 0], regression=True), "targets reach .e-200; scale them"),
    "huge features": (lambda: logme(1e160 * F, Y), "features reach .e.160; scale them"),
    "NaN score": (lambda: weighted_kendall(np.array([np.nan, 1]), np.ones(2)), "leave that model out"),
    "a score that is NaN": (lambda: softmax_weights({"a": math.nan, "b": 1.0}), "a teacher's score is no number"),
    "a temperature next to zero": (lambda: softmax_weights({"a": 1.0}, 1e-320), "too small for these scores"),
    "source labels of rows": (lambda: nce([[1], [1, 2]], np.array([0, 1])), "source labels are no array"),
    "no teacher": (lambda: softmax_weights({}), "pass at least one"),
    "negative temperature": (lambda: softmax_weights({"a": 1.0}, -0.1), "pass at least one and a positive one"),
    "other width": (lambda: linear_probe(F, Y, F[:, :2], Y), "3 dimensions and new features 2"),
    "predict on another width": (lambda: logme(F, Y).predict(F[:, :2]), r"takes \(N, 3\)"),
    "one model": (lambda: weighted_kendall(np.ones(1), np.ones(1)), "2 or more models"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_names_the_fix(case: str):
    call, message = BAD[case]
    with np.errstate(over="ignore"), pytest.raises(ZoolibError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "h_score": h_score,
    "transrate": transrate,
    "leep": leep,
    "nce": lambda source, labels: nce(source[:, 0] if np.isnan(source).any() else source.argmax(1), labels),
    "linear_probe": lambda features, labels: linear_probe(features, labels, GOOD, classes(12, 3)),
    "linear_probe, new": lambda features, labels: linear_probe(GOOD, classes(12, 3), features, labels),
}
GOOD = np.random.default_rng(0).dirichlet(np.ones(4), size=12)  # rows that are features and probabilities alike


def spoiled(value: float) -> np.ndarray:
    features = GOOD.copy()
    features[7, 0] = value
    return features


SPOILED: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "NaN": (spoiled(np.nan), classes(12, 3)),
    "infinity": (spoiled(np.inf), classes(12, 3)),
    "no sample": (GOOD[:0], classes(0, 3)),
    "another length": (GOOD, classes(11, 3)),
    "a class without samples": (GOOD, 2 * classes(12, 2)),
    "labels from 1": (GOOD, classes(12, 3) + 1),
}
_UNREAD = {("nce", "infinity"), ("linear_probe, new", "a class without samples")}  # those are only compared with


@pytest.mark.parametrize(
    ("score", "case"), [(score, case) for score in SCORES for case in SPOILED if (score, case) not in _UNREAD]
)
def test_every_score_refuses_what_it_cannot_read_in_one_line(score: str, case: str):
    assert math.isfinite(SCORES[score](GOOD, classes(12, 3)))
    with pytest.raises(ZoolibError) as raised:
        SCORES[score](*SPOILED[case])
    assert "\n" not in str(raised.value)


def test_scores_need_no_torch_and_take_whole_numbers_as_features():
    code = "import sys, zoolib.transferability; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stdout.strip() == "False", done.stderr
    counts = np.random.default_rng(0).integers(0, 9, (30, 4))
    assert logme(counts, classes(30, 2)).score == logme(counts.astype(float), classes(30, 2)).score


def test_memory_stays_within_twice_that_of_the_features():
    labels = classes(4000, 10)
    features = clusters(labels, 256, 0, 0.2)
    tracemalloc.start()
    assert isinstance(logme(features, labels), LogME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= features.nbytes  # besides the features themselves


def test_a_class_without_an_image_to_train_on_is_named_before_features_are_extracted():
    train = SimpleNamespace(labels=np.array([0, 0, 2, 2, 1]), classes=["ant", "bee", "cat"])
    manifest = SimpleNamespace(num_classes=3, name="garden", task="cls")
    data = SimpleNamespace(train=train, rows={"train": np.array([0, 1, 2, 3])}, manifest=manifest)
    calls = (
        lambda: features.extract(None, data, None, None),  # for rankings, B-Tuning and DELTA alike
        lambda: own.rank(SimpleNamespace(members=[]), data),
    )
    for call in calls:
        with pytest.raises(ZoolibError, match="class 'bee' of garden has no image to train on"):
            call()
