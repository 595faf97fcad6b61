"""Your own images: class folders, a CSV or a Parquet file become a dataset."""

from __future__ import annotations

import collections
import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks import layouts
from zoolib.__main__ import main
from zoolib.data import fetch, loaders, manifests, own
from zoolib.data.manifests import OwnData
from zoolib.grid import grid
from zoolib.spec import Settings, ZoolibError


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))


def photos(folder: Path, count: int = 10, classes: tuple[str, ...] = ("bee", "ant"), top: str = "") -> Path:
    """Class folders of images that all differ."""
    rng = np.random.default_rng(len(top))
    for name in classes:
        for number in range(count):
            path = folder / top / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(layouts.encode(rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)))
    return folder


def rows(name: str, split: str) -> list[dict[str, object]]:
    return pq.read_table(manifests.find(manifests.dataset(name)) / f"{split}.parquet").to_pylist()


def imported(path: Path, **fields: object) -> own.Imported:
    return own.import_data(OwnData.model_validate({"name": "mine", "path": str(path), **fields}))


def test_class_folders_become_a_dataset_that_trains_and_verifies(tmp_path: Path, capsys) -> None:
    photos(tmp_path / "photos")
    assert main(["import", str(tmp_path / "photos"), "--name", "mine", "--test", "0.3"]) == 0
    assert "mine: 2 classes, 14 train and 6 test" in capsys.readouterr().out
    manifest = manifests.dataset("mine")
    settings = Settings(image_size=8, decode_size=8, batch_size=2, iterations=1, test_crops=1, val_fraction=0.2)
    data = loaders.load(manifest, settings)
    assert data.train.classes == ["ant", "bee"] and data.variant == "imported"
    assert np.bincount(data.test.labels).tolist() == [3, 3]
    assert "mine: imported, 14 train and 6 test rows" in fetch.verify(manifest)
    (spec,) = grid("cls", "mine", "digits-zoo", "scratch", "smoke")
    assert spec.dataset == "mine"


def test_the_split_follows_the_pixels_whatever_the_names_the_order_and_the_format(tmp_path: Path) -> None:
    photos(tmp_path / "a")
    imported(tmp_path / "a")
    first = {row["image"]["bytes"] for row in rows("mine", "test")}
    other = tmp_path / "b"
    for index, path in enumerate(sorted((tmp_path / "a").rglob("*.png"), reverse=True)):
        renamed = other / path.parent.name / f"new{index}.png"
        renamed.parent.mkdir(parents=True, exist_ok=True)
        renamed.write_bytes(path.read_bytes())
    imported(other)
    assert {row["image"]["bytes"] for row in rows("mine", "test")} == first and len(first) == 4


def test_copies_stay_in_one_split_and_copies_across_given_splits_are_reported(tmp_path: Path) -> None:
    folder = photos(tmp_path / "a")
    for number in range(10):  # each image of a class twice
        copy = folder / "ant" / f"copy{number}.png"
        copy.write_bytes((folder / "ant" / f"{number}.png").read_bytes())
    done = imported(folder)
    assert done.notes == ["10 images are copies of another"]
    train, test = ({row["image"]["bytes"] for row in rows("mine", split)} for split in ("train", "test"))
    assert not train & test
    given = photos(photos(tmp_path / "b", top="train"), top="test")
    (given / "test/bee/same.png").write_bytes((given / "train/ant/0.png").read_bytes())
    notes = imported(given).notes
    assert "1 images occur in more than one split, such as test/bee/same.png = train/ant/0.png" in notes
    assert "1 images occur in more than one class, such as test/bee/same.png = train/ant/0.png" in notes
    assert manifests.dataset("mine").differences == notes
    assert [len(rows("mine", split)) for split in ("train", "test")] == [20, 21]


def test_a_csv_and_a_parquet_file_give_what_the_folders_give(tmp_path: Path) -> None:
    folder = photos(tmp_path / "a")
    files = sorted(folder.rglob("*.png"))
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([path.relative_to(folder), path.parent.name] for path in files)
    table = pa.table({"image": [path.read_bytes() for path in files], "label": [path.parent.name for path in files]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = []
    for source in (folder, folder / "list.csv", tmp_path / "a.parquet"):
        imported(source)
        found.append(
            {split: {(r["image"]["bytes"], r["label"]) for r in rows("mine", split)} for split in ("train", "test")}
        )
    assert found[0] == found[1] == found[2] and len(found[0]["test"]) == 4


def test_a_csv_with_splits_and_numbers_keeps_them(tmp_path: Path) -> None:
    folder = photos(tmp_path / "a", 4, ("10", "9"))
    lines = ["image,label,split"] + [
        f"{label}/{i}.png,{label},{'train' if i < 3 else 'validation' if label == '9' else 'test'}"
        for label in ("9", "10")
        for i in range(4)
    ]
    (folder / "list.csv").write_text("\n".join(lines))
    done = imported(folder / "list.csv")
    assert done.manifest.sizes.model_dump() == {"train": 6, "test": 1, "val": 1}
    assert pq.read_schema(done.folder / "test.parquet").metadata[b"classes"] == b'["9", "10"]'
    assert done.notes == ["1 classes have no test image, such as '9'"]


def test_a_yaml_of_five_lines_is_a_dataset(tmp_path: Path, capsys) -> None:
    photos(tmp_path / "photos")
    lines = ["name: garden", "path: photos", "title: Garden", "licence: mine", "flip: false"]
    path = tmp_path / "anything.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ZoolibError, match="garden"):
        manifests.dataset(str(path))  # the file's name must be the dataset's
    path = path.rename(tmp_path / "garden.yaml")
    with pytest.raises(
        ZoolibError, match=r"'garden' was not imported yet; run `python -m zoolib import .*garden\.yaml`"
    ):
        manifests.dataset(str(path))
    assert own.ensure(str(path)) == "garden"
    manifest = manifests.dataset(str(path))
    assert manifest == manifests.dataset("garden") and not manifest.flip and manifest.title == "Garden"
    (spec,) = grid("cls", str(path), "digits-zoo", "scratch", "smoke")
    assert spec.dataset == "garden"
    assert main(["import", str(path)]) == 0 and "garden: 2 classes" in capsys.readouterr().out
    path.write_text("\n".join([*lines, "colour: red"]))
    with pytest.raises(ZoolibError, match=r"garden\.yaml: colour: "):
        manifests.dataset(str(path))


def test_a_whole_manifest_outside_the_project_is_a_dataset_too(tmp_path: Path) -> None:
    fields = manifests.dataset("eurosat").model_dump(mode="json") | {"name": "other", "variants": []}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(fields))
    assert manifests.dataset(str(tmp_path / "other.yaml")).num_classes == 10
    (spec,) = grid("cls", str(tmp_path / "other.yaml"), "digits-zoo", "scratch", "smoke")
    assert spec.dataset.endswith("other.yaml") and spec.stem.startswith("cls/other/digits-zoo/smoke/")


def test_an_import_again_replaces_the_dataset_and_a_failed_one_leaves_it(tmp_path: Path) -> None:
    imported(photos(tmp_path / "a"))
    before = sorted((tmp_path / "data/mine").iterdir())
    (tmp_path / "a/ant/3.png").write_bytes(b"\x89PNG no")
    with pytest.raises(ZoolibError, match=r"ant/3\.png: not a readable image"):
        imported(tmp_path / "a")
    assert sorted((tmp_path / "data/mine").iterdir()) == before
    (tmp_path / "a/ant/3.png").unlink()
    assert imported(tmp_path / "a").manifest.sizes.train == 15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "absent", "no such folder or file"),
        (lambda d: photos(d / "x", 2, ("only",)), "one class only, 'only'"),
        (lambda d: photos(d / "x", top="deep/er"), "lies in no class folder"),
        (lambda d: photos(d / "x", top="train"), "it names the splits train; give train and test, or none"),
        (lambda d: text(d / "x.csv", "a,b\n1,2"), "no column for the image: name one image or path"),
        (lambda d: text(d / "x.csv", "image,label\nno.png,1"), r"row 0: no image file 'no\.png'"),
        (lambda d: text(d / "x.csv", "image,label"), "there is no image in it"),
        (lambda d: text(d / "x.csv", b"\xff\xfe\x00"), "not a readable CSV file"),
        (lambda d: text(d / "x.parquet", "no"), "not a readable Parquet file"),
        (lambda d: text(d / "x.zip", "no"), r"neither a folder of class folders nor a \.csv nor a \.parquet"),
        (lambda d: photos(d / "x", 1), "too few images to have a test split"),
    ],
)
def test_what_cannot_be_imported_is_one_line(make, message: str, tmp_path: Path) -> None:
    with pytest.raises(ZoolibError, match=message) as error:
        imported(make(tmp_path))
    assert "\n" not in str(error.value) and not (tmp_path / "data/mine").exists()


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_wrong_names_and_shares_are_refused(tmp_path: Path, capsys) -> None:
    photos(tmp_path / "a")
    assert main(["import", str(tmp_path / "a")]) == 1
    assert "--name: Field required" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "a"), "--name", "My Photos"]) == 1
    assert "--name: String should match" in capsys.readouterr().err
    with pytest.raises(ZoolibError, match="'cars' is a dataset of the project"):
        imported(tmp_path / "a", name="cars")
    with pytest.raises(ZoolibError, match=r"test is 1\.5; use a share"):
        imported(tmp_path / "a", test=1.5)


def test_splits_are_stratified(tmp_path: Path) -> None:
    imported(photos(tmp_path / "a", 15, tuple("abcd")), test=0.2)
    assert collections.Counter(row["label"] for row in rows("mine", "test")) == dict.fromkeys(range(4), 3)
