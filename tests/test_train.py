"""The one training loop: resuming, stopping on nonsense, schedules, evaluation."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoolib import runtime, train
from zoolib.data import loaders
from zoolib.data.manifests import dataset
from zoolib.layers.pathway import PathwayGenerator
from zoolib.method import Method, Output
from zoolib.methods.hubpathway import HubPathway
from zoolib.recipe import Context, Finished, cost_of, output_frame
from zoolib.results import machine_of
from zoolib.spec import Settings, ZoolibError
from zoolib.tasks import Classification, average, votes

SETTINGS = Settings(
    image_size=16, decode_size=16, batch_size=8, iterations=6, milestones=(4,), crop="shift", test_crops=1,
    train_per_class=4, test_limit=30, val_fraction=0.2, eval_every=2, channels_last=False,
)  # fmt: skip
CPU = train.Machine(torch.device("cpu"), "float32")
TASK = Classification(10)


class Flat(nn.Module):
    """A member with a batch norm, so that buffers matter as well."""

    def __init__(self, name):
        super().__init__()
        self.name, self.num_features = name, 6
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, x):
        return self.layers(x)


class Plain(Method):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))

    def forward(self, x):
        return Output(self.net(x))


@pytest.fixture(autouse=True)
def _own_build(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))


def data():
    return loaders.load(dataset("digits"), SETTINGS)


def pathway():
    torch.manual_seed(3)
    members = [Flat("a"), Flat("b"), Flat("c")]
    return HubPathway(members, TASK, PathwayGenerator(3, width=2, size=16), top_k=2)


def origin():
    return {"code": runtime.code_fingerprint(), "data": data().sha256}


class Killed(Exception):
    pass


def test_a_killed_and_resumed_fit_has_bit_identical_metrics_and_weights(tmp_path):
    straight = pathway()
    torch.manual_seed(5)
    whole = train.fit(straight, data(), TASK, SETTINGS, 1, CPU)

    def die(done, total, word):
        if done == 4:
            raise Killed

    file = tmp_path / "checkpoint.pt"
    killed = pathway()
    torch.manual_seed(5)
    with pytest.raises(Killed):
        train.fit(killed, data(), TASK, SETTINGS, 1, CPU, file, checkpoint_seconds=0, progress=die)
    resumed = pathway()
    torch.manual_seed(99)  # another process: another random state
    again = train.fit(resumed, data(), TASK, SETTINGS, 1, CPU, file, checkpoint_seconds=0)
    assert again.start == 4 and whole.curve == again.curve
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_loss_that_is_not_finite_stops_the_fit_and_names_step_and_term():
    class Bad(Plain):
        def loss(self, output, target, task, progress):
            terms = super().loss(output, target, task, progress)
            return {**terms, "extra": terms["task"] * (math.nan if progress > 0.4 else 1.0)}

    with pytest.raises(ZoolibError, match=r"loss term 'extra' is nan at step 4"):
        train.fit(Bad(), data(), TASK, SETTINGS, 0, CPU)


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tmp_path):
    file = tmp_path / "checkpoint.pt"
    method = Plain()
    optimiser = train._optimiser(method, SETTINGS)
    train.save_checkpoint(file, method, optimiser, train.History(), 2, origin(), CPU)
    with pytest.raises(ZoolibError, match=r"checkpoint\.pt: not a checkpoint of this run"):
        train.fit(pathway(), data(), TASK, SETTINGS, 0, CPU, file)


@pytest.mark.parametrize("change", [{}, {"code": "other"}, {"data": "other"}, None])
def test_half_a_run_of_other_code_or_data_is_not_continued(tmp_path, change):
    file, method = tmp_path / "checkpoint.pt", Plain()
    before = None if change is None else origin() | change
    train.save_checkpoint(file, method, train._optimiser(method, SETTINGS), train.History(), 4, before, CPU)
    if change is None:  # written before checkpoints had an origin
        state = torch.load(file, weights_only=True)
        torch.save({name: value for name, value in state.items() if name != "origin"}, file)
    again = train.fit(Plain(), data(), TASK, SETTINGS, 1, CPU, file)
    assert again.start == (4 if change == {} else 0)


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files"), torch.OutOfMemoryError("GPU")])
def test_a_checkpoint_that_cannot_be_read_now_is_nothing_to_delete(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"hours of work")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(ZoolibError, match=r"checkpoint\.pt: could not be read now \(\w+.*it stays") as caught:
        train.fit(Plain(), data(), TASK, SETTINGS, 0, CPU, file)
    assert "delete" not in str(caught.value) and file.read_bytes() == b"hours of work"


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path):
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"PK\x03\x04 half")
    with pytest.raises(ZoolibError, match="delete it to start the run afresh"):
        train.fit(Plain(), data(), TASK, SETTINGS, 0, CPU, file)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.pt"
    method = Plain()
    optimiser = train._optimiser(method, SETTINGS)
    train.save_checkpoint(file, method, optimiser, train.History(), 2, {}, CPU)
    before = file.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train.save_checkpoint(file, method, optimiser, train.History(), 4, {}, CPU)
    assert file.read_bytes() == before and list(tmp_path.glob("*.partial")) == []


def test_the_learning_rate_falls_by_gamma_at_each_milestone():
    seen = []
    method = Plain()
    original = torch.optim.SGD.step

    def spy(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    settings = dataclasses.replace(SETTINGS, milestones=(2, 5), lr=0.1)
    torch.optim.SGD.step = spy
    try:
        train.fit(method, data(), TASK, settings, 0, CPU)
    finally:
        torch.optim.SGD.step = original
    assert seen == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.01, 0.001])


def test_one_step_is_sgd_with_nesterov_momentum_and_weight_decay_by_hand(monkeypatch):
    x, y = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    monkeypatch.setattr(loaders, "train_batch", lambda *a: (x, y))
    settings = dataclasses.replace(SETTINGS, iterations=1, eval_every=10**9, lr=0.1, weight_decay=0.01)
    method = Plain()
    weight = method.net[1].weight.detach().clone().requires_grad_()
    loss = nn.functional.cross_entropy(nn.functional.linear(x.flatten(1), weight, method.net[1].bias.detach()), y)
    (gradient,) = torch.autograd.grad(loss, weight)
    direction = gradient + 0.01 * weight.detach()
    expected = weight.detach() - 0.1 * (direction + 0.9 * direction)  # Nesterov's look-ahead from zero momentum
    train._step(method, train._optimiser(method, settings), None, TASK, settings, 0, CPU, 0)
    assert torch.allclose(method.net[1].weight, expected, atol=1e-7)


def test_it_learns_a_toy_task():
    settings = dataclasses.replace(SETTINGS, iterations=150, milestones=(), train_per_class=20, eval_every=150, lr=0.05)
    torch.manual_seed(0)
    history = train.fit(Plain(), loaders.load(dataset("digits"), settings), TASK, settings, 0, CPU)
    assert history.curve[-1][3] > 70  # chance is 10


def test_evaluation_averages_the_logits_of_the_views_so_that_their_scale_is_that_of_one(monkeypatch):
    method = Plain()
    views = [torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)]
    labels = torch.tensor([1, 2, 3])
    monkeypatch.setattr(loaders, "eval_batches", lambda *a: iter([(views, labels)]))
    logits, targets, _ = train.evaluate(method, None, "test", SETTINGS, CPU)
    with torch.no_grad():
        expected = (method(views[0]).prediction + method(views[1]).prediction) / 2
    assert torch.allclose(logits, expected) and targets.tolist() == [1, 2, 3]
    monkeypatch.setattr(loaders, "eval_batches", lambda *a: iter([([views[0]] * 10, labels)]))
    ten = train.evaluate(method, None, "test", SETTINGS, CPU)[0]
    monkeypatch.setattr(loaders, "eval_batches", lambda *a: iter([(views[:1], labels)]))
    one = train.evaluate(method, None, "test", SETTINGS, CPU)[0]
    with torch.no_grad():
        assert torch.equal(one, method(views[0]).prediction)
    assert np.allclose(average([ten.numpy()]), average([one.numpy()]), atol=1e-6)


def test_the_kept_alternatives_of_several_views_are_those_of_the_mean_logits(monkeypatch):
    class Two(Plain):
        def alternatives(self, x):
            return {"own": self(x).prediction}

    method, settings = Two().eval(), dataclasses.replace(SETTINGS, test_crops=1)
    few, batches = data(), loaders.eval_batches

    def ten(*args):
        return (([view] * 10, labels) for (view,), labels in batches(*args))

    one = output_frame(method, few, settings, CPU)
    monkeypatch.setattr(loaders, "eval_batches", ten)
    assert np.allclose(
        np.stack(output_frame(method, few, settings, CPU)["probability:own"]).astype(float),
        np.stack(one["probability:own"]).astype(float),
        atol=1e-3,
    )


def test_top_1_accuracy_by_hand():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    assert Classification(2).metrics(logits, torch.tensor([0, 1, 1])) == {"top1_accuracy": pytest.approx(200 / 3)}


def test_the_head_starts_small_and_the_aggregator_starts_as_a_sum():
    torch.manual_seed(0)
    head = TASK.head(4000)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05) and head.bias.abs().sum() == 0
    parts = torch.rand(2, 3, 10)
    assert torch.allclose(TASK.aggregator(3)(parts.flatten(1)), parts.sum(1), atol=1e-6)


def test_the_cost_counts_parameters_and_multiply_adds_by_hand():
    cost = cost_of(Plain(), 16, CPU)
    assert cost["params_m"] == pytest.approx((768 * 10 + 10) / 1e6)
    assert cost["gmacs"] == pytest.approx(768 * 10 / 1e9)


def test_votes_and_averages_by_hand():
    logits = np.log(np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.01, 0.99]]]))
    assert votes(logits).argmax(1).tolist() == [0] and average(logits).argmax(1).tolist() == [1]
    assert average(logits)[0].tolist() == pytest.approx([1.21 / 3, 1.79 / 3])
    tied = np.log(np.array([[[0.9, 0.1]], [[0.2, 0.8]]]))
    assert votes(tied).argmax(1).tolist() == [0]  # one vote each: the higher mean probability decides


class Late(Plain):
    """A network of which one layer is used from the second training step on, as a model that no image is sent to."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(10, 10)
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        logits = self.net(x)
        return Output(self.second(logits) if self.steps > 1 else logits)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_part_that_gets_its_first_gradient_late_is_trained_from_then_on(optimiser: str):
    method = Late()
    before, settings = method.second.weight.detach().clone(), dataclasses.replace(SETTINGS, optimiser=optimiser)
    train.fit(method, data(), TASK, settings, seed=0, machine=CPU)
    assert method.steps == SETTINGS.iterations and not torch.equal(method.second.weight, before)


def test_sgd_steps_as_torchs_plain_one_also_where_a_gradient_comes_late(monkeypatch):
    def plain(method, settings):
        groups = [{**group, "base_lr": group["lr"]} for group in method.param_groups(settings.lr)]
        momentum = {"momentum": settings.momentum, "nesterov": settings.nesterov}
        return torch.optim.SGD(groups, weight_decay=settings.weight_decay, **momentum)

    torch.manual_seed(0)
    method = Late()
    other = copy.deepcopy(method)
    train.fit(method, data(), TASK, SETTINGS, seed=0, machine=CPU)
    monkeypatch.setattr(train, "_optimiser", plain)
    train.fit(other, data(), TASK, SETTINGS, seed=0, machine=CPU)
    for mine, theirs in zip(method.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_the_curve_of_a_fit_is_of_validation_images_and_no_test_image_is_looked_at(monkeypatch):
    looked_at, batches = [], loaders.eval_batches
    monkeypatch.setattr(loaders, "eval_batches", lambda d, split, *a: looked_at.append(split) or batches(d, split, *a))
    method = Plain()
    history = train.fit(method, data(), TASK, SETTINGS, 0, CPU)
    assert looked_at == ["val"] * 3  # at steps 2, 4 and 6
    logits, labels, _ = train.evaluate(method, data(), "val", SETTINGS, CPU)
    assert history.curve[-1] == (6, "val", "top1_accuracy", TASK.metrics(logits, labels)["top1_accuracy"])


def test_the_curve_has_every_term_of_the_loss_at_every_point():
    curve = train.fit(pathway(), data(), TASK, SETTINGS, 0, CPU).curve
    named = {(done, term) for done, split, term, _ in curve if split == "train"}
    assert named == {(done, term) for done in (2, 4, 6) for term in ("task", "explore", "exploit")}


def test_one_step_of_adam_takes_weight_decay_as_part_of_the_gradient_by_hand(monkeypatch):
    x, y = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    monkeypatch.setattr(loaders, "train_batch", lambda *a: (x, y))
    settings = dataclasses.replace(SETTINGS, iterations=1, optimiser="adam", lr=0.1, weight_decay=1.0)
    method = Plain()
    weight = method.net[1].weight.detach().clone().requires_grad_()
    loss = F.cross_entropy(F.linear(x.flatten(1), weight, method.net[1].bias.detach()), y)
    (gradient,) = torch.autograd.grad(loss, weight)
    direction = gradient + 1.0 * weight.detach()
    assert ((direction > 0) != (gradient > 0)).any()  # here the decay decides
    expected = weight.detach() - 0.1 * direction / (direction.abs() + 1e-8)  # corrected moments of one step
    train._step(method, train._optimiser(method, settings), None, TASK, settings, 0, CPU, 0)
    assert torch.allclose(method.net[1].weight, expected, atol=1e-4)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_every_group_of_parameters_keeps_its_own_rate_and_falls_by_gamma(monkeypatch, optimiser):
    class Two(Plain):
        def param_groups(self, lr):
            return [{"params": [self.net[1].weight], "lr": lr}, {"params": [self.net[1].bias], "lr": 10 * lr}]

    seen, step = [], train._step

    def spy(method, optimiser, *args):
        values = step(method, optimiser, *args)
        seen.append([group["lr"] for group in optimiser.param_groups])
        return values

    monkeypatch.setattr(train, "_step", spy)
    settings = dataclasses.replace(SETTINGS, iterations=3, milestones=(2,), lr=0.1, optimiser=optimiser)
    train.fit(Two(), data(), TASK, settings, 0, CPU)
    assert np.allclose(seen, [[0.1, 1.0], [0.1, 1.0], [0.01, 0.1]])


def test_recorded_aux_is_averaged_over_the_views_like_the_logits(monkeypatch):
    class Routed(Plain):
        def __init__(self):
            super().__init__()
            self.recorded = {"weight": ["a", "b"]}

        def forward(self, x):
            share = x.flatten(1)[:, :1]
            return Output(self.net(x), {"weight": torch.cat([share, 1 - share], 1)})

    views = [torch.full((2, 3, 16, 16), value) for value in (0.2, 0.6)]
    monkeypatch.setattr(loaders, "eval_batches", lambda *a: iter([(views, torch.tensor([0, 1]))]))
    _, _, aux = train.evaluate(Routed(), None, "test", SETTINGS, CPU)
    assert torch.allclose(aux["weight"], torch.tensor([[0.4, 0.6], [0.4, 0.6]]))


def test_the_seconds_of_a_resumed_fit_count_those_before_it_was_killed(tmp_path):
    def die(done, total, word):
        if done == 4:
            raise Killed

    file = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        train.fit(Plain(), data(), TASK, SETTINGS, 1, CPU, file, checkpoint_seconds=0, progress=die)
    state = torch.load(file, weights_only=True)
    torch.save({**state, "seconds": 1000.0}, file)
    assert 1000 < train.fit(Plain(), data(), TASK, SETTINGS, 1, CPU, file).seconds < 1600


def test_a_fit_that_goes_on_elsewhere_knows_what_it_went_through_and_since_when(tmp_path, monkeypatch):
    def until(step):
        def die(done, total, word):
            if done == step:
                raise Killed

        return die

    file, here = tmp_path / "checkpoint.pt", train.conditions(CPU.device, CPU.precision)
    for step, threads in ((2, 16), (3, 16), (4, here["threads"])):
        monkeypatch.setattr(train, "conditions", lambda *_, threads=threads: here | {"threads": threads})
        with pytest.raises(Killed):
            train.fit(Plain(), data(), TASK, SETTINGS, 1, CPU, file, checkpoint_seconds=0, progress=until(step))
    state = torch.load(file, weights_only=True)
    parts = [here | {"threads": 16, "steps": 3}, here | {"steps": 1}]
    assert state["past"]["parts"] == parts, "two neighbours alike are one"
    assert 0 < state["past"]["seconds"] < 600
    torch.save({**state, "past": state["past"] | {"seconds": 1000.0, "started": "2026-01-02T03:04:05+00:00"}}, file)
    monkeypatch.setattr(train, "conditions", lambda *_: here | {"threads": 16})
    past = train.fit(Plain(), data(), TASK, SETTINGS, 1, CPU, file).past
    assert past.parts == [*parts, here | {"threads": 16, "steps": 2}], "back on the first"
    told = runtime.computed_under([past])
    assert told == here | {"threads": 16, "resumed_from": parts}
    assert machine_of(told, threads=True).count("(16 threads), then ") == 1
    assert (past.seconds, past.started) == (1000.0, "2026-01-02T03:04:05+00:00")
    torch.save({name: value for name, value in state.items() if name != "past"}, file)
    past = train.fit(Plain(), data(), TASK, SETTINGS, 1, CPU, file).past
    assert past.parts == [here | {"threads": 16, "steps": 2}] and not past.started, "of earlier checkpoints"


def test_a_process_that_found_all_steps_done_is_not_what_computed_them():
    one, other = {"threads": 1}, {"threads": 2}
    assert runtime.Past("then", 5.0, [one | {"steps": 6}]).with_part(other, 0) == [one | {"steps": 6}]
    assert runtime.computed_under([runtime.Past("then", 5.0, [one | {"steps": 6}])]) == one
    two_fits = [runtime.Past(parts=[one | {"steps": 6}]), runtime.Past(parts=[one | {"steps": 2}])]
    assert runtime.computed_under(two_fits) == one
    assert runtime.computed_under([]) == {}


def test_a_run_records_the_seconds_of_the_runs_it_started_from_beside_its_own(tmp_path):
    needed = {name: Finished({}, {"seconds": seconds}, tmp_path) for name, seconds in (("a", 7.0), ("b", 5.0))}
    spec = SimpleNamespace(settings=SETTINGS, seed=0, task="cls")
    cost = Context(spec, data(), None, TASK, CPU, tmp_path, None, needed).fit(Plain()).metrics["cost"]
    assert cost["needed_seconds"] == 12.0 and 0 < cost["seconds"] < 600
    assert cost["images_per_second"] == pytest.approx(6 * 8 / cost["seconds"])
