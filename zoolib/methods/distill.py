"""Knowledge distillation of the independently fine-tuned members into one network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoolib.hub import HubModel
from zoolib.method import Method, Output
from zoolib.recipe import Context, Outcome
from zoolib.tasks import LandmarkDetection, TargetTask, Task

Pair = tuple[HubModel, nn.Module]  # a backbone and its head


class Distill(Method):
    """A student that learns from labels and from the members' mean softened probability (Hinton et al. 2015)."""

    def __init__(
        self,
        student: HubModel,
        teachers: Sequence[Pair],
        task: TargetTask,
        temperature: float = 4.0,
        soft_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.student = student
        self.head: nn.Module = task.head(student.num_features)
        self.teachers = nn.ModuleList(nn.Sequential(*teacher) for teacher in teachers).requires_grad_(False)
        self.task = task
        self.temperature = temperature  # T
        self.soft_weight = soft_weight  # alpha

    def train(self, mode: bool = True) -> Distill:
        """As nn.Module.train; the teachers stay in evaluation."""
        super().train(mode)
        self.teachers.eval()
        return self

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C); aux in training: teacher (B, C), softened probabilities."""
        logits = self.head(self.student(x))
        return Output(logits, {"teacher": self.soft_targets(x)} if self.training else {})

    @torch.no_grad()
    def soft_targets(self, x: Tensor) -> Tensor:
        """What the teachers say together: their mean softened probability (B, C), or their mean heatmaps."""
        return self.task.soft_target([teacher(x) for teacher in self.teachers], self.temperature)

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> dict[str, Tensor]:
        """(1 - alpha) times the task's loss, and alpha times the distance to the teachers (T^2 KL of class logits)."""
        soft = self.task.distillation(output.prediction, output.aux["teacher"], self.temperature)
        return {
            "task": (1 - self.soft_weight) * task.loss(output.prediction, target),
            "distill": self.soft_weight * soft,
        }

    def inference_parameters(self) -> int:
        """The student and its head alone."""
        return sum(p.numel() for module in (self.student, self.head) for p in module.parameters())


def distill(ctx: Context) -> Outcome:
    """The independent ensemble distilled into the member that validates best, from its pretrained weights."""
    student = ctx.hub.model(ctx.ranking()[0])
    teachers = [ctx.finetuned(name) for name in ctx.hub.names]
    method = Distill(student, teachers, ctx.task, ctx.spec.option("temperature"), ctx.spec.option("soft_weight"))
    deviations = [
        "the student starts from the pretrained member whose fine-tuning validates best; the papers do not name theirs",
        _losses(method),
    ]
    return ctx.fit(method, deviations)


def _losses(method: Distill) -> str:
    """How the student's two losses are set, as far as its task has such settings."""
    weights = "equal weights of both losses" if method.soft_weight == 0.5 else f"soft weight {method.soft_weight:g}"
    if isinstance(method.task, LandmarkDetection):
        return f"squared error to the teachers' mean heatmaps, {weights}; the papers state neither"
    return f"temperature {method.temperature:g} and {weights}; the papers state neither"
