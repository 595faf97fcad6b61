"""Claims: the table of them, the queries against records with known numbers, and the rule of the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from zoolib import claims, games, plans, queries
from zoolib.__main__ import main
from zoolib.claims import CONTRADICTED, NOT_RUN, SUPPORTED, UNDECIDED, Claim
from zoolib.grid import grid
from zoolib.queries import Effects, Records
from zoolib.results import Result, ResultStore
from zoolib.spec import ZoolibError

HP, TUNED, BEST = {"method": "hub_pathway"}, {"method": "finetune"}, {"method": "finetune", "member": "best"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    """digits from both hubs: accuracy is the method's level + 2 a member + the seed."""
    store = ResultStore(tmp_path_factory.mktemp("records"))
    for hub in ("digits-zoo", "imagenet-lite"):
        synthetic.fill(store, "digits", hub)
    return store


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    """The same from one hub on three datasets, three cases, of which Hub-Pathway's differ by 0.1 points."""
    store = ResultStore(tmp_path_factory.mktemp("three"))
    for more, dataset in ((-0.1, "digits"), (0.0, "textures"), (0.1, "shapes")):
        synthetic.fill(store, dataset, "digits-zoo")
        for result in store.records(dataset=dataset, method="hub_pathway"):
            made = synthetic.result(result.spec)
            made.metrics["test"]["top1_accuracy"] += more
            store.save(made)
    return store


@pytest.fixture(scope="module")
def records(store: ResultStore) -> Records:
    return Records(store, "mini")


def claim(wanted: tuple[float | None, float | None] = (0, None), exact: bool = False) -> Claim:
    return Claim(id="x", claim="A beats B.", source="s", paper="figure 1", kind="difference", query={}, wanted=wanted,
                 effect="points of accuracy", exact=exact)  # fmt: skip


def test_there_are_many_claims_and_each_states_source_paper_query_and_rule():
    found = claims.claims()
    assert len(found) >= 25 and len({c.claim for c in found}) == len(found)
    for one in found:
        assert one.source.split(" (")[0] in {"Hub-Pathway", "Zoo-Tuning", "Transferability slides"}
        assert claims.paper_number(one) and one.effect and any(limit is not None for limit in one.wanted)


def test_the_papers_number_comes_from_the_published_table():
    named = {c.id: claims.paper_number(c) for c in claims.claims()}
    assert named["hub-pathway-beats-every-single"] == "85.63 against 83.41"
    assert named["landmarks-hub-pathway-beats-every-single"] == "4.54 against 4.75"  # less is better
    assert named["top-weight-beats-random"] == "figure 3(b), without numbers"


def test_the_papers_own_numbers_support_the_claims_that_have_some():
    for one in claims.claims():
        words = claims.paper_number(one).split(" against ")
        if one.kind == "difference" and len(words) == 2:
            sign = -1 if one.query.get("lower") else 1
            effect = sign * (float(words[0]) - float(words[1]))
            assert (one.wanted[0] is None or effect >= one.wanted[0]) and (
                one.wanted[1] is None or effect <= one.wanted[1]
            )


@pytest.mark.parametrize(("values", "wanted", "verdict"), [
    ([2.0, 2.5, 3.0], (0, None), SUPPORTED), ([-2.0, -2.5, -3.0], (0, None), CONTRADICTED),
    ([2.0, -2.5, 3.0], (0, None), UNDECIDED), ([5.0, 5.1], (0, None), UNDECIDED), ([], (0, None), NOT_RUN),
    ([math.nan], (0, None), NOT_RUN), ([0.2, -0.2, 0.1, 0.0], (-1, 1), SUPPORTED),
    ([3.0, 3.2, 3.1], (-1, 1), CONTRADICTED),
    ([0.0, 0.0, 0.0], (0, None), UNDECIDED), ([2.0, 2.0, 2.0], (0, None), UNDECIDED),
])  # fmt: skip
def test_the_rule_of_the_verdict(values: list[float], wanted: tuple[float | None, float | None], verdict: str):
    assert claims.judge(claim(wanted), Effects(values, [""] * len(values))).verdict == verdict


def test_a_verdict_says_why_its_effect_has_no_interval():
    same = "the same in every case"
    for values, words in (([2.0], "one case"), ([2.0, 2.0, 2.0], same), ([0.1 + 0.2, 0.3, 0.3], same)):
        assert claims.effect_text(claims.judge(claim((0, None)), Effects(values, [""] * len(values)))).endswith(
            f"[{words}]"
        )


def test_an_exact_effect_needs_one_case_and_a_measured_one_three():
    assert claims.judge(claim((1.8, 2.6), exact=True), Effects([2.2], [""])).verdict == SUPPORTED
    assert claims.judge(claim((1.8, 2.6), exact=True), Effects([2.2, 3.0], ["", ""])).verdict == UNDECIDED
    assert claims.judge(claim((1.8, 2.6)), Effects([2.2], [""])).verdict == UNDECIDED


def test_games_have_no_part_in_claims_about_images(store: ResultStore, tmp_path: Path):
    both = ResultStore(tmp_path)
    for result in store.records():
        both.save(result)
    before = [(v.verdict, v.effects.values) for v in claims.verdicts(both, "mini")]
    for spec in grid("atari", "jamesbond", games.HUB, "all", "mini", 1):
        both.save(synthetic.game_result(spec))
    assert [(v.verdict, v.effects.values) for v in claims.verdicts(both, "mini")] == before


def test_claims_about_games_read_whole_runs_alone_and_compare_in_percent_of_a_human(tmp_path: Path):
    store = ResultStore(tmp_path)
    for name in games.TARGETS:
        for profile in ("lab", "mini"):
            for spec in grid("atari", name, games.HUB, "scratch,zoo_tuning", profile, 1):
                store.save(synthetic.game_result(spec))  # 100 from scratch, 400 by Zoo-Tuning
    query = {"metric": "score", "left": {"method": "zoo_tuning"}, "right": {"method": "scratch"}, "games": True}
    found = queries.difference(Records(store, "lab"), **query)
    spans = [games.GAMES[name].human - games.GAMES[name].random for name in games.TARGETS]
    assert sorted(found.values) == pytest.approx(sorted(100 * 300 / span for span in spans))
    verdict = {v.claim.id: v for v in claims.verdicts(store, "lab")}
    assert len(verdict["atari-zoo-tuning-beats-scratch"].effects.values) == 3
    assert verdict["atari-hub-pathway-beats-scratch"].verdict == NOT_RUN
    assert queries.difference(Records(store, "mini"), **query).values == []  # 600 steps show that it runs


def test_the_interval_is_students():
    values = [1.0, 2.0, 4.0, 4.5, 6.0]
    mean, low, high = claims.interval(values)
    half = 2.776445 * 2 / 5**0.5  # t at 97.5 % with 4 degrees of freedom; the standard deviation is 2
    assert mean == 3.5 and (low, high) == pytest.approx((3.5 - half, 3.5 + half), abs=1e-5)


def test_the_interval_of_ratios_is_that_of_their_logarithms():
    values = [0.25, 0.5, 1.0, 2.0]
    mean, low, high = claims.interval(values, ratios=True)
    half = 3.182446 * (5 / 3) ** 0.5 / 2  # t at 97.5 % with 3 degrees of freedom; powers of 2: -2, -1, 0 and 1
    assert (mean, low, high) == pytest.approx((2**-0.5, 2 ** (-0.5 - half), 2 ** (-0.5 + half)), rel=1e-5)
    assert claims.interval([1 / value for value in values], ratios=True) == pytest.approx((1 / mean, 1 / high, 1 / low))
    times = claim((0, 0.01)).model_copy(update={"kind": "ratio", "effect": "times"})
    verdict = claims.judge(times, Effects([0.001, 0.02, 0.0001], [""] * 3))
    assert verdict.low > 0 and verdict.verdict == UNDECIDED


def test_runs_that_are_committed_too_are_set_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZOOLIB_RESULTS", str(tmp_path / "results"))
    here, committed = ResultStore(tmp_path / "here", tmp_path / "results"), ResultStore(tmp_path / "results")
    specs = grid("cls", "digits", "imagenet-lite", "scratch", "mini")
    for number, spec in enumerate(specs):
        committed.save(Result(spec, {"test": {"top1_accuracy": 80.0}}, {}))
        assert number or claims.recomputed(here, "mini") == "", "nothing was computed here"
        here.save(Result(spec, {"test": {"top1_accuracy": 80.0 + number}}, {}))
    words = claims.recomputed(here, "mini")
    assert words.startswith("3 runs of image classification were computed here") and "1.00 points on average" in words
    assert "2.0 at most" in words and words.endswith("No verdict changes.")


def test_a_bound_is_told_from_the_limit_that_it_does_not_meet():
    def shown(*values: float) -> str:
        verdict = claims.Verdict(claim((0, None)), SUPPORTED, Effects([1.0], [""]), *values)
        return claims.effect_text(verdict)

    assert shown(3.4, 0.02, 6.7).endswith("[0.02, 6.7]") and shown(-4.3, -8.7, -0.003).endswith("[-8.7, -0.003]")
    assert shown(-0.00001, -1.0, 0.0).startswith("0.0000 ") and shown(0.0, 0.0, 0.0).endswith("[0.0, 0.0]")


def test_differences_pair_seeds_and_take_the_best_member_of_each_hub(records: Records):
    found = queries.difference(records, "top1_accuracy", HP, BEST)
    assert found.values == [4.0] * 2  # 88 against 80 + 2 * 2 on every seed, for two hubs
    assert queries.difference(records, "top1_accuracy", HP, BEST, homogeneous=True).values == [4.0]
    assert queries.difference(records, "top1_accuracy", HP, TUNED, lower=True).values == [-6.0] * 2
    assert found.cases == ["digits from digits-zoo, seeds 0, 1, 2", "digits from imagenet-lite, seeds 0, 1, 2"]


def test_the_seeds_of_a_dataset_and_hub_are_one_case_whose_effect_is_their_mean(tmp_path: Path):
    store = ResultStore(tmp_path)
    gains = {"digits": [2.0, 3.0, 7.0], "textures": [1.0, 1.0, 4.0], "shapes": [6.0]}
    for dataset, values in gains.items():
        for spec in grid("cls", dataset, "digits-zoo", "ensemble,hub_pathway", "mini"):
            if spec.seed < len(values):
                gain = values[spec.seed] if spec.method == "hub_pathway" else 0.0
                store.save(Result(spec, {"test": {"top1_accuracy": 50.0 + gain}}))
    (found,) = [v for v in claims.verdicts(store, "mini") if v.claim.id == "hub-pathway-beats-ensemble"]
    assert found.effects.values == [4.0, 6.0, 2.0]  # digits, shapes, textures
    assert found.effects.cases[1] == "shapes from digits-zoo, seed 0"
    half = 4.302652729911275 * 2 / 3**0.5  # t with two degrees of freedom; the standard deviation is 2
    assert found.mean == 4.0 and (found.low, found.high) == pytest.approx((4 - half, 4 + half))
    assert found.verdict == UNDECIDED and claims.table([found])["cases"].tolist() == ["3"]
    for result in store.records(dataset=["textures", "shapes"]):
        assert result.path is not None
        result.path.unlink()
    (found,) = [v for v in claims.verdicts(store, "mini") if v.claim.id == "hub-pathway-beats-ensemble"]
    assert (found.verdict, found.effects.values) == (UNDECIDED, [4.0])  # three seeds of one dataset


def test_pairs_of_datasets_share_them_and_so_a_hub_is_one_case(tmp_path: Path):
    store = ResultStore(tmp_path)
    weights = {"digits": [[1.0, 0, 0], [0.8, 0.2, 0]], "textures": [[0, 1.0, 0]] * 2, "shapes": [[0, 1.0, 0]] * 2}
    for dataset, of_seeds in weights.items():
        for spec in grid("cls", dataset, "digits-zoo", "hub_pathway", "mini", 2):
            frame = pd.DataFrame([of_seeds[spec.seed]], columns=["weight:a", "weight:b", "weight:c"])
            store.save(Result(spec, {"test": {"top1_accuracy": 50.0}}, samples=frame))
    found = queries.weights_between_datasets(Records(store, "mini"), HP)
    # digits and another: (1 + 1 + 0.8 + 0.8) / 4 apart less (0.2 + 0) / 2 within; the other two: 0
    assert found.values == pytest.approx([(0.8 + 0.8 + 0) / 3], rel=1e-3)  # kept as float16


def test_options_that_differ_make_another_side(store: ResultStore, tmp_path: Path):
    own = ResultStore(tmp_path, store.write_root)
    for spec in grid("cls", "digits", "digits-zoo", "hub_pathway", "mini", 2, top_k=1):
        made = synthetic.result(spec)
        made.metrics["test"]["top1_accuracy"] -= 3
        own.save(made)
    one = {"method": "hub_pathway", "options": {"top_k": 1}}
    assert queries.difference(Records(own, "mini"), "top1_accuracy", one, HP).values == [-3.0]


def test_a_median_over_members_is_not_moved_by_one_that_was_stopped(tmp_path: Path):
    store = ResultStore(tmp_path)
    for spec in grid("cls", "digits", "imagenet-lite", "rank,finetune", "mini", 1):
        seconds = {"rank": 1.0}.get(spec.method, 900.0 if spec.member == "efficientnet_lite0" else 50.0)
        store.save(Result(spec, {"cost": {"seconds": seconds}}))
    records = Records(store, "mini")
    for member, expected in (("median", 1 / 50), ("mean", 3 / 1000)):
        sides = ({"method": name, "member": member} for name in ("rank", "finetune"))
        assert queries.ratio(records, "seconds", *sides).values == pytest.approx([expected])


def test_what_lacks_records_says_which(records: Records):
    assert (
        queries.difference(records, "top1_accuracy", {"method": "model_soups"}, HP).lacks == "no record of model_soups"
    )
    assert queries.difference(records, "nme", HP, BEST).lacks == "no record of hub_pathway or finetune"
    assert (
        "hub_pathway (top_k=1)"
        in queries.difference(records, "top1_accuracy", {"method": "hub_pathway", "options": {"top_k": 1}}, HP).lacks
    )


def test_ratios_compare_costs_and_count_members(records: Records):
    assert queries.ratio(records, "gmacs", HP, TUNED, homogeneous=True).values == pytest.approx([1.0])
    found = queries.ratio(records, "params_m", HP, TUNED, times_members=True)
    assert found.values == pytest.approx([1 / 3] * 2)


def test_costs_measured_of_the_first_member_alone_stand_for_the_others_only_where_all_are_alike(tmp_path: Path):
    store = ResultStore(tmp_path)
    for hub in ("mini-zoo", "mini-hub"):
        for spec in plans.costs(hub, "mini"):
            if spec.method in ("finetune", "hub_pathway"):
                cost = {"params_m": 1.0 if spec.method == "finetune" else 5.5}
                store.save(Result(spec, {"cost": cost}))
    found = queries.ratio(Records(store, "mini"), "params_m", HP, TUNED, times_members=True)
    assert found.values == pytest.approx([1.1]) and "mini-zoo" in found.cases[0]


def test_the_needed_range_is_said_in_words():
    words = {claim.wanted: claims.needed_text(claim) for claim in claims.claims()}
    assert words[(0, None)] == "above 0" and words[(None, 0)] == "below 0" and words[(1.8, 2.6)] == "1.8 to 2.6"


def with_tables(tmp_path: Path, change: Callable[[Result], None]) -> Records:
    store = ResultStore(tmp_path)
    for spec in grid("cls", "digits", "digits-zoo", "finetune,zoo_tuning,hub_pathway", "mini"):
        made = synthetic.result(spec)
        change(made)
        store.save(made)
    return Records(store, "mini")


def test_weight_quality_counts_only_samples_that_some_member_gets_right(tmp_path: Path):
    def change(result: Result) -> None:
        label = np.array([0, 0, 1, 1])
        frame = pd.DataFrame({"index": range(4), "label": label, "prediction": label, "confidence": 0.5})
        right = {"rotation": [1, 1, 0, 0], "jigsaw": [0, 1, 1, 0], "corruption": [0, 0, 0, 0]}
        if result.spec.member:
            frame["prediction"] = np.where(np.array(right[result.spec.member]) == 1, label, 9)
        if result.spec.method == "hub_pathway":
            weights = [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1]]
            frame[["weight:rotation", "weight:jigsaw", "weight:corruption"]] = weights
        result._tables["samples"] = None if result.spec.method == "zoo_tuning" else frame

    found = queries.weight_quality(with_tables(tmp_path, change), HP, TUNED)
    # images 0 to 2 have a right member; the heaviest one is right on 0 and 2; a random one on 1/3, 2/3 and 1/3
    assert found.values == pytest.approx([100 * (2 / 3 - 4 / 9)])


def test_rank_agreement_is_kendalls_tau_of_gates_and_single_accuracy(tmp_path: Path):
    def change(result: Result) -> None:
        if result.spec.method == "zoo_tuning":
            result._tables["samples"] = pd.DataFrame({"label": [0], "gates:a": [[0.9, 0.5, 0.1]]})

    records = with_tables(tmp_path, change)
    found = queries.rank_agreement(records, {"method": "zoo_tuning"}, "strength", TUNED)
    assert found.values == [-1.0]  # single accuracy rises along the hub, the gates fall


def test_curves_give_the_time_to_a_share_of_the_best_and_the_last_value(tmp_path: Path):
    def change(result: Result) -> None:
        slow = result.spec.method == "hub_pathway"
        steps = [0.5, 0.6, 0.7, 0.97, *[1.0] * 6] if slow else [0.8, 0.96, 0.99, *[1.0] * 7]
        rows = [(10 * i, "val", "top1_accuracy", 90 * v) for i, v in enumerate(steps[:length], 1)]
        rows += [(100, "val", "entropy", 1.0 if result.spec.method == "hub_pathway" else 0.25)]
        result._tables["curves"] = pd.DataFrame(rows, columns=["iteration", "split", "term", "value"])

    length = 10
    records = with_tables(tmp_path / "long", change)
    assert queries.time_to_share(records, "top1_accuracy", HP, {"method": "zoo_tuning"}).values == [2.0]
    assert queries.last_of_curve(records, "entropy", HP, {"method": "zoo_tuning"}).values == [0.75]
    length = 9
    short = with_tables(tmp_path / "short", change)
    coarse = queries.time_to_share(short, "top1_accuracy", HP, {"method": "zoo_tuning"})
    assert not coarse.values and "a curve of 10 evaluations or more" in coarse.lacks


def test_every_claim_of_made_up_records_gets_a_verdict_and_none_of_an_empty_store(three: ResultStore, tmp_path: Path):
    found = {v.claim.id: v for v in claims.verdicts(three, "mini")}
    assert found["hub-pathway-beats-every-single"].verdict == SUPPORTED
    assert found["hub-pathway-costs-two-models"].verdict == CONTRADICTED  # all cost the same here
    assert found["atari-zoo-tuning-beats-scratch"].verdict == NOT_RUN
    board = claims.table(list(found.values()))
    assert board["effect here [95 %]"][0] == "+4.0 points of accuracy [3.8, 4.2]" and board["needed"][0] == "above 0"
    assert len(board) == len(claims.claims())
    exact = found["hub-pathway-costs-two-models"]
    assert claims.effect_text(exact) == f"1.00 times [{exact.low:.2f} to {exact.high:.2f}]"
    none = claims.verdicts(ResultStore(tmp_path), "lab")
    assert claims.counts(none) == {SUPPORTED: 0, CONTRADICTED: 0, UNDECIDED: 0, NOT_RUN: len(none)}


def test_the_command_prints_verdicts_and_refuses_unknown_names(three: ResultStore, monkeypatch, capsys):
    monkeypatch.setenv("ZOOLIB_RECORDS", str(three.write_root))
    assert main(["claims", "--only", "hub-pathway-beats-every-single"]) == 0
    out = capsys.readouterr().out
    assert "supported" in out and "digits-zoo, seeds 0, 1, 2" in out and "paper: 85.63 against 83.41" in out
    assert main(["claims", "--only", "hub-pathway-beats"]) == 1
    assert "unknown claim" in capsys.readouterr().err
    assert main(["claims", "--profile", "huge"]) == 1


@pytest.mark.parametrize(("old", "new", "words"), [
    ("kind: difference", "kind: diffrence", "did you mean 'difference'"),
    ("wanted:", "wishes:", "wanted: Field required"),
    ("homogeneous: true", "homogenous: true", "unknown part of the query"),
    ("{metric: top1_accuracy, left", "{left", "missing a required argument: 'metric'"),
])  # fmt: skip
def test_a_wrong_claim_is_refused_by_name(tmp_path: Path, monkeypatch, old: str, new: str, words: str):
    text = (claims.shared("reference") / "claims.yaml").read_text()
    (tmp_path / "claims.yaml").write_text(text.replace(old, new, 1))
    monkeypatch.setattr(claims, "shared", lambda name: tmp_path)
    claims.claims.cache_clear()
    with pytest.raises(ZoolibError, match="hub-pathway-beats-every-single") as error:
        claims.claims()
    assert words in str(error.value)
    claims.claims.cache_clear()
