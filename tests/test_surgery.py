"""Aggregating whole models: what is replaced, what is averaged, what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from zoolib.layers import surgery
from zoolib.layers.adaagg import AdaAggConv2d
from zoolib.spec import ZoolibError


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.bn1(self.conv1(x)).relu())


class Net(nn.Module):
    """Seven convolutions, named as in ResNet, with a linear layer and a layer norm at the end."""

    def __init__(self, width: int = 4, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride, 1)
        self.layer1, self.layer2, self.layer3 = Block(width), Block(width), Block(width)
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, 2)
        self.register_buffer("index", torch.arange(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(self.norm(x.mean((2, 3))))


def nets(count: int, **settings: int) -> list[Net]:
    torch.manual_seed(0)
    models = [Net(**settings).double() for _ in range(count)]
    for model in models:
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            tensor.data.add_(0.2 * torch.rand_like(tensor))
    return models


def unit_gates(model: nn.Module) -> nn.Module:
    """Set every gate to exactly 1: no weights, and a bias whose sigmoid rounds to 1."""
    for layer in surgery.gate_layers(model).values():
        nn.init.zeros_(layer.gate[2].weight)
        nn.init.constant_(layer.gate[2].bias, 40.0)
    return model


def test_every_convolution_is_replaced_and_the_models_stay_as_they_are():
    models = nets(3)
    states = [copy.deepcopy(model.state_dict()) for model in models]
    result = surgery.aggregate(models)
    names = [n for n, module in models[0].named_modules() if isinstance(module, nn.Conv2d)]
    assert list(surgery.gate_layers(result)) == names and len(names) == 7
    assert not any(isinstance(module, nn.Conv2d) for module in result.modules())
    assert type(result) is Net
    for name, layer in surgery.gate_layers(result).items():
        stacked = torch.stack([model.get_submodule(name).weight for model in models])
        assert torch.equal(layer.weight.view_as(stacked), stacked)
    for parameter in result.parameters():
        parameter.data.zero_()
    for model, state in zip(models, states, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_one_model_with_unit_gates_equals_that_model():
    model = nets(1)[0]
    result = unit_gates(surgery.aggregate([model]))
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(result.train()(x), model.train()(x), rtol=0, atol=1e-12)  # batch statistics


def test_equal_models_with_unit_gates_have_m_times_the_kernels():
    conv = nn.Conv2d(3, 5, 3).double()
    result = unit_gates(surgery.aggregate([conv, conv, conv]))  # the root itself is replaced
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(result(x), 3 * conv(x), rtol=0, atol=1e-12)


def test_batch_norm_starts_at_the_mean_affine_and_unit_statistics():
    models = nets(3)
    models[0].layer1.bn1.num_batches_tracked += 5
    bn = surgery.aggregate(models).layer1.bn1
    for name in ("weight", "bias"):
        mean = sum(getattr(model.layer1.bn1, name).detach() for model in models) / 3
        torch.testing.assert_close(getattr(bn, name).detach(), mean, rtol=0, atol=1e-15)
    assert not bn.running_mean.any() and (bn.running_var == 1).all() and bn.num_batches_tracked == 0


def test_other_parameters_start_at_the_mean():
    models = nets(2)
    result = surgery.aggregate(models)
    for name in ("norm.weight", "norm.bias", "fc.weight", "fc.bias"):
        mean = (models[0].get_parameter(name) + models[1].get_parameter(name)) / 2
        torch.testing.assert_close(result.get_parameter(name), mean, rtol=0, atol=1e-15)
    assert torch.equal(result.index, torch.arange(3))


@pytest.mark.parametrize(
    ("alignment", "expected"),
    [
        ("authors", ["conv1", "layer3.conv1"]),
        ("all", ["conv1", "layer1.conv1", "layer2.conv1", "layer3.conv1"]),
        ("none", []),
    ],
)
def test_alignment_rules(alignment: str, expected: list[str]):
    layers = surgery.gate_layers(surgery.aggregate(nets(2), alignment))
    assert [name for name, layer in layers.items() if layer.alignment is not None] == expected


def test_parameter_count_equals_the_formula():
    w, m = 4, 3
    result = surgery.aggregate(nets(m), "all")
    gate = {i: i * (i // 4 + 1) + (i // 4 + 1) * m + m for i in (3, w)}
    kernels = m * (3 * w * 9 + w) + 3 * m * (w * w * 9 + w * w + w)  # stem with bias; 3 blocks of 3x3 and 1x1 with bias
    gates = gate[3] + 6 * gate[w]
    alignments = m * 4 * w * w
    rest = 3 * 2 * w + 2 * w + (2 * w + 2)  # batch norms, layer norm, linear
    assert sum(p.numel() for p in result.parameters()) == kernels + gates + alignments + rest


def test_gates_are_those_of_the_last_forward_pass():
    result = surgery.aggregate(nets(2))
    assert surgery.gates(result) == {}
    result(torch.randn(5, 3, 12, 12, dtype=torch.float64))
    gates = surgery.gates(result)
    assert list(gates) == list(surgery.gate_layers(result))
    assert all(gate.shape == (5, 2) and not gate.requires_grad and (gate > 0).all() for gate in gates.values())


def test_options_reach_every_layer():
    result = surgery.aggregate(nets(2), lite=True, gate_momentum=0.3, strategy="unfold", recompute=True)
    for layer in surgery.gate_layers(result).values():
        assert (layer.lite, layer.gate_momentum, layer.strategy, layer.recompute) == (True, 0.3, "unfold", True)


def test_training_mode_is_kept():
    for mode in (True, False):
        result = surgery.aggregate([net.train(mode) for net in nets(2)])
        assert all(module.training is mode for layer in surgery.gate_layers(result).values() for module in [layer])


def test_a_convolution_used_twice_stays_one_layer():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    result = surgery.aggregate([nn.Sequential(conv, nn.ReLU(), conv)] * 2)
    assert isinstance(result[0], AdaAggConv2d) and result[0] is result[2]


def test_different_widths_name_the_model_and_the_module():
    with pytest.raises(ValueError, match=r"model 0 and model 2 differ at 'conv1': Conv2d\(3, 4, .* and Conv2d\(3, 6, "):
        surgery.aggregate([*nets(2), *nets(1, width=6)])


def test_different_strides_or_types_are_refused():
    with pytest.raises(ZoolibError, match=r"differ at 'conv1'.*stride"):
        surgery.aggregate([*nets(1), *nets(1, stride=1)])
    other = nets(1)[0]
    other.layer2.bn1 = nn.Identity()
    with pytest.raises(ZoolibError, match=r"differ at 'layer2.bn1': BatchNorm2d.* and Identity"):
        surgery.aggregate([*nets(1), other])
    other = nets(1)[0]
    other.extra = nn.ReLU()
    with pytest.raises(ZoolibError, match=r"differ at 'extra': missing and ReLU\(\)"):
        surgery.aggregate([*nets(1), other])


def test_unsupported_convolutions_are_refused_with_their_name():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"))
    with pytest.raises(ZoolibError, match="padding_mode 'circular' at '0' is not supported; use 'zeros'"):
        surgery.aggregate([model, model])

    class Standardised(nn.Conv2d):
        pass

    with pytest.raises(ZoolibError, match="Standardised at '0' is not supported"):
        surgery.aggregate([nn.Sequential(Standardised(3, 3, 3))])


def test_mistakes_name_the_fix():
    with pytest.raises(ZoolibError, match=r"unknown alignment 'author'.*did you mean 'authors'"):
        surgery.aggregate(nets(2), "author")
    with pytest.raises(ZoolibError, match="give at least one"):
        surgery.aggregate([])


def test_convolutions_that_pad_at_run_time_keep_their_padding():
    from timm.layers import Conv2dSame

    for stride, size in ((1, 8), (2, 8), (2, 9), (3, 10)):
        conv = Conv2dSame(3, 4, 5, stride=stride, dilation=2).double()
        result = unit_gates(surgery.aggregate([conv]))
        x = torch.randn(2, 3, size, size + 1, dtype=torch.float64)
        torch.testing.assert_close(result(x), conv(x), rtol=0, atol=1e-12)


def test_resnet50_has_53_layers_of_which_the_authors_align_ten():
    from torchvision.models import resnet50

    with torch.device("meta"):
        backbone = resnet50(weights=None)
    backbone.fc = nn.Identity()
    backbone = backbone.to_empty(device="cpu")
    result = surgery.aggregate([backbone] * 5)
    layers = surgery.gate_layers(result)
    aligned = [name for name, layer in layers.items() if layer.alignment is not None]
    assert len(layers) == 53
    assert aligned == ["conv1", *(f"layer3.{i}.conv2" for i in range(6)), *(f"layer4.{i}.conv2" for i in range(3))]
    assert all(
        layer.alignment.shape == (5, layer.out_channels, layer.out_channels)
        for layer in layers.values()
        if layer.alignment is not None
    )

    # At test time the alignments are folded into the kernels. The published count then is 122.54 M with a head for the
    # 100 classes of CIFAR-100 (slides "Transferability in Deep Learning", Zoo-Tuning's table of complexity).
    alignments = sum(layer.alignment.numel() for layer in layers.values() if layer.alignment is not None)
    inference = sum(p.numel() for p in result.parameters()) - alignments + 100 * 2049
    assert round(inference / 1e6, 2) == 122.54
    assert alignments == 5 * (64**2 + 6 * 256**2 + 3 * 512**2)
    everything = surgery.gate_layers(surgery.aggregate([backbone] * 2, "all")).values()
    assert sum(layer.alignment is not None for layer in everything) == 1 + 3 + 4 + 6 + 3
