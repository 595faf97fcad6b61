"""The composition root: from a specification to a record. Torch is imported only when something must be computed."""

from __future__ import annotations

import datetime
import errno
import functools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoolib import games, runtime
from zoolib.data import manifests
from zoolib.files import atomic
from zoolib.grid import TASKS, grid, needed
from zoolib.methods import method
from zoolib.paths import build_dir
from zoolib.plans import ancestry, rate_study, routing, targets
from zoolib.results import Result, ResultStore
from zoolib.spec import RunSpec, Settings, ZoolibError

if TYPE_CHECKING:
    import torch

    from zoolib.data.loaders import Dataset
    from zoolib.recipe import Finished, Outcome
    from zoolib.tasks import TargetTask

__all__ = ["ancestry", "complete", "grid", "missing", "rank", "rate_study", "routing", "run", "targets", "work_dir"]

Report = Callable[[RunSpec, int, int, str], None]  # spec, iteration, iterations, a word


def work_dir(spec: RunSpec) -> Path:
    """The folder of a run's checkpoint and logits."""
    return build_dir() / "work" / spec.run_id


@contextmanager
def _enough_room() -> Iterator[None]:
    """A full disk in one line: checkpoints, frames and logits are written on the way."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save raises an error of its own
        if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ZoolibError(
            f"disk full: free some space for {build_dir()} and start again; a run goes on from its checkpoint"
        ) from None


@_enough_room()
def run(spec: RunSpec, store: ResultStore, report: Report | None = None) -> Result:
    """Compute one specification, save its record and return it; the runs it needs are computed first where they lack.

    Raises ZoolibError for absent data or weights, a method that does not fit the hub, a loss that is not finite, a
    full disk.
    """
    if spec.task == games.TASK:
        return _run_game(spec, store, report)
    from zoolib.data import loaders
    from zoolib.hub import Hub
    from zoolib.recipe import Context, logits_sha256, save_logits
    from zoolib.train import Machine

    manifest = manifests.dataset(spec.dataset)
    if spec.task == "cost":
        return _measure(spec, store, manifest.num_classes, report)
    data = loaders.load(manifest, spec.settings)
    device = runtime.device()
    runtime.keep_freed_memory()
    machine = Machine(device, runtime.precision(spec.settings.precision, device))
    code, commit = runtime.code_fingerprint(), runtime.commit()
    of_hub = _held_to_hub(spec)
    # Before the seed is set: whether they are found or computed must not change this run's random numbers.
    others = needed(spec)
    before = {other.member: _finished(other, store, report, data.sha256, spec) for other in others}
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    progress = None if report is None else lambda done, total, word: report(spec, done, total, word)
    task = task_of(data, spec.settings)
    runtime.forget_peak_memory(device)
    runtime.seed_everything(spec.seed)
    hub = Hub(spec.hub, spatial=task.spatial)
    context = Context(spec, data, hub, task, machine, work_dir(spec), progress, before)
    outcome: Outcome = method(spec.method).load()(context)
    save_logits(work_dir(spec), outcome.logits, context.origin)
    provenance = _provenance(machine.precision, started, time.perf_counter() - clock, code, commit, device)
    provenance |= _with_past(provenance, context.pasts) | of_hub
    if outcome.logits:
        provenance["logits_sha256"] = logits_sha256(outcome.logits)
    if others:
        provenance["built_on"] = {other.run_id: logits_sha256(before[other.member].logits) for other in others}
    provenance |= {"data_variant": data.variant, "data_sha256": data.sha256}
    return store.save(
        Result(
            spec,
            outcome.metrics,
            provenance,
            outcome.deviations,
            outcome.curves,
            outcome.samples,
            outputs=outcome.outputs,
        )
    )


def _measure(spec: RunSpec, store: ResultStore, num_classes: int, report: Report | None) -> Result:
    """What a method costs: counted, and measured on random images."""
    from zoolib.costs import measure
    from zoolib.train import Machine

    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    device = runtime.device()
    runtime.keep_freed_memory()
    machine = Machine(device, runtime.precision(spec.settings.precision, device))
    of_hub = _held_to_hub(spec)
    runtime.forget_peak_memory(device)
    runtime.seed_everything(spec.seed)
    metrics = measure(spec, num_classes, machine)
    code, seconds = runtime.code_fingerprint(), time.perf_counter() - clock
    provenance = _provenance(machine.precision, started, seconds, code, runtime.commit(), device) | of_hub
    if report:
        report(spec, spec.settings.iterations, spec.settings.iterations, "measured")
    return store.save(Result(spec, {"cost": metrics}, provenance))


def _run_game(spec: RunSpec, store: ResultStore, report: Report | None) -> Result:
    from zoolib.rl import envs, runs
    from zoolib.rl.loop import Checkpoint

    started = datetime.datetime.now(datetime.UTC)
    runtime.keep_freed_memory()
    runtime.forget_peak_memory(runtime.device())
    data, code, commit = envs.data_sha256(spec), runtime.code_fingerprint(games.TASK), runtime.commit()
    progress = None if report is None else lambda done, total, word: report(spec, done, total, word)
    work = work_dir(spec)
    with runs.alone(spec, work):
        outcome = runs.run(spec, work, progress)
        cost = outcome.metrics["cost"]  # counts the processes before a resumed one as well
        seconds = cost.get("seconds", 0.0) + cost["eval_seconds"]
        provenance = _provenance("float32", started, seconds, code, commit, outcome.device)
        provenance |= {"data_sha256": data, "compiled": outcome.compiled}
        provenance |= _with_past(provenance, [outcome.past])
        made = Result(spec, outcome.metrics, provenance, outcome.deviations, outcome.curves, outcome.samples)
        saved = store.save(made)
        Checkpoint(work).remove()  # not before: without a record it is all that there is of the run
    return saved


def task_of(data: Dataset, settings: Settings) -> TargetTask:
    """The task of a dataset at hand."""
    import numpy as np
    import torch

    from zoolib.data.landmarks import FaceImages
    from zoolib.tasks import Classification, LandmarkDetection

    if not isinstance(data.train, FaceImages):
        return Classification(data.manifest.num_classes)
    mean = np.nanmean(data.train.faces.points[data.rows["train"]], axis=0)
    face, points = torch.from_numpy(mean), data.train.landmarks
    return LandmarkDetection(points, settings.heatmap_size, settings.head_channels, face)


def _finished(
    spec: RunSpec, store: ResultStore, report: Report | None, data_sha256: str, wanted_by: RunSpec
) -> Finished:
    """A run that another one needs; computed unless its record, logits and, where wanted, weights are at hand."""
    from zoolib.recipe import Finished, has_weights, load_logits, origin_of

    code, work = runtime.code_fingerprint(), work_dir(spec)
    origin = origin_of(data_sha256, manifests.hub_sha256(spec.hub))
    whole = has_weights(work, origin) or not method(wanted_by.method).weights
    valid = whole and store.has(spec, code, data_sha256, manifests.hub_sha256(spec.hub))
    logits = load_logits(work, origin) if valid else None
    result = store.load(spec) if logits is not None else run(spec, store, report)
    logits = logits if logits is not None else load_logits(work, origin)
    assert logits is not None  # run() has just written them
    cost = {name: value for name, value in result.metrics["cost"].items() if value is not None}
    return Finished(logits, cost, work, origin)


def _provenance(
    precision: str,
    started: datetime.datetime,
    seconds: float,
    code: str,
    commit: tuple[str, bool],
    device: torch.device,
) -> dict[str, Any]:
    """What a record says of its making; code and commit are those that the run began with."""
    return {
        "commit": commit[0],
        "dirty": commit[1],
        "code": code,
        **runtime.conditions(device, precision),
        "started": started.isoformat(timespec="seconds"),
        "seconds": seconds,
    }


def _with_past(provenance: dict[str, Any], pasts: Sequence[runtime.Past]) -> dict[str, Any]:
    """Start and seconds of a run in all its processes, and where its steps were computed."""
    started = min([provenance["started"], *(past.started for past in pasts if past.started)])
    seconds = provenance["seconds"] + sum(past.seconds for past in pasts)
    return {"started": started, "seconds": seconds, **runtime.computed_under(pasts)}


def missing(specs: Iterable[RunSpec], store: ResultStore, kept: str = "") -> list[RunSpec]:
    """The runs without a valid record: none at all, or one computed here with other code, data or hub.

    With `kept`, also those whose work folder lacks the file of that name.
    """
    codes = {True: runtime.code_fingerprint(games.TASK), False: runtime.code_fingerprint()}
    checksums: dict[tuple[str, str, bool], Any] = {}
    hubs: dict[str, str | None] = {}
    lacking = []
    for spec in specs:
        key = (spec.task, spec.dataset, spec.method in ("random", "scratch"))
        checksums[key] = checksums[key] if key in checksums else _data_sha256(spec)
        hubs[spec.hub] = hubs[spec.hub] if spec.hub in hubs else manifests.hub_sha256(spec.hub)
        valid = store.has(spec, codes[spec.task == games.TASK], checksums[key], hubs[spec.hub])
        if not valid or (kept and not (work_dir(spec) / kept).is_file()):
            lacking.append(spec)
    return lacking


def _held_to_hub(spec: RunSpec) -> dict[str, str]:
    """What the provenance of a run says of its hub.

    What a run of another hub by that name left behind, such as a checkpoint, goes. Raises ZoolibError where a member of
    your own hub does not give the features that its YAML says.
    """
    digest = manifests.hub_sha256(spec.hub)
    if digest is None:
        return {}
    note = work_dir(spec) / "hub.sha256"
    if note.parent.is_dir() and (not note.is_file() or note.read_text() != digest):
        shutil.rmtree(note.parent)
    if not manifests.of_project(spec.hub):
        _check_features(spec.hub, digest)
    with atomic(note) as file:
        file.write(digest.encode())
    return {"hub_sha256": digest}


@functools.cache
def _check_features(hub: str, digest: str) -> None:
    """Build and try every member, once a process and state of the hub: `digest` is there for the cache."""
    from zoolib.hub import build, check_features

    for member in manifests.hub(hub).members:
        check_features(build(member), member)


def _data_sha256(spec: RunSpec) -> Any:
    """The checksum of what a run reads; None where a game's files are not at hand to be compared."""
    if spec.task == "cost":  # measured on random images
        return None
    if spec.task != games.TASK:
        return manifests.data_sha256(manifests.dataset(spec.dataset))
    from zoolib.rl import envs

    try:
        return envs.data_sha256(spec)
    except (ZoolibError, OSError):
        return None


def require(specs: Iterable[RunSpec]) -> None:
    """Raises ZoolibError for what is absent, images, weights, ROMs or source policies, before anything is computed."""
    specs = list(specs)
    played = [spec for spec in specs if spec.task == games.TASK]
    for spec in {(spec.dataset, spec.method in ("scratch", "random")): spec for spec in played}.values():
        _of_game(spec)
    asked = [spec for spec in specs if spec.task in TASKS]
    for name in dict.fromkeys(spec.dataset for spec in asked):
        if manifests.dataset(name).source == "canonical":
            manifests.find(manifests.dataset(name))
    taken = [(spec.hub, spec.member) for spec in asked if spec.method != "scratch"]
    if not taken:
        return
    from zoolib.checkpoints import weights_file  # loads torch, which absent images are told without

    for hub, only in dict.fromkeys(taken):
        for member in manifests.hub(hub).members:
            if only in ("", member.name) and member.weights != "random":
                weights_file(member)


def _of_game(spec: RunSpec) -> None:
    """Raises ZoolibError where a game's ROM or, but for scratch and random play, a source policy cannot be used."""
    from zoolib.rl import envs, runs

    envs.data_sha256(spec)
    if spec.method not in ("scratch", "random"):
        for name in games.SOURCES:
            runs.load_source(runs.source_file(name))


def complete(specs: Iterable[RunSpec], store: ResultStore, progress: bool = True, kept: str = "") -> list[Result]:
    """The records of all specifications; only those that are `missing` are computed, one after another.

    Raises ZoolibError as `require` and `run` do.
    """
    specs = list(specs)
    todo = missing(specs, store, kept)
    if todo:
        require(todo)
        with _bar(len(todo), progress) as report:
            for spec in todo:
                if missing([spec], store, kept):  # another run may have needed it and made it
                    run(spec, store, report)
    return [store.load(spec) for spec in specs]


def rank(
    hub: str, dataset: str, profile_name: str = "mini", store: ResultStore | None = None, progress: bool = True
) -> list[Result]:
    """The transferability scores of every member of a hub on a dataset, computed where they have no record.

    Features are extracted once for each model, in batches, and cached by model and data. `zoolib.rankings.table` of the
    records' frame ranks them. Raises ZoolibError for unknown names and for absent data or weights.
    """
    return complete(grid("cls", dataset, hub, ["rank"], profile_name, 1), store or ResultStore.default(), progress)


class _bar:
    """A progress bar over runs, with the running one's position in its text."""

    def __init__(self, total: int, shown: bool) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=total, unit="run", disable=not shown, mininterval=1.0)
        self.done: set[str] = set()

    def __enter__(self) -> Report:
        def report(spec: RunSpec, done: int, total: int, word: str) -> None:
            self.bar.set_postfix_str(f"{spec.label} {done}/{total} {word}", refresh=False)
            self.bar.update(0)
            if done == total and spec.run_id not in self.done:
                self.done.add(spec.run_id)
                self.bar.update(1)

        return report

    def __exit__(self, *_: object) -> None:
        self.bar.close()
