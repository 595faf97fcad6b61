"""Regularised fine-tuning and teachers as methods: what each pulls at, what it leaves alone, how runs are planned."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoolib import experiment, features, regularizers
from zoolib.data import loaders, manifests
from zoolib.grid import choose_methods, grid
from zoolib.hub import Hub, architecture, build, split
from zoolib.method import Method, Output
from zoolib.methods import METHODS, SETS, regularized
from zoolib.methods.btuning import BTuning, FeatureDistillation, choose_teachers
from zoolib.methods.guided import last_convolutions
from zoolib.methods.penalties import BSS, Anchored, BiTuning, CoTuning, Delta, LwF
from zoolib.methods.regularized import filter_attention, loss_rises
from zoolib.nets import NETS
from zoolib.probes import linear_probe, nearest_neighbours
from zoolib.results import ResultStore
from zoolib.runtime import device
from zoolib.spec import RunSpec, Settings, ZoolibError
from zoolib.tasks import Classification
from zoolib.train import Machine
from zoolib.transferability import LogME, h_score, leep, logme, nce, transrate

TASK = Classification(10)
HUB = Hub("digits-zoo")


@pytest.fixture(autouse=True)
def _own_build(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    torch.manual_seed(0)


@pytest.fixture
def batch():
    return torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 4])


def model():
    return HUB.model("rotation")


def built(name: str) -> Method:
    head = torch.nn.Linear(64, 7)
    posterior = np.random.default_rng(0).normal(size=(64, 10))
    return {
        "l2_sp": lambda: Anchored(model(), TASK, 0.01, 0.02),
        "ewc": lambda: Anchored(model(), TASK, 0.01, 0.02, [torch.ones_like(p) for p in model().parameters()]),
        "delta": lambda: Delta(model(), TASK, ["backbone.layer1.conv2"], [torch.full((16,), 1 / 16)], 0.01, 0.01),
        "lwf": lambda: LwF(model(), head, TASK, 4.0, 3.0),
        "co_tuning": lambda: CoTuning(model(), head, TASK, torch.full((10, 7), 1 / 7), 2.3),
        "bss": lambda: BSS(model(), TASK, 0.001, 1),
        "bi_tuning": lambda: BiTuning(model(), TASK, 10, 1.0, 4, 0.9, 0.07, 8),
        "b_tuning": lambda: BTuning(model(), TASK, posterior, [(HUB.model("jigsaw"), posterior)], [1.0], 100.0),
        "feature_distillation": lambda: FeatureDistillation(model(), TASK, [HUB.model("jigsaw"), model()], 1.0),
    }[name]()


EVERY = [name for name, card in METHODS.items() if card.family in ("regularised", "teachers")]


def step(method: Method, batch) -> dict[str, torch.Tensor]:
    method.train()
    return method.loss(method(batch[0]), batch[1], TASK, 0.5)


@pytest.mark.parametrize("name", EVERY)
def test_every_method_adds_named_terms_to_the_task_loss_and_trains_backbone_and_head(name, batch):
    method = built(name)
    terms = step(method, batch)
    expected = F.cross_entropy(method(batch[0]).prediction, batch[1])
    assert terms["task"].item() == pytest.approx(expected.item(), rel=1e-5) and len(terms) > 1
    assert all(torch.isfinite(term) and term.shape == () for term in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in method.backbone.parameters()) and method.head.weight.grad.abs().sum() > 0
    frozen = [p for module in method.__dict__["frozen"].values() for p in module.parameters()]
    assert not any(p.requires_grad for p in frozen) and not {*map(id, frozen)} & {*map(id, method.parameters())}


@pytest.mark.parametrize("name", EVERY)
def test_frozen_networks_stay_in_evaluation_mode_and_are_not_counted(name):
    method = built(name).train()
    assert not any(module.training for module in method.__dict__["frozen"].values())
    extra = {"lwf": 64 * 7 + 7, "co_tuning": 64 * 7 + 7, "bi_tuning": 64 * 8 + 8, "feature_distillation": 2 * 64 * 64}
    own = sum(p.numel() for p in model().parameters()) + 650
    assert sum(p.numel() for p in method.parameters()) == own + extra.get(name, 0)
    assert method.inference_parameters() == own  # second heads and maps serve the training alone


REACHED = {
    "l2_sp": {"anchor": {"backbone"}, "head": {"head"}},
    "ewc": {"anchor": {"backbone"}, "head": {"head"}},
    "delta": {"behaviour": {"backbone"}, "head": {"head"}},
    "lwf": {"distillation": {"backbone", "source_head"}},
    "co_tuning": {"source": {"backbone", "source_head"}},
    "bss": {"shrinkage": {"backbone"}},
    "bi_tuning": {"classifier": {"backbone"}, "projection": {"backbone", "projector"}},
    "b_tuning": {"bayesian": {"backbone"}},
    "feature_distillation": {"distillation": {"backbone", "maps"}},
}


@pytest.mark.parametrize("name", EVERY)
def test_each_term_of_a_method_pulls_at_the_parts_it_is_meant_for_and_no_others(name, batch):
    method = built(name)
    with torch.no_grad():  # away from the start, where the distances are flat
        for parameter in method.backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    terms = step(method, batch)
    names, parameters = zip(*method.named_parameters(), strict=True)
    found = {}
    for term in terms.keys() - {"task"}:
        gradients = torch.autograd.grad(terms[term], parameters, retain_graph=True, allow_unused=True)
        found[term] = {n.split(".")[0] for n, g in zip(names, gradients, strict=True) if g is not None and g.any()}
    assert found == REACHED[name]


# Autocast would lower what these terms are computed in: features are given, so that nothing else can differ.


def given(method: Method, features: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    method.eval()
    terms = method.loss(Output(method.head(features), {"features": features, "images": other}), labels, TASK, 0.5)
    return {name: term.item() for name, term in terms.items() if name != "task"}


@pytest.mark.parametrize("name", ["bss", "b_tuning", "bi_tuning"])
def test_terms_in_full_precision_stay_so_under_autocast(name, monkeypatch):
    features, other, labels = torch.rand(6, 64), torch.rand(6, 64), torch.tensor([0, 1, 2, 3, 4, 4])
    values = []
    for lowered in (False, True):
        torch.manual_seed(1)
        method = built(name) if name != "bi_tuning" else BiTuning(model(), TASK, 10, 1.0, 4, 0.9, 0.07, 64)
        frozen = method.__dict__["frozen"]
        if name == "b_tuning":
            frozen["teacher0"] = torch.nn.Identity()
        if name == "bi_tuning":
            method.projector = torch.nn.Identity()
            frozen["keys"] = torch.nn.ModuleDict({"backbone": torch.nn.Identity(), "projector": torch.nn.Identity()})
            monkeypatch.setattr(method, "_follow", lambda keys: None)
        with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            values.append(given(method, features, other, labels))
    assert values[1] == pytest.approx(values[0], rel=1e-5) and all(value != 0 for value in values[0].values())


@pytest.mark.parametrize(
    ("name", "decay"), [("l2_sp", 0.0), ("ewc", 0.0), ("delta", 0.0), ("bss", None), ("lwf", None)]
)
def test_pulls_towards_the_start_replace_weight_decay(name, decay):
    (group,) = built(name).param_groups(0.01)
    assert group.get("weight_decay") == decay and group["lr"] == 0.01


def test_the_anchor_is_zero_at_the_start_and_ewc_with_equal_information_is_l2_sp(batch):
    plain, fisher = built("l2_sp"), built("ewc")
    assert step(plain, batch)["anchor"] == 0 == step(fisher, batch)["anchor"]
    for method in (plain, fisher):
        with torch.no_grad():
            for parameter in method.backbone.parameters():
                parameter.add_(0.1)
    count = sum(p.numel() for p in model().parameters())
    assert step(plain, batch)["anchor"].item() == pytest.approx(0.01 * 0.5 * 0.01 * count, rel=1e-4)
    assert step(plain, batch)["anchor"].item() == pytest.approx(step(fisher, batch)["anchor"].item(), rel=1e-5)
    head = 0.5 * sum(p.square().sum() for p in plain.head.parameters())
    assert step(plain, batch)["head"].item() == pytest.approx(0.02 * head.item())


@pytest.mark.parametrize(("name", "term"), [("delta", "behaviour"), ("lwf", "distillation")])
def test_before_any_step_the_distance_to_the_frozen_network_is_that_of_batch_from_running_statistics(name, term, batch):
    method = built(name).train()
    modes = {}
    for statistics in ("batch", "running"):
        method.backbone.train(statistics == "batch")
        with torch.no_grad():
            modes[statistics] = method.loss(method(batch[0]), batch[1], TASK, 0.0)[term].item()
        for own, first in zip(method.backbone.buffers(), model().buffers(), strict=True):
            own.copy_(first)  # the pass with batch statistics moved the running ones
    assert modes["running"] == pytest.approx(0, abs=1e-6) and modes["batch"] > 0.01


def test_delta_compares_the_ends_of_a_bottleneck_s_stages_though_the_next_stage_begins_at_their_resolution():
    x = torch.rand(1, 3, 32, 32)
    names = [f"layer{block}.conv3" for block in ("1.0", "2.1", "3.1", "4.0")]
    assert last_convolutions(NETS["mini_resnet"](), x) == names
    with torch.device("meta"):
        papers, lite = architecture("torchvision:resnet50"), architecture("timm:tf_efficientnet_lite0")
        x = torch.empty(1, 3, 64, 64)
    assert last_convolutions(papers, x) == ["layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3"]
    assert last_convolutions(lite, x) == [f"blocks.{block}.conv_pwl" for block in ("1.1", "2.1", "4.2", "6.0")]
    assert last_convolutions(NETS["mini_window"](), torch.rand(1, 3, 32, 32)) == ["embed"]  # no stage has one
    with pytest.raises(ZoolibError, match="no convolution"):
        last_convolutions(torch.nn.Linear(3, 3), torch.rand(1, 3))


def test_delta_compares_the_last_convolution_of_each_stage_and_silencing_a_filter_is_zeroing_its_map(batch):
    network, (x, labels) = model(), batch
    assert last_convolutions(network, x) == [f"backbone.layer{i}.conv2" for i in (1, 2, 3)]
    torch.manual_seed(1)
    weights = torch.randn(64, 10)
    name = "backbone.layer1.conv2"
    rises = loss_rises(network.eval(), name, x, labels, lambda f: f @ weights, together=30)
    with torch.no_grad():
        base = F.cross_entropy(network(x) @ weights, labels)
        kernel = network.get_submodule(name).weight
        for channel in (0, 7, 15):
            kept = kernel[channel].clone()
            kernel[channel] = 0
            assert rises[channel].item() == pytest.approx(
                (F.cross_entropy(network(x) @ weights, labels) - base).item(), abs=1e-5
            )
            kernel[channel] = kept
    (attention,) = filter_attention(network, [name], x, labels, lambda f: f @ weights)
    assert torch.allclose(
        attention, regularizers.attention(rises), atol=1e-6
    ) and attention.sum().item() == pytest.approx(1)


def test_lwf_starts_near_the_pretrained_answers_and_its_teacher_does_not_follow(batch):
    method = built("lwf")
    method.eval()
    output = method(batch[0])
    output.aux["images"] = batch[0]
    assert method.loss(output, batch[1], TASK, 0.0)["distillation"].item() == pytest.approx(0, abs=1e-5)
    before = method.ask("source", batch[0])
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.5)
    assert torch.equal(method.ask("source", batch[0]), before)


def test_lwf_is_four_times_the_divergence_of_the_answers_at_temperature_three(batch):
    method = built("lwf").eval()
    with torch.no_grad():
        method.source_head.weight.normal_()
    output = method(batch[0])
    output.aux["images"] = batch[0]
    with torch.no_grad():
        p = (method.ask("source", batch[0]) / 3).softmax(1)
        q = (method.source_head(method.backbone(batch[0])) / 3).softmax(1)
        expected = 4 * (p * (p / q).log()).sum() / 6
    term = method.loss(output, batch[1], TASK, 0.0)["distillation"]
    assert term.item() == pytest.approx(expected.item(), rel=1e-4) and term > 0.01


def test_b_tuning_is_the_weighted_squared_distance_to_two_teachers_predictions(batch):
    rng = np.random.default_rng(0)
    own, first, second = (rng.normal(size=(64, 10)) for _ in range(3))
    teachers = [(HUB.model("jigsaw"), first), (HUB.model("corruption"), second)]
    method = BTuning(model(), TASK, own, teachers, [0.75, 0.25], 100.0).eval()
    output = method(batch[0])
    output.aux["images"] = batch[0]
    with torch.no_grad():
        own, *theirs = (
            network(batch[0]).double() @ torch.from_numpy(posterior)
            for network, posterior in ((method.backbone, own), *teachers)
        )
        expected = 100 * (own - 0.75 * theirs[0] - 0.25 * theirs[1]).square().mean()
    term = method.loss(output, batch[1], TASK, 0.0)["bayesian"]
    assert term.item() == pytest.approx(expected.item(), rel=1e-4) and term > 0.01


def judged(method: Method, batch) -> tuple[torch.Tensor, dict[str, float]]:
    """Features (B, D) in evaluation mode and the value of every term."""
    method.eval()
    output = method(batch[0])
    output.aux["images"] = batch[0]
    terms = {name: term.item() for name, term in method.loss(output, batch[1], TASK, 0.0).items()}
    return output.aux["features"].detach(), terms


def test_delta_is_the_weighted_distance_of_the_maps_and_half_the_squared_norm_of_the_head(batch):
    names, rng = ["backbone.layer1.conv2", "backbone.layer3.conv2"], np.random.default_rng(0)
    attention = [torch.from_numpy(rng.dirichlet(np.ones(width))).float() for width in (16, 64)]
    method = Delta(model(), TASK, names, attention, 0.3, 0.7)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    _, terms = judged(method, batch)
    seen: dict[tuple[int, str], torch.Tensor] = {}
    expected = 0.0
    for which, network in enumerate((method.backbone, model().eval())):
        for name in names:
            network.get_submodule(name).register_forward_hook(
                lambda _, __, map, key=(which, name): seen.__setitem__(key, map)
            )
        with torch.no_grad():
            network(batch[0])
    for name, weights in zip(names, attention, strict=True):
        ours, theirs = seen[0, name], seen[1, name]
        count, channels, height, width = ours.shape
        for image in range(count):
            for c in range(channels):
                gap = ((ours[image, c] - theirs[image, c]) ** 2).sum().item()
                expected += 0.3 * channels * weights[c].item() * gap / (height * width) / 2
    head = 0.7 * sum(p.square().sum().item() for p in method.head.parameters()) / 2
    assert terms["behaviour"] == pytest.approx(expected, rel=1e-4) and expected > 0.01
    assert terms["head"] == pytest.approx(head, rel=1e-5) and head > 0.01


def test_co_tuning_is_the_cross_entropy_of_the_source_head_to_the_relation_of_the_label(batch):
    relation = np.random.default_rng(0).dirichlet(np.ones(7), size=10)
    method = CoTuning(model(), torch.nn.Linear(64, 7), TASK, torch.from_numpy(relation).float(), 2.3)
    features, terms = judged(method, batch)
    log_p = method.source_head(features).detach().log_softmax(1).numpy()
    expected = np.mean([-(relation[label] * log_p[row]).sum() for row, label in enumerate(batch[1])])
    assert terms["source"] == pytest.approx(2.3 * expected, rel=1e-4)


def test_batch_spectral_shrinkage_is_the_trade_off_times_the_smallest_squared_singular_values(batch):
    features, terms = judged(BSS(model(), TASK, 0.5, 2), batch)
    sigma = np.linalg.svd(features.double().numpy(), compute_uv=False)
    assert terms["shrinkage"] == pytest.approx(0.5 * (sigma[-1] ** 2 + sigma[-2] ** 2), rel=1e-3) and sigma[-1] > 1e-3


def test_feature_distillation_is_the_mean_over_teachers_of_the_distance_of_mapped_features(batch):
    teachers = [HUB.model("jigsaw").eval(), HUB.model("corruption").eval()]
    method = FeatureDistillation(model(), TASK, teachers, 0.8)
    features, terms = judged(method, batch)
    each = []
    for linear, teacher in zip(method.maps, teachers, strict=True):
        with torch.no_grad():
            gap = features @ linear.weight.T - teacher(batch[0])
        each.append((gap**2).sum().item() / gap.numel())
    assert terms["distillation"] == pytest.approx(0.8 * (each[0] + each[1]) / 2, rel=1e-4)
    assert each[0] != pytest.approx(each[1], rel=0.01)


def test_bi_tuning_is_two_contrasts_of_cosines_with_the_own_key_and_the_queue(batch):
    images, labels = batch
    method, trade_off, temperature = BiTuning(model(), TASK, 10, 0.6, 4, 0.9, 0.07, 8), 0.6, 0.07
    with torch.no_grad():
        method.head.weight.mul_(30)
        method.head.bias.normal_()
    step(method, batch)  # fills slots of the queue and sets the copy apart
    queues = method.features.double().numpy(), method.projections.double().numpy()
    features, terms = judged(method, batch)
    slow = method.__dict__["frozen"]["keys"]  # has followed by now, as it had when it was asked
    with torch.no_grad():
        theirs = slow["backbone"](images)
        z, z_key = method.projector(features).double().numpy(), slow["projector"](theirs).double().numpy()
    theirs, head = theirs.double().numpy(), method.head
    rows = np.column_stack([head.weight.detach().double().numpy(), head.bias.detach().double().numpy()])
    one = np.ones((len(labels), 1))
    query, own_key = np.hstack([features.double().numpy(), one]), np.hstack([theirs, one])

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    expected = {"classifier": 0.0, "projection": 0.0}
    for i, label in enumerate(labels.tolist()):
        by_class = [(cosine(rows[label], query[i]), True)]
        by_key = [(cosine(z[i], z_key[i]), True)]
        for c in range(10):
            by_class += [(cosine(rows[label], entry), c == label) for entry in queues[0][c]]
            by_key += [(cosine(z[i], entry), c == label) for entry in queues[1][c]]
        for name, found in (("classifier", by_class), ("projection", by_key)):
            logits = np.array([value for value, _ in found]) / temperature
            log_p = logits - np.log(np.exp(logits).sum())
            positive = np.array([same for _, same in found])
            assert positive.sum() == 5
            divergence = np.mean(np.log(1 / 5) - log_p[positive])  # KL of the uniform distribution over positives
            expected[name] += trade_off * divergence / len(labels)
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=1e-3)
    assert method.features[4, 3].numpy() == pytest.approx(own_key[5] / np.linalg.norm(own_key[5]), abs=1e-5)


def test_the_slow_copy_takes_over_the_running_statistics(batch):
    method = built("bi_tuning")
    for _ in range(3):
        step(method, (batch[0] * 3, batch[1]))
    own = {name: value for name, value in method.backbone.named_buffers() if "running" in name}
    slow = dict(method.__dict__["frozen"]["keys"]["backbone"].named_buffers())
    assert own and all(torch.equal(slow[name], value) for name, value in own.items())
    fresh = dict(model().named_buffers())
    assert not all(torch.equal(slow[name], fresh[name]) for name in own)


def test_bi_tuning_keeps_the_last_keys_of_each_class_and_its_slow_copy_is_part_of_the_state(batch):
    method = built("bi_tuning")
    empty = method.features.clone()
    step(method, batch)
    changed = (method.features != empty).any(2).sum(1)
    assert changed.tolist() == [1, 1, 1, 1, 2, 0, 0, 0, 0, 0] and method.position[4] == 2
    for _ in range(2):
        step(method, batch)
    assert method.position[4] == 6 % 4
    slow = {k: v.clone() for k, v in method.get_extra_state().items()}
    other = built("bi_tuning")
    other.load_state_dict(method.state_dict())
    assert all(torch.equal(v, slow[k]) for k, v in other.get_extra_state().items())
    assert torch.equal(step(method, batch)["projection"], step(other, batch)["projection"])


def test_the_slow_copy_follows_at_the_momentum(batch):
    method = built("bi_tuning")
    start = method.get_extra_state()["projector.weight"].clone()
    with torch.no_grad():
        method.projector.weight.add_(1.0)
    step(method, batch)
    assert torch.allclose(method.get_extra_state()["projector.weight"], start + 0.1, atol=1e-6)


def test_b_tuning_has_no_pull_when_the_model_is_its_own_only_teacher(batch):
    posterior = np.random.default_rng(0).normal(size=(64, 10))
    method = BTuning(model(), TASK, posterior, [(model(), posterior)], [1.0], 100.0).eval()
    output = method(batch[0])
    output.aux["images"] = batch[0]
    assert method.loss(output, batch[1], TASK, 0.0)["bayesian"].item() == pytest.approx(0, abs=1e-6)


def result(score: float) -> LogME:
    return LogME(score, *(np.zeros(1),) * 3, np.zeros((1, 1)), "auto")


def test_teachers_are_the_top_by_logme_or_those_named():
    ranked = {"a": result(0.1), "b": result(0.3), "c": result(0.2)}
    assert choose_teachers("2", ranked) == ["b", "c"] and choose_teachers("a, c", ranked) == ["a", "c"]
    for wrong in ("0", "4", "a,d", "a,a", ""):
        with pytest.raises(ZoolibError, match="use"):
            choose_teachers(wrong, ranked)


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l2_sp", "delta", "bss", "bi_tuning", "b_tuning", "feature_distillation"])
def test_a_run_of_each_ends_as_a_record_that_names_its_deviations(name, tmp_path):
    options = {"teachers": "jigsaw,rotation"} if METHODS[name].family == "teachers" else {}
    (spec,) = grid("cls", "digits", "digits-zoo", name, "smoke", 1, members=["rotation"], **options)
    record = experiment.run(spec, ResultStore(tmp_path / "records"))
    assert 0 <= record.metrics["test"]["top1_accuracy"] <= 100 and len(record.deviations) > 1
    assert (set(record.curves["term"]) - {"task", "top1_accuracy"}) and spec.member == "rotation"


@pytest.fixture
def _source_heads(monkeypatch):
    """Every member gets a source head of seven classes, for those of this hub were trained on pretexts without one."""

    def with_head(member):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return build(member), torch.nn.Linear(64, 7)

    for module in (regularized, features):
        monkeypatch.setattr(module, "split", with_head)


@pytest.mark.parametrize("name", ["ewc", "lwf", "co_tuning"])
def test_a_run_of_each_that_needs_a_source_head_ends_as_a_record(name, tmp_path, _source_heads):
    (plain,) = grid("cls", "digits", "digits-zoo", "l2_sp", "smoke", 1, members=["rotation"])
    spec = dataclasses.replace(plain, method=name, options=tuple(sorted(METHODS[name].options.items())))
    record = experiment.run(spec, ResultStore(tmp_path / "records"))
    (term,) = REACHED[name].keys() - {"head"}
    values = record.curves.loc[record.curves["term"] == term, "value"]
    assert len(values) == 2 and (values > 0).all() and len(record.deviations) > 1
    assert record.metrics["cost"]["inference_params_m"] == (sum(p.numel() for p in model().parameters()) + 650) / 1e6


def test_source_probabilities_are_the_softmax_of_the_source_head_on_each_image(_source_heads):
    settings = grid("cls", "digits", "digits-zoo", "rank", "smoke", 1)[0].settings
    data, member = loaders.load(manifests.dataset("digits"), settings), HUB.manifest.member("rotation")
    found = features.extract(member, data, settings, Machine(device(), "float32"), splits=("val",))
    backbone, head = features.split(member)
    (images,), _ = next(loaders.eval_batches(data, "val", settings, 1000))
    with torch.no_grad():
        expected = head(backbone.eval()(images)).softmax(1)
    assert np.allclose(found.source_probabilities("val"), expected, atol=1e-5)
    assert dataclasses.replace(found, head=None).source_probabilities("val") is None


def test_fisher_information_is_the_mean_squared_gradient_of_single_images_scaled_to_mean_one(_source_heads):
    settings = grid("cls", "digits", "digits-zoo", "rank", "smoke", 1)[0].settings
    data = loaders.load(manifests.dataset("digits"), settings)
    network, head = regularized.split(HUB.manifest.member("rotation"))
    ctx = SimpleNamespace(spec=SimpleNamespace(seed=3, settings=settings), data=data)
    found = regularized.fisher_information(ctx, network, head, 5)
    generator = torch.Generator().manual_seed(3)
    rows = data.rows["train"][torch.randperm(len(data.rows["train"]), generator=generator)[:5].numpy()]
    network.eval()
    squares = [torch.zeros_like(p) for p in network.parameters()]
    for row in rows:
        network.zero_grad()
        image = loaders.augment.to_float(torch.from_numpy(np.array(data.train.pixels[row]))[None])
        log_p = head(network(image)).log_softmax(1)[0]
        log_p[torch.multinomial(log_p.detach().exp(), 1, generator=generator)].sum().backward()
        for square, p in zip(squares, network.parameters(), strict=True):
            square += p.grad.square()
    mean = torch.cat([square.flatten() for square in squares]).mean()
    for ours, square in zip(found, squares, strict=True):
        assert torch.allclose(ours, (square / mean).clamp(max=1000), rtol=1e-3, atol=1e-5)
    assert max(entry.max() for entry in found) > 1


def test_ranking_a_hub_extracts_each_model_once_and_records_every_score(tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "records")
    records = experiment.rank("digits-zoo", "digits", "smoke", store, progress=False)
    assert [r.spec.member for r in records] == HUB.names and {r.spec.seed for r in records} == {0}
    assert {"logme", "logme_floor", "h_score", "transrate"} == set(
        records[0].metrics["train"]
    )  # pretexts leave no source head
    assert 0 <= records[0].metrics["val"]["linear_probe"] <= 100
    for cost in (record.metrics["cost"] for record in records):
        assert cost["seconds"] == pytest.approx(cost["features_seconds"] + cost["logme_seconds"])
    settings, data = records[0].spec.settings, loaders.load(manifests.dataset("digits"), records[0].spec.settings)
    monkeypatch.setattr(features, "_run", lambda *_: pytest.fail("extracted again"))
    machine = Machine(device(), "float32")
    kept = features.extract(HUB.manifest.member("jigsaw"), data, settings, machine)
    assert kept.cached and kept.splits["train"].shape == (100, 64)
    # LogME reads the training split alone, and is not charged for the validation images
    assert kept.seconds["val"] > 0 and records[1].metrics["cost"]["features_seconds"] == kept.seconds["train"]
    assert logme(kept.splits["train"], kept.labels["train"]).score == records[1].metrics["train"]["logme"]
    images = torch.from_numpy(np.stack([data.train.pixels[row] for row in data.rows["train"]]))
    with torch.no_grad():
        expected = HUB.model("jigsaw").eval()(loaders.augment.to_float(images))
    assert np.allclose(kept.splits["train"], expected, atol=1e-5)


def test_every_score_of_a_ranking_is_that_of_the_cached_features_of_its_split(tmp_path, _source_heads):
    records = experiment.rank("digits-zoo", "digits", "smoke", ResultStore(tmp_path / "records"), progress=False)
    record = next(r for r in records if r.spec.member == "jigsaw")
    settings, data = record.spec.settings, loaders.load(manifests.dataset("digits"), record.spec.settings)
    kept = features.extract(HUB.manifest.member("jigsaw"), data, settings, Machine(device(), "float32"))
    train, labels = np.array(kept.splits["train"]), kept.labels["train"]
    new, told = np.array(kept.splits["val"]), kept.labels["val"]
    weight, bias = kept.head
    source = np.exp(train.astype(float) @ weight.T + bias)
    source /= source.sum(1, keepdims=True)
    frequency = np.bincount(labels) / len(labels)
    levels = [-(np.log(2 * np.pi * share) + 1) / 2 for share in frequency]  # y ~ N(0, I / beta), at the best beta
    assert record.metrics["train"] == {
        "logme": pytest.approx(logme(train, labels).score),
        "logme_floor": pytest.approx(np.mean(levels)),
        "h_score": pytest.approx(h_score(train, labels)),
        "transrate": pytest.approx(transrate(train, labels)),
        "leep": pytest.approx(leep(source, labels), rel=1e-5),
        "nce": pytest.approx(nce(source.argmax(1), labels)),
    }
    assert record.metrics["val"] == {
        "linear_probe": pytest.approx(linear_probe(train, labels, new, told)),
        "nearest_neighbours": pytest.approx(nearest_neighbours(train, labels, new, told, k=5)),
    }
    assert linear_probe(train, labels, new, told) != linear_probe(train, labels, train, labels)
    cost = record.metrics["cost"]
    assert cost["features_mb"] == 100 * 64 * 4 / 2**20 and (cost["images"], cost["dimensions"]) == (100, 64)


def test_damaged_or_missing_features_are_extracted_again(monkeypatch):
    settings = grid("cls", "digits", "digits-zoo", "rank", "smoke", 1)[0].settings
    data, member = loaders.load(manifests.dataset("digits"), settings), HUB.manifest.member("rotation")
    machine = Machine(device(), "float32")
    before = np.array(features.extract(member, data, settings, machine).splits["train"])
    for harm in ("cut", "gone", "note"):
        for path in (features.build_dir() / "cache" / "features").glob("*.npy"):
            if harm == "cut":
                path.write_bytes(path.read_bytes()[:200])
            elif harm == "gone":
                path.unlink()
            else:
                path.with_suffix(".json").write_text("{")
        found = features.extract(member, data, settings, machine)
        assert not found.cached and np.array_equal(found.splits["train"], before)
    assert features.extract(member, data, settings, machine).cached


def test_features_whose_source_head_is_damaged_or_gone_are_extracted_again():
    settings = grid("cls", "digits", "imagenet-lite", "rank", "smoke", 1)[0].settings
    data, member = loaders.load(manifests.dataset("digits"), settings), manifests.hub("imagenet-lite").members[0]
    machine = Machine(device(), "float32")
    before = features.extract(member, data, settings, machine)
    assert before.head is not None
    for harm in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:300])):
        for path in (features.build_dir() / "cache" / "features").glob("*.head.npz"):
            harm(path)
        found = features.extract(member, data, settings, machine)
        assert not found.cached and found.head is not None and np.array_equal(found.head[0], before.head[0])
    assert features.extract(member, data, settings, machine).cached


def test_the_cache_key_follows_model_images_and_sizes_and_nothing_else():
    settings = grid("cls", "digits", "digits-zoo", "rank", "smoke", 1)[0].settings
    data, member = loaders.load(manifests.dataset("digits"), settings), HUB.manifest.member("rotation")
    own = features.key(member, data, settings, "train", "float32")
    assert features.key(member, data, dataclasses.replace(settings, lr=1.0), "train", "float32") == own
    changed = [
        features.key(HUB.manifest.member("jigsaw"), data, settings, "train", "float32"),
        features.key(member, data, dataclasses.replace(settings, image_size=16), "train", "float32"),
        features.key(
            member, dataclasses.replace(data, variant="", rows={"train": data.rows["val"]}), settings, "train", ""
        ),
        features.key(member, data, settings, "val", "float32"),
        features.key(member, data, settings, "train", "bfloat16"),
        features.key(member.model_copy(update={"prefix": "module.encoder_k."}), data, settings, "train", "float32"),
        features.key(member.model_copy(update={"entry": "ema"}), data, settings, "train", "float32"),
    ]
    assert own not in changed and len(set(changed)) == len(changed)


def test_a_member_splits_into_backbone_and_source_head_and_a_pretext_has_none():
    assert split(HUB.manifest.member("rotation"))[1] is None
    backbone, head = split(manifests.hub("imagenet-lite").members[0])
    assert head.out_features == 1000 and head.in_features == backbone.num_features
    with torch.no_grad():
        assert backbone.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 1280)


# Plans ----------------------------------------------------------------------------------------------------------------


def test_families_are_asked_for_by_name_and_stay_out_of_all():
    assert {METHODS[name].family for name in SETS["all"]} == {"hub"}
    names = [card.name for card in choose_methods("regularised", manifests.hub("imagenet-lite"))]
    assert names == ["finetune", "l2_sp", "ewc", "delta", "lwf", "bss", "co_tuning", "bi_tuning"]
    headless = [card.name for card in choose_methods("regularised", manifests.hub("digits-zoo"))]
    assert headless == ["finetune", "l2_sp", "delta", "bss", "bi_tuning"]
    with pytest.raises(ZoolibError, match="needs the classifier of the pre-training"):
        choose_methods("lwf", manifests.hub("digits-zoo"))


def test_a_share_of_the_labels_is_part_of_the_specification_and_the_whole_changes_no_run_id():
    (whole,) = grid("cls", "digits", "digits-zoo", "scratch", "smoke", 1)
    (part,) = grid("cls", "digits", "digits-zoo", "scratch", "smoke", 1, label_fraction=0.5)
    assert "train_fraction" not in whole.to_dict()["settings"] and part.to_dict()["settings"]["train_fraction"] == 0.5
    assert RunSpec.from_dict(part.to_dict()) == part and RunSpec.from_dict(whole.to_dict()) == whole
    assert part.run_id != whole.run_id
    for wrong in (0.0, 1.5):
        with pytest.raises(ZoolibError, match="train_fraction"):
            grid("cls", "digits", "digits-zoo", "scratch", "smoke", 1, label_fraction=wrong)


def test_shares_of_the_labels_are_stratified_and_nested():
    labels = np.repeat(np.arange(4), [100, 40, 10, 3])
    rows = {f: loaders.split_rows(labels, Settings(train_fraction=f)) for f in (0.15, 0.5, 1.0)}
    assert [np.bincount(labels[rows[0.5]["train"]]).tolist()] == [[45, 18, 4, 1]]
    assert set(rows[0.15]["train"]) < set(rows[0.5]["train"]) < set(rows[1.0]["train"])
    assert np.bincount(labels[rows[0.15]["train"]]).min() == 1
    assert all((rows[f]["val"] == rows[1.0]["val"]).all() for f in rows)


def test_a_share_of_a_few_images_a_class_is_a_share_of_those_few():
    labels = np.repeat(np.arange(3), [200, 100, 12])
    counts = {}
    for share in (0.15, 0.3, 0.5, 1.0):
        rows = loaders.split_rows(labels, Settings(train_per_class=20, train_fraction=share))["train"]
        counts[share] = np.bincount(labels[rows]).tolist()
    assert counts == {0.15: [3, 3, 2], 0.3: [6, 6, 3], 0.5: [10, 10, 6], 1.0: [20, 20, 11]}


def test_some_members_can_be_asked_for_and_a_deterministic_method_has_one_run():
    specs = grid("cls", "digits", "imagenet-lite", "finetune,rank", "mini", 3, members=["efficientnet_lite1"])
    assert [(s.method, s.seed) for s in specs] == [("finetune", 0), ("rank", 0), ("finetune", 1), ("finetune", 2)]
    assert {s.member for s in specs} == {"efficientnet_lite1"}
    with pytest.raises(ZoolibError, match="unknown member"):
        grid("cls", "digits", "imagenet-lite", "finetune", "mini", 1, members=["resnet"])
