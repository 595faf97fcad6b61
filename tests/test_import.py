"""Your own images as a dataset: what an import reads, how it splits, and what it leaves alone."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from zoolib import experiment
from zoolib.__main__ import main
from zoolib.data import items as gathered
from zoolib.data import loaders, manifests
from zoolib.data import own as importing
from zoolib.data.schema import OwnData
from zoolib.grid import grid
from zoolib.results import ResultStore
from zoolib.spec import Settings, ZoolibError

SETTINGS = Settings(image_size=8, decode_size=8, batch_size=2, iterations=1, test_crops=1, val_fraction=0.25)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("BUILD", "DATA"):
        monkeypatch.setenv(f"ZOOLIB_{name}", str(tmp_path / name))
    (tmp_path / "DATA").mkdir()
    return tmp_path


def png(level: int) -> bytes:
    """A picture of its own for each level."""
    pixels = np.random.default_rng(level).integers(0, 255, (8, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def fill(folder: Path, **classes: range | list[int]) -> Path:
    """A folder of class folders; every level is a picture, and the same level twice is a copy."""
    for name, levels in classes.items():
        (folder / name).mkdir(parents=True)
        for number, level in enumerate(levels):
            (folder / name / f"{number}.png").write_bytes(png(level))
    return folder


def table(folder: Path, split: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(folder / f"{split}.parquet").to_pylist()
    return rows


def test_a_fifth_of_each_class_is_tested_whatever_the_names_and_copies_stay_together(place: Path):
    ants, bees = [*range(10)], [*range(20, 30), 20, 20]
    first = importing.import_data(OwnData(name="one", path=str(fill(place / "one", ant=ants, bee=bees))))
    second = importing.import_data(OwnData(name="two", path=str(fill(place / "two", ant=ants[::-1], bee=bees[::-1]))))
    assert first.manifest.sizes.train + first.manifest.sizes.test == 22 and first.notes == [
        "2 images are copies of another"
    ]
    contents = [
        {split: collections.Counter(row["image"]["bytes"] for row in table(made.folder, split)) for split in parts}
        for made in (first, second)
        for parts in [("train", "test")]
    ]
    assert contents[0] == contents[1], "the split depends on the pixels alone"
    assert not set(contents[0]["train"]) & set(contents[0]["test"])
    tested = collections.Counter(row["label"] for row in table(first.folder, "test"))
    assert tested[0] == 2 and tested[1] in (2, 3, 4), "20 %, and copies with their image"


def test_a_csv_and_a_parquet_keep_the_split_and_order_classes_that_are_numbers_by_value(place: Path):
    fill(place / "files", x=range(12))
    lines = [f"files/x/{i}.png,{(2, 10)[i % 2]},{('train', 'test', 'val')[i // 2 % 3]}" for i in range(12)]
    (place / "list.csv").write_text("path,label,split\n" + "\n".join(lines))
    pictures = [{"bytes": png(i), "path": ""} for i in range(12)]
    splits = [line.split(",")[2] for line in lines]
    columns = {"image": pictures, "label": [(2, 10)[i % 2] for i in range(12)], "split": splits}
    pq.write_table(pa.table(columns), place / "list.parquet")
    for path in ("list.csv", "list.parquet"):
        made = importing.import_data(OwnData(name="kept", path=str(place / path)))
        assert made.manifest.sizes.model_dump() == {"train": 8, "test": 4, "val": None} and not made.notes
        assert "the 4 of its val split" in made.manifest.protocol
        assert [row["image"]["bytes"] for row in table(made.folder, "test")] == [png(i) for i in (2, 3, 8, 9)]
        assert [row["label"] for row in table(made.folder, "test")] == [0, 1, 0, 1]
        data = loaders.load(manifests.dataset("kept"), SETTINGS)
        assert data.train.classes == ["2", "10"]
        for split, rows in (("train", (0, 1, 6, 7)), ("val", (4, 5, 10, 11))):
            files = {row["image"]["path"] for row in (table(made.folder, "train")[i] for i in data.rows[split])}
            wanted = {f"files/x/{i}.png" if path == "list.csv" else f"list/{i}" for i in rows}
            assert files == wanted, "those of the column, whatever the settings' share"


def hand_made(place: Path, name: str, levels: list[int], test: list[int], **manifest: object) -> None:
    """A dataset written by hand, with a manifest beside it; classes alternate."""
    folder = place / "DATA" / name
    folder.mkdir(exist_ok=True)
    fields = {"name": name, "title": name, "task": "cls", "source": "canonical", "description": "d", "num_classes": 2,
              "sizes": {"train": 9, "test": 9}, "protocol": "p", "flip": True, "licence": "l", "citation": "c",
              "homepage": "h"}  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(fields | manifest))
    for split, images in (("train", levels), ("test", test)):
        columns = {"image": [{"bytes": png(i), "path": str(i)} for i in images], "label": [0, 1] * (len(images) // 2)}
        file = pa.table(columns).replace_schema_metadata({"classes": json.dumps(["a", "b"])})
        pq.write_table(file, folder / f"{split}.parquet")


def test_what_a_dataset_is_kept_apart_from_is_part_of_its_checksum_and_is_read_again(place: Path):
    hand_made(place, "other", [0, 1, 60, 61], [90, 91])
    hand_made(place, "mine", [*range(8)], [80, 81], apart_from="other")
    seen = {}
    for hidden in (0, 2):
        hand_made(place, "other", [hidden, hidden + 1, 60, 61], [90, 91])
        data = loaders.load(manifests.dataset("mine"), SETTINGS)
        levels = {png(i): i for i in range(8)}
        left = [i for i in range(8) if i not in (hidden, hidden + 1)]
        wanted = {np.asarray(Image.open(io.BytesIO(content))).tobytes() for content, i in levels.items() if i in left}
        assert {image.tobytes() for image in data.train.pixels} == wanted
        assert data.sha256 == manifests.data_sha256(manifests.dataset("mine"))
        seen[data.sha256] = hidden
    assert len(seen) == 2
    hand_made(place, "other", [*range(8)], [90, 91])
    with pytest.raises(ZoolibError, match="other has every image of this dataset"):
        loaders.load(manifests.dataset("mine"), SETTINGS)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("validation", [0, 1] * 4, "the column validation is of type int64; write it as bool"),
        ("validation", ["yes", "no"] * 4, "the column validation is of type string; write it as bool"),
        ("validation", [True] * 8, "every training image is one of the data's validation images"),
        ("label", [0.0, 0.7] * 4, "labels are of type double; write them as int64"),
        ("label", ["a", "b"] * 4, "labels are of type string; write them as int64"),
    ],
)
def test_columns_of_hand_made_files_are_checked(place: Path, column: str, values: list[object], message: str):
    hand_made(place, "mine", [*range(8)], [80, 81])
    file = place / "DATA/mine/train.parquet"
    content = pq.read_table(file).to_pydict() | {column: values}
    image = pa.array(content.pop("image"), pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"image": image, **content}), file)
    with pytest.raises(ZoolibError, match=message):
        loaders.load(manifests.dataset("mine"), SETTINGS)


def test_an_import_takes_linked_folders_and_says_what_it_left_and_of_which_split_classes_lack_images(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    fill(place / "elsewhere", bee=range(20, 26))
    for part, levels in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 8))):
        fill(place / "photos" / part, ant=levels)
        if part != "val":
            (place / "photos" / part / "bee").symlink_to(place / "elsewhere/bee")
    (place / "photos/train/ant/9.heic").write_bytes(b"x")
    assert main(["import", str(place / "photos"), "--name", "linked"]) == 0
    said = capsys.readouterr().out
    assert "linked: 2 classes, 10 train, 2 val, 8 test" in said
    assert "1 classes have no val image, such as 'bee'" in said
    assert "1 files are no images by their endings and were not taken, such as '9.heic'" in said


def test_an_import_whose_files_changed_does_not_verify(place: Path, capsys: pytest.CaptureFixture[str]):
    fill(place / "photos", ant=range(4), bee=range(20, 24))
    main(["import", str(place / "photos"), "--name", "garden"])
    assert main(["verify", "garden"]) == 0
    file = place / "DATA/garden/train.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    capsys.readouterr()
    assert main(["verify", "garden"]) == 1
    assert "DATA/garden: changed since it was imported; import it again" in capsys.readouterr().err


def test_a_yaml_of_another_program_below_a_data_root_is_left_alone(place: Path):
    (place / "DATA/coco128").mkdir()
    (place / "DATA/coco128/coco128.yaml").write_text("path: coco128\nnc: 80\n")
    fill(place / "photos", ant=range(4), bee=range(20, 24))
    assert main(["import", str(place / "photos"), "--name", "garden"]) == 0
    assert [*manifests.own()] == ["garden"]


@pytest.mark.parametrize("target", ["photos", "."])
def test_a_link_to_a_folder_that_it_lies_in_is_named(place: Path, target: str, capsys: pytest.CaptureFixture[str]):
    fill(place / "photos", ant=range(4), bee=range(20, 24))
    (place / "photos/ant/round").symlink_to(place / target)
    assert main(["import", str(place / "photos"), "--name", "round"]) == 1
    assert f"{place}/photos/ant/round: a link to a folder that it lies in" in capsys.readouterr().err


def test_folders_that_link_to_each_other_are_named(place: Path):
    for name, other in (("ant", "bee"), ("bee", "ant")):
        fill(place / "photos", **{name: range(4)})
        (place / f"photos/{name}/other").symlink_to(place / f"photos/{other}")
    with pytest.raises(ZoolibError, match="ant/other/other: a link to a folder that it lies in"):
        gathered.read_items(place / "photos")


def test_an_import_into_another_place_prints_a_command_that_finds_it(place: Path, capsys: pytest.CaptureFixture[str]):
    fill(place / "photos", ant=range(4), bee=range(20, 24))
    assert main(["import", str(place / "photos"), "--name", "aside", "--into", str(place / "my data")]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("use it: ")
    assert command.endswith(" python -m zoolib run cls -p dataset aside")
    shown = command.partition(" python ")[0] + " printenv ZOOLIB_DATA"  # as a shell reads it
    roots = subprocess.run(["sh", "-c", shown], capture_output=True, text=True).stdout.strip()
    assert roots.split(os.pathsep) == [str(place / "my data"), str(place / "DATA")]
    main(["import", str(place / "photos"), "--name", "aside", "--into", str(place / "DATA")])
    assert "\nuse it: python -m zoolib run cls -p dataset aside" in capsys.readouterr().out


def test_an_import_of_earlier_code_that_left_validation_images_aside_is_made_again(place: Path):
    for part, levels in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 8))):
        fill(place / "photos" / part, ant=levels, bee=[level + 50 for level in levels])
    (place / "garden.yaml").write_text("name: garden\npath: photos\n")
    assert importing.ensure(str(place / "garden.yaml")) == "garden"
    note = place / "DATA/garden/imported.json"
    kept = note.read_text()
    for old in ({}, {"format": 1}):
        content = {name: value for name, value in json.loads(kept).items() if name != "format"}
        note.write_text(json.dumps(content | old))
        importing.ensure(str(place / "garden.yaml"))
        assert note.read_text() == kept


def test_names_on_the_command_line_are_checked_beside_a_file_too(place: Path, capsys: pytest.CaptureFixture[str]):
    fill(place / "photos", ant=range(5), bee=range(20, 25))
    (place / "garden.yaml").write_text("name: garden\npath: photos\n")
    for wrong in (["--name", "My Garden"], ["--name", "../out"], ["--licence", ""]):
        assert main(["import", str(place / "garden.yaml"), *wrong]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and wrong[0][2:] in error
    assert not list((place / "DATA").iterdir())


def test_what_a_killed_import_left_is_put_back_or_swept_away(place: Path):
    fill(place / "photos", ant=range(5), bee=range(20, 25))
    folder = importing.import_data(OwnData(name="one", path=str(place / "photos"))).folder
    (folder / "mark").write_text("first")
    folder.rename(place / "DATA/.one.0123abcd.before")  # killed between the two renames
    (place / "DATA/.one.4567abcd.partial").mkdir()
    (place / "DATA/.other.4567abcd.partial").mkdir()
    importing._sweep(place / "DATA", folder)
    assert (folder / "mark").read_text() == "first"
    assert sorted(path.name for path in (place / "DATA").iterdir() if path.is_dir()) == [
        ".other.4567abcd.partial",
        "one",
    ]
    (place / "DATA/.one.0123abcd.before").mkdir()
    importing._sweep(place / "DATA", folder)
    assert (folder / "mark").is_file() and not (place / "DATA/.one.0123abcd.before").exists()


def test_a_record_says_that_it_chose_by_the_validation_images_of_the_data(place: Path):
    for part, levels in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 12))):
        fill(place / "photos" / part, ant=levels, bee=[level + 100 for level in levels])
    importing.import_data(OwnData(name="photos", path=str(place / "photos")))
    (spec,) = grid("cls", "photos", "digits-zoo", "scratch", "smoke", 1)
    record = experiment.run(spec, ResultStore(place / "records"))
    assert record.deviations[0].startswith("the dataset's own 6 validation images are held out to choose by")
    right = record.metrics["val"]["top1_accuracy"] * 6 / 100
    assert right == pytest.approx(round(right), abs=1e-4), "a share of six images"


def test_validation_images_of_the_data_are_those_of_every_share_of_the_labels():
    labels = np.repeat([0, 1], 10)
    held = np.isin(np.arange(20), [3, 4, 17])
    for fraction in (1.0, 0.5):
        rows = loaders.split_rows(labels, dataclasses.replace(SETTINGS, train_fraction=fraction), None, held)
        assert rows["val"].tolist() == [3, 4, 17]
        assert np.bincount(labels[rows["train"]]).tolist() == ([8, 9] if fraction == 1 else [4, 4])
        assert not held[rows["train"]].any()
    as_ever = loaders.split_rows(labels, SETTINGS)
    none_marked = loaders.split_rows(labels, SETTINGS, None, np.zeros(20, bool))
    assert all((none_marked[split] == as_ever[split]).all() for split in ("train", "val"))


def test_validation_images_of_the_data_stay_so_where_images_of_another_dataset_are_left_out():
    def images(levels, validation=None):
        pixels = np.stack([np.full((2, 2, 3), level, np.uint8) for level in levels])
        return loaders.Images(pixels, np.arange(len(levels)), ["x"], "", None, validation)

    other = loaders.Dataset(None, images([1]), images([7]), {}, "")
    first, second = loaders._apart([images([0, 1, 2], np.array([True, False, True])), images([7, 8])], other)
    assert first.validation.tolist() == [True, True] and second.validation is None


def test_copies_across_given_splits_and_in_two_classes_are_reported(place: Path):
    fill(place / "photos/train", ant=[0, 1, 2], bee=[10, 11, 0])
    fill(place / "photos/test", ant=[1, 3], bee=[12])
    notes = importing.import_data(OwnData(name="photos", path=str(place / "photos"))).notes
    assert [note.split(",")[0] for note in notes] == [
        "2 images are copies of another",
        "1 images occur in more than one split",
        "1 images occur in more than one class",
    ]
    assert manifests.dataset("photos").differences == notes


def test_copies_of_an_image_are_on_one_side_of_the_validation_split_too(place: Path):
    fill(place / "photos/train", ant=[*range(8)] * 3, bee=[*range(20, 28)] * 3)
    fill(place / "photos/test", ant=[40, 41], bee=[50, 51])
    importing.import_data(OwnData(name="photos", path=str(place / "photos")))
    data = loaders.load(manifests.dataset("photos"), SETTINGS)
    shown = {name: {data.train.pixels[row].tobytes() for row in data.rows[name]} for name in ("train", "val")}
    assert not shown["train"] & shown["val"] and len(shown["val"]) == 4 and len(data.rows["val"]) == 12
    assert np.bincount(data.train.labels[data.rows["val"]]).tolist() == [6, 6]


def test_groups_of_one_row_are_split_as_rows_are_and_a_group_of_two_classes_is_trained_on():
    labels = np.repeat([0, 1, 2], [40, 25, 3])
    plain = loaders.split_rows(labels, SETTINGS)
    alone = loaders.split_rows(labels, SETTINGS, np.random.default_rng(1).permutation(len(labels)))
    assert all(np.array_equal(plain[name], alone[name]) for name in plain)
    assert np.bincount(labels[plain["val"]]).tolist() == [10, 6, 1]
    groups = np.arange(len(labels))
    groups[:40:2] = 40  # half of the first class are copies of the second's first image
    mixed = loaders.split_rows(labels, SETTINGS, groups)
    assert not {*range(0, 40, 2), 40} & {*mixed["val"]} and np.bincount(labels[mixed["val"]])[0] == 10


def test_rows_without_a_group_are_groups_of_their_own():
    numbers = loaders._numbered(["a", None, "a", None, "row 1", "3"])
    assert numbers[0] == numbers[2] and len(set(numbers.tolist())) == 5


def test_a_class_keeps_an_image_to_train_on_however_few_it_has():
    labels = np.repeat([0, 1, 2], [8, 2, 1])
    rows = loaders.split_rows(labels, SETTINGS)
    assert np.bincount(labels[rows["train"]]).tolist() == [6, 1, 1]
    assert np.bincount(labels[rows["val"]], minlength=3).tolist() == [2, 1, 0]
    with pytest.raises(ZoolibError, match="no class has two different training images"):
        loaders.split_rows(np.arange(3), SETTINGS)


def test_an_import_never_removes_a_folder_that_no_import_made(place: Path, capsys: pytest.CaptureFixture[str]):
    garden = fill(place / "DATA/garden", ant=range(5), bee=range(10, 15))
    (garden / "notes.txt").write_text("mine")
    before = sorted(garden.rglob("*"))
    assert main(["import", str(garden), "--name", "garden"]) == 1
    assert "holds 'ant', which no import made" in capsys.readouterr().err and sorted(garden.rglob("*")) == before
    flowers = place / "DATA/flowers"
    flowers.mkdir()
    for split in ("train", "test"):  # put there by hand
        (flowers / f"{split}.parquet").write_bytes(b"by hand")
    with pytest.raises(ZoolibError, match=r"flowers holds 'test\.parquet', which no import made"):
        importing.import_data(OwnData(name="flowers", path=str(garden)))
    assert (flowers / "train.parquet").read_bytes() == b"by hand"
    assert sorted(path.name for path in (place / "DATA").iterdir() if path.is_dir()) == ["flowers", "garden"]


def test_importing_again_replaces_the_import_and_a_failure_leaves_it(place: Path, monkeypatch: pytest.MonkeyPatch):
    photos = fill(place / "photos", ant=range(5), bee=range(10, 15))
    own = OwnData(name="garden", path=str(photos))
    folder = importing.import_data(own).folder
    fill(place / "photos", cat=range(20, 25))

    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="the disk is gone"):
        patched.setattr(importing, "publish", fail)
        importing.import_data(own)
    assert manifests.dataset("garden").num_classes == 2 and len(table(folder, "train")) == 8
    importing.import_data(own)
    assert manifests.dataset("garden").num_classes == 3 and len(table(folder, "train")) == 12
    assert [path.name for path in (place / "DATA").iterdir() if path.is_dir()] == ["garden"]


def test_a_csv_is_imported_again_when_an_image_that_it_names_changes(place: Path):
    fill(place / "files", x=range(10))
    (place / "list.csv").write_text("path,label\n" + "\n".join(f"files/x/{i}.png,{i % 2}" for i in range(10)))
    (place / "garden.yaml").write_text("name: garden\npath: list.csv\nlicence: mine\n")
    assert importing.ensure(str(place / "garden.yaml")) == "garden"
    before = manifests.data_sha256(manifests.dataset("garden"))
    importing.ensure(str(place / "garden.yaml"))
    assert manifests.data_sha256(manifests.dataset("garden")) == before
    (place / "files/x/3.png").write_bytes(png(99))
    importing.ensure(str(place / "garden.yaml"))
    assert manifests.data_sha256(manifests.dataset("garden")) != before


def test_what_cannot_be_imported_is_named_in_one_line(place: Path):
    fill(place / "files", x=range(6))
    rows = [f"files/x/{i}.png,{i % 2},{'train' if i < 4 else 'test'}" for i in range(6)]
    cases = {
        "half.csv": ("path,label,split", [rows[0].replace("train", ""), *rows[1:]], "0.png has no split and others"),
        "only.csv": ("path,label,split", rows[:4], "it names the splits train; give train and test, or none"),
        "odd.csv": ("path,label,split", [rows[0].replace("train", "trian")], "did you mean 'train'"),
        "gone.csv": ("path,label", ["nowhere.png,1"], "row 0: no image file 'nowhere.png'"),
        "names.csv": ("photo,label", ["files/x/0.png,1"], "no column for the image: name one image or path"),
        "one.csv": ("path,label", ["files/x/0.png,1", "files/x/1.png,1"], "one class only, '1'"),
        "same.csv": ("path,label", ["files/x/0.png,1", "files/x/0.png,2"], "too few images to have a test split"),
    }
    for name, (head, lines, message) in cases.items():
        (place / name).write_text("\n".join([head, *lines]))
        with pytest.raises(ZoolibError, match=message) as error:
            importing.import_data(OwnData(name="wrong", path=str(place / name)))
        assert "\n" not in str(error.value)
    (place / "files/x/2.png").write_bytes(b"no picture")
    (place / "files/loose.png").write_bytes(png(0))
    for path, message in (("files", "lies in no class folder"), ("absent", "no such folder or file"),
                          ("files/x/0.png", "neither a folder of class folders nor")):  # fmt: skip
        with pytest.raises(ZoolibError, match=message):
            importing.import_data(OwnData(name="wrong", path=str(place / path)))
    (place / "files/loose.png").unlink()
    fill(place / "files", y=range(10, 16))
    with pytest.raises(ZoolibError, match=r"x/2\.png: not a readable image"):
        importing.import_data(OwnData(name="wrong", path=str(place / "files")))
    with pytest.raises(ZoolibError, match="'digits' is a dataset of the project"):
        importing.import_data(OwnData(name="digits", path=str(place / "files")))
    assert not (place / "DATA/wrong").exists() and not [*(place / "DATA").glob(".wrong*partial")]


def test_more_images_are_decoded_than_arrow_can_put_into_one_piece(place: Path):
    heavy = pa.array([{"bytes": png(1) + bytes(100 << 20), "path": ""}])
    light = pa.array([{"bytes": png(2), "path": ""}])
    column = pa.chunked_array([*[heavy] * 21, light])  # 2.05 GiB, the same memory 21 times
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        column.take(np.arange(22))
    loaders._decode_into(place / "out.npy", place / "train.parquet", column, np.array([20, 21]), 8)
    whole = [np.asarray(Image.open(io.BytesIO(png(level)))) for level in (1, 2)]
    assert np.array_equal(np.load(place / "out.npy"), whole)


def test_an_image_that_two_classes_share_is_trained_on_and_other_images_are_tested_in_its_place():
    items = [
        gathered.Item(f"{label}/{digest}", label, bytes, digest=digest)
        for label in ("ant", "bee")
        for digest in ("0 shared", *(f"{label} {number}" for number in range(9)))
    ]
    gathered.assign_splits(items, 0.2)
    assert {item.split for item in items if item.digest == "0 shared"} == {"train"}
    tested = [item.digest for item in items if item.split == "test"]
    assert tested == ["ant 0", "ant 1", "bee 0", "bee 1"]


def test_pictures_of_another_shape_are_no_copies_and_those_of_another_format_are():
    def encoded(size, kind):
        out = io.BytesIO()
        Image.new("RGB", size, (9, 9, 9)).save(out, kind)
        return out.getvalue()

    contents = [encoded((2, 8), "PNG"), encoded((4, 4), "PNG"), encoded((4, 4), "BMP")]
    items = [gathered.Item(str(number), "x", lambda c=content: c) for number, content in enumerate(contents)]
    gathered.add_digests(items)
    wide, square, again = (item.digest for item in items)
    assert wide != square and square == again


def test_an_image_is_stored_as_a_viewer_shows_it(place: Path):
    fill(place / "own", a=range(10), b=range(10, 20))
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, :8] = 200  # bright on the left; the camera was held so that left is up
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what was left is up
    Image.fromarray(wide).save(place / "own" / "a" / "held.png", exif=exif)
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = (10, 20, 30, 255)
    Image.fromarray(clear).save(place / "own" / "b" / "clear.png")
    made = importing.import_data(OwnData(name="shown", path=str(place / "own")))
    rows = {row["image"]["path"]: row for split in ("train", "test") for row in table(made.folder, split)}
    pictures = {Path(path).name: Image.open(io.BytesIO(row["image"]["bytes"])) for path, row in rows.items()}
    held, shown = np.asarray(pictures["held.png"]), np.asarray(pictures["clear.png"])
    assert held.shape == (16, 8, 3) and (held[:8] == 200).all() and not held[8:].any()
    assert (shown[:4] == (10, 20, 30)).all() and (shown[4:] == 255).all()


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_a_channel_are_refused_instead_of_cut_off(place: Path, kind: type):
    fill(place / "own", a=range(6), b=range(6, 12))
    Image.fromarray(np.full((8, 8), 900, kind)).save(place / "own" / "a" / "xray.tif")
    with pytest.raises(ZoolibError, match=r"xray.tif: not a readable image \(ValueError: more than 8 bits a channel"):
        importing.import_data(OwnData(name="xray", path=str(place / "own")))
