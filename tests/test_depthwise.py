"""The gradient of a depthwise convolution's kernels, against torch's own and finite differences."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoolib.families import InvertedNet
from zoolib.layers import depthwise
from zoolib.layers.depthwise import DepthwiseConv2d, is_depthwise, kernel_gradient, quicken
from zoolib.layers.surgery import aggregate

# size of the map, kernel, stride, padding, dilation
GEOMETRIES = [
    ((4, 4), (5, 5), (1, 1), (2, 2), (1, 1)),
    ((2, 2), (5, 5), (1, 1), (2, 2), (1, 1)),
    ((1, 1), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((4, 4), (5, 5), (2, 2), (2, 2), (1, 1)),
    ((5, 4), (3, 7), (2, 1), (1, 3), (1, 1)),
    ((6, 6), (3, 3), (1, 1), (2, 2), (2, 2)),
    ((5, 5), (3, 3), (2, 3), (0, 1), (1, 1)),
    ((2, 3), (7, 7), (3, 2), (3, 3), (1, 1)),
]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes whose kernel gradients were computed here and not by torch."""
    shapes: list[tuple[int, ...]] = []
    true = depthwise.kernel_gradient

    def noted(x: torch.Tensor, *rest: object) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        return true(x, *rest)

    monkeypatch.setattr(depthwise, "kernel_gradient", noted)
    return shapes


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_kernels_gradient_is_torchs_own(geometry, layout) -> None:
    torch.manual_seed(0)
    size, kernel, *rest = geometry
    x = torch.randn(3, 6, *size, dtype=torch.float64).to(memory_format=layout)
    weight = torch.randn(6, 1, *kernel, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weight, None, *rest, groups=6)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, weight, grad)
    torch.testing.assert_close(kernel_gradient(x, grad, kernel, *rest), expected)


def test_every_gradient_agrees_with_finite_differences(taken) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv2d.of(nn.Conv2d(3, 3, 5, 1, 2, groups=3).double())

    def output(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    x = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, layer.weight, layer.bias))
    assert set(taken) == {(2, 3, 3, 3)}


def test_a_quickened_network_gives_the_outputs_gradients_and_names_that_it_gave(taken) -> None:
    torch.manual_seed(0)
    plain = InvertedNet().double()
    quick = quicken(copy.deepcopy(plain))
    assert list(quick.state_dict()) == list(plain.state_dict())
    assert sum(isinstance(m, DepthwiseConv2d) for m in quick.modules()) == 6
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)  # maps of 4, 2 and 1 pixels
    outputs = [network(x) for network in (plain, quick)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for y in outputs:
        y.square().sum().backward()
    for (name, one), two in zip(plain.named_parameters(), quick.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, msg=name)
    assert taken and all(shape[-1] <= 4 for shape in taken)
    with torch.no_grad():
        torch.testing.assert_close(quick.eval()(x), plain.eval()(x))


def test_the_layer_shares_the_convolutions_tensors_and_mode() -> None:
    conv = nn.Conv2d(4, 4, 3, groups=4, bias=False).eval()
    layer = DepthwiseConv2d.of(conv)
    assert layer.weight is conv.weight and layer.bias is None and not layer.training


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, groups=4)),
        nn.ReLU(),
    ],
)
def test_other_modules_stay_as_they_are(other) -> None:
    assert not is_depthwise(other)
    model = nn.Sequential(other)
    assert quicken(model)[0] is other
    with pytest.raises(ValueError, match="not a depthwise convolution"):
        DepthwiseConv2d.of(other)


def test_a_convolution_with_a_hook_stays_as_it_is() -> None:
    conv = nn.Conv2d(4, 4, 3, groups=4)
    conv.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert not is_depthwise(conv)


def test_torch_computes_where_it_is_fast_or_no_kernel_learns(taken) -> None:
    layer = DepthwiseConv2d.of(nn.Conv2d(4, 4, 3, 1, 1, groups=4))
    small, large = torch.randn(2, 4, 2, 2, requires_grad=True), torch.randn(2, 4, 3, 3)
    layer(large).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        layer(small).float().sum().backward()
    layer.weight.requires_grad_(False)
    layer(small).sum().backward()
    assert taken == []
    layer.weight.requires_grad_(True)
    layer(small).sum().backward()
    assert taken == [(2, 4, 2, 2)]


def test_a_zoo_of_networks_with_quickened_convolutions_can_be_aggregated() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    plain = [InvertedNet(), InvertedNet()]
    quick = [quicken(copy.deepcopy(network)) for network in plain]
    torch.manual_seed(1)
    expected = aggregate(plain).eval()(x)
    torch.manual_seed(1)
    torch.testing.assert_close(aggregate(quick).eval()(x), expected)
