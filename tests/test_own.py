"""Your own hub and images, from Python."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoolib import own
from zoolib.spec import ZoolibError

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


def test_models_are_ranked_by_logme_the_highest_first(photos: Path):
    ranking = own.rank(own.hub(NAMES, weights="random"), own.folder(photos, SETTINGS), SETTINGS)
    assert set(ranking["model"]) == set(NAMES) and ranking["LogME"].is_monotonic_decreasing
    assert np.isfinite(ranking["LogME"]).all()


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


def test_an_embedded_dataset_becomes_a_folder(tmp_path: Path):
    folder = own.write_folder("digits", tmp_path / "digits", per_class=5)
    assert sorted(path.name for path in folder.iterdir()) == list("0123456789")
    assert own.folder(folder, SETTINGS).test.pixels.shape == (10, 32, 32, 3)
