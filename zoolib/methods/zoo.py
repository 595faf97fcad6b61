"""Zoo-Tuning (ICML 2021): one network whose convolutions are gated sums of the hub members' kernels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoolib.hub import HubModel, check_same_input
from zoolib.layers import surgery
from zoolib.method import Method, Output
from zoolib.recipe import Context, Outcome
from zoolib.spec import ZoolibError
from zoolib.tasks import Task

_ALIGNMENT = (
    "kernels of layer1 and layer2 are not aligned, as in the authors' code; the paper aligns all but 1x1 kernels"
)
_AVERAGE = "the moving average of the gates is corrected for its start at zero; the authors' code uses it as it is"


class ZooTuning(Method):
    """Members of one architecture aggregated kernel by kernel, under a new head (Zoo-Tuning, ICML 2021, section 3).

    Images (B, 3, H, W) in [0, 1] -> Output with the task's prediction and aux["gates"] (B, L, m), the gates of the L
    convolutions that run, `layer_names`, over the m `member_names`; a lite model repeats one row for all samples.

    Args: see zoolib.layers.surgery.aggregate for alignment, lite and gate_momentum; the members are left as they are.

    Raises ZoolibError when the members' architectures or input normalisation differ.
    """

    def __init__(
        self,
        members: Sequence[HubModel],
        task: Task,
        lite: bool = False,
        alignment: str = "authors",
        gate_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        _check_members(members)
        self.lite = lite
        self.features = copy.deepcopy(members[0])
        backbones = [member.backbone for member in members]
        self._size = sum(p.numel() for p in backbones[0].parameters())
        self.features.backbone = surgery.aggregate(backbones, alignment, lite, gate_momentum)
        self.head: nn.Module = task.head(self.features.num_features)
        self.member_names = [member.name for member in members]

    @property
    def layer_names(self) -> list[str]:
        """The convolutions that have run, which are not those behind the pooling where the task needs a map; or all."""
        backbone = self.features.backbone
        return list(surgery.gates(backbone) or surgery.gate_layers(backbone))

    @property
    def recorded(self) -> dict[str, list[str]]:  # type: ignore[override]
        """The gates of every image, by layer."""
        return {"gates": self.layer_names}

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> Output."""
        prediction = self.head(self.features(x))  # (B, C)
        gates = torch.stack(list(surgery.gates(self.features.backbone).values()), 1)  # (B, L, m), detached
        return Output(prediction, {"gates": gates})

    @property
    def averaged(self) -> float:
        """The share of the backbone's weights that no gate chooses from: it is in no convolution, and averaged."""
        gated = sum(layer.weight[0].numel() for layer in surgery.gate_layers(self.features.backbone).values())
        return 1 - gated / self._size

    def inference_parameters(self) -> int:
        """Kernels are kept aligned, so no alignment is; a lite model keeps one mixed kernel a layer and no gate."""
        total = sum(p.numel() for p in self.parameters())
        for layer in surgery.gate_layers(self.features.backbone).values():
            total -= 0 if layer.alignment is None else layer.alignment.numel()
            if self.lite:
                kept = [layer.weight, *([] if layer.bias is None else [layer.bias])]
                total -= sum(p.numel() - p.numel() // len(self.member_names) for p in kept)
                total -= sum(p.numel() for p in layer.gate.parameters())
        return total


def zoo_tuning(ctx: Context) -> Outcome:
    """One gate for each sample and layer. Raises ZoolibError for a hub of several architectures."""
    alignment = ctx.spec.option("alignment")
    made = _build(ctx, alignment=alignment)
    return ctx.fit(made, [*_shares(made), *([_ALIGNMENT] if alignment == "authors" else [])])


def lite_zoo_tuning(ctx: Context) -> Outcome:
    """Gates shared by the batch, and fixed at test time. Raises ZoolibError for a hub of several architectures."""
    options = {name: ctx.spec.option(name) for name in ("alignment", "gate_momentum")}
    made = _build(ctx, lite=True, **options)
    deviations = [_AVERAGE, *_shares(made), *([_ALIGNMENT] if options["alignment"] == "authors" else [])]
    return ctx.fit(made, deviations)


def _shares(made: ZooTuning) -> list[str]:
    """A word about networks that hardly have convolutions, such as transformers."""
    few = f"{made.averaged:.0%} of the backbone's weights are in no convolution and are averaged over the members"
    return [f"{few}: gates choose among kernels alone"] if made.averaged > 0.5 else []


def _build(ctx: Context, **options: Any) -> ZooTuning:
    """The method on all members. Raises ZoolibError for a hub of several architectures."""
    if not ctx.hub.manifest.homogeneous:
        raise ZoolibError(
            f"hub {ctx.hub.manifest.name!r} mixes architectures, and Zoo-Tuning sums kernels position by position; "
            "use hub_pathway or ensemble, or a hub of one architecture"
        )
    return ZooTuning(ctx.hub.models(), ctx.task, **options)


def _check_members(members: Sequence[HubModel]) -> None:
    """Raises ZoolibError when the members' input normalisation or architectures differ."""
    if not members:
        raise ZoolibError("no members to aggregate; name a hub with at least one")
    check_same_input(members)
    backbones = [member.backbone for member in members]
    surgery.check_same_architecture(backbones, [repr(member.name) for member in members])
