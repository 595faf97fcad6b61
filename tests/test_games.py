"""Atari runs from specification to page: plans, records, sources, bad input."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import synthetic
import torch
from safetensors.torch import load, save

from zoolib import arcade, experiment, games, notebooks, paths, provenance, runtime, workflow
from zoolib.__main__ import main
from zoolib.grid import grid
from zoolib.plans import planned
from zoolib.results import Result, ResultStore
from zoolib.rl import envs, runs, sources
from zoolib.rl.der import DuelingHead, Network
from zoolib.rl.encoders import Convolutions, Plain
from zoolib.spec import ControlSettings, RunSpec, ZoolibError


def atari(methods: str = "all", game: str = "jamesbond", profile: str = "smoke", seeds: object = 0) -> list[RunSpec]:
    return grid("atari", game, games.HUB, methods, profile, seeds)  # type: ignore[arg-type]


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with two made-up source policies."""
    folder = tmp_path / "package/weights/atari"
    folder.mkdir(parents=True)
    notes = []
    for seed, name in enumerate(games.SOURCES):
        torch.manual_seed(seed)
        state = {f"encoder.convolutions.{k}": v.half() for k, v in Convolutions().state_dict().items()}
        (folder / f"{name}.safetensors").write_bytes(content := save(state))
        notes.append({"game": name, "sha256": hashlib.sha256(content).hexdigest()})
    (folder / "provenance.json").write_text(json.dumps(notes))
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "package")
    return folder


# Plans and bad input --------------------------------------------------------------------------------------------------


def test_the_grid_has_every_method_and_one_fine_tuning_a_source() -> None:
    specs = atari(profile="lab", seeds=[0, 3])
    assert [(s.method, s.member) for s in specs[:7]] == [
        ("random", ""), ("scratch", ""), ("finetune", "seaquest"), ("finetune", "riverraid"), ("knowledge_flow", ""),
        ("zoo_tuning", ""), ("hub_pathway", ""),
    ]  # fmt: skip
    assert [s.seed for s in specs] == [0] * 7 + [3] * 7
    assert specs[0].settings == ControlSettings()
    for spec in specs:
        again = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
        assert again == spec
        assert again.run_id == spec.run_id
    assert specs[1].stem.startswith("atari/jamesbond/atari-policies/lab/scratch-s0-")


def test_the_fingerprint_covers_the_order_of_the_sources_and_the_scores_that_normalise() -> None:
    assert "games.py" in runtime._NUMERIC


def test_methods_that_need_a_source_are_planned_where_the_policies_are_packaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path)
    assert {s.method for s in planned("mini") if s.task == "atari"} == {"random", "scratch"}
    for name in games.SOURCES:
        (tmp_path / "weights/atari").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"weights/atari/{name}.safetensors").touch()
    assert {s.method for s in planned("smoke") if s.task == "atari"} == set(games.METHODS)
    lab = [s for s in planned("lab", "all") if s.task == "atari"]
    assert len(lab) == len(set(lab)) == 5 * 3 * 7
    assert [s.seed for s in lab] == [seed for seed in range(5) for _ in range(3 * 7)], "a seed of all before the next"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"game": "jamesbnd"}, "unknown game 'jamesbnd' (did you mean 'jamesbond'?); known: alien, gopher"),
        ({"methods": "ensemble"}, "unknown method for Atari games 'ensemble'"),
        ({"methods": " "}, "no method was named"),
        ({"profile": "big"}, "unknown profile 'big'"),
        ({"seeds": -1}, "seeds is -1"),
        ({"hub": "mini-zoo"}, "unknown hub 'mini-zoo'; known: atari-policies"),
        ({"members": ["pong"]}, "unknown member of hub 'atari-policies' 'pong'; known: riverraid, seaquest"),
        ({"label_fraction": 0.5}, "label_fraction is 0.5; a game has no labels: use 1"),
    ],
)
def test_a_wrong_name_or_value_is_one_line(changes: dict[str, object], words: str) -> None:
    given = {"game": "jamesbond", "hub": games.HUB, "methods": "all", "profile": "smoke", "seeds": 0} | changes
    names = [given.pop(name) for name in ("game", "hub", "methods", "profile", "seeds")]
    with pytest.raises(ZoolibError) as caught:
        grid("atari", *names, **given)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_members_keep_the_runs_of_these_sources_and_those_of_the_whole_hub() -> None:
    specs = grid("atari", "alien", games.HUB, "scratch,finetune,zoo_tuning", "smoke", 1, members=["riverraid"])
    assert [(s.method, s.member) for s in specs] == [("scratch", ""), ("finetune", "riverraid"), ("zoo_tuning", "")]


def test_the_notebooks_parameters_give_its_runs() -> None:
    chosen = notebooks.parameters("atari", {"game": "gopher", "methods": "random,scratch"})
    assert [(s.dataset, s.method) for s in notebooks.specs_of("atari", chosen)] == [
        ("gopher", "random"),
        ("gopher", "scratch"),
    ]
    with pytest.raises(ZoolibError, match="unknown game"):
        notebooks.specs_of("atari", {**chosen, "game": "pong"})


# Sources --------------------------------------------------------------------------------------------------------------


def test_a_source_of_another_shape_or_an_absent_one_is_one_line(packaged: Path) -> None:
    for state, found in (
        ({"encoder.convolutions.conv1.weight": torch.zeros(32, 4, 8, 8)}, r"conv1.weight is \(32, 4, 8, 8\)"),
        ({"conv1.weight": torch.zeros(32, 4, 5, 5)}, "conv1.weight is missing"),
    ):
        (packaged / "seaquest.safetensors").write_bytes(save(state))
        with pytest.raises(ZoolibError, match=f"another shape: {found}, .*needed; .*git checkout") as caught:
            runs.load_source(packaged / "seaquest.safetensors")
        assert "\n" not in str(caught.value)
    (packaged / "riverraid.safetensors").unlink()
    with pytest.raises(ZoolibError, match="no source policy"):
        runs.build(atari("finetune")[1], ControlSettings())


def test_a_damaged_or_exchanged_source_is_one_line(packaged: Path) -> None:
    source, other = packaged / "seaquest.safetensors", (packaged / "riverraid.safetensors").read_bytes()
    whole = source.read_bytes()
    for content, words in (
        (b"", "a damaged source policy; .*git checkout"),
        (whole[:-9], "a damaged source policy; .*git checkout"),
        (other, "its checksum is not the one in the provenance.json.*git checkout"),
    ):
        source.write_bytes(content)
        with pytest.raises(ZoolibError, match=words) as caught:
            runs.load_source(source)
        assert "\n" not in str(caught.value)
    source.write_bytes(whole)
    assert runs.load_source(source).conv1.weight.shape == (32, 4, 5, 5)


def test_without_the_sources_checksums_no_run_that_needs_them_starts(packaged: Path) -> None:
    scratch, tuned = (atari(method)[0] for method in ("scratch", "finetune"))
    for content in ("", "[{}]", "{", None):
        if content is None:
            (packaged / "provenance.json").unlink()
        else:
            (packaged / "provenance.json").write_text(content)
        with pytest.raises(ZoolibError, match=r"provenance.json: absent or damaged; .*git checkout") as caught:
            envs.data_sha256(tuned)
        assert "\n" not in str(caught.value)
        assert envs.data_sha256(scratch) == {"rom": envs.rom_sha256("jamesbond")}


def test_finetune_starts_from_its_sources_convolutions_and_a_new_head(packaged: Path) -> None:
    given = load((packaged / "riverraid.safetensors").read_bytes())
    network, _ = runs.build(atari("finetune", game="gopher")[1], ControlSettings())
    for name, tensor in given.items():
        assert torch.equal(network.state_dict()[name], tensor.float())
    assert network.head.num_actions == 8


def test_the_deviation_about_k_is_there_for_a_k_that_is_not_the_papers(packaged: Path) -> None:
    said = {}
    for top_k in (1, 2):
        (spec,) = grid("atari", "alien", games.HUB, "hub_pathway", "smoke", 0, top_k=top_k)
        said[top_k] = " ".join(runs.build(spec, spec.settings)[1])
    assert "top 2" in said[1] and "k = 1" in said[1]
    assert "top 2" not in said[2]
    assert "trains those layers" in said[1] and "trains those layers" in said[2]


def test_shipping_packs_the_mean_weights_in_half_precision_with_their_provenance(tmp_path: Path) -> None:
    spec = atari("scratch", game="seaquest")[0]
    store = ResultStore(tmp_path / "records")
    metrics = {"test": {"score": 12.0, "score_std": 3.0, "episodes": 1.0}}
    store.save(Result(spec, metrics, {"commit": "abc", "dirty": False, "machine": {"cpu": "x", "gpu": ""}}))
    network = Network(Plain(), DuelingHead(18, 51, 16, 0.1))
    (tmp_path / "policy.safetensors").write_bytes(save(network.state_dict()))
    (note,) = sources.ship([spec], store, lambda _: tmp_path, tmp_path / "out", episodes=1, max_frames=100)
    packed = (tmp_path / "out/seaquest.safetensors").read_bytes()
    state = load(packed)
    assert {str(t.dtype) for t in state.values()} == {"torch.float16"}
    assert not [name for name in state if "sigma" in name or "noise" in name]
    torch.testing.assert_close(
        state["head.value.weight"].float(), network.head.value.weight.detach(), atol=1e-3, rtol=1e-3
    )
    loaded = runs.load_source(tmp_path / "out/seaquest.safetensors")
    torch.testing.assert_close(
        loaded.conv1.weight,
        network.encoder.convolutions.conv1.weight.half().float().detach(),  # type: ignore[union-attr]
    )
    assert note == json.loads((tmp_path / "out/provenance.json").read_text())[0]
    assert (note["commit"], note["score"], note["run_id"]) == ("abc", 12.0, spec.run_id)
    assert note["random_score"] >= 0


def test_shipping_one_source_keeps_what_is_known_of_the_other(packaged: Path, tmp_path: Path) -> None:
    (spec,) = sources.specs("riverraid")
    store = ResultStore(tmp_path / "records")
    store.save(synthetic.game_result(spec))
    (tmp_path / games.POLICY).write_bytes(save(Network(Plain(), DuelingHead(18, 51, 16, 0.1)).state_dict()))
    kept = json.loads((packaged / "provenance.json").read_text())[0]
    (note,) = sources.ship([spec], store, lambda _: tmp_path, packaged, episodes=1, max_frames=100)
    assert json.loads((packaged / "provenance.json").read_text()) == [kept, note]
    for name in games.SOURCES:
        assert runs.load_source(packaged / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("arguments", "threads", "words"),
    [
        (["--member", "pong"], "1", "unknown member of atari-policies to pretrain 'pong'; known: riverraid, seaquest"),
        ([], "many", "ZOOLIB_THREADS is 'many'"),
    ],
)
def test_pretraining_refuses_an_unknown_source_and_a_number_of_threads_that_is_none(
    arguments: list[str], threads: str, words: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path))
    monkeypatch.setenv("ZOOLIB_THREADS", threads)
    monkeypatch.setattr(experiment, "complete", lambda *args, **kwargs: pytest.fail("a run was started"))
    assert main(["pretrain", games.HUB, *arguments]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_absent_sources_and_roms_are_named_before_a_game_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = grid("atari", "jamesbond", games.HUB, "scratch,zoo_tuning,random", "smoke", 1)
    experiment.require(specs)
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path)
    experiment.require([spec for spec in specs if spec.method != "zoo_tuning"])
    with pytest.raises(ZoolibError, match=r"provenance\.json"):
        experiment.require(specs)
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(ZoolibError, match="no ROM of 'jamesbond'"):
        experiment.require(specs)


@pytest.mark.parametrize("content", ["{", "[{}]", '[{"game": "seaquest", "sha256": "0"}]', "[3]"])
def test_damaged_notes_of_the_sources_are_one_line_on_the_page(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(arcade.source_table()) == 2
    (tmp_path / "weights/atari").mkdir(parents=True)
    (tmp_path / "weights/atari/provenance.json").write_text(content)
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path)
    with pytest.raises(ZoolibError, match=r"provenance\.json: damaged \(.*restore it with git checkout") as caught:
        arcade.source_table()
    assert "\n" not in str(caught.value)


def test_pretraining_runs_what_has_no_policy_here_whatever_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = ResultStore(tmp_path / "committed")
    for spec in sources.specs():
        committed.save(synthetic.game_result(spec))
    for name, folder in (("ZOOLIB_BUILD", "build"), ("ZOOLIB_RESULTS", "committed")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.delenv("ZOOLIB_RECORDS", raising=False)
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "package")
    monkeypatch.setattr(sources, "random_scores", lambda *args, **kwargs: [7.0])
    ran: list[str] = []

    def long_run(spec: RunSpec, work: Path, progress: object) -> runs.GameOutcome:
        ran.append(spec.dataset)
        work.mkdir(parents=True, exist_ok=True)
        (work / games.POLICY).write_bytes(save(Network(Plain(), DuelingHead(18, 51, 16, 0.1)).state_dict()))
        made = synthetic.game_result(spec)
        return runs.GameOutcome(
            {"test": made.metrics["test"] | {"score_std": 1.0}, "cost": {"eval_seconds": 1.0}}, made.curves, None
        )

    monkeypatch.setattr(runs, "run", long_run)
    assert main(["pretrain", games.HUB]) == 0
    assert ran == list(games.SOURCES)
    assert capsys.readouterr().out == "seaquest: score 100, random 7\nriverraid: score 100, random 7\n"
    notes = json.loads((tmp_path / "package/weights/atari/provenance.json").read_text())
    assert [note["game"] for note in notes] == ran
    assert main(["pretrain", games.HUB]) == 0
    assert ran == list(games.SOURCES), "nothing is missing"
    workflow.tidy(sources.specs()[1:])
    with pytest.raises(ZoolibError, match=r"no policy of riverraid.*pretrain atari-policies"):
        sources.ship(sources.specs(), ResultStore.default(), experiment.work_dir)
    assert main(["pretrain", games.HUB]) == 0
    assert ran == [*games.SOURCES, "riverraid"]
    seaquest = sources.specs()[0]
    (tmp_path / f"build/records/{seaquest.stem}.json").unlink()
    assert main(["pretrain", games.HUB]) == 0
    assert ran == [*games.SOURCES, "riverraid", "seaquest"], "a committed record does not describe a policy made here"
    workflow.tidy(sources.specs())
    assert main(["pretrain", games.HUB, "--member", "riverraid"]) == 0
    assert ran == [*games.SOURCES, "riverraid", "seaquest", "riverraid"], "this one alone"


# Runs -----------------------------------------------------------------------------------------------------------------


def test_every_method_leaves_a_whole_record_and_is_not_run_again(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    store = ResultStore(tmp_path / "records")
    specs = atari("random,knowledge_flow,zoo_tuning,hub_pathway")
    records = experiment.complete(specs, store, progress=False)
    assert experiment.missing(specs, store) == []
    for record in records:
        score = record.metrics["test"]["score"]
        assert score is not None
        assert record.metrics["test"]["human_normalised_score"] == pytest.approx((score - 29.0) / (302.8 - 29.0))
        assert record.provenance["data_sha256"]["rom"] == envs.rom_sha256("jamesbond")
        evaluated = record.curves
        assert evaluated is not None
        final = evaluated[(evaluated["split"] == "eval") & (evaluated["iteration"] == 60)]["value"]
        assert final.mean() == pytest.approx(score)
    shown = {r.spec.method: [c for c in r.samples if ":" in c] for r in records if r.samples is not None}
    assert shown["hub_pathway"] == ["weight:seaquest", "weight:riverraid"]
    assert shown["zoo_tuning"] == [f"gate:{layer}:{name}" for layer in ("conv1", "conv2") for name in games.SOURCES]
    assert shown["knowledge_flow"][:2] == ["gate:conv1:student", "gate:conv1:seaquest"]
    routed = records[-1].samples
    assert routed is not None
    np.testing.assert_allclose(routed["weight:seaquest"] + routed["weight:riverraid"], 1, atol=1e-3)
    assert runs.STRIP <= sum(isinstance(frame, bytes) for frame in routed["frame"]) < 2 * runs.STRIP
    assert len(list((tmp_path / "build/work").rglob("checkpoint.pt"))) == 0
    (packaged / "provenance.json").write_text(json.dumps([{"game": "seaquest", "sha256": "other"}]))
    assert experiment.missing(specs, store) == specs[1:]  # random play does not read the sources
    for figure in (
        arcade.episode(routed),
        arcade.episode(records[2].samples),
        arcade.episode(routed.drop(columns=shown["hub_pathway"])),
    ):
        figure.savefig(tmp_path / "figure.svg")


def test_a_resumed_runs_seconds_and_start_are_those_of_the_whole_run_and_each_process_counts_its_own_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(spec: RunSpec, step: int, steps: int, word: str) -> None:
        if step == 45:
            raise KeyboardInterrupt

    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(runs, "train", functools.partial(runs.train, checkpoint_every=20))
    forgotten: list[object] = []
    monkeypatch.setattr(runtime, "forget_peak_memory", forgotten.append)
    (spec,), store = atari("scratch"), ResultStore(tmp_path / "records")
    with pytest.raises(KeyboardInterrupt):
        experiment.run(spec, store, stop)
    file = experiment.work_dir(spec) / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    assert 0 < state["seconds"] < 500
    (before,) = state["past"]["parts"]
    assert before["steps"] == 40
    elsewhere = before | {"threads": 99, "machine": before["machine"] | {"gpu": "another processor"}}
    state |= {"seconds": 1000.0, "eval_seconds": 500.0}
    state["past"] |= {"started": "2026-01-02T03:04:05+00:00", "parts": [elsewhere]}
    torch.save(state, file)
    record = experiment.run(spec, store)
    cost, kept = record.metrics["cost"], record.provenance
    assert cost["seconds"] > 1000 and cost["eval_seconds"] > 500
    assert kept["seconds"] == pytest.approx(cost["seconds"] + cost["eval_seconds"])
    assert kept["started"] == "2026-01-02T03:04:05+00:00"
    assert kept["resumed_from"] == [elsewhere]
    assert record.machine == f"another processor, then {runtime.machine(torch.device('cpu'))['cpu']}"
    assert "machine: another processor (99 threads), then " in provenance.summary([record])
    assert [str(device) for device in forgotten] == [str(runtime.device())] * 2
    (random,) = atari("random")
    record = experiment.run(random, store)
    assert record.provenance["seconds"] == record.metrics["cost"]["eval_seconds"]
    assert record.provenance["started"] > "2026-01-03" and "resumed_from" not in record.provenance


def test_a_record_that_a_later_process_writes_names_the_compiler_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(spec: RunSpec, step: int, steps: int, word: str) -> None:
        if step == steps:
            raise KeyboardInterrupt

    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    (spec,), store = atari("scratch"), ResultStore(tmp_path / "records")
    with pytest.raises(KeyboardInterrupt):
        experiment.run(spec, store, stop)
    file = experiment.work_dir(spec) / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    (part,) = state["past"]["parts"]
    assert part["steps"] == state["done"] == spec.settings.steps and part["compiled"] is False
    part["compiled"] = True
    torch.save(state, file)
    assert experiment.run(spec, store).provenance["compiled"] is True


def test_in_the_committed_records_scratch_learns_james_bond_clearly_above_random_play() -> None:
    found = {
        r.spec.method: r.metrics["test"]
        for r in ResultStore(paths.results_dir()).records(dataset="jamesbond", method=["scratch", "random"], seed=0)
        if r.spec.profile == "lab"
    }
    learned, random = found["scratch"], found["random"]
    error = sum(each["score_std"] ** 2 / each["episodes"] for each in (learned, random)) ** 0.5
    assert learned["score"] - random["score"] > 4 * error > 0, "of the means of ten games each"


def test_a_run_whose_record_could_not_be_saved_ends_the_same_without_training_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullOnce(ResultStore):
        tried: ClassVar[list[Result]] = []

        def save(self, result: Result) -> Result:
            self.tried.append(result)
            if len(self.tried) == 1:
                raise ZoolibError("disk full")
            return super().save(result)

    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    (spec,), store = atari("scratch"), FullOnce(tmp_path / "records")
    work, steps = experiment.work_dir(spec), []
    with pytest.raises(ZoolibError, match="disk full"):
        experiment.run(spec, store)
    policy = (work / games.POLICY).read_bytes()
    assert (work / "checkpoint.pt").is_file()
    experiment.run(spec, store, lambda _, step, __, ___: steps.append(step))
    assert steps == [60], "the last step, which was done"
    lost, made = store.tried
    assert made.metrics["test"] == pytest.approx(lost.metrics["test"], nan_ok=True)
    assert made.metrics["cost"]["seconds"] == lost.metrics["cost"]["seconds"]
    pd.testing.assert_frame_equal(made.curves, lost.curves)
    pd.testing.assert_frame_equal(made.samples, lost.samples)
    assert experiment.missing([spec], store) == []
    assert (work / games.POLICY).read_bytes() == policy
    assert sorted(path.name for path in work.iterdir()) == [games.POLICY, "run.lock"]


def test_a_record_names_the_gpu_that_computed_it_and_none_where_the_cpu_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
        found = [runtime.machine(*used)["gpu"] for used in ((torch.device("cuda:1"),), (torch.device("cpu"),), ())]
        assert found == ["GPU cuda:1", "", "GPU None"]
    monkeypatch.setattr(runtime, "machine", lambda used=None: {"gpu": f"device {used}"})
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("ZOOLIB_DEVICE", "cpu")
    for spec in atari("random,scratch"):
        assert experiment.run(spec, ResultStore(tmp_path)).machine == "device cpu"


def test_compiling_is_for_long_runs_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (runs.use_compile("on", 1), runs.use_compile("off", 100_000)) == (True, False)
    monkeypatch.setattr(runs.shutil, "which", lambda name: f"/bin/{name}")
    assert (runs.use_compile("auto", 100_000), runs.use_compile("auto", 1_000)) == (True, False)
    monkeypatch.setattr(runs.shutil, "which", lambda name: None)
    assert not runs.use_compile("auto", 100_000)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    assert not runs.use_compile("on", 100_000), "torch would not compile, and the record says so"


# Tables and figures ---------------------------------------------------------------------------------------------------


def test_scores_show_mean_spread_yardsticks_and_what_was_not_run(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    specs = atari(profile="lab", seeds=3)
    for spec in specs:
        if spec.method in ("random", "zoo_tuning") or (spec.method == "scratch" and spec.seed == 0):
            store.save(synthetic.game_result(spec))
    table = arcade.scores(store.frame(specs), specs)
    assert table.loc["Zoo-Tuning"].to_dict() == {
        "score": "410.0 ± 10.0", "± over": "seeds, 6 games",
        "human-normalised (%)": f"{100 * (410 - 29) / 273.8:.1f}", "seeds": "3",
        "computed": "recomputed here",
    }  # fmt: skip
    assert table.loc["From scratch", "seeds"] == "1 of 3"
    assert table.loc["From scratch", ["score", "± over"]].tolist() == ["100.0 ± 2.5", "2 games"]
    frame = store.frame(specs)
    frame.loc[frame["seed"] > 0, ["origin", "commit"]] = ["committed", "76543210"]
    frame.loc[frame["seed"] > 1, "commit"] = "89abcdef"
    stamp = arcade.scores(frame, specs).loc["Zoo-Tuning", "computed"]
    assert stamp == "recomputed here, committed 7654321, 89abcde"
    assert table.loc["Hub-Pathway", "score"] == "not run"
    assert table.loc["Fine-tuning, River Raid", "score"] == "not run"
    assert table.loc["Random, published", "human-normalised (%)"] == "0.0"
    frame.loc[frame["metric"] == "episodes", "value"] = 1.0
    one = arcade.scores(frame[frame["metric"] != "score_std"], specs).loc["From scratch"]
    assert one[["score", "± over"]].tolist() == ["100.0", "1 game"]
    human = table.loc["Human, published", ["score", "± over", "human-normalised (%)"]]
    assert human.tolist() == ["302.8", "", "100.0"]
    said = arcade.random_difference(store.frame(specs), "jamesbond")
    assert said.replace("\xa0", " ") == (
        "James Bond: From scratch scores 100.0 ± 2.5 (over games of one seed), random play 10.0 ± 10.0 (over 3 seeds)."
    )
    assert "has not been run" in arcade.random_difference(store.frame(specs), "alien")
    with pytest.raises(ZoolibError, match="one dataset"):
        arcade.scores(store.frame(specs), [*specs, *atari(game="alien", profile="lab")])


def test_costs_of_different_games_and_machines_are_rows_of_their_own(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    (other,) = atari("scratch", game="alien", profile="lab", seeds=1)
    specs = [*atari("scratch,zoo_tuning", profile="lab", seeds=3), other]
    for spec in specs:
        made = synthetic.game_result(spec)
        made.metrics["cost"]["seconds"] = 100.0 * (1 + spec.seed)
        made.provenance["machine"] = {"cpu": "Test CPU", "gpu": "H100" if spec.seed == 2 else ""}
        store.save(made)
    (untrained,) = atari("random", profile="lab", seeds=1)
    made = synthetic.game_result(untrained)
    made.metrics["cost"] = {"eval_seconds": 1.0}
    store.save(made)
    chosen = [spec for spec in specs if (spec.method, spec.seed) != ("zoo_tuning", 2)]
    table = arcade.costs(store.frame([*chosen, untrained]))
    shown = table.reset_index()[["game · method", "training (s)", "runs", "machine"]]
    assert shown.to_numpy().tolist() == [
        ["Alien · From scratch", "100", "1", "Test CPU"],
        ["James Bond · From scratch", "300", "1", "H100"],
        ["James Bond · From scratch", "150", "2", "Test CPU"],
        ["James Bond · Zoo-Tuning", "150", "2", "Test CPU"],
    ]
    assert table["steps/s"].tolist() == ["—"] * 4


def test_the_reward_figure_has_a_panel_a_game_a_line_a_method_and_a_band_over_seeds(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    specs = atari("random,scratch,hub_pathway", profile="lab", seeds=2)
    for spec in specs:
        store.save(synthetic.game_result(spec))
    figure = arcade.rewards(store.curves(specs), games.TARGETS, store.frame(specs))
    alien, _, bond = figure.axes
    assert [text.get_text() for text in alien.texts] == ["not run"]
    lines = {line.get_label(): line for line in bond.lines}
    assert set(lines) == {"From scratch", "Hub-Pathway", "Random play"}
    np.testing.assert_allclose(lines["Hub-Pathway"].get_xdata(), [50, 100])
    np.testing.assert_allclose(lines["Hub-Pathway"].get_ydata(), [(500 + 510) / 4, 505])
    assert len(bond.collections) == 2
    assert alien.get_xlim() == bond.get_xlim()
    assert bond.get_xlim()[1] > 90
    assert lines["Random play"].get_ydata()[0] == pytest.approx(5)  # the mean of both seeds
    with pytest.raises(ZoolibError, match="nothing to draw"):
        arcade.rewards(store.curves(specs)[:0], games.TARGETS)


def test_settings_that_differ_from_the_papers_are_listed() -> None:
    assert arcade.differences(atari(profile="lab")).empty
    table = arcade.differences(atari("scratch", profile="mini"))
    assert table.loc["steps"].to_dict() == {"here": "600", "paper": "100000"}
