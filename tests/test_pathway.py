"""Hub-Pathway: the route, the dispatch, the two arg-mins in one backward pass."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zoolib import losses
from zoolib.layers.pathway import PathwayGenerator, RandomPathway, TaskPathway, dispatch, running_statistics, top_k_mask
from zoolib.methods import METHODS
from zoolib.methods.hubpathway import HubPathway
from zoolib.nets import tiny_resnet
from zoolib.spec import ZoolibError
from zoolib.tasks import Classification


class Member(nn.Module):
    """A stand-in for HubModel: any backbone with a name and a feature size."""

    def __init__(self, name: str, backbone: nn.Module, num_features: int) -> None:
        super().__init__()
        self.name, self.backbone, self.num_features = name, backbone, num_features

    def forward(self, x):
        return self.backbone(x)


def make(count=4, top_k=2, **kwargs):
    torch.manual_seed(0)
    members = [Member(f"m{i}", tiny_resnet(), 64) for i in range(count)]
    task = Classification(3)
    generator = PathwayGenerator(count, width=4, size=16)
    return HubPathway(members, task, generator, top_k, **kwargs), task


def gradients(module):
    return [p.grad for p in module.parameters() if p.grad is not None and p.grad.abs().sum() > 0]


IMAGES = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 3


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_exactly_k_models_are_active_for_every_sample_even_among_ties(k):
    tied = torch.full((5, 4), 0.25)
    assert (top_k_mask(tied, k).sum(1) == k).all()
    method, _ = make(top_k=k)
    assert (method(IMAGES).aux["active"].sum(1) == k).all()


def test_the_mask_keeps_the_largest_weights():
    weights = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.1, 0.3]])
    assert top_k_mask(weights, 2).tolist() == [[False, True, True], [True, False, True]]


@pytest.mark.parametrize("k", [0, 5])
def test_k_outside_the_hub_is_refused_with_its_range(k):
    with pytest.raises(ValueError, match="use 1 to 4"):
        top_k_mask(torch.rand(2, 4), k)
    with pytest.raises(ZoolibError, match="use 1 to 4"):
        make(top_k=k)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_sparse_dispatch_equals_masked_dense_in_eval_mode(k):
    method, _ = make(top_k=k)
    method.double().eval()
    x = IMAGES.double()
    with torch.no_grad():
        sparse = method(x)
        dense = torch.stack([member(x) for member in method.members], 1)
        kept = torch.where(sparse.aux["active"], sparse.aux["weight"].double(), 0.0)
        prediction = method.aggregator((kept[..., None] * dense).flatten(1))
    masked = dense * sparse.aux["active"][..., None]
    assert torch.allclose(sparse.aux["members"], masked, atol=1e-12, rtol=0)
    assert torch.allclose(sparse.prediction, prediction, atol=1e-12, rtol=0)


def test_dispatch_runs_a_model_only_on_the_samples_that_chose_it_and_skips_the_others():
    seen = {}

    def model(index):
        def run(x):
            seen[index] = x[:, 0].tolist()
            return x * (index + 1)

        return run

    x = torch.arange(3.0)[:, None]
    active = torch.tensor([[True, False, False], [True, True, False], [False, True, False]])
    out = dispatch([model(0), model(1), model(2)], x, active)
    assert seen == {0: [0.0, 1.0], 1: [1.0, 2.0]}
    assert out[..., 0].tolist() == [[0, 0, 0], [1, 2, 0], [0, 4, 0]]


def test_a_batch_without_images_is_refused_in_words():
    with pytest.raises(ZoolibError, match="without images has no route"):
        dispatch([torch.nn.Identity()], torch.rand(0, 3), torch.ones(0, 1, dtype=torch.bool))


def test_gradients_through_sparse_dispatch_equal_those_of_a_per_sample_loop():
    torch.manual_seed(0)
    models = [nn.Linear(3, 2).double() for _ in range(3)]
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    active = top_k_mask(torch.rand(5, 3), 2)
    weights = torch.randn(5, 3, 2, dtype=torch.float64)
    (dispatch(models, x, active) * weights).sum().backward()
    mine = [x.grad, *(p.grad for m in models for p in m.parameters())]
    y = x.detach().clone().requires_grad_()
    for model in models:
        model.zero_grad()
    total = sum((models[i](y[b]) * weights[b, i]).sum() for b in range(5) for i in range(3) if active[b, i])
    total.backward()
    theirs = [y.grad, *(p.grad for m in models for p in m.parameters())]
    assert all(torch.allclose(a, b, atol=1e-12, rtol=0) for a, b in zip(mine, theirs, strict=True))


def test_explore_reaches_no_hub_model_and_no_aggregator():
    method, task = make()
    output = method.train()(IMAGES)
    method.loss(output, LABELS, task, 0.0)["explore"].backward()
    assert gradients(method.members) == [] and gradients(method.aggregator) == []
    assert gradients(method.generator.preference) and gradients(method.generator.noise)


def test_exploit_reaches_no_generator_and_no_aggregator_parameter():
    method, task = make()
    output = method.train()(IMAGES)
    method.loss(output, LABELS, task, 0.0)["exploit"].backward()
    assert gradients(method.generator) == [] and gradients(method.aggregator) == []
    assert gradients(method.members)


def test_the_task_loss_reaches_generator_aggregator_and_models_even_at_k_1():
    method, task = make(top_k=1)
    output = method.train()(IMAGES)
    method.loss(output, LABELS, task, 0.0)["task"].backward()
    assert gradients(method.generator.preference) and gradients(method.aggregator) and gradients(method.members)


def test_one_backward_of_the_sum_gives_the_gradients_of_both_arg_mins():
    method, task = make()
    twin = copy.deepcopy(method)
    torch.manual_seed(7)
    terms = method.train()(IMAGES)
    losses_ = method.loss(terms, LABELS, task, 0.0)
    sum(losses_.values()).backward()
    torch.manual_seed(7)
    terms = twin.train()(IMAGES)
    separate = twin.loss(terms, LABELS, task, 0.0)
    members = list(twin.members.parameters())
    others = [*twin.generator.parameters(), *twin.aggregator.parameters()]
    for_members = torch.autograd.grad(
        separate["task"] + separate["exploit"], members, retain_graph=True, allow_unused=True
    )
    for_others = torch.autograd.grad(separate["task"] + separate["explore"], others, allow_unused=True)
    mine = [*method.members.parameters(), *method.generator.parameters(), *method.aggregator.parameters()]
    for parameter, expected in zip(mine, [*for_members, *for_others], strict=True):
        got = parameter.grad
        assert (got is None) == (expected is None) and (got is None or torch.allclose(got, expected, atol=1e-7))


def test_one_training_step_of_the_loop_calls_backward_once(monkeypatch):
    from zoolib import train
    from zoolib.data import loaders

    calls = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda self, *a, **k: (calls.append(1), backward(self, *a, **k))[1])
    monkeypatch.setattr(loaders, "train_batch", lambda *a: (IMAGES, LABELS))
    method, task = make()
    settings = SimpleNamespace(
        gamma=0.1,
        milestones=(),
        channels_last=False,
        lr=0.01,
        iterations=1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0,
        optimiser="sgd",
    )
    machine = train.Machine(torch.device("cpu"), "float32")
    values = train._step(method, train._optimiser(method, settings), None, task, settings, 0, machine, 0)
    assert len(calls) == 1 and set(values) == {"task", "explore", "exploit"}


def test_explore_is_minus_the_entropy_of_the_mean_weights():
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert losses.explore(weights).item() == pytest.approx(-math.log(2), abs=1e-12)
    collapsed = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert losses.explore(collapsed).item() == 0.0


def test_exploring_has_a_gradient_where_a_models_weight_underflows():
    logits = torch.tensor([[0.0, -200.0], [0.0, -150.0]], requires_grad=True)
    loss = losses.explore(logits.softmax(-1))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0.0 and torch.isfinite(gradient).all()


def test_explore_and_entropy_pass_gradcheck():
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: losses.explore(z.softmax(-1)), (logits,))


def test_exploit_by_hand_sums_over_models_and_averages_over_all_samples():
    member_losses = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    active = torch.tensor([[True, False, True], [False, True, False]])
    assert losses.exploit(member_losses, active).item() == (1 + 4 + 16) / 2


def test_the_exploit_term_of_a_step_is_the_loop_over_active_models():
    method, task = make()
    output = method.eval()(IMAGES)
    terms = method.loss(output, LABELS, task, 0.0)
    active = output.aux["active"]
    with torch.no_grad():
        expected = sum(
            nn.functional.cross_entropy(method.members[i](IMAGES[b : b + 1]), LABELS[b : b + 1])
            for b in range(12)
            for i in range(4)
            if active[b, i]
        )
    assert terms["exploit"].item() == pytest.approx(float(expected) / 12, abs=1e-5)


def test_weights_are_masked_but_not_renormalised():
    method, _ = make()
    with torch.no_grad():
        method.aggregator.bias.zero_()
        out = method.eval()(IMAGES)
        kept = torch.where(out.aux["active"], out.aux["weight"], 0.0)
    assert torch.allclose(out.aux["weight"].sum(1), torch.ones(12))
    assert (kept.sum(1) < 1).all()
    expected = (kept[..., None] * out.aux["members"]).sum(1)  # the aggregator starts as that sum
    assert torch.allclose(out.prediction, expected, atol=1e-6)


def test_noise_acts_in_training_only_and_scales_with_softplus():
    torch.manual_seed(0)
    generator = PathwayGenerator(3, width=4, size=16)
    with torch.no_grad():
        assert torch.equal(generator.eval()(IMAGES), generator.eval()(IMAGES))
        assert not torch.equal(generator.train()(IMAGES), generator.train()(IMAGES))
        head = generator.noise[1]
        head.weight.zero_()
        head.bias.fill_(-50.0)  # softplus(-50) is 0: no noise is left
        assert torch.allclose(generator.train()(IMAGES), generator.train()(IMAGES), atol=1e-6)


def noisy(kind, preference, noise):
    """A generator whose G_p(x) and G_n(x) are these for every image."""
    if kind is TaskPathway:
        generator = TaskPathway(len(preference))
        made = {generator.preference: preference, generator.noise: noise}
    else:
        generator = PathwayGenerator(len(preference), width=4, size=16)
        for head in (generator.preference[1], generator.noise[1]):
            nn.init.zeros_(head.weight)
        made = {generator.preference[1].bias: preference, generator.noise[1].bias: noise}
    with torch.no_grad():
        for parameter, values in made.items():
            parameter.copy_(torch.tensor(values))
    return generator.train()


@pytest.mark.parametrize("kind", [PathwayGenerator, TaskPathway])
def test_a_noisy_score_by_hand_is_preference_plus_a_normal_draw_times_softplus_of_the_noise(monkeypatch, kind):
    preference, noise = [0.5, -1.0, 0.0], [-2.0, 0.0, 1.5]
    draws = torch.linspace(-2, 2, 36).view(12, 3)
    generator = noisy(kind, preference, noise)
    monkeypatch.setattr(torch, "randn_like", lambda like: draws[: like.shape[0], : like.shape[1]])
    scale = [math.log(1 + math.exp(value)) for value in noise]
    for weights, eps in zip(generator(IMAGES).tolist(), draws.tolist(), strict=True):
        powers = [math.exp(p + e * s) for p, e, s in zip(preference, eps, scale, strict=True)]
        assert weights == pytest.approx([power / sum(powers) for power in powers], abs=1e-6)


@pytest.mark.parametrize("kind", [PathwayGenerator, TaskPathway])
def test_noise_is_drawn_for_each_image_and_each_member(kind):
    torch.manual_seed(0)
    with torch.no_grad():
        scores = noisy(kind, [0.0] * 3, [1.0] * 3)(IMAGES[:1].expand(12, -1, -1, -1)).log()
    differences = (scores[:, 1:] - scores[:, :1]).flatten()  # a draw that the members share cancels
    assert len({round(value, 4) for value in differences.tolist()}) == 24


@pytest.mark.parametrize("side", [16, 32])
def test_a_generator_trains_on_one_image_and_its_batch_norms_keep_their_statistics(side):
    torch.manual_seed(0)
    generator = PathwayGenerator(3, width=4, size=side).train()
    before = copy.deepcopy(dict(generator.named_buffers()))
    weights = generator(torch.rand(1, 3, side, side))
    (weights * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    assert weights.isfinite().all() and gradients(generator.preference) and gradients(generator.noise)
    assert all(torch.equal(before[name], value) for name, value in generator.named_buffers())
    assert generator.preference[0].bn1.training
    generator(torch.rand(2, 3, side, side))  # of two there are statistics
    assert not torch.equal(before["noise.0.bn1.running_mean"], generator.noise[0].bn1.running_mean)


def test_a_sub_batch_of_one_sample_does_not_break_batch_norm_nor_move_its_statistics():
    method, _ = make(count=2, top_k=1)
    member = method.members[0].train()
    before = copy.deepcopy(member.state_dict())
    active = torch.tensor([[True, False], [False, True], [False, True]])
    out = dispatch(list(method.members), IMAGES[:3, :, :1, :1], active)  # 1x1 images: one value a channel
    assert out.isfinite().all()
    assert all(torch.equal(before[name], value) for name, value in member.state_dict().items())
    assert member[0].backbone.bn1.training


def test_frozen_batch_norm_stays_in_eval_mode():
    method, _ = make(frozen_bn=True)
    method.train()
    assert not method.members[0][0].backbone.bn1.training and method.generator.preference[0].bn1.training


def test_the_generator_of_width_64_has_the_parameters_that_the_paper_adds_to_its_hub():
    task, members, features = Classification(100), 5, 2048
    generator = sum(p.numel() for p in PathwayGenerator(members).parameters())
    aggregator = sum(p.numel() for p in task.aggregator(members).parameters())
    resnet50, heads = 23_508_032, features * 100 + 100
    total = members * (resnet50 + heads) + generator + aggregator
    assert round(total / 1e6, 2) == 128.43  # Hub-Pathway supplement, table 1


# Variants


def variant(generator, **kwargs):
    torch.manual_seed(0)
    members = [Member(f"m{i}", tiny_resnet(), 64) for i in range(4)]
    return HubPathway(members, Classification(3), generator, 2, **kwargs), Classification(3)


def test_random_paths_ignore_their_input_and_differ_between_images_and_draws():
    generator = RandomPathway(4)
    torch.manual_seed(5)
    first = generator(IMAGES)
    torch.manual_seed(5)
    second = generator(torch.zeros_like(IMAGES))
    assert torch.equal(first, second) and torch.allclose(first.sum(1), torch.ones(12))
    assert not torch.equal(first, generator(IMAGES)) and len({tuple(row) for row in first.tolist()}) == 12
    assert list(generator.parameters()) == []
    many = top_k_mask(generator(torch.zeros(20_000, 1)), 2).double().mean(0)
    assert torch.allclose(many, torch.full((4,), 0.5).double(), atol=0.02)


def test_random_paths_offer_no_alternatives_for_another_draw_would_contradict_the_scored_prediction():
    method, _ = variant(RandomPathway(4))
    assert method.alternatives(IMAGES) == {}
    assert make()[0].eval().alternatives(IMAGES).keys() > {"k:2"}


def test_task_level_weights_are_the_same_for_all_images_at_test_time_and_learn():
    method, task = variant(TaskPathway(4))
    method.train()
    sum(method.loss(method(IMAGES), LABELS, task, 0.0).values()).backward()
    assert method.generator.preference.grad.abs().sum() > 0 and method.generator.noise.grad.abs().sum() > 0
    with torch.no_grad():
        method.generator.preference.copy_(torch.tensor([0.0, 2.0, 1.0, -1.0]))
    output = method.eval()(IMAGES)
    assert torch.equal(output.aux["weight"], torch.tensor([0.0, 2.0, 1.0, -1.0]).softmax(-1).expand(12, 4))
    assert output.aux["active"].all(0).tolist() == [False, True, True, False]


def test_an_ablation_leaves_out_its_term_and_only_that():
    for options, names in (
        ({"explore_weight": 0.0}, {"task", "exploit"}),
        ({"exploit": False}, {"task", "explore"}),
        ({}, {"task", "explore", "exploit"}),
    ):
        method, task = make(**options)
        method.train()
        assert set(method.loss(method(IMAGES), LABELS, task, 0.0)) == names


def built(name, **changed):
    """The method that a recipe hands to the training loop, with its card's options and a small generator."""
    methods = []
    small = {"generator_width": 4, "generator_size": 16}
    options = {key: {**small, **changed}.get(key, value) for key, value in METHODS[name].options.items()}
    torch.manual_seed(0)
    members = [Member(f"m{i}", tiny_resnet(), 64) for i in range(4)]
    METHODS[name].load()(
        SimpleNamespace(
            hub=SimpleNamespace(names=[member.name for member in members], models=lambda: members),
            spec=SimpleNamespace(option=options.__getitem__, settings=SimpleNamespace(optimiser="sgd")),
            task=Classification(3),
            fit=lambda method, deviations: methods.append(method),
        )
    )
    (method,) = methods
    return method


@pytest.mark.parametrize("explore_weight", [0.1, 1.0])
@pytest.mark.parametrize(
    ("name", "generator", "explores", "exploits"),
    [
        ("hub_pathway", PathwayGenerator, True, True),
        ("hub_pathway_no_explore", PathwayGenerator, False, True),
        ("hub_pathway_no_exploit", PathwayGenerator, True, False),
        ("hub_pathway_random_path", RandomPathway, False, True),
        ("hub_pathway_task_level", TaskPathway, True, True),
    ],
)
def test_a_recipe_trains_its_own_generator_on_its_own_terms(name, generator, explores, exploits, explore_weight):
    method = built(name, explore_weight=explore_weight, top_k=3).train()
    assert type(method.generator) is generator and method.top_k == 3
    output = method(IMAGES)
    terms = method.loss(output, LABELS, Classification(3), 0.0)
    assert set(terms) == {"task"} | ({"explore"} if explores else set()) | ({"exploit"} if exploits else set())
    if explores:
        mean = output.aux["weight"].mean(0)
        assert terms["explore"].item() == pytest.approx(explore_weight * (mean * mean.log()).sum().item(), rel=1e-5)


@pytest.mark.parametrize("side", [16, 24])
def test_both_branches_of_the_generator_see_the_image_at_their_size_between_minus_1_and_1(side):
    generator, seen = PathwayGenerator(3, width=4, size=16).train(), []
    for branch in (generator.preference, generator.noise):
        branch.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 3, side, side)
    generator(x)
    assert len(seen) == 2
    for images in seen:
        assert torch.allclose(
            images, torch.tensor([-1, -1 / 3, 1 / 3, 1])[:, None, None, None].expand(4, 3, 16, 16), atol=1e-6
        )


def test_a_batch_norm_that_was_frozen_stays_so_after_running_statistics_were_used():
    model = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.BatchNorm1d(2))
    with running_statistics(model):
        assert [norm.training for norm in model] == [False, False]
    assert [norm.training for norm in model] == [False, True]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_loads_are_of_routes_of_the_methods_own_k(k):
    method, _ = make(top_k=k)
    found = method.summary({"weight": torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])})
    expected = {1: [0.5, 0, 0, 0.5], 2: [0.5] * 4, 3: [0.5, 1, 1, 0.5]}[k]
    assert [found[f"load:m{i}"] for i in range(4)] == expected


def test_every_member_of_hub_pathway_has_a_head_of_its_own():
    method, _ = make()
    heads = [member[1] for member in method.members]
    assert len({id(head.weight) for head in heads}) == len({id(head.bias) for head in heads}) == 4
    one = sum(p.numel() for p in method.members[0].parameters())
    assert sum(p.numel() for p in method.members.parameters()) == 4 * one


def test_a_hub_in_bfloat16_answers_in_bfloat16():
    method, _ = make(top_k=2)
    method.eval()
    with torch.no_grad():
        full, half = method(IMAGES).prediction, method.bfloat16()(IMAGES.bfloat16()).prediction
    assert half.dtype == torch.bfloat16 and half.shape == full.shape
