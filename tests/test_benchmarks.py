"""The baseline computes what the layer computes, and the table says what was missed."""

import torch

from benchmarks import Row, interleaved, table
from benchmarks.grouped import aggregate_grouped
from benchmarks.zoo import small_resnet
from zoolib.layers.surgery import aggregate


def test_the_grouped_baseline_equals_the_layer_in_value_and_gradient():
    torch.manual_seed(0)
    networks = [small_resnet().double() for _ in range(3)]
    torch.manual_seed(1)
    ours = aggregate(networks)
    torch.manual_seed(1)
    plain = aggregate_grouped(networks)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    results = []
    for model in (ours, plain):
        y = model(x)
        y.square().sum().backward()
        results.append((y, [p.grad for p in model.parameters()]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-10)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_the_table_shows_limits_verdicts_and_no_limit_where_none_is_counted():
    rows = [
        Row("slow", 2.0, 1.5, 1.8, higher_is_better=False),
        Row("fast", 1.3, float("nan"), 1.25, higher_is_better=True),
        Row("free", 1.0, 1.0, None, higher_is_better=True),
    ]
    lines = table(rows).splitlines()[2:]
    assert "missed (1.80)" in lines[0] and lines[1].split() == ["fast", "1.30", "ok"] and "no target" in lines[2]


def test_turns_are_interleaved_and_the_first_is_not_measured():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2, seconds=10)
    assert calls == ["a", "b"] * 3 and set(times) == {"a", "b"}
