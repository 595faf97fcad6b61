"""What runs do otherwise than the papers, in sentences that more than one module says. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zoolib.methods import METHODS
from zoolib.spec import RunSpec

#: of Hub-Pathway and its variants, where the optimiser is SGD
OPTIMISER = "momentum is Nesterov's and weight decay 5e-4, as in Zoo-Tuning's code; the paper names neither"
_HELD_OUT = "are held out to choose by; the papers train on all of them"
_TEMPERATURE = "temperature 4 and equal weights of both losses; the papers state neither"
_HEATMAPS = "squared error to the teachers' mean heatmaps, equal weights of both losses; the papers state neither"


#: of Hub-Pathway for games
EXPLOIT = (
    "exploit applies the shared noisy layers to an encoder's own features, since a source has no head of its own here: "
    "it trains those layers as well as the chosen encoder, where the paper's trains the hub's models alone"
)


def top_k(k: int) -> str:
    """That Hub-Pathway for games activates another number of sources than the paper's two."""
    return (
        f"the paper activates the top 2 models for each datum in all its experiments; here k = {k}: with two sources "
        "k = 2 would leave no route to choose"
    )


def dependency(weight: float) -> str:
    """How Knowledge Flow for games weans the student."""
    return (
        f"the dependency penalty has weight {weight:g} and grows linearly over the run, and the shares of the mixture "
        "learn at the rate of all else: choices made here, for games (images have weight 1 and ten times the rate)"
    )


#: what records of B-Tuning of earlier code took for a choice of ours; its authors' code has it so
_AS_PUBLISHED = "squared distance averaged over classes; no source says how"


def held_out(task: str, share: float, own: int = 0) -> str:
    """That a share of the training images is kept to choose by, or `own` validation images that the data bring."""
    of_what = "each class's training images" if task == "cls" else "the training faces"
    what = f"the dataset's own {own} validation images" if own else f"{share:.0%} of {of_what}"
    return f"{what} {_HELD_OUT}"


def mended(spec: RunSpec, recorded: Sequence[str]) -> list[str]:
    """A run's recorded deviations, with what records of earlier code leave out or say wrongly.

    Those do not say that images were held out, nor how Hub-Pathway's momentum is set, though their settings do;
    distillation of landmarks, which has no temperature, named one; B-Tuning took a mean for a choice of ours;
    Hub-Pathway for games took the paper to be silent on k; and Knowledge Flow for games did not say how it weans.
    """
    if spec.task == "atari" and spec.method == "knowledge_flow":
        said = dependency(float(spec.option("dependency_weight")))
        return [*recorded, *([said] if said not in recorded else [])]
    if spec.task == "atari" and spec.method == "hub_pathway":
        told = [
            re.sub(r", k (or aggregator for control: here )k = 1 of 2 sources, ", r" \1", text) for text in recorded
        ]
        told = [EXPLOIT if text.startswith("exploit applies") else text for text in told]
        more = told != list(recorded) and spec.option("top_k") != 2
        return [*told, top_k(int(spec.option("top_k")))] if more else told
    recorded = [text for text in recorded if not (spec.method == "b_tuning" and text == _AS_PUBLISHED)]
    told = [_HEATMAPS if spec.task == "landmarks" and text == _TEMPERATURE else text for text in recorded]
    settings, trains = spec.settings, spec.task in ("cls", "landmarks") and spec.method != "rank"
    if spec.method.startswith("hub_pathway") and trains and settings.optimiser == "sgd" and OPTIMISER not in told:
        plain = settings.momentum == 0.9 and settings.nesterov and settings.weight_decay == 5e-4
        told = [OPTIMISER, *told] if plain else told
    if trains and spec.method in METHODS and not any(text.endswith(_HELD_OUT) for text in told):
        told = [held_out(spec.task, settings.val_fraction), *told]
    return told
