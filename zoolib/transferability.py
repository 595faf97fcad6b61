"""How well will a pretrained model transfer? Scores from its features and the labels: arrays in, numbers out.

NumPy and SciPy only. Every score is computed on the training split, takes features (N, D) of a frozen backbone, and is
higher for a model that promises more; scores of different datasets do not compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np

from zoolib import evidence
from zoolib.evidence import Maximum, Spectrum, Step
from zoolib.spec import ZoolibError, unknown


@dataclass(frozen=True)
class LogME:
    """The score and the model behind it: a Bayesian linear regression for every class or output."""

    score: float  # mean over classes of log evidence / N
    per_output: np.ndarray  # (C,)
    alpha: np.ndarray  # (C,) precision of the weights
    beta: np.ndarray  # (C,) precision of the noise
    weights: np.ndarray  # (D, C) posterior mean
    algorithm: str  # what computed it; "auto" says whether by "gram" or "svd"

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Posterior mean prediction of features (N, D): (N, C)."""
        features = check_features(features)
        if features.shape[1] != len(self.weights):
            raise ZoolibError(f"features are {features.shape}; predict takes (N, {len(self.weights)})")
        return np.asarray(features @ self.weights)


# Checked input --------------------------------------------------------------------------------------------------------


def as_array(values: object, name: str) -> np.ndarray:
    """Values as an array. Raises ZoolibError where they are none, and where some of them are masked."""
    if np.ma.is_masked(values):
        raise ZoolibError(f"{name} have masked values; drop those samples")
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # rows of different lengths; a tensor with a gradient, or bfloat16
        raise ZoolibError(f"{name} are no array; pass rows of one length, a tensor as x.detach().numpy()") from None


def check_features(features: np.ndarray, count: int | None = None, name: str = "features") -> np.ndarray:
    """Features as (N, D) floats.

    Raises ZoolibError for another shape, no samples, values that are not finite or that nothing can be computed from.
    """
    features = as_array(features, name)
    if features.ndim != 2 or 0 in features.shape:
        raise ZoolibError(f"{name} are {features.shape}; pass (N, D) with at least one sample and one dimension")
    if not np.issubdtype(features.dtype, np.floating):
        if features.dtype.kind not in "iu":
            raise ZoolibError(f"{name} are of type {features.dtype}; pass real numbers")
        features = features.astype(np.float64)
    if count is not None and len(features) != count:
        raise ZoolibError(f"{len(features)} {name} and {count} labels; pass one label a sample")
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise ZoolibError(
            f"{name} of sample {bad[0]} are not finite (and of {len(bad)} samples in all); drop or fix them"
        )
    size = max(float(features.max()), -float(features.min()))
    if size and not 1e-60 <= size <= 1e60:  # float64 could not hold the fourth powers
        raise ZoolibError(f"{name} reach {size:.0e}; scale them to between 1e-60 and 1e60")
    return features


def check_labels(labels: np.ndarray, what: str = "labels") -> np.ndarray:
    """Labels as (N,) int64. Raises ZoolibError unless they are 0..C-1, each class with a sample and C at least 2."""
    labels = as_array(labels, what)
    if labels.ndim != 1 or len(labels) == 0:
        raise ZoolibError(f"{what} are {labels.shape}; pass (N,) with at least one sample")
    if labels.dtype.kind not in "iu":
        raise ZoolibError(
            f"{what} are of type {labels.dtype}; pass whole numbers 0..C-1, or regression=True for values"
        )
    if labels.min() < 0:
        raise ZoolibError(f"{what} start at {labels.min()}; number the classes 0..C-1")
    if labels.max() >= len(labels) or (np.bincount(labels) == 0).any():
        present = np.unique(labels)
        lacking = int(np.flatnonzero(present != np.arange(len(present)))[0])
        raise ZoolibError(f"class {lacking} of 0..{labels.max()} has no sample; number the classes that occur 0..C-1")
    if labels.max() == 0:
        raise ZoolibError(f"{what} name one class only; a score needs at least two")
    return labels.astype(np.int64)


def one_hot(labels: np.ndarray) -> np.ndarray:
    """(N,) -> (N, C) of 0.0 and 1.0."""
    targets = np.zeros((len(labels), int(labels.max()) + 1))
    targets[np.arange(len(labels)), labels] = 1.0
    return targets


def _check_values(values: np.ndarray) -> np.ndarray:
    """Regression targets as (N, C) float64."""
    values = as_array(values, "targets")
    values = values[:, None] if values.ndim == 1 else values
    values = check_features(values, name="targets").astype(np.float64, copy=False)
    empty = np.flatnonzero((values == 0).all(0))
    if len(empty):
        raise ZoolibError(f"output {empty[0]} of the targets is zero for every sample; drop it")
    return values


# LogME ----------------------------------------------------------------------------------------------------------------


def logme(features: np.ndarray, targets: np.ndarray, algorithm: str = "auto", regression: bool = False) -> LogME:
    """Logarithm of the maximum evidence of a linear model on frozen features (You et al., ICML 2021 and JMLR 2022).

    Features (N, D) of any real type; targets are labels (N,) in 0..C-1, one regression on 0 and 1 for each class, or,
    with `regression`, values (N,) or (N, outputs). Computed in float64. A target that is an exact linear function of
    the features with N above their rank has no maximum: its evidence, and then the score, is infinite.

    Algorithms, all for the same maximum: "naive" solves a D x D system for each class and update of alpha and beta,
    "optimised" decomposes F^T F once, "fixed_point" iterates on t = alpha / beta in the coordinates of a truncated
    singular value decomposition (algorithm 3 of the slides). These find a stationary point from alpha = beta = 1, or
    from the median squared singular value where the scale of the features puts 1 out of reach.
    "auto" finds the global maximum over t for all classes at once, by the Gram matrix where its rounding errors cannot
    reach the tenth digit and by the singular value decomposition otherwise; it is the fastest.

    Raises ZoolibError for labels that are not 0..C-1, a class without samples, features that are not finite or whose
    fourth powers float64 cannot hold, shapes that do not match, and for an iteration that does not converge.
    """
    values = _check_values(targets) if regression else one_hot(check_labels(targets))
    features = check_features(features, len(values))
    if algorithm == "auto":
        spectrum, maximum, how = evidence.solve(features, values)
        return _result(spectrum, maximum, f"auto ({how})")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise unknown("LogME algorithm", str(algorithm), ["auto", *ALGORITHMS])
    spectrum, steps = ALGORITHMS[algorithm](features.astype(np.float64, copy=False), values)
    return _result(spectrum, evidence.by_iteration(spectrum, steps), algorithm)


def _result(spectrum: Spectrum, maximum: Maximum, algorithm: str) -> LogME:
    each = maximum.log_evidence / spectrum.count
    weights = spectrum.weights(maximum.t) if len(spectrum.squared) else None
    if weights is None:  # all features are zero
        weights = spectrum.weights(np.ones_like(maximum.t)) * 0
    return LogME(float(each.mean()), each, maximum.alpha, maximum.beta, weights, algorithm)


def _naive(features: np.ndarray, values: np.ndarray) -> tuple[Spectrum, list[Step]]:
    """Solve (t I + F^T F) m = F^T y anew at every update: O(D^3) each."""
    spectrum, product = evidence.by_svd(features, values), features.T @ features

    def stepper(y: np.ndarray) -> Step:
        moment = features.T @ y

        def step(t: float) -> float:
            return _update(spectrum, t, np.linalg.solve(t * np.eye(len(product)) + product, moment), features, y)

        return step

    return spectrum, [stepper(y) for y in values.T]


def _optimised(features: np.ndarray, values: np.ndarray) -> tuple[Spectrum, list[Step]]:
    """m = V (Lambda^-1 (V^T F^T y)) from one eigendecomposition: O(D^2 + N D) an update."""
    spectrum = evidence.by_svd(features, values)
    eigenvalues, vectors = np.linalg.eigh(features.T @ features)
    eigenvalues = np.maximum(eigenvalues, 0.0)

    def stepper(y: np.ndarray) -> Step:
        moment = features.T @ y

        def step(t: float) -> float:
            return _update(spectrum, t, vectors @ ((vectors.T @ moment) / (t + eigenvalues)), features, y)

        return step

    return spectrum, [stepper(y) for y in values.T]


def _update(spectrum: Spectrum, t: float, mean: np.ndarray, features: np.ndarray, y: np.ndarray) -> float:
    """alpha' = gamma / m^T m and beta' = (n - gamma) / |F m - y|^2 (slides, algorithm 4), as t' = alpha' / beta'."""
    gamma = (spectrum.squared / (t + spectrum.squared)).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        left = evidence.free_samples(spectrum, t)[0]
        return float(gamma / (mean @ mean) * ((features @ mean - y) ** 2).sum() / left)


def _fixed_point(features: np.ndarray, values: np.ndarray) -> tuple[Spectrum, list[Step]]:
    """Scalars of a truncated singular value decomposition: O(r) an update."""
    spectrum = evidence.by_svd(features, values)

    def stepper(column: int) -> Step:
        seen, rest = spectrum.seen[:, [column]], spectrum.rest[[column]]
        alone = Spectrum(spectrum.count, spectrum.squared, seen, rest, 0, spectrum.weights)
        return lambda t: float(evidence.fixed_point_map(alone, np.array([t]))[0])

    return spectrum, [stepper(column) for column in range(values.shape[1])]


ALGORITHMS = {"naive": _naive, "optimised": _optimised, "fixed_point": _fixed_point}


# Scores from the source model's predictions ---------------------------------------------------------------------------


def leep(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Log expected empirical prediction (Nguyen et al., ICML 2020): mean log sum_z P(y | z) theta(x)_z.

    `probabilities` (N, Cs) are the source head's, each row summing to 1; `labels` (N,) the target's. At most 0.

    Raises ZoolibError for rows that are no distributions, and for what `check_labels` refuses.
    """
    labels = check_labels(labels)
    source = check_features(probabilities, len(labels), name="source probabilities").astype(np.float64)
    if (source < 0).any() or np.abs(source.sum(1) - 1).max() > 1e-3:
        raise ZoolibError("source probabilities have a row that is negative or does not sum to 1; pass a softmax")
    joint = one_hot(labels).T @ source / len(labels)  # (C, Cs)
    total = joint.sum(0)
    conditional = joint / np.where(total > 0, total, 1.0)
    return float(np.log((source @ conditional.T)[np.arange(len(labels)), labels]).mean())


def nce(source_labels: np.ndarray, labels: np.ndarray) -> float:
    """Negative conditional entropy -H(Y | Z) (Tran et al., ICCV 2019), in nats; at most 0.

    `source_labels` (N,) are the source head's arg max, any whole numbers; `labels` (N,) the target's.

    Raises ZoolibError for what `check_labels` refuses, and for source labels of another shape or type.
    """
    labels, source_labels = check_labels(labels), as_array(source_labels, "source labels")
    if source_labels.shape != labels.shape or not np.issubdtype(source_labels.dtype, np.integer):
        raise ZoolibError(
            f"source labels are {source_labels.shape} {source_labels.dtype}; pass {len(labels)} whole numbers"
        )
    known, source = np.unique(source_labels, return_inverse=True)
    classes = int(labels.max()) + 1
    pairs = np.bincount(source * classes + labels, minlength=len(known) * classes)
    joint = pairs.reshape(len(known), classes) / len(labels)  # (Cs, C)
    share = joint / joint.sum(1, keepdims=True)
    return float((joint * np.log(np.where(joint > 0, share, 1.0))).sum())


# Scores from the geometry of the features -----------------------------------------------------------------------------


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """tr(cov(f)^+ cov(E[f | y])) (Bao et al., ICIP 2019): between 0 and the smaller of C - 1 and the rank.

    `features` (N, D), `labels` (N,). With N - 1 at most the rank of the features it is C - 1 whatever they are: a score
    for N well above D. Raises ZoolibError for what `check_features` and `check_labels` refuse.
    """
    labels = check_labels(labels)
    centred = _centred(check_features(features, len(labels)))
    _, sigma, right = np.linalg.svd(np.linalg.qr(centred, mode="r"), full_matrices=False)
    kept = sigma > max(centred.shape) * evidence.EPS * sigma[0]
    hot = one_hot(labels)
    sums = hot.T @ centred @ (right[kept].T / sigma[kept])  # (C, r), of whitened features over each class
    return float((sums**2 / hot.sum(0)[:, None]).sum())


def _centred(features: np.ndarray) -> np.ndarray:
    """Features minus their means, in float64; a constant one is zero, not the rounding error of its mean."""
    features = features.astype(np.float64)
    centred = features - features.mean(0)
    centred[:, constant(features)] = 0.0
    return centred


def constant(features: np.ndarray) -> np.ndarray:
    """(D,) whether a feature (N, D) varies by no more than rounding can make it vary about its mean."""
    return np.asarray(np.ptp(features, axis=0) <= len(features) * evidence.EPS * np.abs(features).max(0))


def transrate(features: np.ndarray, labels: np.ndarray, epsilon: float = 1e-4) -> float:
    """Coding rate of the centred features minus that of each class's (Huang et al., ICML 2022), in nats.

    R(Z) - sum_c N_c / N R(Z_c) with R(Z) = 1/2 log det(I + Z^T Z / (N epsilon)); `features` (N, D), `labels` (N,).

    Raises ZoolibError for an epsilon that is not above 0, and for what `check_features` and `check_labels` refuse.
    """
    if not isinstance(epsilon, Real) or not epsilon > 0:
        raise ZoolibError(f"epsilon is {epsilon}; use a positive distortion such as 1e-4")
    labels = check_labels(labels)
    centred = _centred(check_features(features, len(labels)))
    classes = [centred[labels == c] for c in range(labels.max() + 1)]
    within = sum(len(part) * _coding_rate(part, epsilon) for part in classes) / len(labels)
    return _coding_rate(centred, epsilon) - within


def _coding_rate(z: np.ndarray, epsilon: float) -> float:
    values = np.linalg.eigvalsh(evidence.gram(z, rows=len(z) < z.shape[1]))
    return float(np.log1p(np.maximum(values, 0) / (len(z) * epsilon)).sum() / 2)


# Which model? ---------------------------------------------------------------------------------------------------------


def weighted_kendall(scores: np.ndarray, accuracies: np.ndarray) -> float:
    """Weighted Kendall tau_w of scores and accuracies (M,): pairs near the top of both rankings weigh more.

    1 for the same order, -1 for the reverse, NaN where all scores or all accuracies are equal.
    """
    from scipy.stats import weightedtau

    try:
        scores, accuracies = np.asarray(scores, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    except (ValueError, TypeError):
        raise ZoolibError("scores and accuracies are no numbers; pass one of each a model") from None
    if scores.shape != accuracies.shape or scores.ndim != 1 or len(scores) < 2:
        raise ZoolibError(
            f"{scores.shape} scores and {accuracies.shape} accuracies; pass one of each for 2 or more models"
        )
    if np.isnan(scores).any() or np.isnan(accuracies).any():
        raise ZoolibError("a score or an accuracy is NaN; leave that model out")
    if len(np.unique(scores)) == 1 or len(np.unique(accuracies)) == 1:
        return float("nan")
    return float(weightedtau(scores, accuracies).statistic)


def softmax_weights(scores: Mapping[str, float], temperature: float = 0.1) -> dict[str, float]:
    """softmax(score / temperature) over models: the weights of B-Tuning's teachers.

    Raises ZoolibError for no model, a score that is not finite, or a temperature that is not above 0.
    """
    if not scores or not temperature > 0:
        raise ZoolibError(f"{len(scores)} scores at temperature {temperature}; pass at least one and a positive one")
    raw = as_array(list(scores.values()), "scores")
    if not np.issubdtype(raw.dtype, np.number) or np.isnan(raw).any():
        raise ZoolibError("a teacher's score is no number; pass one of each teacher")
    if np.isinf(raw).any():
        raise ZoolibError("a teacher's score is not finite; its features fit the labels exactly, so leave it out")
    with np.errstate(over="ignore"):
        values = raw / temperature
    if np.isinf(values).any():
        raise ZoolibError(f"temperature is {temperature}, too small for these scores; use one such as 0.1")
    shifted = np.exp(values - values.max())
    return dict(zip(scores, (shifted / shifted.sum()).tolist(), strict=True))
