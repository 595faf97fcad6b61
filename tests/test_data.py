"""From files to batches: manifests, decoding, splits, augmentation."""

import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from zoolib.data import augment, loaders, manifests
from zoolib.data.loaders import Dataset, Images
from zoolib.data.schema import DatasetManifest, HubManifest
from zoolib.paths import data_roots
from zoolib.spec import Settings, ZoolibError

SETTINGS = Settings(image_size=8, decode_size=12, batch_size=4, iterations=3, test_crops=1, val_fraction=0.25)


@pytest.fixture(autouse=True)
def _own_build(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))


def png(colour, size=(20, 14)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def write_set(root, name="toy", broken_row=None, bad_label=None, rows=24, classes=3):
    folder = root / name
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        images = [{"bytes": png((10 * i, 0, 0)), "path": f"{i}.png"} for i in range(rows)]
        labels = [i % classes for i in range(rows)]
        if split == "train" and broken_row is not None:
            images[broken_row] = {"bytes": b"\x89PNG\r\n\x1a\n not one", "path": "x.png"}
        if split == "train" and bad_label is not None:
            labels[bad_label] = 99
        table = pa.table({"image": images, "label": pa.array(labels, pa.int64())})
        table = table.replace_schema_metadata({"classes": json.dumps(["a", "b", "c"])})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def manifest(**changes):
    fields = {
        "name": "toy", "title": "Toy", "task": "cls", "source": "canonical", "description": "d", "num_classes": 3,
        "sizes": {"train": 24, "test": 24}, "protocol": "p", "flip": False,
        "licence": "MIT", "citation": "c", "homepage": "h",
    }  # fmt: skip
    return DatasetManifest.model_validate({**fields, **changes})


def test_images_are_decoded_once_resized_to_a_square_and_kept_by_checksum(tmp_path, monkeypatch):
    folder = write_set(tmp_path)
    first = loaders.decode(folder / "train.parquet", 12, 3)
    assert first.pixels.shape == (24, 12, 12, 3) and first.pixels.dtype == np.uint8 and first.classes == ["a", "b", "c"]
    assert (first.pixels[7] == np.array([70, 0, 0])).all()
    monkeypatch.setattr(loaders, "_square", lambda *a: pytest.fail("decoded twice"))
    again = loaders.decode(folder / "train.parquet", 12, 3)
    assert np.array_equal(first.pixels, again.pixels)


def test_a_corrupt_image_is_named_by_file_and_row(tmp_path):
    folder = write_set(tmp_path, broken_row=5)
    with pytest.raises(ZoolibError, match=r"train\.parquet: row 5: not a readable image"):
        loaders.decode(folder / "train.parquet", 12, 3)


def test_a_label_out_of_range_is_named_by_file_and_row(tmp_path):
    folder = write_set(tmp_path, bad_label=7)
    with pytest.raises(ZoolibError, match=r"train\.parquet: row 7: label 99 is outside 0\.\.2"):
        loaders.decode(folder / "train.parquet", 12, 3)


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"hello")
    with pytest.raises(ZoolibError, match=r"train\.parquet: not a readable canonical Parquet file"):
        loaders.decode(tmp_path / "train.parquet", 12, 3)


def test_an_absent_dataset_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path / "a"))
    with pytest.raises(ZoolibError) as error:
        manifests.find(manifest())
    assert str(tmp_path / "a" / "toy") in str(error.value) and "ZOOLIB_DATA" in str(error.value)


def test_several_data_roots_are_searched_in_order(tmp_path, monkeypatch):
    write_set(tmp_path / "second")
    monkeypatch.setenv("ZOOLIB_DATA", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    assert data_roots()[:2] == [tmp_path / "first", tmp_path / "second"]
    assert manifests.find(manifest()) == tmp_path / "second" / "toy"


def test_splits_are_stratified_disjoint_and_independent_of_the_seed(tmp_path, monkeypatch):
    write_set(tmp_path)
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path))
    data = loaders.load(manifest(), SETTINGS)
    train, val = data.rows["train"], data.rows["val"]
    assert not set(train) & set(val) and len(train) == 18 and len(val) == 6
    assert np.bincount(data.train.labels[val]).tolist() == [2, 2, 2]
    fewer = loaders.load(manifest(), dataclasses.replace(SETTINGS, train_per_class=2, test_limit=6))
    assert np.bincount(data.train.labels[fewer.rows["train"]]).tolist() == [2, 2, 2]
    assert np.array_equal(fewer.rows["val"], val) and len(fewer.rows["test"]) == 6
    assert set(fewer.rows["train"]) <= set(train)


def test_the_variant_is_recognised_by_its_checksums(tmp_path, monkeypatch):
    folder = write_set(tmp_path)
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path))
    assert loaders.load(manifest(), SETTINGS).variant.startswith("unknown files ")
    sums = {split: loaders.file_sha256(folder / f"{split}.parquet") for split in ("train", "test")}
    known = {"name": "small", "note": "n", "sizes": {"train": 24, "test": 24}, "sha256": sums}
    assert loaders.load(manifest(variants=[known]), SETTINGS).variant == "small"


def test_an_epoch_visits_every_row_once_and_any_batch_can_be_asked_for_directly():
    rows = np.arange(100, 110)
    batches = [loaders.batch_rows(rows, 4, seed=3, iteration=i) for i in range(5)]
    stream = np.concatenate(batches)
    assert sorted(stream[:10]) == list(rows) and sorted(stream[10:20]) == list(rows)
    assert not np.array_equal(stream[:10], stream[10:20])
    assert np.array_equal(loaders.batch_rows(rows, 4, 3, 2), batches[2])
    assert not np.array_equal(loaders.batch_rows(rows, 4, 4, 2), batches[2])


def test_a_batch_larger_than_the_training_set_spans_epochs():
    chosen = loaders.batch_rows(np.arange(3), 7, 0, 0)
    assert np.bincount(chosen).min() >= 2 and len(chosen) == 7


def test_the_same_iteration_gives_the_same_augmented_batch_and_another_seed_another():
    settings = dataclasses.replace(SETTINGS, image_size=16, decode_size=16, crop="shift")
    data = loaders.load(manifests.dataset("digits"), settings)
    first, labels = loaders.train_batch(data, settings, 1, 5)
    again, _ = loaders.train_batch(data, settings, 1, 5)
    other, _ = loaders.train_batch(data, settings, 2, 5)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (4, 3, 16, 16) and first.min() >= 0 and first.max() <= 1 and labels.shape == (4,)


def test_digits_are_real_disjoint_and_complete():
    train, test = (loaders.embedded.load("digits", split) for split in ("train", "test"))
    assert (len(train[0]), len(test[0])) == (1347, 450)
    sizes = manifests.dataset("digits").sizes
    assert (sizes.train, sizes.test) == (1347, 450)
    assert train[0].max() == 255 and np.bincount(test[1]).min() >= 43


@pytest.mark.parametrize("box", [(0, 0, 24, 24), (3, 5, 10, 14), (2.0, 0, 7, 24)])
def test_crop_and_resize_agrees_with_torchvision(box):
    image = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    top, left, height, width = map(int, box)
    mine = augment.crop_resize(image, torch.tensor([box], dtype=torch.float32), 16)
    theirs = TF.resized_crop(image, top, left, height, width, [16, 16], antialias=False)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at the edge mine may see beyond the box
    assert torch.allclose(mine[inner], theirs[inner], atol=1e-5)
    if (height, width) == (24, 24):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_random_boxes_lie_inside_with_areas_and_ratios_in_range():
    boxes = augment.random_boxes(2000, 100, (0.3, 0.6), torch.Generator().manual_seed(0))
    top, left, height, width = boxes.unbind(1)
    assert (top >= 0).all() and (top + height <= 100).all() and (left >= 0).all() and (left + width <= 100).all()
    share = height * width / 1e4
    assert share.min() > 0.28 and share.max() < 0.63 and 0.43 < share.mean() < 0.47
    ratio = width / height
    assert ratio.min() > 0.73 and ratio.max() < 1.36


def test_ten_crops_are_those_of_torchvision():
    images = torch.randint(0, 256, (2, 12, 12, 3), dtype=torch.uint8)
    settings = dataclasses.replace(SETTINGS, test_crops=10)
    mine = augment.test_crops(images, settings, flip=True)
    theirs = TF.ten_crop(augment.to_float(images), [8, 8])
    assert len(mine) == 10
    for view in theirs:
        assert any(torch.equal(view, other) for other in mine)
    assert all(map(torch.equal, augment.test_crops(images, settings, flip=False), mine[:5]))


def test_images_that_may_not_be_mirrored_are_not_mirrored_when_they_are_scored():
    settings = dataclasses.replace(SETTINGS, image_size=6, test_crops=10)
    for name, views in (("digits", 5), ("tiles", 10)):
        assert manifests.dataset(name).flip == (views == 10)
        shown, _ = next(loaders.eval_batches(loaders.load(manifests.dataset(name), settings), "val", settings, 2))
        assert len(shown) == views


def test_a_shift_crop_is_a_window_of_the_edge_padded_image():
    images = torch.arange(16, dtype=torch.uint8).view(1, 4, 4, 1).expand(1, 4, 4, 3)
    padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="replicate")
    windows = {tuple(padded[0, 0, y : y + 4, x : x + 4].flatten().tolist()) for y in range(3) for x in range(3)}
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(augment.shift_crop(images, 4, 1, generator)[0, ..., 0].flatten().tolist()) for _ in range(60)}
    assert seen == windows


def test_flips_happen_to_half_of_the_images_where_the_manifest_allows_them():
    images = torch.zeros(400, 8, 8, 3, dtype=torch.uint8)
    images[:, :, 0] = 255
    settings = dataclasses.replace(SETTINGS, crop="none", decode_size=8)
    left = augment.train_batch(images, settings, True, torch.Generator().manual_seed(0))[:, 0, 0, 0]
    assert 150 < left.sum() < 250
    assert augment.train_batch(images, settings, False, torch.Generator())[:, 0, 0, 0].sum() == 400


def test_every_manifest_of_the_project_is_valid_and_hubs_name_their_facts():
    assert {"digits", "cifar100", "cars"} <= set(manifests.datasets())
    for hub in manifests.hubs().values():
        assert all(member.licence for member in hub.members)
        assert hub.homogeneous == (len({m.architecture for m in hub.members}) == 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [("num_classes: ten", "num_classes"), ("colour: red", "colour"), ("name: other", "name the file other.yaml")],
)
def test_a_wrong_manifest_is_refused_by_file_and_field(tmp_path, change, message):
    fields = {**manifest().model_dump(), "name": "toy"}
    key, value = change.split(": ")
    file = tmp_path / "toy.yaml"
    file.write_text(json.dumps({**fields, key: value}))
    with pytest.raises(ZoolibError, match=message) as error:
        manifests.read(file, DatasetManifest)
    assert "toy.yaml" in str(error.value)


def test_a_homogeneous_hub_of_two_architectures_is_refused(tmp_path):
    hub = manifests.hub("imagenet-lite").model_dump()
    file = tmp_path / "imagenet-lite.yaml"
    file.write_text(json.dumps({**hub, "homogeneous": True}))
    with pytest.raises(ZoolibError, match="architectures differ"):
        manifests.read(file, HubManifest)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ZoolibError, match=r"unknown dataset 'cifar10' \(did you mean 'cifar100'\?\)"):
        manifests.dataset("cifar10")


def test_each_iteration_and_each_seed_draws_an_augmentation_of_its_own_for_the_same_images(monkeypatch):
    settings = dataclasses.replace(SETTINGS, image_size=16, decode_size=16, crop="shift", batch_size=16)
    digits = loaders.load(manifests.dataset("digits"), settings)
    monkeypatch.setattr(loaders, "batch_rows", lambda rows, *_: rows[:16])
    images = {(seed, turn): loaders.train_batch(digits, settings, seed, turn)[0] for seed in (1, 2) for turn in (5, 6)}
    assert len({drawn.numpy().tobytes() for drawn in images.values()}) == 4
    assert torch.equal(images[1, 5], loaders.train_batch(digits, settings, 1, 5)[0])


@pytest.mark.parametrize("label", [-1, 3])
def test_the_first_labels_outside_the_classes_are_refused(tmp_path, monkeypatch, label):
    folder = write_set(tmp_path)
    table = pq.read_table(folder / "train.parquet")
    labels = pa.array([*table["label"].to_pylist()[:-1], label], pa.int64())
    pq.write_table(table.set_column(1, "label", labels), folder / "train.parquet")
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path))
    with pytest.raises(ZoolibError, match=rf"train\.parquet: row 23: label {label} is outside 0\.\.2"):
        loaders.load(manifest(), SETTINGS)


def test_an_image_that_shrinks_is_averaged_and_not_thinned_out():
    board = np.indices((24, 24)).sum(0) % 2 * np.uint8(255)  # every second pixel white
    small = loaders._square(Image.fromarray(board.astype(np.uint8)), 6)
    assert small.shape == (6, 6, 3) and abs(small.astype(int) - 127).max() < 20


def test_groups_stay_with_their_images_where_those_of_another_dataset_are_left_out():
    def images(levels, groups=None):
        pixels = np.array(levels, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
        return Images(pixels, np.arange(len(levels)), ["x"], "", groups)

    other = Dataset(SimpleNamespace(), images([2]), images([9, 5]), {}, "")  # type: ignore[arg-type]
    first, second = loaders._apart((images([1, 2, 3, 5, 7], np.array([10, 11, 12, 13, 14])), images([9, 8])), other)
    assert first.pixels[:, 0, 0, 0].tolist() == [1, 3, 7] and first.labels.tolist() == [0, 2, 4]
    assert first.groups.tolist() == [10, 12, 14]
    assert second.pixels[:, 0, 0, 0].tolist() == [8] and second.groups is None
