"""Learning rates, chosen on validation images for every method alike.

The papers choose theirs for networks and schedules of another size. For the hubs named here, every method that trains
was tried at every rate of `tried(hub)`, with one seed, on the targets of `TARGETS`; the rate of the highest mean
validation accuracy is the method's in the profiles of `PROFILES`, whatever the target. No test image has a part in it.
The page "Learning rates" shows the accuracies, and a test of this project compares them with `CHOSEN`.
"""

from __future__ import annotations

from collections.abc import Mapping

#: learning rates that were tried; the first is the profiles' own, which holds where nothing was chosen
TRIED = (0.01, 0.03, 0.1)
#: where the highest of these was the best of most methods, a higher one was tried of all
FURTHER: Mapping[str, tuple[float, ...]] = {"digits-zoo": (0.3,)}
PROFILES = ("mini", "lab")
#: the profile and the seed that the choice was made with
CHOSEN_IN, SEED = "mini", 0

#: the targets of each hub on whose validation images its rates were chosen
TARGETS: Mapping[str, tuple[str, ...]] = {
    "mini-zoo": ("tiles", "textures"),
    "mini-hub": ("tiles", "textures"),
    "digits-zoo": ("digits",),
}

#: what was tried; of the others, a variant of Hub-Pathway has its rate and the rest have fine-tuning's
METHODS = (
    "scratch",
    "finetune",
    "ensemble_joint",
    "knowledge_flow",
    "zoo_tuning",
    "lite_zoo_tuning",
    "hub_pathway",
    "fe",
    "ced",
)

#: hub -> method -> rate
CHOSEN: Mapping[str, Mapping[str, float]] = {
    "mini-zoo": {**dict.fromkeys(METHODS, 0.03), "ensemble_joint": 0.1, "fe": 0.1, "ced": 0.01},
    "mini-hub": {
        "scratch": 0.03,
        "finetune": 0.01,
        "ensemble_joint": 0.1,
        "hub_pathway": 0.01,
        "fe": 0.03,
        "ced": 0.01,
    },
    "digits-zoo": {**dict.fromkeys(METHODS, 0.1), "knowledge_flow": 0.3},
}


def tried(hub: str) -> tuple[float, ...]:
    """Every rate that each method of a hub was tried at."""
    return (*TRIED, *FURTHER.get(hub, ()))


def rate(profile: str, hub: str, method: str) -> float | None:
    """The learning rate chosen for a method on a hub; None where the profile's own holds."""
    if profile not in PROFILES or hub not in CHOSEN or method == "rank":
        return None
    names = [method, "hub_pathway" if method.startswith("hub_pathway") else "finetune"]
    return next(CHOSEN[hub][name] for name in names if name in CHOSEN[hub])
