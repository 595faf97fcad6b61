"""Costs against counts by hand, and against the published numbers of five ResNet-50s."""

import dataclasses
import weakref

import pandas as pd
import pytest
import torch
from torch import nn

from zoolib import analysis_figures, cost_tables, costs, experiment, plans, recipe
from zoolib.grid import needed
from zoolib.hub import Hub
from zoolib.layers import surgery
from zoolib.layers.adaagg import AdaAggConv2d
from zoolib.layers.pathway import PathwayGenerator
from zoolib.methods.hubpathway import HubPathway
from zoolib.methods.single import Single
from zoolib.results import ResultStore
from zoolib.tasks import Classification
from zoolib.train import Machine

CPU = Machine(torch.device("cpu"), "float32")


def test_multiply_adds_of_a_small_network_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))
    matrix, norms = costs.multiply_adds(net, torch.rand(2, 3, 4, 4))
    assert matrix == 2 * (16 * 4 * 27 + 64 * 5) and norms == 2 * 2 * 64


def test_what_is_kept_for_the_backward_pass_by_hand():
    square = type("Square", (nn.Module,), {"forward": lambda self, x: self.layer(x).exp().sin()})()
    square.layer = nn.Linear(4, 8)
    # a linear layer keeps its input (not counted), exp its output and sin its input: one storage
    assert costs.kept_for_backward(square, torch.rand(3, 4)) == 3 * 8 * 4
    assert costs.kept_for_backward(square.requires_grad_(False), torch.rand(3, 4)) == 0


def test_what_was_measured_is_freed_also_where_an_operation_keeps_its_own_output():
    net, outputs = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sigmoid()), []
    for layer in net:
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(weakref.ref(output)))
    assert costs.kept_for_backward(net, torch.rand(3, 4)) == 2 * 3 * 8 * 4  # ReLU and sigmoid keep their outputs
    assert [ref() for ref in outputs] == [None] * 3


def test_a_resnet_50_has_the_published_parameters_and_operations():
    backbone = Hub("resnet50-random").model("imagenet").eval()
    net = nn.Sequential(backbone, nn.Linear(2048, 100))
    with torch.no_grad():
        matrix, norms = costs.multiply_adds(net, torch.rand(1, 3, 224, 224))
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(23.71, abs=0.005)
    assert (matrix + norms) / 1e9 == pytest.approx(4.11, abs=0.005)  # and 4.12 in the other table


def test_aligning_the_authors_kernels_takes_22_65_g_a_step_and_their_parameters_explain_inference():
    with torch.device("meta"):
        from torchvision.models import resnet50

        model = resnet50()
        model.fc = nn.Identity()
        layers = surgery.gate_layers(surgery.aggregate([model] * 5)).values()
    step = sum(layer.alignment.numel() * layer.weight.shape[2] for layer in layers if layer.alignment is not None)
    aligned = sum(layer.alignment.numel() for layer in layers if layer.alignment is not None)
    assert step / 1e9 == pytest.approx(22.65, abs=0.01)
    assert aligned == 5 * (64**2 + 6 * 256**2 + 3 * 512**2)
    kernels = sum(layer.weight.numel() for layer in layers)
    gates = sum(p.numel() for layer in layers for p in layer.gate.parameters())
    norms, head = 53_120, 100 * 2049
    assert (kernels + gates + norms + head) / 1e6 == pytest.approx(122.54, abs=0.01)  # published, at inference


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    return ResultStore(tmp_path / "records")


def test_costs_are_measured_without_data_and_shown_beside_the_papers(store):
    specs = plans.costs("digits-zoo", "smoke")
    assert [s.method for s in specs] == cost_tables.methods_of("digits-zoo", "smoke")
    assert set(plans.COST_METHODS.split(",")) == {s.method for s in specs} and needed(specs[-1]) == []
    for spec in specs:
        if spec.method != "lite_zoo_tuning":
            experiment.run(dataclasses.replace(spec), store)
    found = cost_tables.records(store, "digits-zoo", "smoke")
    cost = {r.spec.method: r.metrics["cost"] for r in found}
    one, joint = cost["finetune"], cost["ensemble_joint"]
    assert joint["params_m"] == pytest.approx(3 * one["params_m"])
    assert joint["gmacs_norm"] == pytest.approx(3 * one["gmacs_norm"])
    assert joint["models_mb"] == pytest.approx(3 * one["models_mb"], rel=0.02)
    assert cost["distill"]["inference_params_m"] == one["params_m"] == cost["distill"]["trainable_params_m"]
    assert cost["distill"]["train_gmacs"] == pytest.approx(4 * one["train_gmacs"])
    assert cost["zoo_tuning"]["step_gmacs"] > 0 and one["step_gmacs"] == pytest.approx(0, abs=1e-9)
    assert cost["hub_pathway"]["generator_mb"] > 0 and one["train_iterations_per_second"] > 0
    assert experiment.missing(specs, store) == [s for s in specs if s.method == "lite_zoo_tuning"]
    counted = cost_tables.counted(found, cost_tables.methods_of("digits-zoo", "smoke"))
    assert counted.loc["Knowledge Flow", "paper's"] == "169.11" and counted.loc["Lite Zoo-Tuning"].iloc[0] == "not run"
    assert cost_tables.memory(found).loc["Hub-Pathway", "paper's "] == "274"
    assert cost_tables.complexity(found).loc["One model", "paper's "] == "4.11"
    assert cost_tables.speed(found, ["finetune"]).loc["One model", "time over one model"] == "1.00"
    assert cost_tables.image_time(found).loc["Hub-Pathway", "paper's "] == "0.023"
    growth = cost_tables.growth(found)
    assert set(growth["models"]) == set(costs.GROWTH) and (growth[growth["models"] == 2]["ratio"] == 1).all()
    drawn = analysis_figures.growth(growth).axes[0]
    (line,) = [line for line in drawn.lines if line.get_gid() == "train"]
    assert list(line.get_ydata()) == growth[growth["mode"] == "train"]["ratio"].tolist()


def test_the_text_on_growth_says_by_how_much_and_whether_that_is_flat():
    rows = [("train", 2, 1.0), ("train", 20, 1.16), ("eval", 20, 0.86), ("eval", 2, 1.0)]
    text = cost_tables.growth_text(pd.DataFrame(rows, columns=["mode", "models", "ratio"]))
    assert "From 2 to 20 models, a training step takes 1.16 times as long (not flat within 15 %)" in text
    assert "an evaluation takes 0.86 times as long (flat within 15 %)" in text
    assert cost_tables.growth_text(cost_tables.growth([])) == "Not measured for this hub."


def test_operations_of_zoo_tuning_are_those_of_its_definition_whatever_way_is_fastest():
    members = Hub("digits-zoo").models()
    layers, found = [], []
    for strategy in ("auto", "stacked", "grouped"):
        method = Single(surgery.aggregate(members), Classification(3))
        layers = [module for module in method.modules() if isinstance(module, AdaAggConv2d)]
        for layer in layers:
            layer.strategy = strategy
        found.append(recipe.cost_of(method, 8, CPU)["gmacs"])
        assert {layer.strategy for layer in layers} == {strategy}, "as it was"
    assert found[0] == pytest.approx(found[2]) and found[1] > 1.2 * found[0]
    one = recipe.cost_of(Single(members[0], Classification(3)), 8, CPU)["gmacs"]
    mixing = sum(layer.num_models * layer.weight[0].numel() for layer in layers) / 1e9
    gates = sum(p.numel() for layer in layers for p in layer.gate.parameters() if p.dim() > 1) / 1e9
    assert found[0] == pytest.approx(one + mixing + gates, rel=1e-3)


def test_operations_of_routes_count_every_model_equally_whatever_the_weights_and_the_images():
    task = Classification(3)
    plain = [Single(model, task) for model in Hub("mini-hub").models()]
    each = [recipe.cost_of(method, 32, CPU)["gmacs"] for method in plain]
    assert max(each) > 2 * min(each)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        members, generator = Hub("mini-hub").models(), PathwayGenerator(5, 16, 32)
        routed = HubPathway(members, task, generator, top_k=2)
        with torch.no_grad():
            own = costs.multiply_adds(generator.eval(), torch.rand(1, 3, 32, 32))[0] / 1e9
        own += 15 * 3 / 1e9  # the aggregator
        found.append(recipe.cost_of(routed, 32, CPU)["gmacs"])
        assert found[-1] == pytest.approx(2 * sum(each) / 5 + own, rel=1e-6)
        step = costs._operations(routed, torch.rand(4, 3, 32, 32))
        assert step["step_gmacs"] == pytest.approx(0, abs=1e-9) and step["train_gmacs"] > step["gmacs"]
    assert found[0] == found[1]


def test_every_step_runs_on_the_machine_it_is_given(store):
    (spec,) = [s for s in plans.costs("digits-zoo", "smoke") if s.method == "finetune"]
    found = costs.measure(spec, 10, Machine(torch.device("cpu"), "bfloat16"))
    assert all(value >= 0 for value in found.values())
