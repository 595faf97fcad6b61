"""From a specification to a record, and the command line around it."""

import dataclasses
import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from zoolib import experiment, notebooks, recipe, runtime, workflow
from zoolib.__main__ import main
from zoolib.data import loaders, manifests
from zoolib.files import locked
from zoolib.grid import grid, needed
from zoolib.methods import METHODS, MethodCard
from zoolib.paths import CHECKOUT
from zoolib.plans import planned
from zoolib.results import Result, ResultStore
from zoolib.spec import ZoolibError
from zoolib.tasks import average

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_build(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("ZOOLIB_RECORDS", str(tmp_path / "build" / "records"))


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "build" / "records")


def smoke(method, **options):
    return grid("cls", "digits", "digits-zoo", method, "smoke", 1, **options)


TRAINED = [name for name, card in METHODS.items() if card.trains and not card.needs and not card.per_member]


@pytest.mark.parametrize("method", TRAINED)
def test_a_run_ends_as_a_record_with_metrics_curves_samples_and_provenance(store, method):
    result = experiment.run(smoke(method)[0], store)
    again = store.load(result.spec)
    assert 0 <= again.metrics["test"]["top1_accuracy"] <= 100 and set(again.metrics) == {"val", "test", "cost"}
    assert again.metrics["cost"]["params_m"] > 0 and again.metrics["cost"]["gmacs"] > 0
    assert list(again.curves["iteration"].unique()) == [2, 4] and len(again.samples) == 60
    assert again.samples["index"].is_unique
    right = 100 * (again.samples["label"] == again.samples["prediction"]).mean()
    assert right == pytest.approx(again.metrics["test"]["top1_accuracy"])
    known = {
        "commit",
        "dirty",
        "code",
        "versions",
        "machine",
        "threads",
        "precision",
        "started",
        "seconds",
        "data_sha256",
    }
    assert known <= set(again.provenance) and again.provenance["code"] == runtime.code_fingerprint()


def test_hub_pathway_records_weights_that_sum_to_1_and_zoo_tuning_a_gate_a_layer(store):
    samples = experiment.run(smoke("hub_pathway")[0], store).samples
    weights = samples[[f"weight:{name}" for name in ("rotation", "jigsaw", "corruption")]]
    assert np.allclose(weights.to_numpy().sum(1), 1, atol=2e-3)
    gated = experiment.run(smoke("zoo_tuning")[0], store).samples
    columns = [name for name in gated.columns if name.startswith("gates:")]
    assert len(columns) == 9 and all(len(row) == 3 for row in gated[columns[0]])  # 7 convolutions and 2 shortcuts
    assert np.stack(gated[columns[0]]).min() > 0 and np.stack(gated[columns[0]]).max() < 1


def test_an_ensemble_is_the_mean_of_its_members_probabilities_and_fits_what_it_lacks(store):
    result = experiment.run(smoke("ensemble")[0], store)
    members = store.records(method="finetune")
    assert [r.spec.member for r in members] == sorted(["rotation", "jigsaw", "corruption"])
    logits = []
    for record in members:
        with np.load(experiment.work_dir(record.spec) / "logits.npz") as file:
            logits.append(file["test"])
            labels = file["test_labels"]
    expected = 100 * (average(np.stack(logits)).argmax(1) == labels).mean()
    assert result.metrics["test"]["top1_accuracy"] == pytest.approx(expected)
    assert result.metrics["cost"]["params_m"] == pytest.approx(sum(r.metrics["cost"]["params_m"] for r in members))
    assert result.provenance["built_on"] == {r.spec.run_id: r.provenance["logits_sha256"] for r in members}
    assert not any("built_on" in r.provenance for r in members) and store.mixed() == []
    digests = {r.provenance["logits_sha256"] for r in (*members, result)}
    assert len(digests) == 4
    provenance = members[0].provenance | {"logits_sha256": result.provenance["logits_sha256"]}
    store.save(Result(members[0].spec, members[0].metrics, provenance))
    (sentence,) = store.mixed()
    told = f"{result.spec.label} (smoke) was built on another run of {members[0].spec.label} than the one beside it"
    assert sentence == told


STARTED = [name for name, card in METHODS.items() if card.weights]


def test_methods_that_start_from_fine_tuned_weights_find_them_and_give_the_same_numbers_when_they_must_make_them(store):
    first = {name: experiment.run(smoke(name)[0], store).metrics["test"] for name in STARTED}
    for spec in smoke("finetune"):
        (experiment.work_dir(spec) / "weights.safetensors").unlink()
    for path in (store.write_root.parent / "work").glob("*/ingredient*"):
        path.unlink()
    for name in STARTED:
        assert experiment.run(smoke(name)[0], store).metrics["test"] == first[name], name


def test_fine_tuned_features_differ_from_pretrained_ones_and_kept_weights_are_those_of_the_run(store):
    plain, tuned = (experiment.run(smoke(name)[0], store) for name in ("fe", "fe_finetuned"))
    assert not plain.samples["confidence"].equals(tuned.samples["confidence"])
    spec = smoke("finetune")[0]
    data = loaders.load(manifests.dataset(spec.dataset), spec.settings)
    origin = recipe.origin_of(data.sha256, manifests.hub_sha256(spec.hub))
    kept = recipe.load_weights(experiment.work_dir(spec), origin)
    assert {name.split(".")[0] for name in kept} == {"backbone", "head"}
    assert recipe.load_weights(experiment.work_dir(smoke("finetune")[0]), "other code") is None


def test_the_oracle_is_never_below_best_single_and_best_single_is_a_member(store):
    best, oracle = (experiment.run(smoke(name)[0], store).metrics for name in ("best_single", "oracle"))
    members = [r.metrics for r in store.records(method="finetune")]
    assert oracle["test"]["top1_accuracy"] >= max(m["test"]["top1_accuracy"] for m in members)
    assert best["val"]["top1_accuracy"] == max(m["val"]["top1_accuracy"] for m in members)
    assert best["test"]["top1_accuracy"] in [m["test"]["top1_accuracy"] for m in members]


def test_a_soup_records_both_kinds_of_both_sources_and_greedy_is_no_worse_on_validation(store):
    record = experiment.run(smoke("model_soups")[0], store)
    metrics = record.metrics
    assert "are held out to choose by" in record.deviations[0] and "fine-tunings" in record.deviations[1]
    for split in ("val", "test"):
        assert metrics[split]["top1_accuracy"] == metrics[split]["top1_accuracy_greedy"]
    best = max(r.metrics["val"]["top1_accuracy"] for r in store.records(method="finetune"))
    assert metrics["val"]["top1_accuracy_members_greedy"] >= best
    assert 1 <= metrics["val"]["ingredients"] <= 3


def test_an_ensemble_may_vote(store):
    result = experiment.run(smoke("ensemble", combine="votes")[0], store)
    assert result.metrics["test"]["top1_accuracy"] == result.metrics["test"]["top1_accuracy_votes"]
    with pytest.raises(ZoolibError, match="combine is 'median'; use probabilities or votes"):
        smoke("ensemble", combine="median")


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(store):
    first, second = (experiment.run(smoke("scratch")[0], store).curves for _ in range(2))
    assert first["value"].equals(second["value"])
    other = experiment.run(grid("cls", "digits", "digits-zoo", "scratch", "smoke", [1])[0], store).curves
    assert not first["value"].equals(other["value"])


def test_complete_computes_only_what_is_lacking(store, monkeypatch):
    specs = smoke("scratch,zoo_tuning")
    experiment.complete(specs, store, progress=False)
    monkeypatch.setattr(experiment, "run", lambda *a, **k: pytest.fail("computed again"))
    assert len(experiment.complete(specs, store, progress=False)) == 2


def test_records_of_other_code_or_other_data_are_computed_again(store, monkeypatch):
    spec = smoke("scratch")[0]
    experiment.run(spec, store)
    assert experiment.missing([spec], store) == []
    with monkeypatch.context() as patch:
        patch.setattr(experiment.manifests, "data_sha256", lambda manifest: "other")
        assert experiment.missing([spec], store) == [spec]
    monkeypatch.setattr(runtime, "code_fingerprint", lambda task="": "other")
    assert experiment.missing([spec], store) == [spec]


def test_zoo_tuning_runs_on_the_resnet_50_layout_with_the_published_parameters(store):
    spec = grid("cls", "digits", "resnet50-random", "lite_zoo_tuning", "smoke", 1)[0]
    spec = dataclasses.replace(
        spec,
        settings=dataclasses.replace(
            spec.settings, iterations=1, batch_size=4, eval_every=1, test_limit=10, val_fraction=0.01
        ),
    )
    cost = experiment.run(spec, store).metrics["cost"]
    backbone_and_hub = 128.46  # the hub's kernels, gates and the authors' ten alignments under a head of 100 classes
    assert cost["params_m"] == pytest.approx(backbone_and_hub - 90 * 2049 / 1e6, abs=0.02)


def test_the_record_of_a_resumed_run_tells_of_the_machine_it_began_on_and_counts_its_seconds(store, monkeypatch):
    def die(spec, done, total, word):
        if done == 3:
            raise KeyboardInterrupt

    (spec,) = smoke("zoo_tuning")
    monkeypatch.setattr(recipe, "fit", functools.partial(recipe.fit, checkpoint_seconds=0))
    with pytest.raises(KeyboardInterrupt):
        experiment.run(spec, store, die)
    file = experiment.work_dir(spec) / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    (part,) = state["past"]["parts"]
    assert part["steps"] == 3
    elsewhere = part | {"precision": "bfloat16"}
    past = {"started": "2026-01-02T03:04:05+00:00", "seconds": 1000.0, "parts": [elsewhere]}
    torch.save({**state, "past": past}, file)
    provenance = experiment.run(spec, store).provenance
    assert provenance["started"] == past["started"] and 1000 < provenance["seconds"] < 1600
    assert provenance["resumed_from"] == [elsewhere] and provenance["precision"] == "float32"
    assert store.load(spec).provenance == provenance


def test_a_killed_job_leaves_no_half_written_record_and_goes_on_from_its_checkpoint(tmp_path):
    spec = smoke("scratch")[0]
    spec = dataclasses.replace(
        spec, settings=dataclasses.replace(spec.settings, iterations=300, milestones=(), eval_every=300)
    )
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec.to_dict()))
    code = "import sys, zoolib.train as t; t.CHECKPOINT_SECONDS = 0; t.fit.__defaults__ = (None, 0.0, None); "
    code += "from zoolib.__main__ import main; sys.exit(main(['record', sys.argv[1]]))"
    job = subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=ROOT, env=os.environ | {"ZOOLIB_THREADS": "1"})
    checkpoint = experiment.work_dir(spec) / "checkpoint.pt"
    while not checkpoint.is_file() and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert checkpoint.is_file() and list((tmp_path / "build").rglob("records/**/*.json")) == []
    assert (stopped := torch.load(checkpoint, weights_only=True)["iteration"]) > 0
    seen = []
    experiment.run(spec, ResultStore.default(), lambda spec, done, total, word: seen.append(done))
    assert seen[0] == stopped + 1 and seen[-1] == 300 and not checkpoint.exists()
    assert ResultStore.default().has(spec)


def test_the_command_line_lists_everything(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ("digits", "cifar100", "imagenet-lite", "digits-zoo", "hub_pathway", "lite_zoo_tuning", "paper", "cls"):
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "clss"], "unknown notebook 'clss' (did you mean 'cls'?)"),
        (["run", "cls", "-p", "datset", "cars"], "unknown parameter of cls 'datset' (did you mean 'dataset'?)"),
        (["run", "cls", "-p", "dataset", "car"], "unknown dataset 'car' (did you mean 'cars'?)"),
        (["run", "cls", "-p", "seeds", "two"], "seeds is 'two'; it must be a whole number"),
        (["run", "cls", "-p", "seeds", "true"], "seeds is 'true'; it must be a whole number"),
        (["run", "cls", "-p", "methods", "zoo_tuning"], "'imagenet-lite' mixes several"),
        (["run", "cls", "-p", "profile", "mimi"], "unknown profile 'mimi' (did you mean 'mini'?)"),
        (["record", "/nowhere.json"], "not a specification file"),
        (["pretrain", "resnet50-zoo"], "unknown hub to pretrain"),
        (["list", "models"], "unknown list 'models'"),
    ],
)
def test_bad_input_is_one_line_that_names_the_fix_and_exit_code_1(capsys, arguments, message):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("zoolib: ")


def test_an_absent_dataset_stops_the_run_before_torch_is_loaded(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "zoolib", "run", "cls", "-p", "dataset", "cars"]
    environment = os.environ | {"ZOOLIB_DATA": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 1 and len(lines) == 1 and str(tmp_path / "cars") in lines[0]
    assert not any(line.rstrip().endswith("| torch") for line in done.stderr.splitlines())


def test_run_picks_an_output_path_that_names_what_was_chosen():
    chosen = notebooks.parameters("cls", {"dataset": "cars", "profile": "lab"})
    assert notebooks.output_path("cls", chosen).name == "cls-cars-imagenet-lite-lab.ipynb"
    assert notebooks.parameters("cls", {"seeds": "[1, 2]"})["seeds"] == [1, 2]


def test_without_papermill_the_records_are_computed_and_the_word_is_said(capsys, monkeypatch):
    monkeypatch.setattr(notebooks, "has_papermill", lambda: False)
    arguments = ["run", "cls", "-p", "hub", "digits-zoo", "-p", "profile", "smoke", "-p", "methods", "scratch"]
    assert main(arguments) == 0
    streams = capsys.readouterr()
    assert "papermill is not installed" in streams.err and "1 records below" in streams.out
    assert main(["table", *arguments[2:]]) == 0
    assert "From scratch" in capsys.readouterr().out
    assert main(["run", "claims"]) == 1  # it reads records alone: nothing was done
    assert "papermill is not installed, so claims was not executed; install" in capsys.readouterr().err


def test_absent_weights_are_named_before_the_first_run_is_computed(tmp_path):
    own = manifests.hub("digits-zoo").model_dump(mode="json") | {"name": "absent"}
    own["members"][2]["weights"] = f"file:{tmp_path / 'nowhere.safetensors'}"
    (tmp_path / "absent.yaml").write_text(json.dumps(own))
    store = ResultStore(tmp_path / "results")
    specs = grid("cls", "digits", str(tmp_path / "absent.yaml"), "scratch,finetune", "smoke", 1)
    with pytest.raises(ZoolibError, match=r"are missing: .*nowhere\.safetensors"):
        experiment.complete(specs, store, progress=False)
    assert not any(store.has(spec) for spec in specs)
    experiment.require([spec for spec in specs if spec.method == "scratch" or spec.member == "rotation"])


def test_the_method_of_the_book_runs_as_it_is_printed(store, monkeypatch):
    page = (CHECKOUT / "book/extend/method.md").read_text()
    module, entry = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    written = types.ModuleType("zoolib.methods.probe")
    monkeypatch.setitem(sys.modules, written.__name__, written)
    exec(module, vars(written))
    monkeypatch.setitem(METHODS, "probe", eval(entry, {"MethodCard": MethodCard}))
    specs = smoke("probe")
    assert len(specs) == len(manifests.hub("digits-zoo").members)
    assert 0 <= experiment.run(specs[0], store).metrics["test"]["top1_accuracy"] <= 100


@pytest.mark.parametrize(
    ("command", "package"), [(["claims", "--profile", "mini"], "matplotlib"), (["workflow", "book"], "snakemake")]
)
def test_a_command_without_the_books_packages_names_them_in_one_line(command, package, tmp_path):
    hide = "import sys\nfrom importlib.abc import MetaPathFinder\n"
    hide += "class Hidden(MetaPathFinder):\n    def find_spec(self, name, path=None, target=None):\n"
    hide += f"        if name.split('.')[0] == {package!r}: raise ModuleNotFoundError(name, name=name)\n"
    hide += "sys.meta_path.insert(0, Hidden())\nfrom zoolib.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", hide, *command], cwd=CHECKOUT, capture_output=True, text=True,
        env=os.environ | {"ZOOLIB_BUILD": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"zoolib: {package} is not installed; install the book's packages")
    assert "Traceback" not in done.stderr


def test_the_plan_is_rewritten_only_where_it_changes():
    first = workflow.prepare("smoke", "core")
    times = {spec.run_id: workflow.spec_file(spec).stat().st_mtime_ns for spec in first}
    time.sleep(0.02)
    workflow.prepare("smoke", "core")
    assert times == {spec.run_id: workflow.spec_file(spec).stat().st_mtime_ns for spec in first}


def test_the_list_behind_a_job_changes_with_the_content_of_its_files_and_not_with_their_times(tmp_path):
    """hashlib's sum of "a" is the published test vector of FIPS 180."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("b")
    before = workflow.listing([one, two])
    assert before.splitlines()[0].startswith("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  ")
    assert workflow.listing([two, one, two]) == before != workflow.listing([one])
    os.utime(one, (1, 1))
    assert workflow.listing([one, two]) == before
    two.write_text("c")
    assert workflow.listing([one, two]) != before


def test_short_runs_share_a_process_by_dataset_hub_and_seed_and_long_ones_do_not():
    short = workflow.batches(planned("mini"))
    assert sum(map(len, short.values())) == len(planned("mini"))
    assert all(len({(s.task, s.dataset, s.hub, s.seed) for s in runs}) == 1 for runs in short.values())
    assert len(short) < len(planned("mini")) / 3
    for runs in short.values():
        places = {spec.run_id: place for place, spec in enumerate(runs)}
        assert all(places[other.run_id] < places[spec.run_id] for spec in runs for other in needed(spec))
    assert all(len(runs) == 1 for runs in workflow.batches(planned("lab", "all")).values())


def test_a_stamp_goes_with_a_record_and_a_committed_record_is_no_stand_in(store, monkeypatch):
    spec, *_ = specs = smoke("scratch")
    monkeypatch.setattr(workflow, "planned", lambda *_: specs)
    (batch,) = workflow.batches(specs)
    computed = ResultStore.default()
    record = experiment.run(spec, computed)
    workflow.stamp(batch).parent.mkdir(parents=True)
    workflow.stamp(batch).touch()
    workflow.prepare("smoke", "core")
    assert workflow.stamp(batch).exists()
    (computed.write_root / f"{spec.stem}.json").rename(computed.write_root / "elsewhere.json")
    workflow.prepare("smoke", "core")
    assert not workflow.stamp(batch).exists()
    assert record.run_id == spec.run_id


def test_peak_memory_is_that_of_the_run_and_not_of_what_the_process_did_before():
    cpu = torch.device("cpu")
    big = torch.ones(60_000_000)  # 240 MB
    with_big = runtime.peak_memory_mb(cpu)
    del big
    runtime.forget_peak_memory(cpu)
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux keeps this counter")
    assert runtime.peak_memory_mb(cpu) < with_big - 200


def test_kept_weights_go_when_a_whole_plan_is_recorded_and_logits_stay(store):
    spec = smoke("finetune")[0]
    experiment.run(spec, store)
    kept = experiment.work_dir(spec)
    assert (kept / "weights.safetensors").is_file()
    workflow.tidy([spec])
    assert {path.name for path in kept.iterdir()} == {"hub.sha256", "logits.npz"}


def test_progress_notes_of_an_earlier_workflow_are_ignored():
    spec = smoke("scratch")[0]
    workflow.note_progress(spec, 3)
    assert workflow.read_progress(spec.run_id, 0) == (3, spec.label)
    assert workflow.read_progress(spec.run_id, time.time() + 5) == (0, "")


def test_the_fingerprint_covers_what_can_change_a_number_and_nothing_else():
    package = Path(runtime.__file__).parent
    covered = {p.relative_to(package).as_posix() for pattern in runtime._NUMERIC for p in package.glob(pattern)}
    assert {"train.py", "losses.py", "layers/adaagg.py", "methods/hubpathway.py", "data/augment.py"} <= covered
    assert {f"data/{name}.py" for name in ("embedded", "render", "scenes", "things", "aerial")} <= covered
    assert "weights/digits-zoo/jigsaw.safetensors" in covered
    assert not {"figures.py", "tables.py", "__main__.py", "commands.py", "pages.py"} & covered
    assert all(list(package.glob(pattern)) for pattern in runtime._NUMERIC)


# The workflow as a process --------------------------------------------------------------------------------------------


def test_a_workflow_refuses_a_negative_number_of_cores_and_a_second_one_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path))
    with pytest.raises(ZoolibError, match="cores is -1; use a number of processes"):
        workflow.run("book", "smoke", -1)
    lock = tmp_path / "workflow.lock"
    busy = "another workflow is at work"
    with locked(lock, lambda: pytest.fail("nobody has it")), pytest.raises(ZoolibError, match=busy):
        workflow.run("book", "smoke")
    with locked(lock, lambda: pytest.fail("it is free again")):
        pass


def test_a_lock_that_a_child_inherits_lasts_as_long_as_the_child(tmp_path):
    lock = tmp_path / "lock"
    with locked(lock, lambda: pytest.fail("nobody has it")) as handle:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(handle.fileno(),))

    def free():
        child.communicate(b"\n")

    with locked(lock, free):  # it is busy, as its first holder has gone and the child has not
        assert child.returncode == 0


def test_a_full_disk_is_one_line_wherever_it_is_met():
    def wrapped():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("PytorchStreamWriter failed writing file")  # noqa: B904  as torch does

    def plain():
        raise OSError(errno.ENOSPC, "No space left on device")

    for fail in (plain, wrapped):
        with pytest.raises(ZoolibError, match="disk full: free some space"), experiment._enough_room():
            fail()
    with pytest.raises(FileNotFoundError), experiment._enough_room():
        Path("/nowhere/at/all").read_text()
    with pytest.raises(RuntimeError, match="shapes"), experiment._enough_room():
        raise RuntimeError("shapes do not fit")


def test_logits_and_weights_of_other_data_or_another_hub_are_not_handed_on(store, tmp_path, monkeypatch):
    spec = smoke("finetune")[0]
    experiment.run(spec, store)
    embedded = loaders.load(manifests.dataset(spec.dataset), spec.settings).sha256
    hub = manifests.hub_sha256(spec.hub)
    work, here = experiment.work_dir(spec), recipe.origin_of(embedded, hub)
    assert recipe.load_logits(work, here) is not None and recipe.has_weights(work, here)
    for other in (recipe.origin_of("f" * 64, hub), recipe.origin_of(embedded, "e" * 64)):
        assert recipe.load_logits(work, other) is None and not recipe.has_weights(work, other)
    recipe.save_logits(work, {"test": np.zeros((20, 3), np.float32)}, recipe.origin_of("f" * 64, None))
    handed = experiment._finished(spec, store, None, embedded, smoke("ensemble")[0])
    assert len(handed.logits) == 4, "computed again, as those of other data do not count"
    assert recipe.load_logits(work, here) is not None


def test_logits_that_were_cut_are_computed_again(tmp_path):
    recipe.save_logits(tmp_path, {"test": np.zeros((20, 3), np.float32)}, "code")
    assert recipe.load_logits(tmp_path, "code")["test"].shape == (20, 3)
    file = tmp_path / "logits.npz"
    file.write_bytes(file.read_bytes()[:100])
    assert recipe.load_logits(tmp_path, "code") is None


def test_a_soup_whose_ingredients_were_finished_before_has_the_same_record(store, tmp_path):
    (spec,) = smoke("model_soups")
    first = experiment.run(spec, store)
    second = experiment.run(spec, ResultStore(tmp_path / "other"))
    assert second.curves.equals(first.curves) and len(first.curves)
    assert second.metrics["cost"].keys() == first.metrics["cost"].keys()
    for name in ("seconds", "images_per_second"):
        assert second.metrics["cost"][name] == first.metrics["cost"][name]
    assert second.metrics["test"] == first.metrics["test"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP], ids=["kill", "closed terminal"])
def test_killing_a_workflow_ends_its_jobs(end, tmp_path):
    """The jobs are stood for by a program that starts another one and waits, as Snakemake does."""
    note = str(tmp_path / "job")
    job = f"import pathlib, os, time; pathlib.Path({note!r}).write_text(str(os.getpid())); time.sleep(60)"
    code = f"""
import subprocess, sys
from zoolib import workflow
workflow.prepare = lambda *_: []
true_popen = subprocess.Popen
def fake(command, **given):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', " + repr({job!r}) + "])"
    return true_popen([sys.executable, "-c", child], **given)
workflow.subprocess.Popen = fake
workflow.run("book", "smoke", 1)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"ZOOLIB_BUILD": str(tmp_path)},
        preexec_fn=lambda: signal.signal(end, signal.SIG_DFL),  # below nohup the tests themselves ignore it
    )
    for _ in range(600):
        if (tmp_path / "job").is_file() and (tmp_path / "job").read_text():
            break
        time.sleep(0.1)
    pid = int((tmp_path / "job").read_text())
    process.send_signal(end)
    assert process.wait(timeout=60) != 0
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.is_file() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.1)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the job went on")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ZOOLIB_THREADS", "abc", "ZOOLIB_THREADS is 'abc'; use a number of threads"),
        ("ZOOLIB_THREADS", "0", "ZOOLIB_THREADS is '0'; use a number of threads"),
        ("ZOOLIB_DEVICE", "cuda:99", "ZOOLIB_DEVICE is 'cuda:99', and torch sees"),
    ],
)
def test_a_wrong_variable_is_one_line(variable, value, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path))
    monkeypatch.setenv(variable, value)
    command = ["run", "cls", "-p", "dataset", "digits", "-p", "hub", "digits-zoo", "-p", "methods", "scratch"]
    assert main([*command, "-p", "profile", "smoke", "-p", "seeds", "1", "--records-only"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_a_build_folder_that_cannot_be_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "file"))
    command = ["run", "cls", "-p", "dataset", "digits", "-p", "hub", "digits-zoo", "-p", "methods", "scratch"]
    assert main([*command, "-p", "profile", "smoke", "-p", "seeds", "1", "--records-only"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("zoolib: ") and "name a path that can be used" in error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk full: free some space"),
        (OSError(errno.EROFS, "Read-only file system", "/there/x"), "/there/x: Read-only file system; name a path"),
        (FileExistsError(errno.EEXIST, "File exists", "/there"), "/there: File exists; name a path"),
    ],
)
def test_what_the_system_says_of_a_disk_or_a_path_is_one_line(error: OSError, words: str, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(manifests, "datasets", fail)
    assert main(["list", "datasets"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"zoolib: {words}") and said.count("\n") == 1


def test_the_commit_is_never_that_of_a_repository_around_an_installation(tmp_path, monkeypatch):
    monkeypatch.delenv("ZOOLIB_COMMIT", raising=False)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(runtime, "CHECKOUT", tmp_path)
    assert runtime.commit() == ("unknown", False)
    (tmp_path / "pyproject.toml").touch()
    assert len(runtime.commit()[0]) == 40
