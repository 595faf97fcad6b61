"""Records on disk in, tidy data frames out: the boundary between computing numbers and showing them. No torch.

A run is one JSON (specification, metrics, provenance) and up to three Parquet files beside it (`curves`, `samples`,
`outputs`). The JSON is written last and names the exact Parquet files it belongs to, so a record is either whole or not
there.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from glob import escape
from itertools import product
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from zoolib.paths import build_dir, results_dir
from zoolib.profiles import standard
from zoolib.spec import RunSpec, ZoolibError, unknown
from zoolib.storage import commit, corrupt, from_parquet, read_json, to_json, to_parquet, token

RECOMPUTED, COMMITTED = "recomputed here", "committed"
TABLES = ("curves", "samples", "outputs")
_FORMAT = 1
_FOLDERS = ("task", "dataset", "hub", "profile")  # the folders of RunSpec.stem
_SPEC_KEYS = ("task", "dataset", "hub", "method", "member", "seed", "profile")
_FILTERS = ("run_id", "origin", "options", "standard", *_SPEC_KEYS)
_FRAME = (
    "run_id",
    *_SPEC_KEYS,
    "options",
    "split",
    "metric",
    "value",
    "origin",
    "commit",
    "dirty",
    "machine",
    "date",
    "data",
)
_CURVES = ("run_id", "dataset", "hub", "method", "member", "seed", "profile", "iteration", "split", "term", "value")


def machine_of(provenance: Mapping[str, Any], threads: bool = False) -> str:
    """The processor of a run, the GPU where there was one, else the CPU; of a resumed run each, in their order.

    With `threads`, their number behind each.
    """
    names: list[str] = []
    for part in (*provenance.get("resumed_from", []), provenance):
        machine, count = part.get("machine") or {}, part.get("threads") if threads else None
        name = str(machine.get("gpu") or machine.get("cpu") or "")
        name += f" ({count} thread{'s' if count != 1 else ''})" if name and count else ""
        names += [name] if name and name not in names[-1:] else []
    return ", then ".join(names)


class Result:
    """One run: what was asked for, what came out, and where and how it was computed.

    `metrics` is {split: {metric: value}}; `curves` has columns iteration, split, term, value; `samples` has one row a
    test sample; `outputs` has one row for each of a few of them, with what every member and every k says of it. The
    tables of a stored result are read when first asked for.
    """

    def __init__(
        self,
        spec: RunSpec,
        metrics: Mapping[str, Mapping[str, float | None]],
        provenance: Mapping[str, Any] | None = None,
        deviations: Iterable[str] = (),
        curves: pd.DataFrame | None = None,
        samples: pd.DataFrame | None = None,
        origin: str = RECOMPUTED,
        path: Path | None = None,
        outputs: pd.DataFrame | None = None,
    ) -> None:
        self.spec = spec
        self.metrics = {split: dict(values) for split, values in metrics.items()}
        self.provenance = dict(provenance or {})
        self.deviations = list(deviations)
        self.origin = origin
        self.path = path
        self.run_id = spec.run_id
        self._files: dict[str, dict[str, str]] = {}
        self._tables: dict[str, pd.DataFrame | None] = {
            "curves": curves,
            "samples": samples,
            "outputs": outputs,
        }

    def __repr__(self) -> str:
        return f"Result({self.spec.label}, {self.origin}, {self.run_id})"

    @property
    def curves(self) -> pd.DataFrame | None:
        """Training curves, long form: iteration, split, term, value. Raises ZoolibError when the file is corrupt."""
        return self._table("curves")

    @property
    def samples(self) -> pd.DataFrame | None:
        """One row a test sample. Raises ZoolibError when the file is corrupt."""
        return self._table("samples")

    @property
    def outputs(self) -> pd.DataFrame | None:
        """A few test samples: label, and `top:<name>` and `probability:<name>` (lists) for `member:…` and `k:…`."""
        return self._table("outputs")

    @property
    def options(self) -> str:
        """The method's options in words, such as `explore_weight=0.3, top_k=2`."""
        return ", ".join(f"{name}={value}" for name, value in self.spec.options)

    @property
    def machine(self) -> str:
        """The processor that computed it, the GPU where there was one, else the CPU; of a resumed run all, in order."""
        return machine_of(self.provenance)

    @property
    def date(self) -> str:
        """The day it was computed, such as `2026-11-21`."""
        return str(self.provenance.get("started") or "")[:10]

    @property
    def data(self) -> str:
        """The name of the data variant it was computed on; empty where the dataset has only one."""
        return str(self.provenance.get("data_variant") or "")

    @property
    def stamp(self) -> str:
        """`recomputed here`, or `committed <commit>`."""
        commit = str(self.provenance.get("commit") or "")[:7]
        return self.origin if self.origin == RECOMPUTED else f"{self.origin} {commit}".rstrip()

    def _table(self, name: str) -> pd.DataFrame | None:
        if self._tables.get(name) is None and name in self._files and self.path is not None:
            file = self.path.parent / self._files[name]["name"]
            if not file.exists():  # another process has just replaced the record
                self._files = read_json(self.path)["files"]
                file = self.path.parent / self._files[name]["name"]
            content = file.read_bytes() if file.exists() else b""
            if hashlib.sha256(content).hexdigest() != self._files[name]["sha256"]:
                raise corrupt(self.path, f"{file.name} is missing or differs from its checksum")
            self._tables[name] = from_parquet(content)
        return self._tables.get(name)


class ResultStore:
    """A folder that is written and folders that are only read; where several hold a run, the first one wins."""

    def __init__(self, write_root: Path | str, *read_roots: Path | str) -> None:
        self.write_root = Path(write_root)
        self.roots = (self.write_root, *(Path(root) for root in read_roots))

    @classmethod
    def default(cls) -> ResultStore:
        """Written: `ZOOLIB_RECORDS`, else build/records of the project. Read as well: the committed `results_dir`."""
        return cls(os.environ.get("ZOOLIB_RECORDS") or build_dir() / "records", results_dir())

    def computed(self) -> ResultStore:
        """This store without the committed records: only what was computed here."""
        return ResultStore(self.write_root)

    def save(self, result: Result) -> Result:
        """Write the record, all or nothing, and return it as `load` would. Raises ZoolibError when the disk is full.

        Parquet files get a name that no other writer uses and the JSON is moved into place last, so that two processes
        may write one run at once: the later record stands, whole.
        """
        path = self.write_root / f"{result.spec.stem}.json"
        tables = {name: to_parquet(table) for name in TABLES if (table := getattr(result, name)) is not None}
        files = {
            name: {
                "name": f"{path.stem}.{name}.{token(content)}.parquet",
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in tables.items()
        }
        record = {
            "format": _FORMAT,
            "run_id": result.run_id,
            "spec": result.spec.to_dict(),
            "metrics": result.metrics,
            "provenance": result.provenance,
            "deviations": result.deviations,
            "files": files,
        }
        contents = {files[name]["name"]: content for name, content in tables.items()}
        commit(path, to_json(record), contents, what=result.spec.label)
        return self._read(path)

    def has(self, spec: RunSpec, code: str | None = None, data: Any = None, hub: str | None = None) -> bool:
        """Whether the run need not be computed.

        A record of the written folder counts only when its provenance names the given code fingerprint and checksums of
        the data and of an own hub (None: any), also where it hides a committed one; a committed record counts always.
        Raises ZoolibError when the record is corrupt.
        """
        path = self._find(spec)
        if path is None:
            return False
        result = self._read(path)
        if result.origin == COMMITTED:
            return True
        expected = {"code": code, "data_sha256": data, "hub_sha256": hub}
        return all(value is None or result.provenance.get(key) == value for key, value in expected.items())

    def load(self, spec: RunSpec | str) -> Result:
        """The record of a specification or run id. Raises ZoolibError when there is none or it is corrupt."""
        path = self._find(spec)
        if path is None:
            name = spec.label if isinstance(spec, RunSpec) else spec
            raise ZoolibError(f"no record of {name} in {', '.join(map(str, self.roots))}; compute it with zoolib run")
        return self._read(path)

    def records(self, specs: Iterable[RunSpec] | None = None, **filters: Any) -> list[Result]:
        """The records that match, those of the given specifications or all; a filter value may be a list.

        Raises ZoolibError for an unknown filter and for a corrupt record.
        """
        for name in filters:
            if name not in _FILTERS:
                raise unknown("filter", name, _FILTERS)
        if specs is None:
            results = [self._read(path) for root in self.roots for path in _glob(root, filters)]
        else:
            results = [self._read(path) for spec in specs if (path := self._find(spec))]
        kept: dict[RunSpec, Result] = {}
        for result in results:
            if all(_matches(_value(result, key), value) for key, value in filters.items()):
                kept.setdefault(result.spec, result)  # the first root wins
        return list(kept.values())

    def frame(self, specs: Iterable[RunSpec] | None = None, **filters: Any) -> pd.DataFrame:
        """One row a run and metric, with specification and provenance; `split` and `metric` filter as well."""
        rows = []
        narrow = {k: filters.pop(k) for k in ("split", "metric") if k in filters}
        for result in self.records(specs, **filters):
            head = {"run_id": result.run_id, **_spec_row(result.spec), "options": result.options}
            tail: dict[str, Any] = {
                "origin": result.origin,
                "machine": result.machine,
                "date": result.date,
                "data": result.data,
            }
            tail |= {key: result.provenance.get(key) for key in ("commit", "dirty")}
            for split, values in result.metrics.items():
                rows += [{**head, "split": split, "metric": m, "value": v, **tail} for m, v in values.items()]
        rows = [row for row in rows if all(_matches(row[k], v) for k, v in narrow.items())]
        return pd.DataFrame(rows, columns=list(_FRAME)).astype({"value": float})

    def curves(self, specs: Iterable[RunSpec] | None = None, **filters: Any) -> pd.DataFrame:
        """The training curves of all matching runs, one row a point; `split` and `term` filter as well."""
        narrow = {k: filters.pop(k) for k in ("split", "term") if k in filters}
        parts = []
        for result in self.records(specs, **filters):
            if result.curves is not None and len(result.curves):
                parts.append(result.curves.assign(run_id=result.run_id, **_spec_row(result.spec)))
        frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(_CURVES))
        for name, value in narrow.items():
            frame = frame[[_matches(v, value) for v in frame[name]]]
        return frame[list(_CURVES)].reset_index(drop=True)

    def samples(self, run_id: str) -> pd.DataFrame:
        """The test samples of one run. Raises ZoolibError when the run or its samples are not there."""
        result = self.load(run_id)
        if result.samples is None:
            raise ZoolibError(f"{result.spec.label} ({run_id}) recorded no samples; compute it again with zoolib run")
        return result.samples

    def adopt(self, profile: str, dest: Path | str) -> list[Path]:
        """Copy the written records of a profile to another folder (results/, to be committed); return the new paths."""
        source = ResultStore(self.write_root)
        adopted = []
        for result in source.records(profile=profile):
            assert result.path is not None
            target = Path(dest) / result.path.relative_to(self.write_root)
            parquet = {}
            for name, file in result._files.items():
                result._table(name)  # verifies the checksum
                parquet[file["name"]] = (result.path.parent / file["name"]).read_bytes()
            commit(target, result.path.read_bytes(), parquet, what=result.spec.label)
            adopted.append(target)
        return adopted

    def mixed(self) -> list[str]:
        """A sentence for each record that was built on another run than the one that is kept here under its name.

        Records say what they were built on by the checksums of its predictions, and so does the record of that run;
        earlier ones, which do not, are passed over.
        """
        known = {result.spec.run_id: result for result in self.records()}
        return [
            f"{result.spec.label} ({result.spec.profile}) was built on another run of {known[used].spec.label} than "
            "the one beside it"
            for result in known.values()
            for used, digest in result.provenance.get("built_on", {}).items()
            if used in known and known[used].provenance.get("logits_sha256", digest) != digest
        ]

    def _find(self, spec: RunSpec | str) -> Path | None:
        for root in self.roots:
            if isinstance(spec, str):
                path = next(iter(sorted(root.glob(f"**/*-{escape(spec)}.json"))), None)
                if path is not None:
                    return path
            else:
                path = root / f"{spec.stem}.json"
                if path.exists():
                    return path
                # A record from before a setting existed: it reads as the setting's default, under its old id.
                for older in sorted(path.parent.glob(f"{escape(path.stem[:-16])}*.json")):
                    if self._read(older).spec == spec:
                        return older
        return None

    def _read(self, path: Path) -> Result:
        for attempt in range(3):
            record = read_json(path)
            missing = [f["name"] for f in record["files"].values() if not (path.parent / f["name"]).exists()]
            if not missing:
                break
            time.sleep(0.01 * attempt)  # another process may have replaced the record between the two looks
        else:
            raise corrupt(path, f"{missing[0]} is missing beside it")
        try:
            spec = RunSpec.from_dict(record["spec"])
        except ZoolibError as error:
            raise corrupt(path, str(error).split(";")[0]) from None
        origin = RECOMPUTED if path.is_relative_to(self.write_root) else COMMITTED
        result = Result(spec, record["metrics"], record["provenance"], record["deviations"], origin=origin, path=path)
        result.run_id = record["run_id"]
        result._files = record["files"]
        return result


def _glob(root: Path, filters: Mapping[str, Any]) -> Iterator[Path]:
    """Records below a root, looking only into the folders that the filters allow."""
    choices = [[escape(_folder(v)) for v in _listed(filters[k])] if k in filters else ["*"] for k in _FOLDERS]
    for parts in product(*choices):
        yield from sorted(root.glob("/".join((*parts, "*-" + "[0-9a-f]" * 16 + ".json"))))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Collection) and not isinstance(value, str) else [value]


def _folder(value: Any) -> str:
    """The folder of a dataset or hub: for one of your own, which is named by its YAML, that file's name alone."""
    path = PurePath(str(value))
    return path.stem if path.suffix in (".yaml", ".yml") else str(value)


def _matches(value: Any, wanted: Any) -> bool:
    """Whether a value is among those wanted; a YAML of your own also by its bare name, or by another path to it."""
    named = {value, _folder(value)} if isinstance(value, str) else {value}
    return any(one in named or (isinstance(one, str) and _same_file(value, one)) for one in _listed(wanted))


def _same_file(value: Any, wanted: str) -> bool:
    return isinstance(value, str) and value != _folder(value) and PurePath(value) == PurePath(wanted)


def _value(result: Result, name: str) -> Any:
    if name == "standard":
        return standard(result.spec)
    return getattr(result, name) if name in ("run_id", "origin", "options") else getattr(result.spec, name)


def _spec_row(spec: RunSpec) -> dict[str, Any]:
    return {key: getattr(spec, key) for key in _SPEC_KEYS}
