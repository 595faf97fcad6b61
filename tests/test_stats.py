"""Statistics over seeds, against values worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from zoolib import stats
from zoolib.spec import ZoolibError


def test_mean_std_and_interval_of_three_values_by_hand():
    found = stats.summarise([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # the 97.5 % point of Student's t with two degrees of freedom
    assert (found.n, found.mean, found.std) == (3, 2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))


def test_one_value_has_a_mean_and_nothing_else_and_none_has_nothing():
    assert stats.summarise([5.0]).mean == 5.0 and math.isnan(stats.summarise([5.0]).std)
    assert stats.summarise([np.nan]).n == 0 and math.isnan(stats.summarise([]).mean)


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [stats.summarise(rng.normal(3, 2, 5)) for _ in range(4000)]
    assert np.mean([s.low <= 3 <= s.high for s in found]) == pytest.approx(0.95, abs=0.012)


def test_the_paired_test_by_hand_and_only_over_common_seeds():
    a = pd.Series({0: 3.0, 1: 5.0, 2: 7.0, 3: 100.0})
    b = pd.Series({0: 2.0, 1: 3.0, 2: 4.0})
    found = stats.paired(a, b)  # differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.464 with 2 degrees of freedom
    assert found.n == 3 and found.difference == 2.0 and found.p == pytest.approx(0.07418, abs=1e-5)
    assert stats.paired(b, a).p == found.p and math.isnan(stats.paired(a[:1], b).p)


def test_differences_without_a_spread_have_no_p_for_t_divides_by_it():
    a = pd.Series([1.0, 2.0, 3.0])
    found = stats.paired(a + 1, a)
    assert (found.n, found.difference) == (3, 1.0) and math.isnan(found.p) and math.isnan(stats.paired(a, a).p)
    rounded = stats.paired(pd.Series([81.3, 82.3, 83.3]), pd.Series([80.2, 81.2, 82.2]))  # 1.1 but for rounding
    assert math.isnan(rounded.p)
    assert stats.best(pd.DataFrame({"a": a + 1, "b": a})) is None


def test_a_seed_that_occurs_twice_has_no_pair():
    twice = pd.Series([1.0, 2.0, 3.0], index=[0, 0, 1])
    for a, b in ((twice, twice.iloc[1:]), (twice.iloc[1:], twice)):
        with pytest.raises(ZoolibError, match="a seed occurs twice"):
            stats.paired(a, b)


def test_pairing_finds_what_the_spread_between_seeds_hides():
    rng = np.random.default_rng(1)
    seeds = rng.normal(80, 10, 5)
    a, b = pd.Series(seeds + 1 + rng.normal(0, 0.1, 5)), pd.Series(seeds)
    assert stats.paired(a, b).p < 0.001
    assert stats.summarise(a).low < stats.summarise(b).high


def test_the_best_is_named_only_where_it_beats_every_other_significantly():
    base = pd.DataFrame({"a": [80.0, 82.0, 81.0], "b": [70.0, 72.2, 70.9], "c": [60.0, 62.1, 61.2]})
    assert stats.best(base) == "a"
    assert stats.best(base.assign(b=[79.9, 83.0, 80.5])) is None
    assert stats.best(base[:1]) is None and stats.best(base[["a"]]) is None


def test_a_method_with_fewer_seeds_competes_and_one_without_any_does_not():
    base = pd.DataFrame({"a": [80.0, 82.0, 81.0, 81.0], "b": [70.0, 72.2, 70.9, 71.0]})
    assert stats.best(base) == "a"
    assert stats.best(base.assign(c=[99.0, np.nan, np.nan, np.nan])) is None  # higher, on one seed
    assert stats.best(base.assign(c=[60.0, 62.1, np.nan, np.nan])) is None  # lower, on two seeds: nothing is shown
    assert stats.best(base.assign(c=[60.0, 62.1, 61.2, np.nan])) == "a"
    assert stats.best(base.assign(c=np.nan)) == "a"


def test_the_threshold_is_shared_among_rivals_as_holm_does():
    # one rival with p = 0.04 is beaten alone, and not where a second with the same p stands beside it
    rng = np.random.default_rng(3)
    noise = next(n for n in (rng.normal(0, 1, 6) for _ in range(10_000)) if 0.035 < _p(n) < 0.045)
    one = pd.DataFrame({"a": 5 + noise, "b": 4.0})
    assert stats.best(one) == "a" and stats.best(one.assign(c=4.0)) is None


def _p(noise):
    return stats.paired(pd.Series(5 + noise), pd.Series(np.full(6, 4.0))).p


def rivals(*chances):
    """A leader and rivals that it beats with these p: t = sqrt(2) (1 - p) / sqrt(p (2 - p)) with two degrees."""
    noise = math.sqrt(3) * np.array([-1.0, 0.0, 1.0])  # of spread sqrt(3), so that a mean of t has this t
    behind = {f"r{i}": 50 - math.sqrt(2) * (1 - p) / math.sqrt(p * (2 - p)) - noise for i, p in enumerate(chances)}
    return pd.DataFrame({"a": [50.0] * 3, **behind})


@pytest.mark.parametrize(
    ("chances", "found"),
    [
        ((0.049,), "a"), ((0.051,), None),
        ((0.024, 0.049), "a"),  # the smallest p against 0.025, the next against 0.05: Bonferroni would say no
        ((0.026, 0.027), None),  # each alone would do
        ((0.016, 0.024, 0.049), "a"), ((0.018, 0.024, 0.049), None), ((0.016, 0.026, 0.049), None),
        ((0.001, 0.001, 0.051), None),
    ],
)  # fmt: skip
def test_the_thresholds_of_the_rivals_are_holms_in_closed_form(chances, found):
    frame = rivals(*chances)
    assert [stats.paired(frame["a"], frame[f"r{i}"]).p for i in range(len(chances))] == pytest.approx(chances)
    assert stats.best(frame) == found


def test_a_leader_by_a_seed_of_its_own_is_not_the_best_where_it_loses_on_the_common_ones():
    frame = pd.DataFrame({"a": [80.0, 80.1, 80.3, 200.0], "b": [90.0, 90.2, 90.1, np.nan]})
    assert frame["a"].mean() > frame["b"].mean() and stats.paired(frame["a"], frame["b"]).p < 0.001
    assert stats.best(frame) is None


def test_the_interval_of_a_paired_difference_is_students_by_hand():
    found = stats.paired(pd.Series([3.0, 5.0, 7.0]), pd.Series([2.0, 3.0, 4.0]))  # differences 1, 2 and 3
    half = 4.302652729911275 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))


def test_rounding_is_told_from_a_spread_by_the_size_of_the_numbers():
    high = stats.paired(pd.Series([81300.3, 82300.3, 83300.3]), pd.Series([80200.2, 81200.2, 82200.2]))
    assert math.isnan(high.p)  # 1100.1 but for rounding at 1e-11
    assert not math.isnan(stats.paired(pd.Series([1e-3, 2e-3, 3e-3]), pd.Series([0.0, 1.1e-3, 1.9e-3])).p)
