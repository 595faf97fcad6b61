"""The AdaAgg layer against a loop over samples, plain convolution, and arithmetic done by hand."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoolib.layers.adaagg import AdaAggConv2d
from zoolib.spec import ZoolibError

D = torch.float64

CASES = {
    "1x1": ((4, 6), 1, {}),
    "1x1 stride 2": ((4, 6), 1, {"stride": 2}),
    "1x1 padded": ((4, 6), 1, {"padding": 1, "stride": 2}),
    "1x1 grouped": ((4, 6), 1, {"groups": 2}),
    "3x3": ((4, 6), 3, {"padding": 1}),
    "3x3 stride 2": ((4, 6), 3, {"padding": 1, "stride": 2}),
    "3x3 dilated": ((4, 6), 3, {"padding": 2, "dilation": 2}),
    "3x3 uneven": ((4, 6), 3, {"padding": (0, 2), "stride": (2, 1)}),
    "3x3 grouped": ((4, 6), 3, {"padding": 1, "groups": 2}),
    "3x3 depthwise": ((4, 4), 3, {"padding": 1, "groups": 4, "stride": 2}),
    "5x5 depthwise": ((4, 4), 5, {"padding": 2, "groups": 4}),
    "5x5": ((3, 4), 5, {"padding": 2, "stride": 5}),
    "5x5 valid": ((3, 4), 5, {"padding": "valid"}),
    "3x3 same": ((3, 4), 3, {"padding": "same", "stride": 2}),
}


def make(case: str, m: int = 3, bias: bool = True, **options: object) -> AdaAggConv2d:
    """A float64 layer of that case whose every parameter, the identity included, is away from its start."""
    (inputs, outputs), k, settings = CASES[case]
    torch.manual_seed(0)
    groups = settings.get("groups", 1)
    weights = torch.randn(m, outputs, inputs // groups, k, k, dtype=D)
    biases = torch.randn(m, outputs, dtype=D) if bias else None
    layer = AdaAggConv2d(weights, biases, **settings, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def force_gates(layer: AdaAggConv2d, value: float) -> None:
    """Make every gate a constant: no weights, and the logit of the value as bias (40 gives exactly 1 in float64)."""
    with torch.no_grad():
        layer.gate[2].weight.zero_()
        layer.gate[2].bias.fill_(40.0 if value == 1 else torch.logit(torch.tensor(value, dtype=D)))


def by_hand(layer: AdaAggConv2d, x: Tensor, gates: Tensor | None = None) -> Tensor:
    """The definition, one sample, one model and one alignment at a time, from the layer's parameters."""
    squeeze, excite = layer.gate[0].weight, layer.gate[2]
    kh, kw = layer.kernel_size
    shape = (layer.out_channels, layer.in_channels // layer.groups, kh, kw)
    rows = []
    for b in range(len(x)):
        pooled = x[b].flatten(1).mean(1)
        a = torch.sigmoid(excite.weight @ torch.relu(squeeze @ pooled) + excite.bias) if gates is None else gates
        kernel = torch.zeros(shape, dtype=x.dtype)
        bias = torch.zeros(layer.out_channels, dtype=x.dtype)
        for i in range(layer.num_models):
            w = layer.weight[i].view(shape)
            if layer.alignment is not None:
                w = torch.einsum("op,pikl->oikl", layer.alignment[i], w)
            kernel = kernel + a[i] * w
            bias = bias + (a[i] * layer.bias[i] if layer.bias is not None else 0)
        sample, padding = x[b : b + 1], layer.padding
        if padding == "same":  # ceil(size / stride) outputs, the odd zero right and below
            sides: list[int] = []
            for size, k, s in ((x.shape[3], kw, layer.stride[1]), (x.shape[2], kh, layer.stride[0])):
                total = max((-(-size // s) - 1) * s + k - size, 0)
                sides += [total // 2, total - total // 2]
            sample, padding = F.pad(sample, sides), 0
        rows.append(F.conv2d(sample, kernel, bias, layer.stride, padding, layer.dilation, layer.groups))
    return torch.cat(rows)


def value_and_gradients(layer: AdaAggConv2d, x: Tensor, function) -> dict[str, Tensor]:
    """The output and the gradients of a random linear functional with respect to x and to every parameter."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = function(x)
    torch.manual_seed(1)
    y.backward(torch.randn(y.shape, dtype=y.dtype))
    grads = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **grads}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        scale = max(1.0, right[name].abs().max().item())
        torch.testing.assert_close(
            tensor, right[name], rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


STRATEGIES = [
    (case, strategy)
    for case, strategy in itertools.product(CASES, ("auto", "grouped", "unfold", "matmul", "stacked"))
    if (strategy != "matmul" or CASES[case][1] == 1) and (strategy != "stacked" or "groups" not in CASES[case][2])
]


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("size", [7, 30])
@pytest.mark.parametrize(("case", "strategy"), STRATEGIES)
def test_output_and_all_gradients_equal_a_loop_over_samples(case: str, strategy: str, size: int, align: bool):
    layer = make(case, align=align, strategy=strategy)
    x = torch.randn(3, layer.in_channels, size, size + 2, dtype=D)
    result = value_and_gradients(layer, x, layer)
    assert set(result) == {"y", "x", *dict(layer.named_parameters())}
    assert_same(result, value_and_gradients(layer, x, lambda x: by_hand(layer, x)))


def test_automatic_choice_reaches_every_way_to_compute(monkeypatch: pytest.MonkeyPatch):
    chosen = []
    choose = AdaAggConv2d._choose
    monkeypatch.setattr(AdaAggConv2d, "_choose", lambda *a: chosen.append(choose(*a)) or chosen[-1])
    for case, size in (("1x1", 7), ("3x3", 7), ("3x3", 30), ("3x3 depthwise", 7)):
        layer = make(case)
        layer(torch.randn(2, layer.in_channels, size, size, dtype=D))
    wide = AdaAggConv2d(torch.randn(2, 112, 112, 3, 3), padding=1, align=False)
    wide(torch.randn(1, 112, 7, 7))
    assert chosen == ["matmul", "grouped", "grouped", "grouped", "unfold"]
    for case, size in (("1x1", 1), ("3x3 depthwise", 1)):  # no more pixels than models
        layer = make(case)
        layer(torch.randn(2, layer.in_channels, size, size, dtype=D))
    assert chosen[5:] == ["stacked", "grouped"]


@pytest.mark.parametrize("case", ["1x1", "3x3", "3x3 grouped"])
def test_recomputing_kernels_in_the_backward_pass_changes_nothing(case: str):
    layer = make(case, recompute=True)
    x = torch.randn(3, layer.in_channels, 9, 9, dtype=D)
    assert_same(value_and_gradients(layer, x, layer), value_and_gradients(layer, x, lambda x: by_hand(layer, x)))


@pytest.mark.parametrize("case", [case for case in CASES if case != "3x3 same"])
def test_one_model_with_unit_gate_equals_plain_convolution(case: str):
    (inputs, outputs), k, settings = CASES[case]
    conv = nn.Conv2d(inputs, outputs, k, **settings, dtype=D)
    layer = AdaAggConv2d.from_convs([conv])  # alignment starts at the identity
    force_gates(layer, 1)
    x = torch.randn(2, inputs, 11, 11, dtype=D)
    torch.testing.assert_close(layer(x), conv(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("case", ["1x1", "3x3 grouped", "3x3"])
def test_gradcheck(case: str, lite: bool):
    layer = make(case, m=2, lite=lite)
    x = torch.randn(2, layer.in_channels, 4, 4, dtype=D, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


def test_gate_follows_the_public_recipe():
    layer = make("3x3")
    squeeze, relu, excite, sigmoid = AdaAggConv2d(torch.randn(5, 64, 30, 3, 3)).gate
    assert squeeze.weight.shape == (30 // 4 + 1, 30) and squeeze.bias is None
    assert excite.weight.shape == (5, 8) and not excite.bias.any()
    assert isinstance(relu, nn.ReLU) and isinstance(sigmoid, nn.Sigmoid)
    wide = AdaAggConv2d(torch.randn(5, 2, 2048, 1, 1), align=False).gate
    assert wide[0].weight.std().item() == pytest.approx((2 / 513) ** 0.5, rel=0.02)  # Kaiming, fan-out, gain of ReLU
    assert wide[2].weight.std().item() == pytest.approx((2 / 5) ** 0.5, rel=0.1)
    layer(torch.randn(4, 4, 5, 5, dtype=D))
    assert layer.last_gates.shape == (4, 3) and not layer.last_gates.requires_grad
    assert (layer.last_gates.sum(1) != 1).any()  # not normalised over models


def test_alignment_starts_at_the_identity_and_is_optional():
    weights = torch.randn(3, 5, 4, 3, 3)
    layer = AdaAggConv2d(weights)
    assert torch.equal(layer.alignment.detach(), torch.eye(5).expand(3, 5, 5))
    assert torch.equal(layer.weight.detach().view_as(weights), weights)
    assert AdaAggConv2d(weights, align=False).alignment is None


# Lite -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("case", ["1x1 stride 2", "3x3", "3x3 grouped", "3x3 same"])
def test_lite_training_equals_one_convolution_with_the_mean_gate(case: str, align: bool):
    layer = make(case, align=align, lite=True)
    x = torch.randn(4, layer.in_channels, 8, 8, dtype=D)

    def definition(x: Tensor) -> Tensor:
        return by_hand(layer, x, gates=torch.stack([layer.gate(s.flatten(1).mean(1)) for s in x]).mean(0))

    assert_same(value_and_gradients(layer, x, layer), value_and_gradients(layer, x, definition))
    assert layer.last_gates.shape == (4, 3) and (layer.last_gates == layer.last_gates[0]).all()


def test_lite_moving_average_equals_its_definition_by_hand():
    layer = make("3x3", lite=True, gate_momentum=0.1)
    seen = []
    for _ in range(3):
        layer(torch.randn(4, 4, 6, 6, dtype=D))
        seen.append(layer.last_gates[0])
    raw = 0.9 * (0.9 * (0.1 * seen[0]) + 0.1 * seen[1]) + 0.1 * seen[2]  # from zero, as in the authors' code
    corrected = raw / (1 - 0.9**3)
    assert not layer.gate_mean.requires_grad
    torch.testing.assert_close(layer.gate_mean, raw, rtol=0, atol=1e-15)
    torch.testing.assert_close(layer.mean_gates(), corrected, rtol=0, atol=1e-14)
    layer.eval()
    x = torch.randn(4, 4, 6, 6, dtype=D)
    torch.testing.assert_close(layer(x), by_hand(layer, x, gates=corrected), rtol=0, atol=1e-12)
    assert torch.equal(layer.mean_gates(), layer.last_gates[3])  # evaluation leaves the average alone


def test_lite_average_of_a_constant_gate_is_that_constant_after_one_step():
    layer = make("3x3", lite=True)
    assert torch.equal(layer.mean_gates(), torch.full((3,), 0.5, dtype=D))  # untrained: sigmoid(0)
    force_gates(layer, 0.25)
    layer(torch.randn(2, 4, 5, 5, dtype=D))
    torch.testing.assert_close(layer.mean_gates(), torch.full((3,), 0.25, dtype=D), rtol=0, atol=1e-15)


@pytest.mark.parametrize("training", [True, False])
def test_lite_convolves_one_kernel_whatever_the_batch(training: bool, monkeypatch: pytest.MonkeyPatch):
    layer = make("3x3", lite=True).train(training)
    shapes = []
    conv2d = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, w, *a, **k: shapes.append((*w.shape, a[-1])) or conv2d(x, w, *a, **k))
    layer(torch.randn(7, 4, 6, 6, dtype=D))
    assert shapes == [(6, 4, 3, 3, 1)]


def test_lite_evaluation_does_not_run_the_gate():
    layer, ran = make("3x3", lite=True), []
    layer.gate[0].register_forward_hook(lambda *_: ran.append(1))
    layer.eval()(torch.randn(2, 4, 6, 6, dtype=D))
    assert ran == []
    layer.train()(torch.randn(2, 4, 6, 6, dtype=D))
    assert ran == [1]  # so the hook would have seen it


# Cache ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lite", [False, True])
def test_evaluation_computes_kernels_once(lite: bool, monkeypatch: pytest.MonkeyPatch):
    layer = make("3x3", lite=lite).eval()
    calls = []
    mixed, bmm = AdaAggConv2d._mixed, torch.bmm
    monkeypatch.setattr(AdaAggConv2d, "_mixed", lambda *a: calls.append(1) or mixed(*a))
    monkeypatch.setattr(torch, "bmm", lambda a, b: (calls.append(1) if len(a) == 3 else None, bmm(a, b))[1])
    x = torch.randn(2, 4, 30, 30, dtype=D)
    with torch.no_grad():
        first, second = layer(x), layer.eval()(x)
    assert len(calls) == 1 and torch.equal(first, second)


def _step(layer: AdaAggConv2d) -> None:
    layer.zero_grad()
    layer(torch.randn(2, 4, 6, 6, dtype=D)).sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()


def _load(layer: AdaAggConv2d, assign: bool) -> None:
    layer.load_state_dict({k: v + 0.1 for k, v in layer.state_dict().items()}, assign=assign)


CHANGES = {
    "weight through .data, then train()": lambda layer: (layer.weight.data.mul_(2), layer.train(), layer.eval()),
    "weight under no_grad": lambda layer: nn.init.normal_(layer.weight),
    "alignment": lambda layer: nn.init.normal_(layer.alignment),
    "optimiser step": _step,
    "load_state_dict": lambda layer: _load(layer, False),
    "load_state_dict assign": lambda layer: _load(layer, True),
    "training in between": lambda layer: (layer.train(), _step(layer), layer.eval()),
}


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_parameters_renew_cached_kernels(change: str, lite: bool):
    layer = make("3x3", lite=lite)
    x = torch.randn(2, 4, 6, 6, dtype=D)
    layer(x)
    layer.eval()
    with torch.no_grad():
        before = layer(x)
    layer.zero_grad()
    CHANGES[change](layer)
    with torch.no_grad():
        after = layer(x)
        fresh = copy.deepcopy(layer).train().eval()(x)
    assert not torch.equal(before, after)
    assert torch.equal(after, fresh)


def test_a_step_in_evaluation_that_raises_no_version_renews_cached_kernels():
    torch.manual_seed(0)
    layer = AdaAggConv2d.from_convs([nn.Conv2d(4, 6, 3) for _ in range(3)]).eval()
    x = torch.rand(2, 4, 8, 8)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.5, fused=True)
    with torch.no_grad():
        before = layer(x)
    layer(x).square().mean().backward()
    optimiser.step()
    with torch.no_grad():
        cached = layer(x)
    torch.testing.assert_close(cached, layer(x).detach())
    assert not torch.allclose(cached, before, atol=1e-3)


def test_cached_kernels_carry_no_graph_and_gradients_still_flow_in_evaluation():
    layer = make("3x3").eval()
    x = torch.randn(2, 4, 6, 6, dtype=D)
    with torch.no_grad():
        layer(x)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_inference_mode_and_no_grad_may_alternate():
    layer = make("3x3").eval()
    x = torch.randn(2, 4, 6, 6, dtype=D)
    with torch.inference_mode():
        first = layer(x).clone()
    with torch.no_grad():
        assert torch.equal(layer(x), first)
    layer(x).sum().backward()


# Precision, memory formats, mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("case", ["1x1", "3x3", "3x3 grouped"])
def test_bfloat16_autocast_is_close_to_float32(case: str, lite: bool):
    layer = make(case, lite=lite).float()
    x = torch.randn(4, 4, 16, 16)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    error = (y.float() - expected).norm() / expected.norm()
    assert error < 0.02  # bfloat16 has 8 bits: 2^-8 a factor
    layer.eval()
    with torch.no_grad():
        full = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), full)  # kernels cached in bfloat16 are not reused


@pytest.mark.parametrize(
    ("case", "options"),
    [(case, {"lite": lite}) for case in ("1x1 stride 2", "3x3", "3x3 depthwise") for lite in (False, True)]
    + [(case, {"strategy": "stacked"}) for case in ("1x1 stride 2", "3x3")],
)
def test_channels_last_changes_nothing(case: str, options: dict):
    layer = make(case, **options)
    x = torch.randn(3, 4, 8, 8, dtype=D)
    expected = layer(x)
    layer.to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), expected, rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_gpu_equals_cpu(case: str, lite: bool):
    layer = make(case, lite=lite)
    x = torch.randn(3, layer.in_channels, 9, 9, dtype=D)
    expected = layer(x)
    torch.testing.assert_close(layer.cuda()(x.cuda()).cpu(), expected, rtol=0, atol=1e-11)


def test_mistakes_name_the_fix():
    weights = torch.randn(2, 4, 4, 3, 3)
    with pytest.raises(ZoolibError, match="did you mean 'unfold'"):
        AdaAggConv2d(weights, strategy="unfolded")
    with pytest.raises(ZoolibError, match="unknown padding 'full'; known: same, valid"):
        AdaAggConv2d(weights, padding="full")
    with pytest.raises(ValueError, match="serves 1x1 kernels, not 3x3"):
        AdaAggConv2d(weights, strategy="matmul")
    with pytest.raises(ValueError, match="serves one group, not 2"):
        AdaAggConv2d(weights, groups=2, strategy="stacked")
    with pytest.raises(ValueError, match=r"weights must be \(m, O, I/groups, kh, kw\)"):
        AdaAggConv2d(weights[0])
    with pytest.raises(ValueError, match=r"biases must be \(m, O\) = \(2, 4\)"):
        AdaAggConv2d(weights, torch.randn(4))
    with pytest.raises(ValueError, match="do not divide into 3 groups"):
        AdaAggConv2d(weights, groups=3)
    with pytest.raises(ValueError, match="'reflect' is not supported"):
        AdaAggConv2d.from_convs([nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")])


@pytest.mark.parametrize(
    ("kernel", "strategy", "settings"),
    [
        (1, "matmul", {"stride": (1, 3), "padding": (2, 0)}),
        (1, "grouped", {"stride": (1, 3), "padding": (2, 0)}),
        (3, "unfold", {"stride": (1, 3), "padding": (2, 0)}),
        (3, "stacked", {"stride": (1, 3), "padding": (2, 0), "dilation": (2, 1)}),
        ((1, 3), "grouped", {"padding": "same", "dilation": (1, 2)}),
        ((3, 1), "unfold", {"padding": "same", "dilation": 2}),
    ],
)
def test_height_and_width_have_settings_of_their_own_as_in_torchs_convolution(kernel, strategy, settings):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, kernel, **settings, dtype=torch.float64)
    layer = AdaAggConv2d.from_convs([conv], strategy=strategy)
    with torch.no_grad():  # a gate of exactly 1
        layer.gate[2].weight.zero_()
        layer.gate[2].bias.fill_(40.0)
    x = torch.randn(2, 4, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), conv(x), rtol=0, atol=1e-12)
