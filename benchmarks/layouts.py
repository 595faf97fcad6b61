"""Tiny archives in the official layouts of the papers' datasets, for the tests and the rehearsal.

Each builder writes the files of one source into a folder, under their official names, from images and annotations that
the caller knows. They are written independently of the readers.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One image of a tiny dataset."""

    split: str
    pixels: np.ndarray  # (H, W, 3) uint8
    label: int = -1
    points: np.ndarray | None = None  # (K, 2)
    name: str = ""


def samples(
    count: int,
    splits: Sequence[str] = ("train", "test"),
    labels: Sequence[int] = (0, 1),
    size: tuple[int, int] = (32, 32),
    points: int = 0,
    seed: int = 0,
) -> list[Sample]:
    """`count` images a class and split; each class has its own colour, so that it can be learned."""
    rng = np.random.default_rng(seed)
    out = []
    for split in splits:
        for label in labels:
            for number in range(count):
                pixels = rng.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
                pixels[..., label % 3] += 40 + 25 * (label % 5)
                where = np.round(rng.uniform(2, min(size) - 2, (points, 2)), 2) if points else None
                out.append(Sample(split, pixels, label, where, f"{split}{label}_{number}"))
    return out


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    """A tar with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    """A zip with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def class_name(label: int) -> str:
    """The made-up class names."""
    return f"class {label:03d}"


def names(count: int) -> list[str]:
    """All of them."""
    return [class_name(label) for label in range(count)]


# Classification -------------------------------------------------------------------------------------------------------


def cifar100(folder: Path, items: Sequence[Sample], num_classes: int) -> None:
    """cifar-100-python.tar.gz: three pickles of protocol 2 with bytes as keys."""
    files = {"cifar-100-python/meta": pickle.dumps({b"fine_label_names": [n.encode() for n in names(num_classes)]}, 2)}
    for split in ("train", "test"):
        chosen = [item for item in items if item.split == split]
        data = np.stack([item.pixels.transpose(2, 0, 1).reshape(-1) for item in chosen])
        batch = {
            b"filenames": [item.name.encode() for item in chosen],
            b"fine_labels": [item.label for item in chosen],
            b"coarse_labels": [0 for _ in chosen],
            b"data": data,
        }
        files[f"cifar-100-python/{split}"] = pickle.dumps(batch, 2)
    tar(folder / "cifar-100-python.tar.gz", files)


def coco70(folder: Path, items: Sequence[Sample], num_classes: int) -> None:
    """COCO70.tar: folders train, dev and test, and a list of names and indices beside each."""
    files = {"COCO70/classes.txt": "\n".join(names(num_classes)).encode()}
    for split, theirs in (("train", "train"), ("val", "dev"), ("test", "test")):
        chosen = [item for item in items if item.split == split]
        files[f"COCO70/{theirs}.txt"] = "".join(f"{theirs}/{i.name}.png {i.label}\n" for i in chosen).encode()
        files |= {f"COCO70/{theirs}/{item.name}.png": encode(item.pixels) for item in chosen}
    tar(folder / "COCO70.tar", files, "w")


def aircraft(folder: Path, items: Sequence[Sample], num_classes: int) -> None:
    """fgvc-aircraft-2013b.tar.gz: images by number, lists of number and variant."""
    top = "fgvc-aircraft-2013b/data"
    files = {f"{top}/variants.txt": "".join(name + "\n" for name in names(num_classes)).encode()}
    for split, theirs in (("train", "trainval"), ("test", "test")):
        chosen = [item for item in items if item.split == split]
        lines = "".join(f"{item.name} {class_name(item.label)}\n" for item in chosen)
        files[f"{top}/images_variant_{theirs}.txt"] = lines.encode()
        files |= {f"{top}/images/{item.name}.jpg": encode(item.pixels) for item in chosen}
    tar(folder / "fgvc-aircraft-2013b.tar.gz", files)


def cars(folder: Path, items: Sequence[Sample], num_classes: int) -> None:
    """Two archives of images, the development kit, and the test annotations with labels."""
    from scipy.io import savemat

    kit = {}
    for split in ("train", "test"):
        chosen = [item for item in items if item.split == split]
        tar(folder / f"cars_{split}.tgz", {f"cars_{split}/{i:05d}.jpg": encode(s.pixels) for i, s in enumerate(chosen)})
        fields = [(k, object) for k in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
        table = np.zeros((1, len(chosen)), fields)
        for i, item in enumerate(chosen):
            table[0, i] = (1, 1, 8, 8, item.label + 1, f"{i:05d}.jpg")
        out = io.BytesIO()
        savemat(out, {"annotations": table})
        if split == "test":
            (folder / "cars_test_annos_withlabels.mat").write_bytes(out.getvalue())
        else:
            kit["devkit/cars_train_annos.mat"] = out.getvalue()
    out = io.BytesIO()
    cells = np.empty((1, num_classes), object)
    cells[0] = names(num_classes)
    savemat(out, {"class_names": cells})
    tar(folder / "car_devkit.tgz", {**kit, "devkit/cars_meta.mat": out.getvalue()})


def indoors(folder: Path, items: Sequence[Sample], num_classes: int) -> None:
    """indoorCVPR_09.tar and the two official lists; every class has a folder and an image that no list names."""
    files = {
        f"Images/{class_name(label)}/unlisted.jpg": encode(np.zeros((4, 4, 3), np.uint8))
        for label in range(num_classes)
    }
    for item in items:
        files[f"Images/{class_name(item.label)}/{item.name}.jpg"] = encode(item.pixels)
    tar(folder / "indoorCVPR_09.tar", files, "w")
    for split, theirs in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        lines = [f"{class_name(item.label)}/{item.name}.jpg" for item in items if item.split == split]
        (folder / theirs).write_text("\n".join(lines))


def eurosat(folder: Path, items: Sequence[Sample], num_classes: int) -> None:
    """EuroSAT.zip: class folders without a split."""
    files = {f"EuroSAT/2750/{class_name(i.label)}/{i.name}.png": encode(i.pixels) for i in items}
    absent = set(range(num_classes)) - {item.label for item in items}
    files |= {f"EuroSAT/2750/{class_name(label)}/x.png": encode(np.zeros((4, 4, 3), np.uint8)) for label in absent}
    zipped(folder / "EuroSAT.zip", files)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def example(image: bytes, label: int, name: bytes) -> bytes:
    """A tf.train.Example, byte by byte."""
    values = {
        b"image": _field(1, _field(1, image)),
        b"label": _field(3, _field(1, _varint(label))),
        b"filename": _field(1, _field(1, name)),
    }
    entries = b"".join(_field(1, _field(1, key) + _field(2, value)) for key, value in values.items())
    return _field(1, entries)


def slow_crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, as its definition has it."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def tfrecord(content: bytes) -> bytes:
    """One record with its two masked checksums."""

    def masked(data: bytes) -> bytes:
        crc = slow_crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    head = struct.pack("<Q", len(content))
    return head + masked(head) + content + masked(content)


def dmlab(folder: Path, items: Sequence[Sample], num_classes: int) -> None:
    """dmlab.tar.gz: one TFRecord file a split."""
    files = {}
    for split, theirs in (("train", "train"), ("val", "validation"), ("test", "test")):
        chosen = [item for item in items if item.split == split]
        content = b"".join(tfrecord(example(encode(i.pixels), i.label, i.name.encode())) for i in chosen)
        files[f"dmlab-{theirs}.tfrecord"] = content
    tar(folder / "dmlab.tar.gz", files)


def mirror(folder: Path, items: Sequence[Sample], num_classes: int, label: str = "label", shards: int = 2) -> None:
    """Parquet shards of a mirror, class names in the metadata as its libraries write them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    feature = {"names": names(num_classes), "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {label: feature}}})}
    for split, theirs in (("train", "train"), ("val", "validation"), ("test", "test")):
        chosen = [item for item in items if item.split == split]
        for shard in range(shards if chosen else 0):
            part = chosen[shard * len(chosen) // shards : (shard + 1) * len(chosen) // shards]
            images = [{"bytes": encode(item.pixels), "path": f"{item.name}.png"} for item in part]
            table = pa.table({"image": images, label: pa.array([item.label for item in part], pa.int64())})
            pq.write_table(table.replace_schema_metadata(metadata), folder / f"{theirs}-{shard:05d}.parquet")


# Landmarks ------------------------------------------------------------------------------------------------------------


def cofw(folder: Path, items: Sequence[Sample], num_classes: int = 0) -> None:
    """COFW_color.zip: MATLAB 7.3, that is HDF5 with arrays transposed and cells as references."""
    import h5py

    files = {}
    for split, ending in (("train", "Tr"), ("test", "T")):
        chosen = [item for item in items if item.split == split]
        out = io.BytesIO()
        with h5py.File(out, "w") as file:
            cells = file.create_dataset(f"Is{ending}", (1, len(chosen)), h5py.ref_dtype)
            rows = []
            for index, item in enumerate(chosen):
                group = file.create_dataset(f"#refs#/{index}", data=item.pixels.T)
                cells[0, index] = group.ref
                assert item.points is not None
                rows.append(np.concatenate([item.points[:, 0], item.points[:, 1], np.zeros(len(item.points))]))
            file[f"phis{ending}"] = np.stack(rows).T
        files[f"COFW_color/COFW_{split}_color.mat"] = out.getvalue()
    zipped(folder / "COFW_color.zip", files)


def wflw(folder: Path, items: Sequence[Sample], num_classes: int = 0) -> None:
    """Images by event, and lines of 98 points, a box, six attributes and a name."""
    images, lines = {}, {"train": "", "test": ""}
    for index, item in enumerate(items):
        assert item.points is not None
        name = f"{index}--Event/{item.name}.png"
        flags = "0 1 0 0 0 1" if index % 2 else "0 0 0 0 0 0"
        points = " ".join(f"{value:.6f}" for value in item.points.reshape(-1))
        lines[item.split] += f"{points} 1 2 30 31 {flags} {name}\n"
        images[f"WFLW_images/{name}"] = encode(item.pixels)
    top = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_"
    tar(folder / "WFLW_images.tar.gz", images)
    tar(folder / "WFLW_annotations.tar.gz", {f"{top}{split}.txt": text.encode() for split, text in lines.items()})


def _face_places(items: Sequence[Sample]) -> list[tuple[str, str, str]]:
    """(archive, member without its ending, subset) of each face, in turn."""
    train = [("afw", "", ""), ("helen", "trainset/", ""), ("lfpw", "trainset/", "")]
    test = [("helen", "testset/", "common"), ("lfpw", "testset/", "common"), ("ibug", "", "challenging")]
    turn = {"train": 0, "test": 0}
    out = []
    for item in items:
        archive, folder, subset = (train if item.split == "train" else test)[turn[item.split] % 3]
        turn[item.split] += 1
        out.append((archive, f"{folder}{item.name}", subset))
    return out


def pts300w(folder: Path, items: Sequence[Sample], num_classes: int = 0) -> None:
    """Four zips of images with a .pts file beside each."""
    files: dict[str, dict[str, bytes]] = {name: {} for name in ("afw", "helen", "lfpw", "ibug")}
    for item, (archive, name, _) in zip(items, _face_places(items), strict=True):
        assert item.points is not None
        lines = "\n".join(f"{x:.6f} {y:.6f}" for x, y in item.points)
        text = f"version: 1\nn_points:  {len(item.points)}\n{{\n{lines}\n}}\n"
        files[archive] |= {f"{name}.png": encode(item.pixels), f"{name}.pts": text.encode()}
    for archive, content in files.items():
        zipped(folder / f"{archive}.zip", content)


def coco300w(folder: Path, items: Sequence[Sample], num_classes: int = 0) -> None:
    """The four zips, and annotations in COCO's format in a tar."""
    pts300w(folder, items)
    lists: dict[str, dict[str, list[dict[str, object]]]] = {}
    for index, (item, (archive, name, subset)) in enumerate(zip(items, _face_places(items), strict=True)):
        assert item.points is not None
        kind = {"": "train", "common": "valid_common", "challenging": "valid_challenge"}[subset]
        content = lists.setdefault(kind, {"images": [], "annotations": []})
        content["images"].append({"id": index, "file_name": f"{archive}/{name}.png"})
        keypoints = np.concatenate([item.points, np.ones((len(item.points), 1))], 1).reshape(-1).tolist()
        content["annotations"].append(
            {"id": index, "image_id": index, "keypoints": keypoints, "center": [15.5, 16.5], "scale": 0.125}
        )
    texts = {f"annotations/face_landmarks_300w_{kind}.json": json.dumps(c).encode() for kind, c in lists.items()}
    tar(folder / "300w_annotations.tar", texts, "w")


#: dataset -> builder of its first source, or of the one that the rehearsal uses
BUILDERS: dict[str, Callable[[Path, Sequence[Sample], int], None]] = {
    "cifar100": cifar100,
    "coco70": coco70,
    "aircraft": aircraft,
    "cars": cars,
    "indoors": indoors,
    "dmlab": dmlab,
    "eurosat": mirror,
    "300w": coco300w,
    "wflw": wflw,
    "cofw": cofw,
}
