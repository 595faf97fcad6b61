"""Recipes that fine-tune one member with a regulariser, and what each takes from the data before it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoolib import features, regularizers
from zoolib.data import augment, loaders
from zoolib.hub import HubModel, split
from zoolib.methods.guided import evaluating, last_convolutions
from zoolib.methods.penalties import BSS, Anchored, BiTuning, CoTuning, Delta, LwF
from zoolib.recipe import Context, Outcome
from zoolib.spec import ZoolibError
from zoolib.transferability import logme

Classifier = Callable[[Tensor], Tensor]
_PROTOCOL = (
    "trained as every method of this book; the library that these settings come from trains 20 epochs of 500 steps"
)


def _options(ctx: Context, *names: str) -> dict[str, Any]:
    return {name: ctx.spec.option(name) for name in names}


def _with_source_head(ctx: Context) -> tuple[HubModel, nn.Linear]:
    """The member and its source head. Raises ZoolibError for a member without one."""
    member = ctx.hub.manifest.member(ctx.spec.member)
    model, head = split(member)
    if head is None:
        raise ZoolibError(
            f"{ctx.spec.method} needs the classifier of the pre-training, and {member.name!r} has none; "
            "use l2_sp, delta, bss or bi_tuning, or a hub of classifiers such as imagenet-lite"
        )
    return model, head


def l2_sp(ctx: Context) -> Outcome:
    """Half the squared distance of the backbone from its start, half the squared norm of the head, no weight decay."""
    weights = _options(ctx, "backbone_weight", "head_weight")
    return ctx.fit(Anchored(ctx.hub.model(ctx.spec.member), ctx.task, **weights), [_PROTOCOL])


def ewc(ctx: Context) -> Outcome:
    """The same with the diagonal Fisher information of the source head, estimated on target training images."""
    model, head = _with_source_head(ctx)
    fisher = fisher_information(ctx, model, head, int(ctx.spec.option("fisher_images")))
    weight = float(ctx.spec.option("backbone_weight"))
    notes = [
        "Fisher information of the source head's own predictions on target images, for the source images are not at "
        "hand; scaled to mean 1 and cut at 1,000",
        "EWC has no settings in the library that the others' come from: its weight is L2-SP's",
    ]
    return ctx.fit(Anchored(model, ctx.task, weight, weight, fisher), [_PROTOCOL, *notes])


def fisher_information(ctx: Context, model: HubModel, head: nn.Module, images: int) -> list[Tensor]:
    """Mean squared gradient of log p(y | x), y drawn from the source head, for every parameter of the backbone."""
    generator = torch.Generator().manual_seed(ctx.spec.seed)
    rows = ctx.data.rows["train"]
    chosen = rows[torch.randperm(len(rows), generator=generator)[:images].numpy()]
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    with evaluating(model):
        for x, _ in _centres(ctx, chosen, batch=1):
            logits = head(model(x))
            label = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
            gradients = torch.autograd.grad(F.cross_entropy(logits, label), parameters)
            for entry, gradient in zip(total, gradients, strict=True):
                entry += gradient.square()
    mean = sum(entry.sum() for entry in total) / sum(entry.numel() for entry in total)
    return [(entry / mean).clamp(max=1000.0) for entry in total]


def _centres(ctx: Context, rows: Any, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Central crops (B, 3, S, S) and labels of some training images, on the CPU."""
    for start in range(0, len(rows), batch):
        images, labels = ctx.data.train.take(rows[start : start + batch])
        yield augment.to_float(augment.centre_crop(images, ctx.spec.settings.image_size)), labels


def delta(ctx: Context) -> Outcome:
    """Attention-weighted distance of feature maps from the pretrained ones, half the head's squared norm."""
    model = ctx.hub.model(ctx.spec.member)
    rows = loaders.balanced(ctx.data.train.labels, ctx.data.rows["train"], 1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(ctx.spec.seed))
    chosen = rows[order[: int(ctx.spec.option("attention_images"))].numpy()]
    x, labels = next(_centres(ctx, chosen, batch=len(chosen)))
    layers = last_convolutions(model, x[:1])
    weights = filter_attention(model, layers, x, labels, _probe(ctx))
    options = _options(ctx, "backbone_weight", "head_weight")
    note = f"attention from {len(x)} training images and a linear probe on the pretrained features"
    return ctx.fit(Delta(model, ctx.task, layers, weights, **options), [_PROTOCOL, note])


def _probe(ctx: Context) -> Classifier:
    """A head for the pretrained features: the posterior means of LogME's linear models."""
    member = ctx.hub.manifest.member(ctx.spec.member)
    found = features.extract(member, ctx.data, ctx.spec.settings, ctx.machine, splits=("train",))
    weights = torch.from_numpy(logme(found.splits["train"], found.labels["train"]).weights).float()  # (D, C)
    return lambda x: 10 * x @ weights  # predictions of 0 and 1, sharpened to be logits


@torch.no_grad()
def filter_attention(
    model: HubModel, layers: list[str], x: Tensor, labels: Tensor, classify: Classifier
) -> list[Tensor]:
    """DELTA's weights (C,) of every layer: how much the loss rises when each filter's map is set to zero."""
    with evaluating(model):
        return [regularizers.attention(loss_rises(model, name, x, labels, classify)) for name in layers]


@torch.no_grad()
def loss_rises(
    model: HubModel, name: str, x: Tensor, labels: Tensor, classify: Classifier, together: int = 256
) -> Tensor:
    """The rise of the mean cross-entropy without each filter of one layer (C,), several filters to a pass."""
    layer, count = model.get_submodule(name), len(x)
    off = torch.zeros(0, dtype=torch.long)

    def silence(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        output.unflatten(0, (len(off), count))[torch.arange(len(off)), :, off] = 0
        return output

    base, rises = F.cross_entropy(classify(model(x)), labels), []
    handle = layer.register_forward_hook(silence)
    for off in torch.arange(int(layer.get_parameter("weight").shape[0])).split(max(1, together // count)):
        logits = classify(model(x.repeat(len(off), 1, 1, 1)))
        each = F.cross_entropy(logits, labels.repeat(len(off)), reduction="none")
        rises.append(each.unflatten(0, (len(off), count)).mean(1) - base)
    handle.remove()
    return torch.cat(rises)


def lwf(ctx: Context) -> Outcome:
    """Distillation of the pretrained network's source logits on the target images."""
    model, head = _with_source_head(ctx)
    return ctx.fit(LwF(model, head, ctx.task, **_options(ctx, "trade_off", "temperature")), [_PROTOCOL])


def co_tuning(ctx: Context) -> Outcome:
    """The source head learns each target class's mean source softmax."""
    model, head = _with_source_head(ctx)
    member = ctx.hub.manifest.member(ctx.spec.member)
    found = features.extract(member, ctx.data, ctx.spec.settings, ctx.machine, splits=("train",))
    source = torch.from_numpy(found.source_probabilities("train"))
    relation = regularizers.category_relation(
        source, torch.from_numpy(found.labels["train"]), ctx.data.manifest.num_classes
    )
    note = "p(source | target) is the mean source softmax of a class, without calibration"
    return ctx.fit(CoTuning(model, head, ctx.task, relation, **_options(ctx, "trade_off")), [_PROTOCOL, note])


def bss(ctx: Context) -> Outcome:
    """The squares of the smallest singular values of each batch of features."""
    model = ctx.hub.model(ctx.spec.member)
    return ctx.fit(BSS(model, ctx.task, **_options(ctx, "trade_off", "smallest")), [_PROTOCOL])


def bi_tuning(ctx: Context) -> Outcome:
    """Contrastive losses of classifier and projection."""
    names = ("trade_off", "queue", "momentum", "temperature", "projection")
    method = BiTuning(ctx.hub.model(ctx.spec.member), ctx.task, ctx.data.manifest.num_classes, **_options(ctx, *names))
    note = "query and key are the same view of an image, which the slow copy alone tells apart; it runs in eval mode"
    return ctx.fit(method, [_PROTOCOL, note])
