"""Embedded datasets: the same pixels everywhere, splits that share nothing, as many images of each class."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from zoolib.data import embedded, loaders, manifests
from zoolib.profiles import PROFILES
from zoolib.spec import Settings, ZoolibError

RENDERED = tuple(embedded.FAMILIES)
SETTINGS = Settings(image_size=32, decode_size=32, batch_size=4, iterations=3, test_crops=1, val_fraction=0.25)


@pytest.fixture(scope="module", autouse=True)
def _own_build(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOOLIB_BUILD", str(tmp_path_factory.mktemp("build")))
        yield


@pytest.fixture(scope="module")
def made(_own_build) -> dict[str, dict[str, embedded.Split]]:
    """Every split of every embedded dataset, made afresh."""
    return {name: {split: embedded.load(name, split) for split in ("train", "test")} for name in embedded.EMBEDDED}


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def test_every_embedded_dataset_has_a_manifest_and_the_other_way_round() -> None:
    assert {name for name, m in manifests.datasets().items() if m.source == "embedded" and m.task == "cls"} == set(
        embedded.EMBEDDED
    )


@pytest.mark.parametrize("name", embedded.EMBEDDED)
def test_pixels_labels_and_sizes_are_those_of_the_manifest(made, name: str) -> None:
    manifest = manifests.dataset(name)
    for split, (images, labels, classes) in made[name].items():
        assert images.dtype == np.uint8 and images.shape[3] == 3 and labels.dtype == np.int64
        assert len(images) == len(labels) == getattr(manifest.sizes, split)
        assert len(classes) == manifest.num_classes and set(labels) == set(range(len(classes)))
        assert digest(images, labels) == manifest.sha256[split]


def test_a_processor_without_vector_instructions_draws_the_same_pixels() -> None:
    code = (
        "import hashlib; from zoolib.data import embedded\n"
        f"for name in {RENDERED}:\n"
        "    images, labels, _ = embedded.EMBEDDED[name]('test')\n"
        "    print(hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest())\n"
    )
    features = "from numpy._core._multiarray_umath import __cpu_dispatch__ as d, __cpu_features__ as f\n"
    features += "print(' '.join(name for name in d if f.get(name)))"
    every = subprocess.run([sys.executable, "-c", features], capture_output=True, text=True, check=True).stdout.strip()
    plain = os.environ | {"NPY_DISABLE_CPU_FEATURES": every}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [manifests.dataset(name).sha256["test"] for name in RENDERED]


@pytest.mark.parametrize("name", embedded.EMBEDDED)
def test_no_image_is_in_both_splits(made, name: str) -> None:
    train, test = ({image.tobytes() for image in made[name][split][0]} for split in ("train", "test"))
    assert not train & test
    assert len(train) > 0.99 * len(made[name]["train"][0])  # nor is one image there many times


@pytest.mark.parametrize("name", ["textures", *RENDERED])
def test_every_class_has_as_many_images(made, name: str) -> None:
    for _, labels, classes in made[name].values():
        assert len(set(np.bincount(labels, minlength=len(classes)))) == 1


@pytest.mark.parametrize("name", RENDERED)
def test_fine_classes_are_balanced_and_belong_to_one_class_each(name: str) -> None:
    family = embedded.FAMILIES[name]
    for split in ("train", "test"):
        scene = embedded.described(name, split)
        assert len(set(np.bincount(scene.fine, minlength=len(family.fine_classes)))) == 1
        pairs = set(zip(scene.fine, scene.label, strict=True))
        assert len(pairs) == len(family.fine_classes)
        assert set(np.unique(scene.objects)) - {-1} == set(range(len(family.object_classes)))


def test_rows_that_train_choose_and_score_are_disjoint_after_loading() -> None:
    for name in ("textures", *RENDERED):
        data = loaders.load(manifests.dataset(name), SETTINGS)
        assert data.variant == "embedded"
        parts = {split: data.split(split) for split in ("train", "val", "test")}
        seen = {split: {images.pixels[row].tobytes() for row in rows} for split, (images, rows) in parts.items()}
        assert all(len(seen[split]) == len(parts[split][1]) for split in seen)
        assert not (seen["train"] & seen["val"] or seen["train"] & seen["test"] or seen["val"] & seen["test"])


def test_no_two_patches_of_a_photograph_share_a_pixel_and_train_and_test_keep_apart() -> None:
    corners = {split: embedded.patch_sources(split) for split in ("train", "test")}
    for index, name in enumerate(embedded.PHOTOGRAPHS):
        grey = embedded.photograph(name)
        taken = {split: np.zeros(grey.shape, int) for split in corners}
        for split, sources in corners.items():
            for y, x in sources[index]:
                window = taken[split][y : y + embedded.PATCH, x : x + embedded.PATCH]
                assert window.shape == (embedded.PATCH, embedded.PATCH)
                window += 1
            assert taken[split].max() == 1
        rows = {split: np.flatnonzero(where.any(1)) for split, where in taken.items()}
        assert np.abs(rows["train"][:, None] - rows["test"]).min() > embedded.GAP


def test_patches_are_cut_from_their_photographs(made) -> None:
    images, labels, classes = made["textures"]["train"]
    wanted = set()
    for index, (name, corners) in enumerate(zip(classes, embedded.patch_sources("train"), strict=True)):
        grey = embedded.photograph(name)
        wanted |= {(index, grey[y : y + 24, x : x + 24].tobytes()) for y, x in corners}
    assert wanted == {(label, image[..., 0].tobytes()) for image, label in zip(images, labels, strict=True)}


def test_a_split_is_made_once_and_read_from_the_cache_afterwards(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path))
    first = embedded.load("textures", "test")
    monkeypatch.setitem(embedded.EMBEDDED, "textures", lambda split: pytest.fail("made twice"))
    again = embedded.load("textures", "test")
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1]) and first[2] == again[2]


def test_a_machine_that_draws_other_pixels_says_so_in_its_records(monkeypatch) -> None:
    images, labels, classes = embedded.load("textures", "test")
    monkeypatch.setattr(embedded, "load", lambda name, split: (images ^ 1, labels, classes))
    loaders._load.cache_clear()
    variant = loaders.load(manifests.dataset("textures"), SETTINGS).variant
    loaders._load.cache_clear()
    assert variant.startswith("embedded, other pixels ")


@pytest.mark.parametrize(
    "call", [lambda: embedded.load("shape", "train"), lambda: embedded.described("digits", "train")]
)
def test_an_unknown_name_is_refused(call) -> None:
    with pytest.raises(ZoolibError, match=r"unknown (embedded|rendered) dataset"):
        call()


@pytest.mark.parametrize("name", ["cifar100-novel", "textures", *RENDERED])
@pytest.mark.parametrize("profile", ["mini", "lab"])
def test_small_profiles_train_on_few_labels_and_leave_enough_to_choose_by(name: str, profile: str) -> None:
    settings, manifest = PROFILES[profile].resolve(name), manifests.dataset(name)
    assert settings.image_size == settings.decode_size == 32
    per_class = manifest.sizes.train // manifest.num_classes
    held = round(settings.val_fraction * per_class)
    assert 0 < settings.train_per_class <= per_class - held and held >= 10
