"""What the cards, the list and the rehearsal's page say of data and weights."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import layouts
from zoolib import cards, origins, rehearsal
from zoolib.__main__ import main
from zoolib.data import fetch, manifests
from zoolib.paths import made_weights
from zoolib.spec import ZoolibError


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))


def put(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / "data" / name
    folder.mkdir(parents=True)
    images = [{"bytes": layouts.encode(item.pixels), "path": "x"} for item in layouts.samples(20)]
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": images, "label": [0] * len(images)}), folder / f"{split}.parquet")
    return folder


def test_the_list_tells_present_fetchable_and_by_hand_apart(tmp_path: Path, capsys) -> None:
    put(tmp_path, "cars")
    assert main(["list", "datasets"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    states = {"digits": "embedded", "cars": "present", "aircraft": "fetchable", "300w": "by hand", "coco70": "by hand"}
    assert {name: next(s for s in origins.STATES if s in lines[name]) for name in states} == states
    assert set(lines) == set(manifests.datasets())


def test_the_list_of_hubs_tells_them_apart_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = manifests.hub("resnet50-zoo")
    assert fetch.hub_state(zoo) == "fetchable" and fetch.hub_state(manifests.hub("resnet50-random")) == "present"
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path))
    made = manifests.hub("mini-zoo-independent")
    assert fetch.hub_state(made) == "to make"
    for member in made.members:
        kind, _, name = member.weights.partition(":")
        if kind == "made":
            made_weights(name).parent.mkdir(parents=True, exist_ok=True)
            made_weights(name).write_bytes(b"")
    assert fetch.hub_state(made) == "present"
    for member in zoo.members:
        path = tmp_path / "data/weights" / fetch.weights_name(member)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert fetch.hub_state(zoo) == "present" and fetch.hub_state(manifests.hub("heterogeneous")) == "fetchable"
    away = zoo.members[0].model_copy(update={"weights": "file:/none.pth", "download": []})
    assert fetch.hub_state(zoo.model_copy(update={"members": [away]})) == "by hand"


def test_a_sample_sheet_is_made_of_data_that_are_here_and_of_no_other(tmp_path: Path) -> None:
    assert origins.sample_sheet(manifests.dataset("cars")) is None
    assert origins.sample_sheet(manifests.dataset("digits")) is None
    folder = put(tmp_path, "cars")
    with Image.open(io.BytesIO(origins.sample_sheet(manifests.dataset("cars")) or b"")) as sheet:
        assert sheet.format == "JPEG" and sheet.size == (8 * 72, 3 * 72)
    (folder / "train.parquet").write_bytes(b"PAR1")
    assert origins.sample_sheet(manifests.dataset("cars")) is None


def test_a_sheet_of_some_classes_shows_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "data/cifar100"
    folder.mkdir(parents=True)
    novel = manifests.dataset("cifar100-novel").classes
    names = [novel[0], "apple", novel[1], "bear"]
    images = [{"bytes": layouts.encode(np.full((8, 8, 3), 60 * label, np.uint8)), "path": ""} for label in range(4)] * 6
    table = pa.table({"image": images, "label": [0, 1, 2, 3] * 6})
    others = [name for name in novel if name not in names]
    table = table.replace_schema_metadata({"classes": json.dumps([*names, *others])})
    for split in ("train", "test"):
        pq.write_table(table, folder / f"{split}.parquet")
    with Image.open(io.BytesIO(origins.sample_sheet(manifests.dataset("cifar100-novel")) or b"")) as sheet:
        shown = {round(sheet.getpixel((36 + 72 * x, 36 + 72 * y))[0] / 60) for x in range(8) for y in range(3)}
    assert shown == {0, 2, 4}, "the two novel classes, and white where there are no more"


def test_a_dataset_of_some_classes_is_fetched_as_the_whole_is() -> None:
    assert "[CIFAR-100, novel classes](cifar100-novel.md)" in cards.dataset_table()
    (line,) = [line for line in cards.dataset_table().splitlines() if "(cifar100-novel.md)" in line]
    assert "| fetch |" in line
    assert "python -m zoolib fetch cifar100-novel" in cards.dataset_card(manifests.dataset("cifar100-novel"))


def record() -> dict[str, object]:
    chain = {
        "dataset": "cifar100", "hub": "resnet50-zoo", "method": "hub_pathway", "reader": "cifar-python",
        "rows": {"train": 8, "test": 2}, "image_size": 224, "test_crops": 10, "params_m": 128.5, "gmacs": 9.1,
        "cpu_seconds": 31.0, "seconds": 77.0,
    }  # fmt: skip
    member = {
        "hub": "resnet50-zoo", "member": "imagenet", "architecture": "torchvision:resnet50", "params_m": 25.557,
        "published_params_m": 25.557, "size": 224, "gmacs": 4.089, "published_gmacs": 4.089, "gmacs_224": 4.087,
        "backbone_params_m": 23.508,
    }  # fmt: skip
    memory = {
        "hub": "resnet50-zoo", "method": "hub_pathway", "precision": "bfloat16", "static_gb": 1.5, "mean_gb": 9.0,
        "worst_gb": 10.0,
    }  # fmt: skip
    about = {
        "batch": 4, "steps": 3, "threads": 1, "paper_batch": 48, "commit": "0123456789abcdef", "dirty": False,
        "machine": {"cpu": "Test CPU", "cores": 2}, "versions": {"torch": "2.15.0"}, "when": "2026-11-21",
    }  # fmt: skip
    faces = {"dataset": "cofw", "reader": "cofw-matlab", "rows": {"train": 4, "test": 3}}
    return {"about": about, "chains": [chain], "members": [member], "memory": [memory], "faces": [faces], "gpu": None}


def test_the_rehearsals_page_shows_its_record_beside_the_published_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rehearsal.json"
    assert "**not run**" in rehearsal.page(path)
    path.write_text(json.dumps(record()))
    page = rehearsal.page(path)
    row = "| `cifar100` | `resnet50-zoo` | `hub_pathway` | `cifar-python` | 8 / 2 | 224 px | 10 "
    assert row + "| 128.5 | 9.10 | 31 | 77 |" in page
    assert "ResNet-50 23.71 M and 4.09 G here, 23.71 M and 4.11 G there" in page
    assert "Hub-Pathway 128.50 M and 9.10 G here, 128.43 M and 9.11 G there" in page
    assert "| `imagenet` | torchvision resnet50 | 25.557 | 25.557 |" in page
    assert "on a GPU, and their images per second: **not run**" in page and "Test CPU" in page
    path.write_text("{}")
    with pytest.raises(ZoolibError, match="corrupt record"):
        rehearsal.page(path)


def test_a_committed_rehearsal_covers_every_pair_within_two_minutes() -> None:
    found = rehearsal.read()
    if found is None:
        pytest.skip("results/rehearsal.json is not there: `make rehearse` writes it")
    pairs = {(chain["dataset"], chain["hub"]) for chain in found["chains"]}
    sets = {name for name, m in manifests.datasets().items() if m.paper_column and m.sources and m.task == "cls"}
    faces = {"300w", "wflw", "cofw"}
    assert pairs == {(name, hub) for name in sets for hub in ("resnet50-zoo", "heterogeneous")} | {
        (name, "resnet50-zoo") for name in faces
    }
    assert {face["dataset"] for face in found["faces"]} == faces
    for chain in found["chains"]:
        assert chain["cpu_seconds"] < 120 and chain["image_size"] == (256 if chain["dataset"] in faces else 224)
    for member in found["members"]:
        assert member["params_m"] == pytest.approx(member["published_params_m"], abs=1e-6)
        assert member["gmacs"] == pytest.approx(member["published_gmacs"], rel=2e-3)
