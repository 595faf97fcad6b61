"""Count the multiply-adds of committed records again, after a change of how they are counted. Nothing is trained.

    python tools/recount.py            # which records differ
    python tools/recount.py --write    # and correct them; what stood there before stays in their provenance

Records of landmarks need the dataset at hand (ZOOLIB_DATA); those of absent data are named and left alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from zoolib import costs, experiment, runtime
from zoolib.data import loaders, manifests
from zoolib.hub import Hub
from zoolib.method import Method
from zoolib.methods import method
from zoolib.paths import build_dir, results_dir
from zoolib.recipe import Outcome, cost_of
from zoolib.results import Result, ResultStore
from zoolib.spec import RunSpec, ZoolibError
from zoolib.storage import to_json
from zoolib.tasks import Classification, TargetTask
from zoolib.train import Machine

# The others' operations are a network's own, or sums of them.
METHODS = ("zoo_tuning", "lite_zoo_tuning", "hub_pathway")
COUNTED = ("gmacs", "gmacs_norm", "train_gmacs", "step_gmacs")


class Counting(costs.Measurement):
    """The context of a recipe whose method is counted where it would be trained."""

    def fit(self, method: Method, *args: Any, **kwargs: Any) -> Outcome:
        """Count the method as it is."""
        self.place(method)
        if self.spec.task != "cost":
            return Outcome({"cost": cost_of(method, self.spec.settings.image_size, self.machine)}, {})
        return Outcome({"cost": costs._operations(method, costs._batch(self)[0])}, {})


def task_of(spec: RunSpec) -> TargetTask:
    """What a run predicts; the number of classes is enough, but for landmarks, whose mean face is the data's."""
    manifest = manifests.dataset(spec.dataset)
    if spec.task != "landmarks":
        return Classification(manifest.num_classes)
    return experiment.task_of(loaders.load(manifest, spec.settings), spec.settings)


def count(spec: RunSpec) -> dict[str, float]:
    """The multiply-adds of a run's method as they are counted now."""
    task, nothing = task_of(spec), None
    hub, folder = Hub(spec.hub, spatial=task.spatial), build_dir() / "work" / spec.run_id
    machine = Machine(torch.device("cpu"), "float32")
    classes = manifests.dataset(spec.dataset).num_classes
    context = Counting(spec, nothing, hub, task, machine, folder, None, {}, classes)  # type: ignore[arg-type]
    found: dict[str, float] = method(spec.method).load()(context).metrics["cost"]
    return {name: value for name, value in found.items() if name in COUNTED}


def corrected(result: Result, counted: dict[str, float]) -> dict[str, float]:
    """What a record says otherwise."""
    cost = result.metrics.get("cost", {})
    return {
        name: value
        for name, value in counted.items()
        if (before := cost.get(name)) is not None and abs(value - before) > 1e-6 * max(abs(value), abs(before))
    }


def rewrite(path: Path, changes: dict[str, float]) -> None:
    """Put the counts into a record, and what they replace into its provenance."""
    record = json.loads(path.read_text())
    before = {name: record["metrics"]["cost"][name] for name in changes}
    record["metrics"]["cost"] |= changes
    record["provenance"]["recounted"] = {"commit": runtime.commit()[0], "before": before}
    path.write_bytes(to_json(record))


def main() -> None:
    """Compare, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    known: dict[str, dict[str, float]] = {}
    for result in ResultStore(results_dir()).records():
        spec = result.spec
        if spec.task not in ("cls", "landmarks", "cost") or not spec.method.startswith(METHODS):
            continue
        same = [spec.task, spec.hub, spec.method, spec.options, spec.settings.image_size, spec.settings.batch_size]
        key = json.dumps([*same, spec.dataset], default=str)
        try:
            known[key] = known[key] if key in known else count(spec)
        except ZoolibError as error:
            print(f"{spec.label}: left alone ({error})")
            continue
        if changes := corrected(result, known[key]):
            print(spec.label, {name: (result.metrics["cost"][name], value) for name, value in changes.items()})
            if args.write and result.path:
                rewrite(result.path, changes)


if __name__ == "__main__":
    main()
