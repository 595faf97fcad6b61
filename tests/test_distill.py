"""Distillation, Knowledge Flow and the feature-level baselines: losses by hand, and who learns from whom."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zoolib import losses
from zoolib.layers.lateral import Lateral, capture, replaced, stages
from zoolib.methods import METHODS
from zoolib.methods.distill import Distill
from zoolib.methods.features import ConcatDistill, FeatureExtraction
from zoolib.methods.flow import KnowledgeFlow
from zoolib.nets import tiny_resnet
from zoolib.recipe import Outcome
from zoolib.spec import ZoolibError
from zoolib.tasks import Classification

TASK = Classification(3)
X = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 3


class Member(nn.Module):
    """A stand-in for HubModel."""

    def __init__(self):
        super().__init__()
        self.name, self.num_features, self.backbone = "net", 64, tiny_resnet()

    def forward(self, x):
        return self.backbone(x)


def members(count):
    torch.manual_seed(0)
    return [Member() for _ in range(count)]


def backward(method):
    method.train()
    terms = method.loss(method(X), Y, TASK, 0.5)
    sum(terms.values()).backward()
    return terms


def trained(module):
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters()]


def built(name, **changed):
    """The method that a recipe hands to the training loop, and the pretrained and fine-tuned members a, b and c."""
    options = {key: changed.get(key, value) for key, value in METHODS[name].options.items()}
    pretrained, backbones = dict(zip("abc", members(3), strict=True)), dict(zip("abc", members(3), strict=True))
    tuned = {key: (backbone, TASK.head(64)) for key, backbone in backbones.items()}
    fitted = []

    def fit(method, deviations):
        fitted.append(method)
        return Outcome({"cost": {}}, {})

    hub = SimpleNamespace(
        names=[*"abc"],
        model=pretrained.get,
        models=lambda: list(pretrained.values()),
        manifest=SimpleNamespace(homogeneous=True),
    )
    spec = SimpleNamespace(option=options.__getitem__, settings=SimpleNamespace(image_size=16))
    ranking = lambda: ["b", "c", "a"]  # noqa: E731
    METHODS[name].load()(
        SimpleNamespace(hub=hub, spec=spec, task=TASK, fit=fit, finetuned=tuned.__getitem__, ranking=ranking)
    )
    (method,) = fitted
    return method, pretrained, tuned


# Losses


def test_the_distillation_loss_of_a_small_case_by_hand():
    z, q, temperature = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.5]]), 2.0
    p = math.e / (math.e + 1)  # softmax of (1, 0)
    expected = 4 * (0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p)))
    assert losses.distillation(z, q, temperature).item() == pytest.approx(expected, abs=1e-6)
    assert losses.distillation(z, (z / temperature).softmax(-1), temperature).item() == pytest.approx(0, abs=1e-6)


def test_at_high_temperature_the_squared_factor_leaves_the_difference_of_logits_over_the_classes():
    z, v = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    z, v = (z - z.mean()).requires_grad_(), v - v.mean()
    temperature = 1e3
    soft = losses.distillation(z, (v / temperature).softmax(-1), temperature)
    (gradient,) = torch.autograd.grad(soft, z)
    assert torch.allclose(gradient, ((z - v) / 5).detach(), atol=2e-3)


def test_the_dependency_loss_is_layers_times_log_of_the_count_when_weights_are_equal_and_0_when_independent():
    assert losses.dependency(torch.zeros(4, 6)).item() == pytest.approx(4 * math.log(6))
    alone = torch.zeros(4, 6)
    alone[:, 0] = 50.0
    assert losses.dependency(alone).item() == pytest.approx(0, abs=1e-6)


def test_the_feature_distance_is_the_mean_square():
    assert losses.feature_distance(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 2.5


# Distillation


def test_soft_targets_are_the_mean_of_the_members_softened_probabilities():
    teachers = [(member, TASK.head(64)) for member in members(2)]
    method = Distill(Member(), teachers, TASK, temperature=3.0)
    method.eval()
    expected = sum((head(member(X)) / 3.0).softmax(-1) for member, head in teachers) / 2
    assert torch.allclose(method.soft_targets(X), expected, atol=1e-6)


def test_distillation_trains_the_student_and_leaves_the_teachers_as_they_are():
    method = Distill(Member(), [(member, TASK.head(64)) for member in members(2)], TASK)
    before = [value.clone() for value in method.teachers.state_dict().values()]
    terms = backward(method)
    assert set(terms) == {"task", "distill"} and all(trained(method.student))
    assert all(p.grad is None for p in method.teachers.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, method.teachers.state_dict().values(), strict=True))


def test_the_weights_of_both_losses_share_one_unit():
    method = Distill(Member(), [(members(1)[0], TASK.head(64))], TASK, soft_weight=0.25)
    method.train()
    output = method(X)
    terms = method.loss(output, Y, TASK, 0.0)
    assert terms["task"].item() == pytest.approx(0.75 * TASK.loss(output.prediction, Y).item(), rel=1e-5)
    soft = losses.distillation(output.prediction, output.aux["teacher"], method.temperature)
    assert terms["distill"].item() == pytest.approx(0.25 * soft.item(), rel=1e-5)


def test_only_the_student_is_counted_at_inference():
    method = Distill(Member(), [(member, TASK.head(64)) for member in members(2)], TASK)
    assert 3 * method.inference_parameters() == sum(p.numel() for p in method.parameters())


def test_distillation_starts_at_the_pretrained_best_member_learns_from_all_fine_tuned_and_heeds_its_options():
    method, pretrained, tuned = built("distill", temperature=7.0, soft_weight=0.25)
    assert method.student is pretrained["b"] and (method.temperature, method.soft_weight) == (7.0, 0.25)
    assert [tuple(teacher) for teacher in method.teachers] == [tuned[name] for name in "abc"]


# Knowledge Flow


def test_the_stages_of_a_residual_network_are_its_layers_and_one_without_any_is_refused():
    assert stages(tiny_resnet()) == ["layer1", "layer2", "layer3"]
    with pytest.raises(ZoolibError, match="no stages"):
        stages(nn.Linear(2, 2))


def test_captured_maps_are_the_stages_outputs_and_a_replacement_reaches_what_follows():
    net = tiny_resnet().eval()
    names = stages(net)
    maps = capture(net, names, X)
    assert [m.shape[1] for m in maps] == [16, 32, 64]
    assert torch.equal(maps[-1].mean((2, 3)), net(X))
    doubled = replaced(net, names[-1:], X, lambda index, own: 2 * own, net)
    assert torch.allclose(doubled, 2 * net(X)) and torch.equal(net(X), maps[-1].mean((2, 3)))


def test_mixed_maps_are_the_weighted_sum_with_weights_that_sum_to_1():
    lateral = Lateral([2], 2)
    with torch.no_grad():
        lateral.scores.copy_(torch.tensor([[0.0, math.log(2.0), math.log(5.0)]]))
    maps = [torch.full((1, 2, 3, 3), value) for value in (8.0, 16.0, 24.0)]
    expected = (1 * 8 + 2 * 16 + 5 * 24) / 8  # the transformations start at the identity
    assert torch.allclose(lateral(0, maps[0], maps[1:]), torch.full((1, 2, 3, 3), expected))
    assert torch.allclose(lateral.weights().sum(1), torch.ones(1))


def flow(count=2, **options):
    pool = members(count + 1)
    return KnowledgeFlow(pool[0], pool[1:], TASK, 16, **options)


def test_knowledge_flow_refuses_networks_without_maps_of_channels():
    class Last(nn.Module):  # (B, h, w, C), as a Swin transformer's stages
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    pool = members(2)
    for model in pool:
        last = stages(model.backbone)[-1]
        model.backbone.set_submodule(last, nn.Sequential(model.backbone.get_submodule(last), Last()))
    with pytest.raises(ZoolibError, match=r"Knowledge Flow mixes maps \(B, C, h, w\), and a stage here gives"):
        KnowledgeFlow(pool[0], pool[1:], TASK, 16)


def test_knowledge_flow_trains_student_scores_and_transforms_and_no_teacher():
    method = flow()
    terms = backward(method)
    assert set(terms) == {"task", "dependency"}
    assert all(trained(method.student)) and all(trained(method.lateral)) and all(trained(method.head))
    assert all(p.grad is None for p in method.teachers.parameters())


def test_the_student_is_alone_in_evaluation():
    method = flow().eval()
    assert torch.equal(method(X).prediction, method.head(method.student(X)))


def test_a_student_of_weight_1_computes_in_training_what_it_computes_alone():
    method = flow()
    with torch.no_grad():
        method.lateral.scores[:, 0] = 100.0
    method.train()
    method.student.eval()  # batch statistics aside
    assert torch.allclose(method(X).prediction, method.head(method.student(X)), atol=1e-6)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_the_dependency_term_by_hand_is_weight_times_progress_times_minus_the_log_of_the_students_shares(progress):
    method, *_ = built("knowledge_flow", dependency_weight=3.0)
    with torch.no_grad():
        method.lateral.scores.copy_(torch.tensor([[1.0, 2, 2, 3], [2, 1, 1, 4], [4, 1, 2, 1]]).log())
    method.train()
    output = method(X)
    terms = method.loss(output, Y, TASK, progress)
    expected = 3.0 * progress * (math.log(8 / 1) + math.log(8 / 2) + math.log(8 / 4))
    assert terms["dependency"].item() == pytest.approx(expected, abs=1e-5)
    assert terms["task"].item() == pytest.approx(TASK.loss(output.prediction, Y).item())


def test_the_dependency_loss_drives_the_student_to_independence():
    method = flow()
    scores = method.lateral.scores
    for _ in range(200):
        scores.grad = None
        losses.dependency(scores).backward()
        with torch.no_grad():
            scores -= 0.5 * scores.grad
    assert method.lateral.weights()[:, 0].min() > 0.98


def test_the_scores_learn_faster_and_do_not_decay():
    rest, scores = flow().param_groups(0.1)
    assert scores["lr"] == 1.0 and scores["weight_decay"] == 0.0 and rest["lr"] == 0.1
    assert [p.shape for p in scores["params"]] == [(3, 3)]


def test_five_resnet_50s_have_the_parameters_that_the_slides_publish_for_knowledge_flow():
    from torchvision.models import resnet50

    class Fifty(Member):
        def __init__(self):
            nn.Module.__init__(self)
            self.name, self.num_features, self.backbone = "net", 2048, resnet50()
            self.backbone.fc = nn.Identity()

    with torch.device("meta"):
        backbone, head = Fifty(), Classification(100).head(2048)
        lateral = Lateral([256, 512, 1024, 2048], 5)
    count = [sum(p.numel() for p in module.parameters()) for module in (backbone, head, lateral)]
    published = 169.11  # slides; student with its head, five teachers without, transformations
    assert (6 * count[0] + count[1] + count[2]) / 1e6 == pytest.approx(published, abs=0.01)
    assert (count[0] + count[1]) / 1e6 == pytest.approx(23.71, abs=0.005)


# Feature-level baselines


def test_feature_extraction_trains_the_classifier_alone_on_the_concatenated_features():
    pool = members(2)
    method = FeatureExtraction(pool, TASK)
    before = [value.clone() for value in method.members.state_dict().values()]
    backward(method)
    assert all(trained(method.head)) and all(p.grad is None for p in method.members.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, method.members.state_dict().values(), strict=True))
    features = torch.cat([member.eval()(X) for member in pool], 1)
    assert torch.allclose(method.eval()(X).prediction, method.head(features), atol=1e-6)


def test_concat_distill_has_a_head_for_each_member_and_learns_their_features():
    teachers = members(2)
    method = ConcatDistill(Member(), teachers, TASK)
    method.train()
    output = method(X)
    assert output.aux["mimic"].shape == (6, 128)
    expected = torch.cat([teacher(X) for teacher in teachers], 1)
    assert torch.allclose(output.aux["features"], expected, atol=1e-6)  # the teachers are in evaluation
    terms = backward(method)
    assert terms["distill"].item() == pytest.approx((output.aux["mimic"] - expected).square().mean().item(), rel=0.1)
    assert all(trained(method.heads)) and all(trained(method.backbone)) and all(trained(method.classifier))
    assert all(p.grad is None for p in method.teachers.parameters())
    assert set(method.eval()(X).aux) == set()


@pytest.mark.parametrize("name", ["fe", "ced"])
def test_features_are_those_of_the_pretrained_members_or_as_the_name_says_of_the_fine_tuned(name):
    for recipe, is_tuned in ((name, False), (f"{name}_finetuned", True)):
        method, pretrained, tuned = built(recipe)
        sources = method.members if name == "fe" else method.teachers
        assert list(sources) == [tuned[key][0] if is_tuned else pretrained[key] for key in "abc"]
        assert name == "fe" or method.backbone is pretrained["a"]


def test_every_stage_is_mixed_by_its_own_weights():
    lateral = Lateral([2, 2], 1)
    with torch.no_grad():
        lateral.scores.copy_(torch.tensor([[1.0, 3.0], [3.0, 1.0]]).log())  # shares 1/4, 3/4 and 3/4, 1/4
    own, other = torch.full((1, 2, 3, 3), 4.0), torch.full((1, 2, 3, 3), 8.0)
    assert torch.allclose(lateral(0, own, [other]), torch.full((1, 2, 3, 3), 7.0))
    assert torch.allclose(lateral(1, own, [other]), torch.full((1, 2, 3, 3), 5.0))


def test_the_teachers_of_knowledge_flow_keep_their_running_statistics_while_the_student_trains():
    method = flow()
    before = copy.deepcopy(method.teachers.state_dict())
    backward(method)
    assert method.student.training and not any(module.training for module in method.teachers.modules())
    assert all(torch.equal(before[name], value) for name, value in method.teachers.state_dict().items())


def test_finding_the_widths_of_the_stages_leaves_the_student_as_it_is():
    pool = members(2)
    pool[0].train()
    before = copy.deepcopy(pool[0].state_dict())
    method = KnowledgeFlow(pool[0], pool[1:], TASK, 16)
    assert method.student.training
    assert all(torch.equal(before[name], value) for name, value in method.student.state_dict().items())


def test_knowledge_flow_has_the_first_member_as_student_and_all_as_teachers():
    method, pretrained, _ = built("knowledge_flow")
    assert method.student is pretrained["a"] and list(method.teachers) == list(pretrained.values())
    of_student = sum(p.numel() for p in pretrained["a"].parameters())
    assert method.inference_parameters() == of_student + 64 * 3 + 3  # and its head: no teacher, no transformation


def test_the_recorded_student_weight_is_the_students_share_averaged_over_the_stages():
    def fit(method, deviations):
        with torch.no_grad():
            method.lateral.scores.copy_(torch.tensor([[1.0, 1, 2], [2, 1, 1], [9, 0.5, 0.5]]).log())
        return Outcome({"cost": {}}, {})

    manifest = SimpleNamespace(homogeneous=True)
    hub = SimpleNamespace(names=[*"ab"], model=lambda name: Member(), models=lambda: members(2), manifest=manifest)
    spec = SimpleNamespace(option={"dependency_weight": 1.0}.get, settings=SimpleNamespace(image_size=16))
    outcome = METHODS["knowledge_flow"].load()(SimpleNamespace(hub=hub, spec=spec, task=TASK, fit=fit))
    assert outcome.metrics["cost"]["student_weight"] == pytest.approx((1 / 4 + 2 / 4 + 9 / 10) / 3)


def test_concat_distill_imitates_features_of_teachers_in_evaluation_by_the_weight_of_its_option():
    method, pretrained, _ = built("ced", feature_weight=0.25)
    expected = torch.cat([teacher.eval()(X) for teacher in pretrained.values()], 1)
    output = method.train()(X)
    assert torch.allclose(output.aux["features"], expected, atol=1e-6)
    terms = method.loss(output, Y, TASK, 0.0)
    distance = (output.aux["mimic"] - expected).square().mean()
    assert terms["distill"].item() == pytest.approx(0.25 * distance.item(), rel=1e-5)
    assert terms["task"].item() == pytest.approx(TASK.loss(output.prediction, Y).item(), rel=1e-5)


def test_concat_distill_keeps_backbone_heads_and_classifier_and_no_teacher():
    method = ConcatDistill(Member(), members(2), TASK)
    backbone = sum(p.numel() for p in method.backbone.parameters())
    assert method.inference_parameters() == backbone + 2 * (64 * 64 + 64) + (128 * 3 + 3)
