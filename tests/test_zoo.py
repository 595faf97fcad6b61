"""Zoo-Tuning as a method: what it predicts, what it records, what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from zoolib.data.schema import HubManifest, MemberManifest
from zoolib.hub import HubModel
from zoolib.layers.surgery import gate_layers
from zoolib.methods import method
from zoolib.methods.zoo import ZooTuning
from zoolib.nets import tiny_resnet
from zoolib.spec import ZoolibError
from zoolib.tasks import Classification


def manifest(name: str, **changes: object) -> MemberManifest:
    fields = {
        "name": name,
        "title": name,
        "architecture": "zoolib:tiny_resnet",
        "weights": "random",
        "pretraining": "none",
        "num_features": 64,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "input_size": 16,
        "licence": "MIT",
    }
    return MemberManifest(**{**fields, **changes})


def members(count: int) -> list[HubModel]:
    torch.manual_seed(0)
    return [HubModel(manifest(f"net{index}"), tiny_resnet()).double() for index in range(count)]


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def zoo(count: int = 3, **options: object) -> ZooTuning:
    return ZooTuning(members(count), Classification(4), **options).double()


def context(homogeneous: bool, **options: object) -> tuple[SimpleNamespace, list]:
    """What a recipe sees; fit() keeps what it is given."""
    fitted: list = []
    hub_manifest = HubManifest(
        name="mixed-hub",
        title="",
        description="",
        homogeneous=homogeneous,
        members=[manifest("net0"), manifest("net1")],
    )
    ctx = SimpleNamespace(
        hub=SimpleNamespace(manifest=hub_manifest, models=lambda: members(2)),
        task=Classification(4),
        spec=SimpleNamespace(option=lambda name: options[name]),
        fit=lambda method, deviations=None: fitted.append((method, deviations)) or "outcome",
    )
    return ctx, fitted


def test_one_member_with_unit_gates_predicts_as_that_member_under_the_same_head():
    (member,) = members(1)
    model = ZooTuning([member], Classification(4)).double()
    for layer in gate_layers(model).values():
        nn.init.zeros_(layer.gate[2].weight)
        nn.init.constant_(layer.gate[2].bias, 40.0)  # a sigmoid of exactly 1
    x = images()
    torch.testing.assert_close(model(x).prediction, model.head(member.train()(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("lite", [False, True])
def test_gates_of_every_sample_layer_and_member_are_recorded(lite: bool):
    model = zoo(3, lite=lite)
    output = model(images())
    assert output.prediction.shape == (6, 4)
    gates = output.aux["gates"]
    assert gates.shape == (6, len(model.layer_names), 3) and not gates.requires_grad
    assert model.recorded == {"gates": list(gate_layers(model.features.backbone))}
    assert model.member_names == ["net0", "net1", "net2"]
    last = gate_layers(model.features.backbone)[model.layer_names[-1]]
    assert torch.equal(gates[:, -1], last.last_gates)
    assert bool((gates == gates[0]).all()) is lite


def test_the_loss_reaches_members_gates_alignments_and_head():
    model = zoo()
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    terms = model.loss(model(images()), target, Classification(4), 0.0)
    assert list(terms) == ["task"]
    sum(terms.values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # With three input channels the stem's gate has one hidden unit, which may be off for every image.
    assert all(name.startswith("features.backbone.conv1.gate") for name in silent)
    (group,) = model.param_groups(0.01)
    assert len(group["params"]) == len(list(model.parameters())) and group["lr"] == 0.01


def test_a_fixed_batch_is_learned():
    model, task = zoo(2), Classification(4)
    optimiser = torch.optim.SGD(model.param_groups(0.05), momentum=0.9)
    x, target = images(8), torch.arange(8) % 4
    first = None
    for _ in range(30):
        loss = model.loss(model(x), target, task, 0.0)["task"]
        first = first or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * first


def test_members_are_left_as_they_are():
    hub = members(2)
    before = [{k: v.clone() for k, v in member.state_dict().items()} for member in hub]
    model = ZooTuning(hub, Classification(4)).double()
    for parameter in model.parameters():
        parameter.data.zero_()
    model(images())
    for member, state in zip(hub, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in member.state_dict().items())


def test_lite_evaluation_is_one_network_for_all_samples():
    model = zoo(2, lite=True)
    for _ in range(2):
        model(images())
    model.eval()
    x = images()
    with torch.no_grad():
        together = model(x).prediction
        alone = torch.cat([model(x[i : i + 1]).prediction for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_a_state_dict_restores_predictions():
    model, other = zoo(2, lite=True), ZooTuning(members(2), Classification(4), lite=True).double()
    model(images())
    with torch.no_grad():
        other.eval()(images())  # fills the cache that loading must renew
        other.load_state_dict(model.state_dict())
        assert torch.equal(other.eval()(images()).prediction, model.eval()(images()).prediction)


def test_channels_last_training_step_equals_the_plain_one():
    model = zoo(2)
    plain = model(images()).prediction
    model.to(memory_format=torch.channels_last)
    other = model(images().to(memory_format=torch.channels_last)).prediction
    torch.testing.assert_close(plain, other, rtol=0, atol=1e-12)


def test_different_normalisation_names_the_members():
    hub = [members(1)[0], HubModel(manifest("grey", mean=(0.1, 0.1, 0.1)), tiny_resnet()).double()]
    with pytest.raises(ZoolibError, match="'net0' and 'grey' normalise images differently"):
        ZooTuning(hub, Classification(4))


def test_members_of_other_input_sizes_are_named():
    small, large = (
        HubModel(manifest(name, fixed_input=size > 0, input_size=size or 16), tiny_resnet()).double()
        for name, size in (("small", 0), ("large", 32))
    )
    with pytest.raises(ZoolibError, match=r"'small' and 'large' take images of different sizes \(any and 32 pixels\)"):
        ZooTuning([small, large], Classification(4))


class Late(nn.Module):
    """A network with a convolution behind its pooling, which a feature map does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.conv_head, self.last = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 6, 1)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.stem(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_head(self.forward_features(x).mean((2, 3), keepdim=True)).flatten(1)


@pytest.mark.parametrize(("spatial", "names"), [(True, ["stem", "last"]), (False, ["stem", "conv_head", "last"])])
def test_gates_are_named_by_the_layers_that_run(spatial: bool, names: list[str]):
    hub = [HubModel(manifest(f"net{index}", num_features=8), Late(), spatial) for index in range(2)]
    model = ZooTuning(hub, SimpleNamespace(head=lambda features: nn.Identity()))
    assert model.layer_names == ["stem", "conv_head", "last"]  # before any has run
    assert model(torch.rand(5, 3, 16, 16)).aux["gates"].shape == (5, len(names), 2)
    assert model.layer_names == model.recorded["gates"] == names


def test_different_architectures_name_the_member_and_the_layer():
    other = HubModel(manifest("wide"), tiny_resnet()).double()
    other.backbone.conv1 = nn.Conv2d(3, 16, 5).double()
    with pytest.raises(ZoolibError, match="'net0' and 'wide' differ at 'conv1'"):
        ZooTuning([*members(1), other], Classification(4))


@pytest.mark.parametrize("name", ["zoo_tuning", "lite_zoo_tuning"])
def test_recipe_refuses_a_heterogeneous_hub_in_one_line_that_names_the_fix(name: str):
    ctx, _ = context(homogeneous=False, **method(name).options)
    with pytest.raises(ZoolibError, match=r"mixed-hub.*position by position; use hub_pathway or ensemble") as error:
        method(name).load()(ctx)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["zoo_tuning", "lite_zoo_tuning"])
def test_recipe_fits_the_method_with_the_options_of_its_card(name: str):
    ctx, fitted = context(homogeneous=True, **method(name).options)
    assert method(name).load()(ctx) == "outcome"
    ((model, deviations),) = fitted
    layers = gate_layers(model)
    assert all(layer.lite is (name == "lite_zoo_tuning") for layer in layers.values())
    aligned = {layer for layer in layers if layers[layer].alignment is not None}
    assert aligned == {"features.backbone.conv1", "features.backbone.layer3.conv1", "features.backbone.layer3.conv2"}
    assert any("aligned" in text for text in deviations)
    assert any("moving average" in text for text in deviations) is (name == "lite_zoo_tuning")


def test_a_network_of_few_convolutions_says_how_much_of_it_is_averaged():
    assert 0 < zoo().averaged < 0.05, "batch norms alone"
    blocks = [nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Flatten(), nn.Linear(4, 9, bias=False)) for _ in "ab"]
    pair = [HubModel(manifest(f"net{i}", num_features=9), block) for i, block in enumerate(blocks)]
    assert ZooTuning(pair, Classification(4)).averaged == 36 / (36 + 12)
    ctx, fitted = context(homogeneous=True, **method("zoo_tuning").options)
    ctx.hub.models = lambda: pair
    method("zoo_tuning").load()(ctx)
    assert fitted[0][1][0].startswith("75% of the backbone's weights are in no convolution and are averaged")
