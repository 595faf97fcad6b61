"""The log marginal likelihood of Bayesian linear regression and its maximum over both hyperparameters. NumPy only.

The model is y = F w + e with w ~ N(0, I / alpha) and e ~ N(0, I / beta), so y ~ N(0, F F^T / alpha + I / beta). With
F = U diag(sigma) V^T, z = U^T y and t = alpha / beta, the best beta for a given t is n / Q(t), which leaves

    L(t) = -n/2 (1 + log(2 pi Q(t) / n)) - 1/2 sum_i log(1 + sigma_i^2 / t)
    Q(t) = sum_i z_i^2 t / (t + sigma_i^2) + R

with R = |y|^2 - |z|^2: one dimension to search, whatever the numbers of samples and features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from zoolib.spec import ZoolibError

EPS = float(np.finfo(np.float64).eps)
_FITTED = 1e-6  # of a target's square: what the features leave of it is known to eight digits from here on
_BLOCK = 2**22  # elements of features that are converted to float64 at a time
_SPACING = 0.5  # of the search grid in log t; every term of L changes over a width of about 4


@dataclass(frozen=True)
class Spectrum:
    """Features (N, D) of rank r as C targets (N, C) see them."""

    count: int  # N
    squared: np.ndarray  # (r,) squared singular values, all positive
    seen: np.ndarray  # (r, C) squared coordinates of the targets along the left singular vectors
    rest: np.ndarray  # (C,) squared length of the targets outside the span of the features
    unresolved: int  # directions that the decomposition cannot tell from zero, though features may point there
    weights: Callable[[np.ndarray], np.ndarray]  # t (C,) -> posterior mean (D, C)
    of_rows: bool = False  # whether it came from F F^T

    @property
    def exact_fit(self) -> np.ndarray:
        """(C,) whether a target is a linear function of the features with samples to spare: its L has no maximum."""
        return np.asarray((self.rest == 0) & (len(self.squared) < self.count))


@dataclass(frozen=True)
class Maximum:
    """The largest log marginal likelihood of each target, and where it is taken."""

    log_evidence: np.ndarray  # (C,)
    alpha: np.ndarray  # (C,) precision of the weights; infinite where the features say nothing
    beta: np.ndarray  # (C,) precision of the noise; infinite where the fit is exact
    t: np.ndarray  # (C,) alpha / beta


# Decompositions -------------------------------------------------------------------------------------------------------


def gram(features: np.ndarray, rows: bool) -> np.ndarray:
    """F^T F (D, D), or F F^T (N, N) for `rows`, in float64; other types are converted block by block."""
    if features.dtype == np.float64:
        return np.asarray(features @ features.T if rows else features.T @ features)
    side = features.shape[0] if rows else features.shape[1]
    total = np.zeros((side, side))
    for part in _blocks(features, along=1 if rows else 0):
        block = np.ascontiguousarray(features[:, part] if rows else features[part], dtype=np.float64)
        total += block @ block.T if rows else block.T @ block
    return total


def _blocks(features: np.ndarray, along: int) -> list[slice]:
    size = max(1, _BLOCK // max(1, features.shape[1 - along]))
    return [slice(start, start + size) for start in range(0, features.shape[along], size)]


def project(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """F^T Y: features (N, D), targets (N, C) -> (D, C) in float64."""
    if features.dtype == np.float64:
        return np.asarray(features.T @ targets)
    total = np.zeros((features.shape[1], targets.shape[1]))
    for part in _blocks(features, along=0):
        total += features[part].astype(np.float64).T @ targets[part]
    return total


def by_gram(features: np.ndarray, targets: np.ndarray) -> Spectrum:
    """From the eigenvectors of the smaller Gram matrix: fast, and blind to directions below sqrt(eps)."""
    count, width = features.shape
    if count >= width:
        moments = project(features, targets)  # (D, C)
        values, vectors = _eigenvectors(gram(features, rows=False))
        kept = _positive(values)
        values, vectors = values[kept], vectors[:, kept]
        along = vectors.T @ moments  # (r, C), sigma * z
        seen = along**2 / values[:, None]

        def weights(t: np.ndarray) -> np.ndarray:
            return np.asarray(vectors @ (along / (values[:, None] + t)))
    else:
        values, vectors = _eigenvectors(gram(features, rows=True))
        kept = _positive(values)
        values, vectors = values[kept], vectors[:, kept]
        along = vectors.T @ targets  # (r, C), z
        seen = along**2

        def weights(t: np.ndarray) -> np.ndarray:
            return project(features, vectors @ (along / (values[:, None] + t)))

    rest = np.maximum((targets**2).sum(0) - seen.sum(0), 0.0)
    if len(values) == count:
        rest = np.zeros_like(rest)
    resolvable = min(count, np.count_nonzero(features.any(0)))  # features that are always zero hide nothing
    return Spectrum(count, values, seen, rest, resolvable - len(values), weights, count < width)


def _eigenvectors(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a symmetric matrix, which is overwritten: half the memory of NumPy's driver, at the same speed."""
    values, vectors = scipy.linalg.eigh(matrix.T, overwrite_a=True, check_finite=False, driver="evr")
    return values, vectors


def _positive(values: np.ndarray) -> np.ndarray:
    """Which eigenvalues stand out of the rounding errors of the largest."""
    return np.asarray(values > len(values) * EPS * max(values[-1], 0.0))


def by_svd(features: np.ndarray, targets: np.ndarray) -> Spectrum:
    """From the singular value decomposition of the features themselves: slower, and exact to the last digits."""
    count, width = features.shape
    left, sigma, right = np.linalg.svd(features.astype(np.float64, copy=False), full_matrices=False)
    rank = int((sigma > max(count, width) * EPS * sigma[0]).sum())
    left, sigma, right = left[:, :rank], sigma[:rank], right[:rank]
    along = left.T @ targets  # (r, C), z
    length = (targets**2).sum(0)
    rest = ((targets - left @ along) ** 2).sum(0) if rank < count else np.zeros_like(length)
    rest[rest <= length * (10 * max(count, width) * EPS) ** 2] = 0.0

    def weights(t: np.ndarray) -> np.ndarray:
        return np.asarray(right.T @ (along * (sigma[:, None] / (sigma[:, None] ** 2 + t))))

    return Spectrum(count, sigma**2, along**2, rest, 0, weights)


# The maximum ----------------------------------------------------------------------------------------------------------


def profile(spectrum: Spectrum, t: np.ndarray) -> np.ndarray:
    """L(t), with the best beta, for every t (T,) and target: (T, C)."""
    shrunk = t[:, None] / (t[:, None] + spectrum.squared)  # (T, r)
    quadratic = shrunk @ spectrum.seen + spectrum.rest
    volume = np.log1p(spectrum.squared / t[:, None]).sum(1)
    return _level(spectrum.count, quadratic) - volume[:, None] / 2


def _level(count: int, quadratic: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.asarray(-count / 2 * (1 + np.log(2 * np.pi / count * quadratic)))


def maximise(spectrum: Spectrum) -> Maximum:
    """The global maximum over t: the best point of a grid, refined by Newton's method, or one of the ends."""
    t = level = np.full(len(spectrum.rest), -np.inf)
    if len(spectrum.squared):
        grid = _grid(spectrum)
        top = profile(spectrum, np.exp(grid)).argmax(0)
        below, above = grid[np.maximum(top - 1, 0)], grid[np.minimum(top + 1, len(grid) - 1)]
        t = np.exp(_refine(spectrum, grid[top], below, above))
        level = at(spectrum, t)
    return _with_precisions(spectrum, *_or_an_end(spectrum, t, level))


def _or_an_end(spectrum: Spectrum, t: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """t and L of an interior point, or of t = infinity or t = 0 where L is higher there."""
    squared, count = spectrum.squared, spectrum.count
    nothing = _level(count, spectrum.seen.sum(0) + spectrum.rest)  # t -> infinity: the features say nothing
    t, level = np.where(level > nothing, t, np.inf), np.maximum(level, nothing)
    if len(squared) == count:  # t -> 0 is finite: the features can fit anything, and the noise vanishes
        fitted = _level(count, (spectrum.seen / squared[:, None]).sum(0)) - np.log(squared).sum() / 2
        t, level = np.where(fitted >= level, 0.0, t), np.maximum(fitted, level)
    exact = spectrum.exact_fit & bool(len(squared))
    return np.where(exact, 0.0, t), np.where(exact, np.inf, level)


def _grid(spectrum: Spectrum) -> np.ndarray:
    """Points in log t that bracket every interior maximum."""
    squared, some = spectrum.squared, spectrum.rest > 0
    low = float(squared.min())
    if len(squared) < spectrum.count and some.any():  # the turning point for t far below every sigma^2
        slope = (spectrum.seen / squared[:, None]).sum(0)[some] + np.finfo(float).tiny
        low = min(low, float((spectrum.rest[some] / slope).min()) / spectrum.count)
    low, high = np.log(max(low, 1e-280)) - 8, np.log(squared.max()) + 25
    return np.arange(low, high + _SPACING, _SPACING)


def _refine(spectrum: Spectrum, start: np.ndarray, below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Newton's method on dL / d log t inside a bracket, bisection where it would leave it: (C,) -> (C,)."""
    u, half = start.copy(), spectrum.count / 2
    for _ in range(100):
        share = 1 / (1 + np.exp(u) / spectrum.squared[:, None])  # (r, C), sigma^2 / (t + sigma^2)
        bend = share * (1 - share)
        quadratic = (spectrum.seen * (1 - share)).sum(0) + spectrum.rest
        quadratic = np.where(quadratic > 0, quadratic, 1.0)  # an exact fit, whose maximum is not looked for here
        first = (spectrum.seen * bend).sum(0) / quadratic
        second = -(spectrum.seen * bend * (1 - 2 * share)).sum(0) / quadratic
        slope = share.sum(0) / 2 - half * first
        curvature = -bend.sum(0) / 2 - half * (second - first**2)
        below, above = np.where(slope > 0, u, below), np.where(slope < 0, u, above)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = u - slope / curvature
        inside = (curvature < 0) & (newton > below) & (newton < above)
        after = np.where(slope == 0, u, np.where(inside, newton, (below + above) / 2))
        done, u = np.abs(after - u).max() < 1e-13 * (1 + np.abs(u).max()), after
        if done:
            break
    return u


def at(spectrum: Spectrum, t: np.ndarray) -> np.ndarray:
    """L at one t for each target: (C,) -> (C,)."""
    shrunk = 1 / (1 + spectrum.squared[:, None] / t)
    quadratic = (spectrum.seen * shrunk).sum(0) + spectrum.rest
    return np.asarray(_level(spectrum.count, quadratic) - np.log1p(spectrum.squared[:, None] / t).sum(0) / 2)


def _with_precisions(spectrum: Spectrum, t: np.ndarray, level: np.ndarray) -> Maximum:
    """alpha and beta of the maximum, at the ends t = 0 and t = infinity too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        over_t = (spectrum.seen / (t + spectrum.squared[:, None])).sum(0) + np.where(
            spectrum.rest > 0, spectrum.rest / t, 0.0
        )  # Q(t) / t, finite at t = 0
        length = spectrum.seen.sum(0) + spectrum.rest
        alpha = np.where(np.isinf(t), np.inf, spectrum.count / over_t)
        beta = np.where(np.isinf(t), spectrum.count / length, np.where(t == 0, np.inf, alpha / t))
        flat = spectrum.exact_fit  # alpha of the weights that fit: r / |m|^2
        size = (spectrum.seen / spectrum.squared[:, None]).sum(0)
        alpha = np.where(flat, len(spectrum.squared) / size, alpha)
    return Maximum(level, alpha, beta, t)


def error_bound(spectrum: Spectrum, maximum: Maximum) -> float:
    """How far rounding in the Gram matrix may have moved the worst target's L / N, to first order.

    Its eigenvectors and eigenvalues are those of a matrix that differs by about eps times the largest eigenvalue; the
    terms below are what such a change does to log det and to Q, and what the subtraction in `rest` loses.
    """
    if spectrum.unresolved:
        return np.inf  # the highest maximum may lie in a direction that was dropped, where none of the others show it
    if len(spectrum.squared) < spectrum.count:
        whole = spectrum.seen.sum(0) + spectrum.rest
        if (spectrum.rest < _FITTED * whole).any():  # a maximum as high as `rest`, a difference of rounded sums, is low
            return np.inf
    finite = np.isfinite(maximum.t)
    if not len(spectrum.squared) or not finite.any():
        return 0.0
    t, seen, rest = maximum.t[finite], spectrum.seen[:, finite], spectrum.rest[finite]
    sums, largest = spectrum.squared[:, None] + t, spectrum.squared[-1]
    length, full = seen.sum(0) + rest, len(spectrum.squared) == spectrum.count
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = 0.0 if full else rest / t
        trace = (1 / sums).sum(0)
        over_t = (seen / sums).sum(0) + beyond  # Q / t
        if spectrum.of_rows:
            fit = largest * ((seen / sums**2).sum(0) + (0.0 if full else beyond / t)) / over_t
        else:
            size = (spectrum.squared[:, None] * seen / sums**2).sum(0)  # |m|^2
            fit = (largest * size + np.sqrt(largest * size * length)) / (t * over_t)
        lost = 0.0 if full else length / (t * over_t)
        bound = 2 * EPS * (largest * trace / spectrum.count + fit + lost)
    return float(np.max(np.nan_to_num(bound, nan=np.inf)))


def solve(features: np.ndarray, targets: np.ndarray, tolerance: float = 1e-10) -> tuple[Spectrum, Maximum, str]:
    """The maximum by the Gram matrix where its rounding cannot matter, else by the singular value decomposition."""
    spectrum = by_gram(features, targets)
    maximum, how = maximise(spectrum), "gram"
    if not error_bound(spectrum, maximum) <= tolerance:
        spectrum = by_svd(features, targets)
        maximum, how = maximise(spectrum), "svd"
    return spectrum, maximum, how


# The published iterations ---------------------------------------------------------------------------------------------


def without_prior_term(spectrum: Spectrum, maximum: Maximum, width: int) -> np.ndarray:
    """What a widely used implementation of the fixed point returns in place of the log evidence: (C,).

    It writes the prior's D / 2 log alpha, but of log det(alpha I + beta F^T F) only the r directions whose singular
    values it keeps, so it is too large by (D - r) / 2 log alpha: with fewer samples than dimensions, r <= N < D, and
    where features are always zero. Directions that are zero up to rounding it keeps, and is right there.
    """
    return np.asarray(maximum.log_evidence + (width - len(spectrum.squared)) / 2 * np.log(maximum.alpha))


def fixed_point_map(spectrum: Spectrum, t: np.ndarray) -> np.ndarray:
    """One of MacKay's updates as a map of t = alpha / beta (slides, theorem 1, equation 3): (C,) -> (C,)."""
    sums = spectrum.squared[:, None] + t
    effective = (spectrum.squared[:, None] / sums).sum(0)  # gamma
    length = (spectrum.squared[:, None] * spectrum.seen / sums**2).sum(0)  # |m|^2
    residual = (spectrum.seen * (t / sums) ** 2).sum(0) + spectrum.rest  # |F m - y|^2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(effective / length * residual / free_samples(spectrum, t))


def free_samples(spectrum: Spectrum, t: np.ndarray | float) -> np.ndarray:
    """n - gamma, the samples that the effective parameters leave, without the cancellation: () or (C,)."""
    taken = t / (spectrum.squared[:, None] + t)
    return np.asarray(taken.sum(0) + spectrum.count - len(spectrum.squared))


def converges(spectrum: Spectrum) -> np.ndarray:
    """(C,) whether theorem 2 of the slides promises a fixed point: r < n, and the larger singular values see more of y.

    The pairwise sum over all n coordinates (those beyond the rank have sigma = 0 and together the square `rest`) is
    2 n sum_i z_i^2 sigma_i^2 - 2 sum_i z_i^2 sum_j sigma_j^2.
    """
    length = spectrum.seen.sum(0) + spectrum.rest
    pairs = spectrum.count * (spectrum.squared @ spectrum.seen) - length * spectrum.squared.sum()
    return np.asarray((len(spectrum.squared) < spectrum.count) & (pairs > 0))


Step = Callable[[float], float]


def iterate(
    step: Step, low: float, high: float, start: float = 1.0, tolerance: float = 1e-11, limit: int = 20_000
) -> float:
    """t of MacKay's iteration from alpha / beta = `start`; 0 or infinity where it leaves (low, high).

    Raises ZoolibError when it has not come to rest after `limit` updates.
    """
    t = start
    for _ in range(limit):
        after = step(t)
        if not low < after < high:
            return 0.0 if after <= low else np.inf
        if abs(after - t) <= tolerance * t:
            return after
        t = after
    raise ZoolibError(f"MacKay's iteration has not converged after {limit} updates; use algorithm='auto'")


def by_iteration(spectrum: Spectrum, steps: list[Step]) -> Maximum:
    """The better of what MacKay's iteration finds for each target, with one update function each, and the two ends."""
    if not len(spectrum.squared):
        return maximise(spectrum)
    full = len(spectrum.squared) == spectrum.count
    # Where t -> 0 is allowed, L is within 1e-7 of its limit by then and rounding takes over the published updates.
    low, high = (1e-7 if full else 1e-24) * spectrum.squared.min(), 1e14 * spectrum.squared.max()
    # The published start is alpha = beta = 1, which features of an unusual scale put outside these bounds.
    start = 1.0 if low < 1.0 < high else float(np.median(spectrum.squared))
    t = np.array([iterate(step, low, high, start) for step in steps])
    inside = np.isfinite(t) & (t > 0)
    level = np.where(inside, at(spectrum, np.where(inside, t, 1.0)), -np.inf)
    return _with_precisions(spectrum, *_or_an_end(spectrum, t, level))
