"""Model soups (ICML 2022): one network whose weights are the mean of several fine-tuned ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from zoolib.checkpoints import StateDict
from zoolib.files import atomic
from zoolib.hub import HubModel, check_same_input
from zoolib.method import Method, Output
from zoolib.recipe import Context, Outcome, load_weights, save_weights, score
from zoolib.runtime import code_fingerprint, seed_everything
from zoolib.spec import unknown
from zoolib.train import evaluate

SOUPS = ("greedy", "uniform")
# Learning rates of the ingredients over the profile's, in this order and then again with the next data order.
RATES = (1.0, 0.5, 2.0, 0.25)


def uniform_soup(ingredients: Sequence[StateDict]) -> StateDict:
    """The mean of every floating-point tensor, running statistics included; others are the first ingredient's."""
    first = ingredients[0]
    return {
        name: torch.stack([state[name] for state in ingredients]).mean(0) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


def greedy_soup(ingredients: Sequence[StateDict], accuracy: Callable[[StateDict], float]) -> list[int]:
    """Indices of the greedy soup: from the best ingredient on, each next one stays if the mean is no worse with it.

    `accuracy` scores weights on validation images, so that the soup is there never worse than its best ingredient.
    """
    alone = [accuracy(state) for state in ingredients]
    order = sorted(range(len(ingredients)), key=lambda index: -alone[index])
    kept, best = [order[0]], alone[order[0]]
    for index in order[1:]:
        mixed = accuracy(uniform_soup([ingredients[i] for i in [*kept, index]]))
        if mixed >= best:
            kept, best = [*kept, index], mixed
    return kept


class Pot(Method):
    """A backbone under a head, whose weights are set from outside."""

    def __init__(self, backbone: HubModel, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C)."""
        return Output(self.head(self.backbone(x)))


def model_soups(ctx: Context) -> Outcome:
    """Fine-tunings of one pretrained member at several learning rates, and the soup that the option `soup` names."""
    soup = str(ctx.spec.option("soup"))
    if soup not in SOUPS:
        raise unknown("soup", soup, SOUPS)
    check_same_input(ctx.hub.models())
    best = ctx.hub.model(ctx.ranking()[0])
    pot = Pot(best, ctx.task.head(best.num_features))
    ingredients, cost, curves = _ingredients(ctx, pot)
    hub = [run.weights() for run in ctx.needed.values()]
    outcomes = {name: _scored(ctx, pot, ingredients, name) for name in SOUPS}
    of_members = {name: _scored(ctx, pot, hub, name) for name in SOUPS}
    outcome = outcomes[soup]
    for split in ("val", "test"):
        for kind, scored in (("", outcomes), ("members_", of_members)):
            values = {f"top1_accuracy_{kind}{name}": scored[name].metrics[split]["top1_accuracy"] for name in SOUPS}
            outcome.metrics[split] |= values
    outcome.metrics["cost"], outcome.curves = cost, curves
    outcome.deviations = ctx.deviations(
        f"the ingredients are {len(ingredients)} fine-tunings, at other learning rates, of the member that validates "
        "best; the paper says neither what it mixed nor how many"
    )
    return outcome


def _ingredients(ctx: Context, pot: Pot) -> tuple[list[StateDict], dict[str, float], pd.DataFrame | None]:
    """As many fine-tunings as the hub has members, all from one start; those that a stopped run finished are found.

    Their costs are summed; the curves are the first one's.
    """
    start, origin = _copy(pot), f"{code_fingerprint()} {ctx.data.sha256}"  # neither other code's nor other data's
    states, notes = list[StateDict](), list[dict[str, Any]]()
    for index in range(len(ctx.hub.names)):
        name, settings, seed = f"ingredient{index}", ctx.spec.settings, ctx.spec.seed + 1000 * (index // len(RATES))
        state, note = load_weights(ctx.work, origin, name), _note(ctx.work / f"{name}.json", origin)
        if state is None or note is None:
            pot.load_state_dict(start)
            seed_everything(seed)
            settings = replace(settings, lr=settings.lr * RATES[index % len(RATES)])
            outcome = ctx.fit(pot, settings=settings, seed=seed, checkpoint=name)
            state, kept = _copy(pot), None if outcome.curves is None else outcome.curves.to_dict("list")
            note = {"origin": origin, "cost": outcome.metrics["cost"], "curves": kept}
            with atomic(ctx.work / f"{name}.json") as file:
                file.write(json.dumps(note).encode())
            save_weights(ctx.work, state, origin, name)
        states.append(state)
        notes.append(note)
    seconds = sum(note["cost"]["seconds"] for note in notes)
    curves = None if notes[0]["curves"] is None else pd.DataFrame(notes[0]["curves"])
    needed = sum(run.cost["seconds"] for run in ctx.needed.values())
    return states, notes[-1]["cost"] | {"seconds": seconds, "needed_seconds": needed}, curves


def _note(path: Path, origin: str) -> dict[str, Any] | None:
    """What an ingredient cost and its curves; None where that is unreadable or of other code or data."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found if found["origin"] == origin else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _copy(module: nn.Module) -> StateDict:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _scored(ctx: Context, pot: Pot, ingredients: Sequence[StateDict], soup: str) -> Outcome:
    """The soup of that name on val and test."""

    def accuracy(state: StateDict) -> float:
        pot.load_state_dict(state)
        prediction, target, _ = evaluate(pot, ctx.data, "val", ctx.spec.settings, ctx.machine)
        return ctx.task.metrics(prediction, target)[ctx.task.metric]

    kept = greedy_soup(ingredients, accuracy) if soup == "greedy" else range(len(ingredients))
    pot.load_state_dict(uniform_soup([ingredients[index] for index in kept]))
    outcome = score(pot, ctx.data, ctx.task, ctx.spec.settings, ctx.machine)
    outcome.metrics["val"]["ingredients"] = float(len(kept))
    return outcome
