"""Committees: what is averaged, who is chosen on what, and that a joint loss reaches everyone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from zoolib.methods import committee
from zoolib.recipe import Context, Finished, sum_costs
from zoolib.spec import ZoolibError
from zoolib.tasks import Classification, average

COST = {"params_m": 1.0, "trainable_params_m": 1.0, "gmacs": 0.5, "peak_memory_mb": 100.0, "seconds": 10.0}


def one_hot(predictions, sharpness=3.0):
    return sharpness * np.eye(3, dtype=np.float32)[predictions]


def context(val, test, labels, **options):
    """Members m0, m1, ... that predict the given classes on four validation and four test images."""
    finished = {
        f"m{i}": Finished(
            {"val": one_hot(v), "test": one_hot(t), "val_labels": np.array(labels), "test_labels": np.array(labels)},
            {**COST, "seconds": 10.0 * (i + 1), "images_per_second": 100.0},
            None,
        )
        for i, (v, t) in enumerate(zip(val, test, strict=True))
    }
    settings = SimpleNamespace(val_fraction=0.2)
    spec = SimpleNamespace(option=lambda name: options[name], task="cls", settings=settings)
    data = SimpleNamespace(rows={"test": np.arange(len(labels))}, subsets=lambda split: {}, brings_validation=False)
    hub = SimpleNamespace(names=list(finished))
    return Context(spec, data, hub, Classification(3), None, None, None, finished)


LABELS = [0, 1, 2, 0]
VAL = [[0, 1, 2, 1], [0, 1, 2, 0], [1, 2, 0, 0]]  # 3, 4 and 1 right
TEST = [[0, 1, 2, 0], [1, 1, 0, 0], [1, 2, 2, 1]]  # 4, 2 and 1 right


def accuracy(outcome, split="test"):
    return outcome.metrics[split]["top1_accuracy"]


def test_best_single_is_chosen_on_validation_even_where_another_is_better_on_test():
    outcome = committee.best_single(context(VAL, TEST, LABELS))
    assert (accuracy(outcome, "val"), accuracy(outcome)) == (100.0, 50.0)
    assert outcome.samples["prediction"].tolist() == TEST[1]


def test_equal_accuracies_are_ranked_by_cross_entropy_on_validation():
    ctx = context([VAL[1], VAL[1]], TEST[:2], LABELS)
    ctx.needed["m1"].logits["val"] *= 2  # as right, and surer of it
    assert ctx.ranking() == ["m1", "m0"]


def test_the_best_single_costs_the_training_of_all_and_the_use_of_one():
    cost = committee.best_single(context(VAL, TEST, LABELS)).metrics["cost"]
    assert cost["seconds"] == 60.0 and cost["params_m"] == 1.0 and cost["gmacs"] == 0.5
    assert cost["images_per_second"] == pytest.approx(100 / 3)


def test_an_ensemble_of_the_top_k_is_that_of_the_k_best_on_validation():
    outcome = committee.ensemble_top_k(context(VAL, TEST, LABELS, top_k=2, combine="probabilities"))
    expected = average(np.stack([one_hot(TEST[1]), one_hot(TEST[0])]))
    assert np.allclose(np.exp(outcome.logits["test"]), expected, atol=1e-6)
    whole = committee.ensemble_top_k(context(VAL, TEST, LABELS, top_k=3, combine="probabilities"))
    everyone = committee.ensemble(context(VAL, TEST, LABELS, combine="probabilities"))
    assert np.allclose(whole.logits["test"], everyone.logits["test"], atol=1e-6)
    one = committee.ensemble_top_k(context(VAL, TEST, LABELS, top_k=1, combine="probabilities"))
    assert accuracy(one) == accuracy(committee.best_single(context(VAL, TEST, LABELS)))


@pytest.mark.parametrize("top_k", [0, 4])
def test_a_k_outside_the_hub_is_refused_with_its_range(top_k):
    with pytest.raises(ZoolibError, match="use 1 to 3"):
        committee.ensemble_top_k(context(VAL, TEST, LABELS, top_k=top_k, combine="probabilities"))


def test_the_oracle_is_right_exactly_where_any_member_is():
    outcome = committee.oracle(context(VAL, TEST, LABELS))
    anyone = np.mean([any(t[i] == y for t in TEST) for i, y in enumerate(LABELS)])
    assert accuracy(outcome) == 100 * anyone


def test_the_oracle_is_never_below_any_member():
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits, labels = rng.normal(size=(4, 20, 5)), rng.integers(0, 5, 20)
        chosen = logits[committee.oracle_choice(logits, labels), np.arange(20)]
        right = logits.argmax(-1) == labels
        assert ((chosen.argmax(-1) == labels) == right.any(0)).all()


@pytest.mark.parametrize("recipe", ["ensemble", "ensemble_top_k", "best_single", "oracle"])
@pytest.mark.parametrize("combine", ["probabilities", "votes"])
def test_every_committee_says_what_its_members_did_not_train_on(recipe, combine):
    ctx = context(VAL, TEST, LABELS, top_k=2, combine=combine)
    assert getattr(committee, recipe)(ctx).deviations[0].startswith("20% of each class's training images are held out")


def test_throughput_adds_as_its_inverse_and_memory_is_the_largest():
    costs = [{**COST, "images_per_second": 100.0}, {**COST, "images_per_second": 50.0, "peak_memory_mb": 300.0}]
    total = sum_costs(costs, costs[:1])
    assert total["images_per_second"] == pytest.approx(100 / 3) and total["peak_memory_mb"] == 300.0
    assert total["seconds"] == 20.0 and total["params_m"] == 1.0 and total["trainable_params_m"] == 2.0


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_features, self.layer = 4, nn.Linear(12, 4)

    def forward(self, x):
        return self.layer(x.flatten(1)).relu()


def test_the_joint_ensemble_predicts_the_mean_probability_and_its_gradient_reaches_all_members():
    torch.manual_seed(0)
    task = Classification(3)
    method = committee.JointEnsemble([Flat() for _ in range(3)], task)
    x, y = torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    output = method(x)
    mean = torch.stack([member(x).softmax(-1) for member in method.members]).mean(0)
    assert torch.allclose(output.prediction.exp(), mean, atol=1e-6)
    loss = method.loss(output, y, task, 0.0)["task"]
    assert loss.item() == pytest.approx(-mean[torch.arange(5), y].log().mean().item(), abs=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_where_less_is_better_the_ranking_starts_at_the_lowest_value():
    def task(higher):
        mean = lambda prediction, target: {"nme": prediction.mean().item()}  # noqa: E731
        zero = lambda prediction, target: torch.zeros(())  # noqa: E731
        return SimpleNamespace(metric="nme", higher_is_better=higher, metrics=mean, loss=zero)

    finished = {
        name: Finished({"val": np.full((4, 1), value), "val_labels": np.zeros(4)}, COST, None)
        for name, value in (("a", 5.0), ("b", 3.0), ("c", 4.0))
    }
    assert Context(None, None, None, task(False), None, None, None, finished).ranking() == [*"bca"]
    assert Context(None, None, None, task(True), None, None, None, finished).ranking() == [*"acb"]


def test_both_ways_to_combine_are_recorded_for_each_split_whichever_is_scored():
    sure, unsure = one_hot([0, 1, 2, 0], 9.0), [one_hot([1, 2, 0, 0], 1.0)] * 2
    for combine in ("probabilities", "votes"):
        ctx = context([VAL[0]] * 3, [TEST[0]] * 3, LABELS, combine=combine)
        for name, logits in zip(ctx.needed, [sure, *unsure], strict=True):
            ctx.needed[name].logits["test"] = logits  # the mean follows the sure one, the votes the other two
        for run in ctx.needed.values():  # validation: every member is right on labels of its own
            run.logits["val"], run.logits["val_labels"] = one_hot([1, 1, 1, 1]), np.array([1, 1, 1, 2])
        metrics = committee.ensemble(ctx).metrics
        assert metrics["test"]["top1_accuracy_probabilities"] == 100 and metrics["test"]["top1_accuracy_votes"] == 25
        assert metrics["test"]["top1_accuracy"] == metrics["test"][f"top1_accuracy_{combine}"]
        assert metrics["val"]["top1_accuracy_probabilities"] == metrics["val"]["top1_accuracy_votes"] == 75


@pytest.mark.parametrize(
    ("recipe", "used"), [("ensemble", 3), ("ensemble_top_k", 2), ("best_single", 1), ("oracle", 3)]
)
def test_every_committee_costs_the_training_of_all_and_the_use_of_those_it_takes(recipe, used):
    ctx = context(VAL, TEST, LABELS, top_k=2, combine="probabilities")
    cost = getattr(committee, recipe)(ctx).metrics["cost"]
    assert cost["seconds"] == 60.0 and cost["trainable_params_m"] == 3.0
    assert cost["params_m"] == cost["inference_params_m"] == used and cost["gmacs"] == 0.5 * used


def test_the_oracle_takes_for_each_image_the_member_that_is_right_on_it():
    test = [
        [0, 2, 1, 1],
        [1, 1, 1, 1],
        [1, 2, 2, 2],
    ]  # the first, second and third are right on one each, none on the last
    outcome = committee.oracle(context(VAL, test, LABELS))
    assert (outcome.samples["prediction"] == LABELS).tolist() == [True, True, True, False]
    assert accuracy(outcome) == 75 and accuracy(outcome, "val") == 100
