"""Readers of the official layouts: what a tiny archive holds is what the canonical files hold."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks import layouts
from zoolib.data import convert, formats, manifests
from zoolib.data.formats import archives, cifar, faces, tfrecord
from zoolib.data.schema import DatasetManifest
from zoolib.spec import ZoolibError

ROUND_TRIPS = {
    "cifar100": ("official-python", layouts.cifar100),
    "coco70": ("authors-archive", layouts.coco70),
    "aircraft": ("official-archive", layouts.aircraft),
    "cars": ("official-archives", layouts.cars),
    "indoors": ("official-archive", layouts.indoors),
    "dmlab": ("official-archive", layouts.dmlab),
    "eurosat": ("parquet-mirror", layouts.mirror),
    "300w": ("annotations-and-images", layouts.coco300w),
    "300w-pts": ("points-and-images", layouts.pts300w),
    "wflw": ("official-archives", layouts.wflw),
    "cofw": ("official-archive", layouts.cofw),
}


def tiny(name: str) -> tuple[DatasetManifest, list[layouts.Sample]]:
    """A manifest of the project with the sizes of a tiny set, and that set."""
    manifest = manifests.dataset(name)
    splits = ("train", "val", "test") if manifest.sizes.val else ("train", "test")
    points = manifest.landmarks.points if manifest.landmarks else 0
    labels = (0,) if points else (0, manifest.num_classes - 1)
    items = layouts.samples(4, splits, labels, (32, 32) if name == "cifar100" else (36, 28), points)
    counts = collections.Counter(item.split for item in items)
    sizes = manifest.sizes.model_copy(update={k: counts[k] or None for k in ("train", "test", "val")})
    return manifest.model_copy(update={"sizes": sizes}), items


def convert_all(folder: Path, manifest: DatasetManifest, source_name: str) -> Path:
    source = next(source for source in manifest.sources if source.name == source_name)
    files = {path.name: path for path in folder.iterdir()}
    out = folder.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    convert.write(manifest, formats.read(source.reader, files, source.options), out)
    return out


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_an_official_layout_keeps_its_counts_labels_names_pixels_and_points(case: str, tmp_path: Path) -> None:
    source, build = ROUND_TRIPS[case]
    manifest, items = tiny(case.removesuffix("-pts"))
    folder = tmp_path / "in"
    folder.mkdir()
    build(folder, items, manifest.num_classes)
    out = convert_all(folder, manifest, source)
    for split in {item.split for item in items}:
        table = pq.read_table(out / f"{split}.parquet")
        found = {}
        for row in table.to_pylist():
            with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                found[np.asarray(image).tobytes()] = row
        expected = [item for item in items if item.split == split]
        assert len(found) == table.num_rows == len(expected)
        for item in expected:
            row = found[item.pixels.tobytes()]
            if item.points is None:
                assert row["label"] == item.label
            else:
                assert np.allclose(np.reshape(row["landmarks"], (-1, 2)), item.points, atol=1e-4)
                assert row["scale"] > 0 and len(row["center"]) == 2
            assert item.name in row["image"]["path"] or case in ("cars", "cofw")  # these name images by number
        if manifest.num_classes:
            names = [str(i) for i in range(6)] if case == "dmlab" else layouts.names(manifest.num_classes)
            assert json.loads(table.schema.metadata[b"classes"]) == names
        else:
            assert table.schema.metadata[b"points"] == str(manifest.landmarks.points).encode()


def test_subsets_and_boxes_of_faces_come_from_the_annotations(tmp_path: Path) -> None:
    manifest, items = tiny("300w")
    (tmp_path / "in").mkdir()
    layouts.coco300w(tmp_path / "in", items, 0)
    rows = pq.read_table(convert_all(tmp_path / "in", manifest, "annotations-and-images") / "test.parquet").to_pylist()
    assert collections.Counter(row["subset"] for row in rows) == {"common": 3, "challenging": 1}
    assert all(row["center"] == [15.5, 16.5] and row["scale"] == 0.125 for row in rows)
    rows = pq.read_table(convert_all(tmp_path / "in", manifest, "points-and-images") / "test.parquet").to_pylist()
    assert collections.Counter(row["subset"] for row in rows) == {"common": 3, "challenging": 1}
    assert faces.tight_box(np.array([[10.2, 5.0], [30.4, 9.9]])) == ((20.5, 7.5), 21 / 200)


def test_attributes_of_wflw_name_its_subsets(tmp_path: Path) -> None:
    manifest, items = tiny("wflw")
    (tmp_path / "in").mkdir()
    layouts.wflw(tmp_path / "in", items, 0)
    rows = pq.read_table(convert_all(tmp_path / "in", manifest, "official-archives") / "train.parquet").to_pylist()
    assert {row["subset"] for row in rows} == {"", "expression blur"}


def test_class_folders_without_a_list_split_by_the_hash_of_their_names_in_the_sizes_asked_for(tmp_path: Path) -> None:
    items = layouts.samples(10, ("train",), (0, 1, 2))
    layouts.eurosat(tmp_path, items, 3)
    options = {"archive": "EuroSAT.zip", "sizes": {"train": 18, "val": 6, "test": 6}}
    files = {"EuroSAT.zip": tmp_path / "EuroSAT.zip"}
    first, second = (list(formats.read("class-folders", files, options).rows) for _ in range(2))
    assert collections.Counter(row.split for row in first) == {"train": 18, "val": 6, "test": 6}
    assert first == second and len({row.path for row in first}) == 30


def test_a_folder_with_train_and_test_above_its_classes_is_a_layout_too(tmp_path: Path) -> None:
    for item in layouts.samples(2):
        path = tmp_path / "set" / item.split / layouts.class_name(item.label) / f"{item.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(layouts.encode(item.pixels))
    reading = formats.read("class-folders", {"set": tmp_path / "set"}, {"archive": "set"})
    assert reading.classes == layouts.names(2)
    assert collections.Counter((row.split, row.label) for row in reading.rows) == {
        (split, label): 2 for split in ("train", "test") for label in (0, 1)
    }


# Bad input


class Call:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo called",)


class Nested:
    def __reduce__(self) -> tuple[object, ...]:
        return np.ndarray, ((2,),)


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize(
    "value", [Call(), print, Path("x"), {b"a": [collections.OrderedDict()]}, np.float64(1), Nested()]
)
def test_the_restricted_unpickler_refuses_every_callable(value: object, protocol: int, capfd) -> None:
    with pytest.raises(ZoolibError, match="refused pickle"):
        cifar.unpickle(pickle.dumps({b"data": value}, protocol), "batch")
    assert "called" not in capfd.readouterr().out


@pytest.mark.parametrize("protocol", range(5))
def test_the_restricted_unpickler_reads_numbers_text_and_byte_arrays(protocol: int) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    value = {b"data": array, b"labels": [1, 2, 3], "text": "ä", b"none": None, b"f": np.asfortranarray(array)}
    found = cifar.unpickle(pickle.dumps(value, protocol), "batch")
    assert np.array_equal(found[b"data"].value, array) and np.array_equal(found[b"f"].value, array)
    assert found[b"labels"] == [1, 2, 3] and found["text"] == "ä" and found[b"none"] is None


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'echo called'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0becho called\x85R.",
        b"(S'echo called'\nios\nsystem\n.",
        b"\x80\x02cbuiltins\neval\nU\x0eprint('called')\x85R.",
        b"\x80\x02cnumpy\nndarray\nU\x01x\x85R.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo index of two thousand million
        b"\x80\x02\x82\x01.",
        b"Pid\n.",
        b"",
        b"\x80\x02",
    ],
)
def test_hand_written_hostile_pickles_are_refused(stream: bytes, capfd) -> None:
    with pytest.raises(ZoolibError, match="refused pickle"):
        cifar.unpickle(stream, "batch")
    assert "called" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["../../escape.png", "/etc/escape.png", "a/../../escape.png", "C:\\escape.png"])
def test_an_archive_that_escapes_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    for path in (layouts.tar(tmp_path / "a.tar", {name: b"x"}, "w"), layouts.zipped(tmp_path / "a.zip", {name: b"x"})):
        with pytest.raises(ZoolibError, match="escapes the archive's folder"):
            list(archives.members(path))


def test_links_and_devices_in_an_archive_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("images/x.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("x.png")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    for name in ("a.tar", "a.zip"):
        with pytest.raises(ZoolibError, match="is a link or a device"):
            list(archives.members(tmp_path / name))


@pytest.mark.parametrize("wanted", [True, False])
def test_an_archive_that_expands_without_bound_is_refused(wanted: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "FLOOR", 1 << 16)
    big = {"x.png": bytes(1 << 22)}
    for path in (layouts.tar(tmp_path / "a.tgz", big), layouts.zipped(tmp_path / "a.zip", big)):
        with pytest.raises(ZoolibError, match="expands to more than 100 times its size"):
            for member in archives.members(path, lambda name: wanted):
                member.read()


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_a_truncated_archive_is_refused_wherever_it_was_cut(kind: str, tmp_path: Path) -> None:
    content = {f"c/{i}.png": os.urandom(700) for i in range(8)}
    path = tmp_path / f"a.{kind}"
    whole = (layouts.tar if kind == "tgz" else layouts.zipped)(path, content).read_bytes()
    assert len(list(archives.members(path))) == 8
    for tenth in range(1, 10):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(ZoolibError, match=r"damaged archive|ends after"):
            [member.read() for member in archives.members(path)]


def test_crc32c_is_that_of_the_definition() -> None:
    assert tfrecord.crc32c(b"123456789") == 0xE3069283  # the check value of the standard
    rng = np.random.default_rng(0)
    for length in (0, 1, 3, 4, 63, 64, 65, 127, 128, 129, 1000, 5000):
        data = rng.bytes(length)
        assert tfrecord.crc32c(data) == layouts.slow_crc32c(data)


@pytest.mark.parametrize("place", [3, 9, 40, -2])
def test_a_damaged_record_is_named_by_file_and_row(place: int) -> None:
    good = layouts.tfrecord(layouts.example(b"image", 1, b"name"))
    bad = bytearray(good)
    bad[place] ^= 1
    with pytest.raises(ZoolibError, match="f: row 1: "):
        list(tfrecord.records(io.BytesIO(good + bytes(bad)), "f"))
    with pytest.raises(ZoolibError, match="f: row 1: the file is cut off"):
        list(tfrecord.records(io.BytesIO(good + good[:-3]), "f"))


def test_an_example_gives_bytes_numbers_and_negative_numbers() -> None:
    assert tfrecord.example(layouts.example(b"\x89PNG", 5, b"n")) == {
        "image": [b"\x89PNG"],
        "label": [5],
        "filename": [b"n"],
    }
    minus = layouts._field(3, layouts._field(1, layouts._varint((1 << 64) - 2)))
    entry = layouts._field(1, layouts._field(1, layouts._field(1, b"l") + layouts._field(2, minus)))
    assert tfrecord.example(entry) == {"l": [-2]}


def write(tmp_path: Path, rows: list[formats.Row], **changes: object) -> dict[str, int]:
    manifest, _ = tiny("eurosat")
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return convert.write(manifest.model_copy(update=changes), formats.Reading(rows), out, exact=False)


def test_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    good = layouts.encode(np.zeros((4, 4, 3), np.uint8))
    train, test = formats.Row("train", good, "a.png", 0), formats.Row("test", good, "b.png", 9)
    assert write(tmp_path, [train, test]) == {"train": 1, "test": 1}
    for row, message in (
        (formats.Row("train", good, "c.png", 10), r"train row 1: c\.png: label 10 is outside 0\.\.9"),
        (formats.Row("train", b"\x89PNG no", "c.png", 1), r"train row 1: c\.png: not a readable image"),
        (formats.Row("other", good, "c.png", 1), "unknown split 'other'"),
    ):
        with pytest.raises(ZoolibError, match=message):
            write(tmp_path, [train, row])
    with pytest.raises(ZoolibError, match="the source has no test images"):
        write(tmp_path, [train])
    with pytest.raises(ZoolibError, match="names 2 classes, not 10"):
        convert.write(manifests.dataset("eurosat"), formats.Reading([train], ["a", "b"]), tmp_path)
    with pytest.raises(ZoolibError, match="has 1 train images, the manifest says 16,200"):
        convert.write(manifests.dataset("eurosat"), formats.Reading([train, test]), tmp_path)


def test_an_unknown_reader_option_or_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ZoolibError, match=r"unknown reader 'cifar-pyton'.*did you mean 'cifar-python'"):
        formats.read("cifar-pyton", {}, {})
    with pytest.raises(ZoolibError, match="unknown option of reader 'tfrecord' 'patern'"):
        formats.read("tfrecord", {}, {"patern": "x"})
    with pytest.raises(ZoolibError, match="reader 'tfrecord' needs the option 'archive'"):
        formats.read("tfrecord", {}, {})


@pytest.mark.parametrize("name", sorted(manifests.datasets()))
def test_every_manifest_names_readers_options_and_files_that_exist(name: str) -> None:
    import importlib

    for source in manifests.dataset(name).sources:
        module, function = formats.READERS[source.reader].split(":")
        reader = getattr(importlib.import_module(f"zoolib.data.formats.{module}"), function)
        formats.check_options(source.reader, reader, source.options)
        files = {file.name for file in source.files}
        for option in ("archive", "train", "test", "devkit", "test_annotations", "annotations"):
            value = source.options.get(option)
            assert value is None or value in files or (source.reader == "wflw-text" and option in ("train", "test"))


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data(), case=st.sampled_from(sorted(ROUND_TRIPS)))
def test_fuzzed_archives_end_in_the_right_rows_or_in_one_line(data: st.DataObject, case: str, tmp_path: Path) -> None:
    source_name, build = ROUND_TRIPS[case]
    manifest, items = tiny(case.removesuffix("-pts"))
    folder = tmp_path / case
    if not folder.exists():
        folder.mkdir()
        build(folder, items, manifest.num_classes)
    source = next(source for source in manifest.sources if source.name == source_name)
    files = {path.name: path for path in folder.iterdir()}
    victim = files[data.draw(st.sampled_from(sorted(files)))]
    whole = victim.read_bytes()
    bad = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(bad)))
    try:
        victim.write_bytes(bytes(bad[:cut]) if data.draw(st.booleans()) else bytes(bad))
        (tmp_path / "fuzz").mkdir(exist_ok=True)
        convert.write(manifest, formats.read(source.reader, files, source.options), tmp_path / "fuzz")
    except ZoolibError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    finally:
        victim.write_bytes(whole)


@pytest.mark.parametrize("record", [b"\x08\x05", b"\x0a\x02\x08\x05", b"\x0a\x04\x0a\x02\x08\x05"])
def test_a_number_where_a_tfrecord_should_hold_bytes_is_refused(record):
    with pytest.raises(ValueError, match="holds a number"):
        tfrecord.example(record)


@FUZZ
@given(content=st.binary(max_size=300))
def test_random_bytes_are_one_line_errors_in_every_parser(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    for action in (
        lambda: cifar.unpickle(content, "x"),
        lambda: list(tfrecord.records(io.BytesIO(content), "x")),
        lambda: list(archives.members(tmp_path / "x")),
        lambda: faces.read_pts(content.decode("latin1"), 68, "x"),
    ):
        try:
            action()
        except ZoolibError as error:
            assert "\n" not in str(error)
    with contextlib.suppress(ValueError):  # the reader turns it into one line with file and row
        tfrecord.example(content)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(name=st.sampled_from(["cars", "wflw", "dmlab"]), data=st.data())
def test_fuzzed_manifests_are_valid_or_one_line_errors_that_name_the_file(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    content = manifests.dataset(name).model_dump(mode="json")
    key = data.draw(st.sampled_from(sorted(content)) | st.text(min_size=1, max_size=6))
    if data.draw(st.booleans()) and key in content:
        del content[key]
    else:
        content[key] = data.draw(VALUES)
    path = tmp_path / f"{name}.yaml"
    path.write_text(json.dumps(content))
    try:
        manifests.read(path, DatasetManifest)
    except ZoolibError as error:
        assert f"{name}.yaml" in str(error) and "\n" not in str(error)
