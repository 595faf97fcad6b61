"""Knowledge Flow (ICLR 2019): a student that leans on its teachers' layers, and learns to stand alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoolib import losses
from zoolib.hub import HubModel
from zoolib.layers.lateral import Lateral, capture, replaced, stages
from zoolib.method import Method, Output
from zoolib.recipe import Context, Outcome
from zoolib.spec import ZoolibError
from zoolib.tasks import Task


class KnowledgeFlow(Method):
    """A student whose stages are mixed with those of frozen teachers while it trains, and which is alone at test time.

    `image_size` is the side of the images to come: one is passed through to learn how wide the stages are. Raises
    ZoolibError for a network whose stages give no maps (B, C, h, w), such as a transformer.
    """

    def __init__(
        self,
        student: HubModel,
        teachers: Sequence[HubModel],
        task: Task,
        image_size: int,
        dependency_weight: float = 1.0,
        score_rate: float = 10.0,
    ) -> None:
        super().__init__()
        self.student = student
        self.head: nn.Module = task.head(student.num_features)
        self.teachers = nn.ModuleList(teachers).requires_grad_(False)
        self.names = stages(student.backbone)
        self.dependency_weight, self.score_rate = dependency_weight, score_rate
        self.lateral = Lateral(self._widths(image_size), len(teachers))

    def _widths(self, image_size: int) -> list[int]:
        was, image = self.student.training, torch.zeros(1, 3, image_size, image_size)
        with torch.no_grad():
            maps = capture(self.student.eval(), self.names, image, self._body())
        self.student.train(was)
        for features in maps:  # of a square image; (B, h, w, C) and (B, tokens, C) are other networks'
            if features.dim() != 4 or features.shape[2] != features.shape[3]:
                raise ZoolibError(
                    f"Knowledge Flow mixes maps (B, C, h, w), and a stage here gives {tuple(features.shape)}; "
                    "use distill or hub_pathway with such a hub"
                )
        return [features.shape[1] for features in maps]

    def _body(self) -> nn.Module:
        return self.student.backbone

    def train(self, mode: bool = True) -> KnowledgeFlow:
        """As nn.Module.train; the teachers stay in evaluation."""
        super().train(mode)
        self.teachers.eval()
        return self

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C); the teachers take part in training only."""
        if not self.training:
            return Output(self.head(self.student(x)))
        with torch.no_grad():
            maps = [capture(t, self.names, x, t.backbone) for t in self.teachers]  # type: ignore[arg-type]

        def mix(index: int, own: Tensor) -> Tensor:
            mixed: Tensor = self.lateral(index, own, [of_teacher[index] for of_teacher in maps])
            return mixed

        return Output(self.head(replaced(self.student, self.names, x, mix, self._body())))

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> dict[str, Tensor]:
        """The task loss, and a dependency loss whose weight grows linearly over training."""
        weight = self.dependency_weight * progress
        return {
            "task": task.loss(output.prediction, target),
            "dependency": weight * losses.dependency(self.lateral.scores),
        }

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """The mixing scores at `score_rate` times the rate and without decay, the rest as usual."""
        scores = self.lateral.scores
        rest = [p for p in self.parameters() if p.requires_grad and p is not scores]
        return [{"params": rest, "lr": lr}, {"params": [scores], "lr": self.score_rate * lr, "weight_decay": 0.0}]

    def inference_parameters(self) -> int:
        """The student and its head alone."""
        return sum(p.numel() for module in (self.student, self.head) for p in module.parameters())


def knowledge_flow(ctx: Context) -> Outcome:
    """The first member as student, all members as teachers. Raises ZoolibError for a hub of several architectures."""
    if not ctx.hub.manifest.homogeneous:
        raise ZoolibError(
            f"hub {ctx.hub.manifest.name!r} mixes architectures, and Knowledge Flow joins stage to stage; "
            "use hub_pathway or distill, or a hub of one architecture"
        )
    names, weight = ctx.hub.names, ctx.spec.option("dependency_weight")
    size = ctx.spec.settings.image_size
    method = KnowledgeFlow(ctx.hub.model(names[0]), ctx.hub.models(), ctx.task, size, weight)
    deviations = [
        "each stage of the student meets the same stage of every teacher, where the paper lets it choose among several",
        "the regulariser that keeps the student's output from jumping as the teachers fade is left out",
        "the student is evaluated without its teachers at any time, also while they still have weight",
    ]
    outcome = ctx.fit(method, deviations)
    own = method.lateral.weights()[:, 0].detach().cpu()
    outcome.metrics["cost"]["student_weight"] = float(own.mean())  # 1 when independent
    return outcome
