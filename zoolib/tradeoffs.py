"""Trade-offs of the regularised fine-tunings, chosen on validation images for each dataset.

The published values belong to a ResNet-50 at 224 pixels. Where images are much smaller than in the pre-training, the
batch statistics that a network trains with are far from its running statistics, so that a distance between its outputs
and the pretrained network's is large before the first step and stays so: the term can outweigh the task many times
over. So every regulariser is tried at multiples of its published value, on all labels, and the value of the highest
validation accuracy, averaged over the seeds tried, is the one of the tables over shares of the labels. No test image
has a part in it. A page shows the accuracies, and a test of this project compares them with `CHOSEN`.
"""

from __future__ import annotations

from collections.abc import Mapping

#: the option that weighs each regulariser; the weight of the head's norm beside it stays as published, but EWC has one
#: weight for both
OPTION: Mapping[str, str] = {
    "l2_sp": "backbone_weight",
    "ewc": "backbone_weight",
    "delta": "backbone_weight",
    "lwf": "trade_off",
    "bss": "trade_off",
    "co_tuning": "trade_off",
    "bi_tuning": "trade_off",
}

_AROUND, _DOWN = (10.0, 1.0, 0.1), (1.0, 0.1, 0.01)
#: the multiples of the published value that are tried: around it, and of terms on the network's outputs downward
FACTORS: Mapping[str, tuple[float, ...]] = {
    "l2_sp": _AROUND,
    "ewc": _AROUND,
    "delta": (*_DOWN, 0.001),
    "lwf": _DOWN,
    "bss": _AROUND,
    "co_tuning": (*_DOWN, 0.001),
    "bi_tuning": _AROUND,
}

#: how many seeds a profile's choice is made with (0: all of the profile's), by dataset
SEEDS: Mapping[tuple[str, str], int] = {("lab", "cars"): 1}

#: (profile, dataset) -> method -> the multiple that the validation images choose, where it is not the published value
CHOSEN: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("mini", "tiles"): {"l2_sp": 0.1, "delta": 0.01, "bss": 0.1, "bi_tuning": 0.1},
    ("lab", "cars"): {"l2_sp": 0.1, "ewc": 0.1, "delta": 0.01, "lwf": 0.1, "co_tuning": 0.001, "bi_tuning": 0.1},
    ("lab", "cifar100-novel"): {"l2_sp": 0.1, "delta": 0.1, "bi_tuning": 0.1},
}


def factor(profile: str, dataset: str, method: str) -> float:
    """The multiple of its published trade-off that a method has in the tables of a dataset; 1 where none was chosen."""
    return CHOSEN.get((profile, dataset), {}).get(method, 1.0)


def options(method: str, published: Mapping[str, float], factor: float) -> dict[str, float]:
    """The method's option at a multiple of its published value, with six digits; none for one without a trade-off."""
    name = OPTION.get(method)
    return {} if name is None else {name: float(f"{published[name] * factor:.6g}")}


def best(validation: Mapping[float, float]) -> float:
    """The multiple of the highest validation accuracy; of equal ones the one nearest to the published value."""
    highest = max(validation.values())
    return min((f for f, value in validation.items() if value == highest), key=lambda f: max(f, 1 / f))
