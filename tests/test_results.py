"""Records: whole or not there, whoever writes, is killed, or runs out of space."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from zoolib import commands, storage
from zoolib.__main__ import main
from zoolib.grid import grid
from zoolib.profiles import standard
from zoolib.results import COMMITTED, RECOMPUTED, Result, ResultStore
from zoolib.spec import RunSpec, ZoolibError

SPAWN = multiprocessing.get_context("spawn")


def a_spec(method: str = "hub_pathway", seed: int = 0) -> RunSpec:
    return next(s for s in grid("cls", "digits", "imagenet-lite", [method], "mini", [seed]))


def a_result(seed: int = 0, accuracy: float = 62.5) -> Result:
    result = synthetic.result(a_spec(seed=seed))
    result.metrics["test"]["top1_accuracy"] = accuracy
    return result


def save_many(root: str, seed: int, tag: int, times: int) -> None:
    """Save one run `times` times; every table says which writer and which turn it came from."""
    for turn in range(times):
        value = float(100 * tag + turn)
        curves = pd.DataFrame({"iteration": [1], "split": ["val"], "term": ["top1_accuracy"], "value": [value]})
        ResultStore(root).save(Result(a_spec(seed=seed), {"test": {"top1_accuracy": value}}, {}, curves=curves))


def die_before_the_json(root: str) -> None:
    write = storage._write

    def killed(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            os._exit(9)
        write(path, content)

    storage._write = killed
    ResultStore(root).save(a_result(accuracy=99.0))


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_runs_of_another_length_or_on_fewer_labels_are_not_standard(tmp_path):
    store = ResultStore(tmp_path)
    (spec,) = grid("cls", "digits", "digits-zoo", "scratch", "mini", 1)
    short = dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, iterations=10, milestones=()))
    (few,) = grid("cls", "digits", "digits-zoo", "scratch", "mini", 1, label_fraction=0.5)
    for one in (spec, short, few):
        store.save(synthetic.result(one))
    assert len(store.records(method="scratch")) == 3
    assert [r.spec for r in store.records(method="scratch", standard=True)] == [spec]
    assert {r.spec for r in store.records(standard=False)} == {short, few}
    (face,) = grid("landmarks", "faces-rendered", "mini-zoo", "scratch", "mini", 1)
    (game,) = grid("atari", "jamesbond", "atari-policies", "random", "mini", 1)
    assert standard(face) and standard(game)


def test_a_saved_record_reads_back_as_it_was(tmp_path: Path):
    given = a_result()
    saved = ResultStore(tmp_path).save(given)
    read = ResultStore(tmp_path).load(given.spec)
    assert read.spec == given.spec and read.run_id == saved.run_id == given.spec.run_id
    assert (read.metrics, read.provenance, read.deviations) == (given.metrics, given.provenance, given.deviations)
    pd.testing.assert_frame_equal(read.curves, given.curves, check_dtype=False)
    assert read.samples.columns.tolist() == given.samples.columns.tolist()
    weights = read.samples.filter(like="weight:").to_numpy()
    np.testing.assert_allclose(weights, given.samples.filter(like="weight:").to_numpy(), atol=2**-11)  # float16


def test_gates_read_back_as_one_list_a_sample(tmp_path: Path):
    spec = grid("cls", "digits", "digits-zoo", ["zoo_tuning"], "mini", [0])[0]
    given = synthetic.result(spec)
    read = ResultStore(tmp_path).save(given).samples
    assert read["gates:stem"][3].shape == (3,)
    np.testing.assert_allclose(np.stack(read["gates:stem"]), np.stack(given.samples["gates:stem"]), atol=2**-11)


def test_numbers_that_are_not_finite_and_numpy_types_become_strict_json(tmp_path: Path):
    result = Result(
        a_spec(), {"cost": {"seconds": np.float32(1.5), "peak_memory_mb": float("nan")}}, {"n": np.int64(3)}
    )
    path = ResultStore(tmp_path).save(result).path
    record = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert record["metrics"] == {"cost": {"seconds": 1.5, "peak_memory_mb": None}} and record["provenance"] == {"n": 3}
    assert ResultStore(tmp_path).frame(metric="peak_memory_mb")["value"].isna().all()


def test_the_frame_has_one_row_a_run_and_metric(tmp_path: Path):
    store = ResultStore(tmp_path)
    specs = synthetic.fill(store, "digits", "imagenet-lite")
    frame = store.frame()
    assert len(frame) == len(specs) * 6  # test, val and four costs
    row = frame[(frame["member"] == "efficientnet_lite1") & (frame["seed"] == 2) & (frame["split"] == "test")].iloc[0]
    assert (row["value"], row["origin"], row["commit"]) == (84.0, RECOMPUTED, "0123456789abcdef")
    assert (row["machine"], row["date"], row["dirty"]) == ("Test CPU", "2026-11-21", False)


@pytest.mark.parametrize(
    ("filters", "runs"),
    [
        ({"method": "finetune"}, 9),
        ({"method": ["scratch", "hub_pathway"]}, 6),
        ({"method": "finetune", "member": "efficientnet_lite2", "seed": [0, 2]}, 2),
        ({"dataset": "cars"}, 0),
        ({"dataset": ["cars", "digits"], "hub": "imagenet-lite", "profile": "mini", "seed": 1}, 6),
    ],
)
def test_filters_take_a_value_or_a_list(tmp_path: Path, filters: dict, runs: int):
    store = ResultStore(tmp_path)
    synthetic.fill(store, "digits", "imagenet-lite")
    assert len(store.records(**filters)) == store.frame(**filters)["run_id"].nunique() == runs


def test_an_unknown_filter_is_named_with_the_nearest(tmp_path: Path):
    with pytest.raises(ZoolibError, match="unknown filter 'methd' \\(did you mean 'method'\\?\\)"):
        ResultStore(tmp_path).frame(methd="scratch")


def test_specs_select_their_records_and_skip_absent_ones(tmp_path: Path):
    store = ResultStore(tmp_path)
    synthetic.fill(store, "digits", "imagenet-lite", ["scratch"])
    wanted = grid("cls", "digits", "imagenet-lite", ["scratch", "hub_pathway"], "mini", [1])
    assert [result.spec for result in store.records(wanted)] == [wanted[0]]
    assert set(store.curves(wanted)["seed"]) == {1}
    assert store.records([]) == []


def test_the_recomputed_record_hides_the_committed_one(tmp_path: Path):
    here, committed = tmp_path / "here", tmp_path / "committed"
    ResultStore(committed).save(a_result(accuracy=10.0))
    ResultStore(committed).save(a_result(seed=1, accuracy=11.0))
    ResultStore(here).save(a_result(accuracy=20.0))
    frame = ResultStore(here, committed).frame(split="test").sort_values("seed")
    assert frame["value"].tolist() == [20.0, 11.0]
    assert frame["origin"].tolist() == [RECOMPUTED, COMMITTED]
    stamps = [ResultStore(here, committed).load(a_spec(seed=seed)).stamp for seed in (0, 1)]
    assert stamps == ["recomputed here", "committed 0123456"]


def test_a_record_of_other_code_or_data_does_not_count_unless_committed(tmp_path: Path):
    result = a_result()
    result.provenance |= {"code": "old", "data_sha256": "d"}
    ResultStore(tmp_path / "a").save(result)
    own, committed = ResultStore(tmp_path / "a"), ResultStore(tmp_path / "b", tmp_path / "a")
    assert own.has(result.spec) and own.has(result.spec, "old") and own.has(result.spec, "old", "d")
    assert not own.has(result.spec, "new") and not own.has(result.spec, "old", "e")
    assert committed.has(result.spec, "new", "e")
    assert not own.has(a_spec(seed=7))


def test_a_committed_record_from_before_a_setting_existed_is_still_found(tmp_path: Path):
    saved = ResultStore(tmp_path).save(a_result())
    record = json.loads(saved.path.read_text())
    assert record["spec"]["settings"].pop("channels_last") is True  # its default
    old = saved.path.with_name(saved.path.name.replace(saved.run_id, "0" * 16))
    old.write_text(json.dumps(record | {"run_id": "0" * 16}))
    saved.path.unlink()
    found = ResultStore(tmp_path).load(saved.spec)
    assert found.path == old and found.spec == saved.spec and len(found.samples) == 40
    assert not ResultStore(tmp_path).has(dataclasses.replace(saved.spec, seed=5))


def test_saving_again_leaves_one_json_and_its_tables(tmp_path: Path):
    for _ in range(3):
        ResultStore(tmp_path).save(a_result())
    assert len(files(tmp_path)) == 3
    result = a_result()
    result._tables = {"curves": None, "samples": None}
    ResultStore(tmp_path).save(result)
    assert [path.suffix for path in files(tmp_path)] == [".json"]


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)], ids=["one run", "two runs"])
def test_two_processes_save_at_once_and_every_record_is_whole(tmp_path: Path, seeds: tuple[int, int]):
    turns = 8
    writers = [SPAWN.Process(target=save_many, args=(str(tmp_path), s, i + 1, turns)) for i, s in enumerate(seeds)]
    for writer in writers:
        writer.start()
    spec, reads = a_spec(seed=seeds[0]), 0
    while any(writer.is_alive() for writer in writers):  # a reader meets whole records only
        if ResultStore(tmp_path).has(spec):
            result = ResultStore(tmp_path).load(spec)
            assert result.metrics["test"]["top1_accuracy"] % 100 < turns and len(result.curves) == 1
            reads += 1
        time.sleep(0.01)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0] and reads > 0
    results = ResultStore(tmp_path).records()
    assert len(results) == len(set(seeds))
    for result in results:
        assert result.curves["value"].tolist() == [result.metrics["test"]["top1_accuracy"]]  # of one and the same save
        assert result.curves["value"].iloc[0] % 100 == turns - 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_writer_killed_before_the_json_leaves_the_old_record_valid(tmp_path: Path):
    ResultStore(tmp_path).save(a_result(accuracy=62.5))
    writer = SPAWN.Process(target=die_before_the_json, args=(str(tmp_path),))
    writer.start()
    writer.join()
    assert writer.exitcode == 9 and len(files(tmp_path)) == 5  # two stray tables
    read = ResultStore(tmp_path).load(a_spec())
    assert read.metrics["test"]["top1_accuracy"] == 62.5 and len(read.samples) == 40 and len(read.curves) > 0
    for path in files(tmp_path):
        os.utime(path, (0, 0))
    ResultStore(tmp_path).save(a_result(accuracy=63.0))
    assert len(files(tmp_path)) == 3  # the next save sweeps what is old and unnamed


def test_a_full_disk_loses_nothing_and_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ResultStore(tmp_path)
    store.save(a_result(accuracy=62.5))
    before = files(tmp_path)
    calls: list[int] = []

    def full(_: int) -> None:
        calls.append(1)
        if len(calls) == 2:  # the first table fits, the second does not
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(ZoolibError, match=r"^disk full: .*hub_pathway/seed 0; nothing was lost") as caught:
        store.save(a_result(accuracy=99.0))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert files(tmp_path) == before
    assert store.load(a_spec()).metrics["test"]["top1_accuracy"] == 62.5


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_text("[]")], ids=["truncated", "not a record"])
def test_a_damaged_json_is_named_with_the_fix(tmp_path: Path, damage):
    path = ResultStore(tmp_path).save(a_result()).path
    damage(path)
    for read in (ResultStore(tmp_path).frame, lambda: ResultStore(tmp_path).has(a_spec())):
        with pytest.raises(ZoolibError) as caught:
            read()
        assert str(path) in str(caught.value) and "delete it" in str(caught.value) and "\n" not in str(caught.value)
    path.unlink()
    assert not ResultStore(tmp_path).has(a_spec())


def test_a_missing_and_a_changed_table_are_named(tmp_path: Path):
    result = ResultStore(tmp_path).save(a_result())
    samples = next(path for path in files(tmp_path) if ".samples." in path.name)
    content = samples.read_bytes()
    samples.write_bytes(content[:-1] + b"?")
    with pytest.raises(ZoolibError, match=f"corrupt record .*{samples.name} is missing or differs from its checksum"):
        ResultStore(tmp_path).samples(result.run_id)
    samples.unlink()
    with pytest.raises(ZoolibError, match=f"corrupt record .*{samples.name} is missing"):
        ResultStore(tmp_path).load(result.spec)


def test_an_absent_run_is_an_error_that_names_the_folders(tmp_path: Path):
    with pytest.raises(ZoolibError, match=f"no record of digits/imagenet-lite/hub_pathway/seed 0 in {tmp_path}"):
        ResultStore(tmp_path).load(a_spec())
    with pytest.raises(ZoolibError, match="no record of 0123"):
        ResultStore(tmp_path).samples("0123")


def test_adopting_copies_the_records_of_one_profile(tmp_path: Path):
    store = ResultStore(tmp_path / "build")
    synthetic.fill(store, "digits", "imagenet-lite", ["scratch"], "lab")
    synthetic.fill(store, "digits", "imagenet-lite", ["scratch"], "mini")
    assert len(store.adopt("lab", tmp_path / "results")) == len(store.adopt("lab", tmp_path / "results")) == 3
    adopted = ResultStore(tmp_path / "elsewhere", tmp_path / "results")
    assert {r.spec.profile for r in adopted.records()} == {"lab"}
    assert all(r.origin == COMMITTED and len(r.samples) == 40 for r in adopted.records())
    assert len(files(tmp_path / "results")) == 9


def test_the_default_store_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZOOLIB_RECORDS", str(tmp_path))
    store = ResultStore.default()
    assert store.write_root == tmp_path and [root.name for root in store.roots[1:]] == ["results"]


def test_reading_and_drawing_records_imports_no_torch():
    code = "import sys, zoolib.results, zoolib.reference, zoolib.tables, zoolib.figures; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stdout.strip() == "False", done.stderr


def test_records_of_an_own_hub_and_dataset_are_found_by_file_and_by_bare_name(tmp_path: Path):
    store = ResultStore(tmp_path)
    spec = dataclasses.replace(a_spec(), hub="of/mine.yaml")
    store.save(Result(spec, a_result().metrics))
    for wanted in ("of/mine.yaml", "./of/mine.yaml", "mine"):
        assert [record.spec for record in store.records(hub=wanted)] == [spec], wanted
    assert not store.records(hub="other/mine.yaml") and not store.records(hub="mini-zoo")


def test_an_installed_package_adopts_nothing(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "CHECKOUT", tmp_path)
    assert main(["adopt", "mini"]) == 1
    assert "run it in a checkout" in capsys.readouterr().err and not list(tmp_path.iterdir())
