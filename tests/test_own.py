"""Your own hub and images, from Python."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from zoolib import experiment, own
from zoolib.__main__ import main
from zoolib.data import manifests
from zoolib.data.manifests import hub
from zoolib.data.own import ensure
from zoolib.grid import grid
from zoolib.hub import HubModel, build, check_features, split
from zoolib.methods.single import Single
from zoolib.nets import NETS
from zoolib.paths import made_weights
from zoolib.results import ResultStore
from zoolib.spec import ZoolibError
from zoolib.tasks import Classification

SETTINGS = dataclasses.replace(own.SETTINGS, image_size=32, decode_size=32, iterations=3, eval_every=3, batch_size=8)
NAMES = ["mobilenetv3_small_050", "resnet10t"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 40), ("middle", 120)):
        (folder / name).mkdir()
        for i in range(12):
            pixels = np.clip(rng.normal(level, 12, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tuned(photos: Path) -> own.Tuned:
    torch.set_num_threads(1)
    return own.tune(own.hub(NAMES, weights="random"), own.folder(photos, SETTINGS), settings=SETTINGS)


def test_a_folder_is_split_within_each_class_by_content_alone(photos: Path):
    data = own.folder(photos, SETTINGS)
    assert data.train.classes == ["bright", "dark", "middle"]
    assert np.bincount(data.test.labels).tolist() == [3, 3, 3] and np.bincount(data.train.labels).tolist() == [9, 9, 9]
    assert data.test.pixels.shape == (9, 32, 32, 3)
    assert data.sha256 == own.folder(photos, SETTINGS).sha256
    assert not set(data.rows["train"]) & set(data.rows["val"])


def test_folders_train_val_and_test_above_the_classes_are_the_split(photos: Path, tmp_path: Path):
    parts = {"train": range(7), "valid": range(7, 9), "test": range(9, 12)}
    for part, numbers in parts.items():
        for name in ("bright", "dark", "middle"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in numbers:
                shutil.copy(photos / name / f"{i}.png", tmp_path / part / name)
    data = own.folder(tmp_path, SETTINGS)
    assert data.train.classes == ["bright", "dark", "middle"]
    shown = {"test": data.test.pixels} | {name: data.train.pixels[data.rows[name]] for name in ("train", "val")}
    for part, numbers in zip(("train", "val", "test"), parts.values(), strict=True):
        files = [photos / name / f"{i}.png" for name in data.train.classes for i in numbers]
        assert {x.tobytes() for x in shown[part]} == {own.read_image(file, 32).tobytes() for file in files}
    shutil.rmtree(tmp_path / "valid")
    assert len(own.folder(tmp_path, SETTINGS).rows["val"]) == 3, "one of each class is held out where none is given"
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(ZoolibError, match="give train and test, or none"):
        own.folder(tmp_path, SETTINGS)


def test_an_image_of_two_classes_is_not_tested_and_copies_across_given_splits_are_said(photos: Path, tmp_path: Path):
    shutil.copytree(photos, tmp_path / "photos")
    for number in range(6):
        shutil.copy(photos / "dark" / f"{number}.png", tmp_path / "photos/bright" / f"dark{number}.png")
    data = own.folder(tmp_path / "photos", SETTINGS)
    tested, trained = ({image.tobytes() for image in part.pixels} for part in (data.test, data.train))
    assert not tested & trained and len(tested) == len(data.test.labels)
    for name in ("one", "other"):
        shutil.copytree(photos / "dark", tmp_path / "alike" / name)
    with pytest.raises(ZoolibError, match="every image is in two classes"):
        own.folder(tmp_path / "alike", SETTINGS)
    for part, numbers in {"train": range(8), "test": range(7, 12)}.items():
        for name in ("bright", "dark"):
            (tmp_path / "split" / part / name).mkdir(parents=True)
            for i in numbers:
                shutil.copy(photos / name / f"{i}.png", tmp_path / "split" / part / name)
    (tmp_path / "split/__MACOSX").mkdir()
    given = own.folder(tmp_path / "split", SETTINGS)
    assert given.train.classes == ["bright", "dark"]
    assert any("2 images occur in more than one split" in note for note in given.manifest.differences)


def test_a_folder_keeps_copies_together_and_two_images_of_a_class_to_train_on(photos: Path, tmp_path: Path):
    shutil.copytree(photos, tmp_path / "photos")
    for number, file in enumerate(sorted((tmp_path / "photos/dark").iterdir())):
        shutil.copy(file, file.with_name(f"copy{number}.png"))
    data = own.folder(tmp_path / "photos", SETTINGS)
    shown = {"test": data.test.pixels} | {name: data.train.pixels[data.rows[name]] for name in ("train", "val")}
    contents = [{image.tobytes() for image in images} for images in shown.values()]
    assert sum(map(len, contents)) == len(set.union(*contents)) == 36, "no image is in two parts"
    assert np.bincount(data.test.labels).tolist() == [3, 6, 3]
    most = own.folder(photos, SETTINGS, test_share=0.99)
    assert np.bincount(most.train.labels).tolist() == [2, 2, 2] and np.bincount(most.test.labels).tolist() == [10] * 3


def test_a_hub_takes_a_name_with_its_tag(monkeypatch: pytest.MonkeyPatch):
    (member,) = own.hub(["resnet10t.c3_in1k"], weights="random").members
    assert member.name == "resnet10t_c3_in1k" and own.models(own.hub([member.title], "random"))[0].name == member.name


def test_a_hub_takes_features_and_normalisation_from_timm():
    made = own.hub(NAMES, weights="random")
    assert [member.num_features for member in made.members] == [1024, 512] and not made.homogeneous
    for member, model in zip(made.members, own.models(made), strict=True):
        assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, member.num_features)


def test_tuning_predicts_and_explains_one_and_the_same(tuned: own.Tuned, photos: Path):
    assert 0 <= tuned.accuracy <= 100 and len(tuned.outcome.samples) == len(tuned.outcome.outputs) == 9
    image = own.read_image(photos / "dark" / "0.png", 32)
    label, probability = tuned.predict(image)
    answer = tuned.explain(image)
    assert tuned.data.train.classes[answer["top:k:2"][0][0]] == label
    assert answer["probability:k:2"][0][0] == pytest.approx(probability, abs=1e-5)
    assert sum(float(answer[f"weight:{name}"][0]) for name in NAMES) == pytest.approx(1)


def test_the_exported_router_and_paths_say_what_the_model_says(tuned: own.Tuned, tmp_path: Path):
    files = own.export(tuned, tmp_path)
    assert sorted(files) == ["path-mobilenetv3_small_050", "path-resnet10t", "router"]
    batch = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = tuned.method.eval()(batch)
        logits, weights = torch.export.load(files["router"]).module()(batch)
        alone = torch.export.load(files["path-resnet10t"]).module()(batch)
        assert torch.allclose(logits, expected.prediction, atol=1e-4)
        assert torch.allclose(weights, expected.aux["weight"], atol=1e-5)
        assert torch.allclose(alone, tuned.method.members[1](batch), atol=1e-4)


def test_one_exported_model_says_what_it_says_here_and_knows_its_classes(photos: Path, tmp_path: Path):
    single = own.tune(own.hub(NAMES, weights="random"), own.folder(photos, SETTINGS), NAMES[1], settings=SETTINGS)
    (file,) = own.export(single, tmp_path / "new").values()
    assert file.name == "model.pt2"
    names = {"classes.json": ""}
    program = torch.export.load(file, extra_files=names).module()
    assert json.loads(names["classes.json"]) == ["bright", "dark", "middle"]
    image = own.read_image(photos / "dark" / "0.png", 32)
    (view,) = single._views(image)
    with torch.no_grad():
        label, probability = single.predict(image)
        found = program(view).softmax(-1)[0].max(0)
    assert json.loads(names["classes.json"])[int(found.indices)] == label
    assert float(found.values) == pytest.approx(probability, abs=1e-5)
    other = dataclasses.replace(single, method=torch.nn.Linear(1, 1))
    with pytest.raises(ZoolibError, match="Linear cannot be exported; tune one model, or a hub"):
        own.export(other, tmp_path)


def test_models_are_ranked_by_logme_the_highest_first(photos: Path):
    ranking = own.rank(own.hub(NAMES, weights="random"), own.folder(photos, SETTINGS), SETTINGS)
    assert set(ranking["model"]) == set(NAMES) and ranking["LogME"].is_monotonic_decreasing
    assert np.isfinite(ranking["LogME"]).all()


def test_a_checkpoint_of_a_wrapped_network_is_read_below_its_entry_and_prefix(tmp_path: Path):
    torch.manual_seed(3)
    network = own.models(own.hub(NAMES[1:], "random"))[0].backbone
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 9, "model": state}, tmp_path / "run.pth")
    given = {"weights": f"file:{tmp_path / 'run.pth'}", "prefix": {NAMES[1]: "module."}, "entry": "model"}
    (model,) = own.models(own.hub(NAMES[1:], **given))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), network.eval()(model.normalise(x)))
    with pytest.raises(ZoolibError, match="unknown model with a prefix 'resnet10'"):
        own.hub(NAMES, "random", prefix={"resnet10": "module."})
    with pytest.raises(ZoolibError, match=r"no tensor begins with 'net\.'"):
        own.models(own.hub(NAMES[1:], **given | {"prefix": "net."}))


def test_what_is_wrong_is_said_in_one_line(photos: Path, tmp_path: Path):
    with pytest.raises(ZoolibError, match="unknown timm architecture 'resnet10tt'"):
        own.hub(["resnet10tt"])
    with pytest.raises(ZoolibError, match="one folder of images for each"):
        own.folder(tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
    with pytest.raises(ZoolibError, match="holds 0 images"):
        own.folder(tmp_path)
    (tmp_path / "a" / "x.png").write_text("no image")
    with pytest.raises(ZoolibError, match=r"x.png: not a readable image"):
        own.read_image(tmp_path / "a" / "x.png")
    with pytest.raises(ZoolibError, match="unknown member"):
        own.tune(own.hub(NAMES, weights="random"), own.folder(photos, SETTINGS), model="resnet10")
    for path in (tmp_path / "nowhere", tmp_path / "a" / "x.png"):
        with pytest.raises(ZoolibError, match="is no folder"):
            own.folder(path)
    for share in (0, 1, -1, 2):
        with pytest.raises(ZoolibError, match="use a share between 0 and 1"):
            own.folder(photos, SETTINGS, test_share=share)
    for weights, message in (
        ("weights.pth", r"resnet10t: weights is 'weights.pth'; weights are timm, package:MODULE, file:PATH or random"),
        ({"resnet10": "random"}, r"unknown model with weights 'resnet10' \(did you mean 'resnet10t'"),
    ):
        with pytest.raises(ZoolibError, match=message):
            own.hub(["resnet10t"], weights)
    assert own.hub(["resnet10t"], {"resnet10t": "random", "resnet18": "random"}).members[0].weights == "random"
    for names in ("resnet18", [], ["resnet10t", "resnet10t"]):
        with pytest.raises(ZoolibError, match="pass a list of different timm models"):
            own.hub(names)


def test_an_image_that_is_none_and_a_method_without_pathways_are_refused(tuned: own.Tuned):
    for image in (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8)), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ZoolibError, match=r"pass \(H, W, 3\) of uint8"):
            tuned.predict(image)
    with pytest.raises(ZoolibError, match=r"an image of str and shape \(\); pass"):
        tuned.explain("photo.png")  # type: ignore[arg-type]
    alone = dataclasses.replace(tuned, method=Single(tuned.method.members[0][0], Classification(3)))
    with pytest.raises(ZoolibError, match="only a hub has pathways to explain"):
        alone.explain(np.zeros((8, 8, 3), np.uint8))


def test_a_model_whose_features_fit_the_labels_exactly_is_ranked_last(photos: Path, monkeypatch: pytest.MonkeyPatch):
    scores = iter([np.inf, 0.5])
    monkeypatch.setattr("zoolib.transferability.logme", lambda *_: SimpleNamespace(score=next(scores)))
    ranking = own.rank(own.hub(NAMES, weights="random"), own.folder(photos, SETTINGS), SETTINGS)
    assert ranking["model"].tolist() == NAMES[::-1] and np.isnan(ranking["LogME"].iloc[-1])


# Hubs and images that change under their name -------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("BUILD", "DATA"):
        monkeypatch.setenv(f"ZOOLIB_{name}", str(tmp_path / name))
    return tmp_path


HUB_YAML = """
name: mine
title: Mine
description: one network
homogeneous: true
members:
  - {name: net, title: Net, architecture: "zoolib:tiny_resnet", weights: "file:net.safetensors", pretraining: none,
     num_features: 64, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], input_size: 16, licence: MIT}
"""


def weights_of(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_file(NETS["tiny_resnet"]().state_dict(), path)


def test_a_run_on_an_own_hub_is_computed_again_when_its_weights_or_its_yaml_change(place: Path):
    path = place / "mine.yaml"
    path.write_text(HUB_YAML)
    weights_of(place / "net.safetensors", 0)  # found beside the YAML, whatever the working folder
    (spec,) = grid("cls", "digits", str(path), "finetune", "smoke", 1)
    store = ResultStore.default()
    first = experiment.run(spec, store)
    before = first.curves["value"].copy()  # tables are read when they are asked for
    (experiment.work_dir(spec) / "checkpoint.pt").write_text("of this hub")
    assert experiment.missing([spec], store) == []
    weights_of(place / "net.safetensors", 1)
    assert experiment.missing([spec], store) == [spec]
    second = experiment.run(spec, store)
    assert second.provenance["hub_sha256"] != first.provenance["hub_sha256"]
    assert not (experiment.work_dir(spec) / "checkpoint.pt").exists()
    assert not second.curves["value"].equals(before)
    path.write_text(HUB_YAML.replace("mean: [0.5", "mean: [0.4"))
    assert experiment.missing([spec], store) == [spec]


def test_two_ways_to_write_the_path_of_an_own_hub_are_one_hub(place: Path, monkeypatch: pytest.MonkeyPatch):
    (place / "mine.yaml").write_text(HUB_YAML)
    weights_of(place / "net.safetensors", 0)
    monkeypatch.chdir(place)
    ways = ("mine.yaml", "./mine.yaml", f"../{place.name}/../{place.name}/mine.yaml")
    first, second, third = (grid("cls", "digits", way, "finetune", "smoke", 1)[0] for way in ways)
    assert first == second and third.hub == f"../{place.name}/mine.yaml"


def test_costs_measured_on_an_own_hub_stay_until_its_weights_change(place: Path):
    path = place / "mine.yaml"
    path.write_text(HUB_YAML)
    weights_of(place / "net.safetensors", 0)
    (spec,) = grid("cost", "digits", str(path), "scratch", "smoke", 1)
    store = ResultStore.default()
    experiment.run(spec, store)
    assert experiment.missing([spec], store) == []
    weights_of(place / "net.safetensors", 1)
    assert experiment.missing([spec], store) == [spec]


def test_a_run_on_an_own_hub_with_a_wrong_number_of_features_says_so_before_it_starts(place: Path):
    path = place / "mine.yaml"
    path.write_text(HUB_YAML.replace("num_features: 64", "num_features: 65"))
    weights_of(place / "net.safetensors", 0)
    (spec,) = grid("cls", "digits", str(path), "finetune", "smoke", 1)
    with pytest.raises(ZoolibError, match=r"gives features of \(64,\), and its num_features says 65"):
        experiment.run(spec, ResultStore.default())
    assert not ResultStore.default().has(spec)


def test_verifying_an_own_hub_compares_its_features_and_image_size_with_its_yaml(place: Path):
    path = place / "mine.yaml"
    weights_of(place / "net.safetensors", 0)
    path.write_text(HUB_YAML)
    assert main(["verify", str(path)]) == 0
    member = hub(str(path)).members[0]
    with pytest.raises(ZoolibError, match=r"gives features of \(64,\), and its num_features says 65"):
        check_features(build(member), member.model_copy(update={"num_features": 65}))
    picky = HubModel(member, torch.nn.Unflatten(1, (2, 2)))
    with pytest.raises(ZoolibError, match=r"does not take images of 64 pixels .*; say fixed_input: true"):
        check_features(picky, member)


def test_a_hub_of_the_project_with_weights_of_yours_is_held_to_them_too(place: Path, monkeypatch: pytest.MonkeyPatch):
    folder = place / "data_manifests/hubs"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(HUB_YAML)
    weights_of(folder / "net.safetensors", 0)  # beside the YAML
    monkeypatch.setattr(manifests, "shared", lambda _: place / "data_manifests")
    manifests.hubs.cache_clear()
    try:
        first = manifests.hub_sha256("mine")
        assert hub("mine").members[0].own_file == folder / "net.safetensors"
        weights_of(folder / "net.safetensors", 1)
        assert first and manifests.hub_sha256("mine") not in (None, first)
    finally:
        manifests.hubs.cache_clear()
    monkeypatch.undo()


def test_a_hub_of_the_project_is_held_to_what_its_manifest_says_but_for_words(monkeypatch: pytest.MonkeyPatch):
    known = manifests.hub("mini-zoo")
    first = manifests.hub_sha256("mini-zoo")
    for changes, same in (({"title": "Another title", "licence": "theirs"}, True), ({"mean": (0.4, 0.5, 0.5)}, False)):
        members = [known.members[0].model_copy(update=changes), *known.members[1:]]
        with monkeypatch.context() as patch:
            patch.setattr(manifests, "hub", lambda name: known.model_copy(update={"members": members}))  # noqa: B023
            assert (manifests.hub_sha256("mini-zoo") == first) is same
    backwards = known.model_copy(update={"members": known.members[::-1]})
    monkeypatch.setattr(manifests, "hub", lambda name: backwards)
    assert manifests.hub_sha256("mini-zoo") != first and manifests.hub_sha256("atari-policies") is None


def test_weights_that_are_made_here_are_part_of_their_hub(place: Path):
    missing = manifests.hub_sha256("mini-zoo-independent")
    (made, *_) = [m for m in hub("mini-zoo-independent").members if m.weights.startswith("made:")]
    path = made_weights(made.weights.partition(":")[2])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"made")
    first = manifests.hub_sha256("mini-zoo-independent")
    path.write_bytes(b"made again")
    assert len({missing, first, manifests.hub_sha256("mini-zoo-independent"), None}) == 4


def test_a_checkpoint_with_a_head_of_its_own_is_ranked_without_its_head(place: Path):
    network = torchvision.models.resnet18(num_classes=7)
    torch.save(network.state_dict(), place / "birds.pth")
    path = place / "mine.yaml"
    path.write_text(
        HUB_YAML.replace("zoolib:tiny_resnet", "torchvision:resnet18").replace("net.safetensors", "birds.pth")
        .replace("num_features: 64", "num_features: 512")
    )  # fmt: skip
    (member,) = hub(str(path)).members
    backbone, head = split(member)
    x = torch.rand(2, 3, 32, 32)
    network.fc = torch.nn.Identity()
    assert head is None and torch.equal(backbone.eval()(x), network.eval()((x - 0.5) / 0.5))
    wrong = member.model_copy(update={"architecture": "torchvision:resnet34"})
    with pytest.raises(ZoolibError, match="checkpoint of another architecture"):
        split(wrong)


def test_a_run_is_computed_again_when_its_images_may_no_longer_be_mirrored(photos: Path, place: Path):
    (place / "garden.yaml").write_text(f"name: garden\npath: {photos}\nlicence: mine\n")
    store = ResultStore.default()
    assert main(["import", str(place / "garden.yaml")]) == 0
    (spec,) = grid("cls", "garden", "digits-zoo", "scratch", "smoke", 1)
    experiment.run(spec, store)
    assert experiment.missing([spec], store) == []
    assert main(["import", str(place / "garden.yaml"), "--no-flip"]) == 0
    assert experiment.missing([spec], store) == [spec]


@pytest.mark.parametrize("said", ["", "flip: true\n"])
def test_no_flip_on_the_command_line_wins_over_a_yaml(photos: Path, place: Path, said: str):
    path = place / "garden.yaml"
    path.write_text(f"name: garden\npath: {photos}\nlicence: mine\n{said}")
    assert main(["import", str(path)]) == 0 and manifests.dataset("garden").flip
    assert main(["import", str(path), "--no-flip"]) == 0 and not manifests.dataset("garden").flip


def test_own_images_are_imported_again_when_they_change_and_never_mistaken_for_others(photos: Path, place: Path):
    shutil.copytree(photos, place / "photos")
    path = place / "garden.yaml"
    path.write_text("name: garden\npath: photos\ntitle: Garden\nlicence: mine\nflip: true\n")
    assert ensure(str(path)) == "garden" and manifests.dataset("garden").num_classes == 3
    before = manifests.find(manifests.dataset("garden")) / "train.parquet"
    written = before.stat().st_mtime_ns
    assert ensure(str(path)) == "garden" and before.stat().st_mtime_ns == written
    shutil.copytree(photos / "dark", place / "photos" / "night")
    for file in (place / "photos" / "night").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    ensure(str(path))
    assert manifests.dataset("garden").num_classes == 4
    (place / "sub").mkdir()
    shutil.copytree(photos, place / "sub" / "photos")
    shutil.copy(path, place / "sub" / "garden.yaml")
    with pytest.raises(ZoolibError, match=r"was imported from .*photos; give .* another name, or run"):
        ensure(str(place / "sub" / "garden.yaml"))


def test_an_embedded_dataset_becomes_a_folder(tmp_path: Path):
    folder = own.write_folder("digits", tmp_path / "digits", per_class=5)
    assert sorted(path.name for path in folder.iterdir()) == list("0123456789")
    assert own.folder(folder, SETTINGS).test.pixels.shape == (10, 32, 32, 3)


def test_a_prediction_sees_the_pixels_that_the_accuracy_was_measured_on(photos: Path):
    settings = dataclasses.replace(
        own.SETTINGS, image_size=24, decode_size=32, iterations=2, milestones=(), eval_every=2
    )
    found = own.folder(photos, settings)
    made = own.tune(own.hub(NAMES, weights="random"), found, model=NAMES[0], settings=settings)
    rows, logits = found.rows["test"], []
    for views, _ in own.loaders.eval_batches(found, "test", settings):
        with torch.no_grad():
            logits.append(made.method.eval()(views[0]).prediction)
    expected = torch.cat(logits).softmax(-1).max(1)
    for row, label, share in zip(rows, expected.indices, expected.values, strict=True):
        said, probability = made.predict(found.test.pixels[row])
        assert said == found.train.classes[int(label)] and probability == pytest.approx(float(share), abs=1e-5)


def test_a_picture_too_large_to_be_one_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ZoolibError, match=r"large\.png: not a readable image"):
        own.read_image(tmp_path / "large.png")
