"""Datasets that take some classes of another: relabelling, and nothing of the target in what hubs are trained on."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zoolib import features
from zoolib.data import loaders, manifests
from zoolib.data.schema import DatasetManifest
from zoolib.paths import data_roots
from zoolib.spec import Settings, ZoolibError

SETTINGS = Settings(image_size=32, decode_size=32, batch_size=4, iterations=3, test_crops=1, val_fraction=0.25)
NAMES = ["ant", "bat", "cat", "dog"]
PRESENT = any((root / "cifar100" / "test.parquet").is_file() for root in data_roots())

SUPERCLASSES = """
aquatic mammals: beaver dolphin otter seal whale
fish: aquarium_fish flatfish ray shark trout
flowers: orchid poppy rose sunflower tulip
food containers: bottle bowl can cup plate
fruit and vegetables: apple mushroom orange pear sweet_pepper
household electrical devices: clock keyboard lamp telephone television
household furniture: bed chair couch table wardrobe
insects: bee beetle butterfly caterpillar cockroach
large carnivores: bear leopard lion tiger wolf
large man-made outdoor things: bridge castle house road skyscraper
large natural outdoor scenes: cloud forest mountain plain sea
large omnivores and herbivores: camel cattle chimpanzee elephant kangaroo
medium-sized mammals: fox porcupine possum raccoon skunk
non-insect invertebrates: crab lobster snail spider worm
people: baby boy girl man woman
reptiles: crocodile dinosaur lizard snake turtle
small mammals: hamster mouse rabbit shrew squirrel
trees: maple_tree oak_tree palm_tree pine_tree willow_tree
vehicles 1: bicycle bus motorcycle pickup_truck train
vehicles 2: lawn_mower rocket streetcar tank tractor
"""


def manifest(name, **changes):
    fields = {
        "name": name, "title": "Toy", "task": "cls", "source": "canonical", "description": "d", "num_classes": 2,
        "sizes": {"train": 24, "test": 24}, "protocol": "p", "flip": False,
        "licence": "MIT", "citation": "c", "homepage": "h",
    }  # fmt: skip
    return DatasetManifest.model_validate({**fields, **changes})


@pytest.fixture
def animals(tmp_path, monkeypatch):
    """The dataset `animals` on disk: row i shows the grey level i and is of class i % 4."""
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path))
    whole = manifest("animals", num_classes=4)
    novel = manifest("novel", of="animals", classes=["bat", "dog"])
    known = {"animals": whole, "novel": novel}
    monkeypatch.setattr(manifests, "datasets", lambda: known)

    def write(train, test):
        for split, levels in {"train": train, "test": test}.items():
            pictures = []
            for level in levels:
                out = io.BytesIO()
                Image.new("RGB", (32, 32), (level,) * 3).save(out, "PNG")
                pictures.append({"bytes": out.getvalue(), "path": ""})
            labels = pa.array([row % 4 for row in range(len(levels))], pa.int64())
            table = pa.table({"image": pictures, "label": labels})
            table = table.replace_schema_metadata({"classes": json.dumps(NAMES)})
            (tmp_path / "animals").mkdir(exist_ok=True)
            pq.write_table(table, tmp_path / "animals" / f"{split}.parquet")

    write(range(24), range(100, 124))
    return write


def test_taken_classes_keep_their_images_and_count_in_the_order_of_the_manifest(animals):
    data = loaders.load(manifest("few", of="animals", classes=["dog", "ant"]), SETTINGS)
    levels = data.train.pixels[:, 0, 0, 0]
    assert sorted(levels) == [level for level in range(24) if level % 4 in (0, 3)]
    assert np.array_equal(data.train.labels, np.where(levels % 4 == 3, 0, 1)) and data.train.classes == ["dog", "ant"]
    assert data.sha256 == manifests.data_sha256(data.manifest) != manifests.data_sha256(manifests.dataset("animals"))


def test_two_choices_of_classes_do_not_share_a_cache(animals):
    first, second = (
        loaders.load(manifest(name, of="animals", classes=taken), SETTINGS).test.pixels[:, 0, 0, 0].tolist()
        for name, taken in (("a", ["ant", "bat"]), ("b", ["cat", "dog"]))
    )
    assert len(first) == len(second) == 12 and not set(first) & set(second)


def test_features_of_two_choices_of_classes_in_the_same_rows_are_not_mistaken_for_each_other(animals):
    taken = (["ant", "bat"], ["cat", "dog"])
    few = [
        loaders.load(manifest(name, of="animals", classes=names), SETTINGS)
        for name, names in zip("ab", taken, strict=True)
    ]
    assert np.array_equal(few[0].rows["test"], few[1].rows["test"]) and few[0].train.sha256 == few[1].train.sha256
    member = manifests.hub("resnet50-random").members[0]
    assert len({features.key(member, data, SETTINGS, "test", "float32") for data in few}) == 2


def test_an_image_that_the_other_dataset_shows_under_another_label_is_left_out(animals):
    animals([0, 1, 2, 3, 1, 5, 105, 7, *range(8, 24)], range(100, 124))  # level 1 is an ant too, and 105 too, a cat
    source = loaders.load(manifest("source", of="animals", classes=["ant", "cat"], apart_from="novel"), SETTINGS)
    assert sorted(source.train.pixels[:, 0, 0, 0]) == [0, 2, 8, 10, 12, 14, 16, 18, 20, 22]
    assert len(source.train.labels) == 10 and len(source.test.labels) == 12


def test_a_class_that_the_file_does_not_name_is_reported(animals):
    with pytest.raises(ZoolibError, match=r"train\.parquet: its metadata name no class 'cow'"):
        loaders.load(manifest("few", of="animals", classes=["dog", "cow"]), SETTINGS)


def test_an_absent_dataset_of_taken_classes_names_the_folder_of_the_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ZoolibError) as error:
        manifests.find(manifests.dataset("cifar100-novel"))
    assert "dataset 'cifar100-novel' is not on this machine" in str(error.value)
    assert str(tmp_path / "cifar100") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"of": "animals"}, "of and classes belong together"),
        ({"classes": ["a", "b"]}, "of and classes belong together"),
        ({"of": "animals", "classes": ["a", "b", "c"]}, "num_classes is 2 but 3 classes are named"),
        ({"of": "animals", "classes": ["a", "b"], "source": "embedded"}, "of a canonical dataset"),
    ],
)
def test_a_manifest_that_takes_classes_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        manifest("toy", **changes)


def test_the_source_classes_of_cifar100_are_those_of_the_documented_rule_and_the_novel_ones_the_rest():
    groups = [line.split(": ")[1].split() for line in SUPERCLASSES.strip().splitlines()]
    sides = {"cifar100-source": 0, "cifar100-novel": 1}
    for name, side in sides.items():
        wanted = [fine for i, group in enumerate(groups) for j, fine in enumerate(group) if (i + j) % 2 == side]
        assert manifests.dataset(name).classes == sorted(wanted) and len(wanted) == 50
        assert all(2 <= len(set(group) & set(wanted)) <= 3 for group in groups)


@pytest.mark.skipif(not PRESENT, reason="cifar100 is not on this machine; set ZOOLIB_DATA")
def test_nothing_that_a_hub_is_trained_on_occurs_in_the_novel_classes_of_cifar100():
    source, novel = (loaders.load(manifests.dataset(name), SETTINGS) for name in ("cifar100-source", "cifar100-novel"))
    seen = {*loaders.content_hashes(source.train), *loaders.content_hashes(source.test)}
    target = {*loaders.content_hashes(novel.train), *loaders.content_hashes(novel.test)}
    assert not seen & target
    assert len(target) > 29_900 and len(seen) > 29_900  # the hashes tell images apart
    for data in (source, novel):
        sizes = data.manifest.sizes
        assert (len(data.train.labels), len(data.test.labels)) == (sizes.train, sizes.test)
        assert data.variant == "official-png"


def test_groups_of_taken_classes_stay_with_their_images(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    pictures, labels, groups = [], [0, 1, 2, 0, 1, 2], ["g", "g", "h", "h", None, "g"]
    for level in range(6):
        out = io.BytesIO()
        Image.new("RGB", (8, 8), (level,) * 3).save(out, "PNG")
        pictures.append({"bytes": out.getvalue(), "path": ""})
    table = pa.table({"image": pictures, "label": pa.array(labels, pa.int64()), "group": groups})
    pq.write_table(table.replace_schema_metadata({"classes": json.dumps([*"abc"])}), tmp_path / "train.parquet")
    found = loaders.decode(tmp_path / "train.parquet", 8, 3, ["c", "b"])
    assert found.pixels[:, 0, 0, 0].tolist() == [1, 2, 4, 5] and found.labels.tolist() == [1, 0, 1, 0]
    g, h, alone, again = found.groups.tolist()
    assert g == again and len({g, h, alone}) == 3
