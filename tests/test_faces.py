"""Faces from files: the canonical form, what is wrong with a row, and the rendered dataset."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from zoolib.data import faces, loaders, manifests, portraits
from zoolib.data.schema import DatasetManifest, Landmarks
from zoolib.spec import Settings, ZoolibError

SPEC = Landmarks(
    points=3,
    flip_pairs=[(0, 1)],
    normaliser="eyes",
    normaliser_points=(0, 1),
    sigma=1.0,
    box="around the points",
    subsets=["far"],
)
SETTINGS = Settings(image_size=16, decode_size=28, batch_size=4, test_crops=1, crop="none", val_fraction=0.25)


@pytest.fixture(autouse=True)
def _own_build(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))


def photograph(points, size=(60, 50)) -> dict:
    """A dark image with a bright pixel block at each point."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y in points:
        if np.isfinite([x, y]).all() and 1 <= x < size[0] and 1 <= y < size[1]:
            pixels[int(y) - 1 : int(y) + 1, int(x) - 1 : int(x) + 1] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": "x.png"}


FACE = [[20.0, 15.0], [40.0, 15.0], [30.0, 35.0]]


def write(path, rows, **columns):
    points = [[v for point in row for v in point] for row in rows]
    images = [photograph(row) for row in rows]
    pq.write_table(pa.table({"image": images, "landmarks": pa.array(points, pa.list_(pa.float32())), **columns}), path)
    return path


def test_crop_coordinates_are_those_of_a_square_around_the_points(tmp_path):
    read = faces.read(write(tmp_path / "a.parquet", [FACE]), SPEC, 28)
    assert read.centre.tolist() == [[30, 25]] and read.side.tolist() == [1.25 * 20]
    assert np.allclose(read.points[0], [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]])
    assert np.allclose(read.to_image(read.points), FACE, atol=1e-5)
    assert read.pixels.shape == (1, 28, 28, 3) and read.crops(np.array([0])).shape == (1, 16, 16, 3)
    for x, y in (read.points[0] - 0.5) / faces.CONTEXT + 0.5:  # each point is bright in the decoded square
        assert read.pixels[0, int(y * 28) - 1 : int(y * 28) + 2, int(x * 28) - 1 : int(x * 28) + 2].max() > 120
    assert read.pixels[0, 0, 0].max() == 0


def test_center_and_scale_are_used_where_there_are_any(tmp_path):
    def columns(center, scale):
        return {"center": pa.array(center, pa.list_(pa.float32())), "scale": pa.array(scale, pa.float32())}

    read = faces.read(write(tmp_path / "a.parquet", [FACE], **columns([[30, 15]], [0.2])), SPEC, 28)
    assert read.centre.tolist() == [[30, 15]] and read.side.tolist() == pytest.approx([1.25 * 0.2 * 200])
    for bad, message in ((columns([[30, 15], [3]], [0.2, 0.2]), "row 1: a center is x, y"),
                         (columns([[30, 15]] * 2, [0.2, 0.0]), "row 1: a box .* has no size"),
                         (columns([[30, 15]] * 2, [0.2, np.nan]), "row 1: a box .* has no size")):  # fmt: skip
        with pytest.raises(ZoolibError, match=message):
            faces.read(write(tmp_path / "b.parquet", [FACE, FACE], **bad), SPEC, 28)


def test_faces_are_decoded_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", [FACE, FACE])
    first = faces.read(path, SPEC, 28)
    with monkeypatch.context() as patch:
        patch.setattr(faces, "_decode_into", lambda *a: pytest.fail("decoded again"))
        assert np.array_equal(faces.read(path, SPEC, 28).pixels, first.pixels)


@pytest.mark.parametrize("absent", [(np.nan, np.nan), (np.nan, 3.0), (-1.0, -1.0)])
def test_missing_points_are_not_numbers_and_do_not_move_the_box(tmp_path, absent):
    read = faces.read(write(tmp_path / "a.parquet", [[FACE[0], [40.0, 25.0], list(absent)]]), SPEC, 28)
    assert np.isnan(read.points[0, 2]).all() and np.isfinite(read.points[0, :2]).all()
    assert read.centre.tolist() == [[30, 20]] and read.side.tolist() == [25]


def test_a_point_beside_the_image_is_no_missing_point():
    points = np.array([[-1.0, 5.0], [-13.8, -2.0], [-1.0, -1.0]])
    assert np.isfinite(faces.missing_to_nan(points)).all(1).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (FACE[:2], "row 1: 4 values are not 3 points"),
        ([[5.0, 5.0]] * 3, "row 1: a box .* has no size"),
        ([[1000.0, 5.0], [1020.0, 5.0], [1010.0, 20.0]], "row 1: the face is outside the image .* 60 x 50"),
        ([[-40.0, 5.0], [-20.0, 5.0], [-30.0, 20.0]], "row 1: the face is outside the image"),
        ([[np.nan, np.nan]] * 3, "row 1: every point is missing"),
    ],
)
def test_what_is_wrong_with_a_face_is_named_with_its_row(tmp_path, row, message):
    path = write(tmp_path / "a.parquet", [FACE, row])
    with pytest.raises(ZoolibError, match=message) as error:
        faces.read(path, SPEC, 28)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "build").rglob("*.npy"))


def test_an_image_that_cannot_be_read_and_a_file_that_is_no_parquet_are_named(tmp_path):
    table = pq.read_table(write(tmp_path / "a.parquet", [FACE, FACE]))
    broken = [{"bytes": b"not an image", "path": ""}] * 2
    pq.write_table(table.set_column(0, "image", pa.array(broken)), tmp_path / "b.parquet")
    with pytest.raises(ZoolibError, match="row 0: not a readable image"):
        faces.read(tmp_path / "b.parquet", SPEC, 28)
    (tmp_path / "c.parquet").write_text("no")
    with pytest.raises(ZoolibError, match=r"c\.parquet: not a readable canonical"):
        faces.read(tmp_path / "c.parquet", SPEC, 28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip_pairs": [(0, 1), (1, 2)]}, "occurs in two flip pairs"),
        ({"normaliser_points": (0, 3)}, "outside 0..2"),
        ({"edges": [[0, 3]]}, "outside 0..2"),
        ({"flips": []}, "flips"),
    ],
)
def test_a_wrong_landmark_manifest_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Landmarks.model_validate({**SPEC.model_dump(), **change})


def test_a_landmark_dataset_without_its_points_and_a_classification_one_without_classes_are_refused():
    fields = manifests.dataset("faces68").model_dump() | {"name": "toy"}
    with pytest.raises(ValueError, match="needs the block landmarks"):
        DatasetManifest.model_validate(fields | {"landmarks": None})
    with pytest.raises(ValueError, match="needs num_classes of 2 or more"):
        DatasetManifest.model_validate(fields | {"task": "cls", "landmarks": None})


def toy(tmp_path, monkeypatch) -> DatasetManifest:
    """A canonical dataset of 24 faces; rows 0, 2, 4, ... of the test split are in the subset far."""
    (tmp_path / "toy").mkdir()
    rng = np.random.default_rng(0)
    rows = [(np.array(FACE) + rng.uniform(-4, 4, (3, 2))).tolist() for _ in range(24)]
    subset = pa.array(["near far" if i % 2 == 0 else "near" for i in range(24)])
    for split in ("train", "test"):
        write(tmp_path / "toy" / f"{split}.parquet", rows, person=[f"p{i // 3}" for i in range(24)], subset=subset)
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path))
    fields = manifests.dataset("faces68").model_dump() | {"name": "toy", "landmarks": SPEC.model_dump(), "variants": []}
    return DatasetManifest.model_validate(fields)


def test_a_landmark_dataset_is_served_in_batches_with_subsets(tmp_path, monkeypatch):
    data = loaders.load(toy(tmp_path, monkeypatch), SETTINGS)
    images, points = loaders.train_batch(data, SETTINGS, seed=0, iteration=0)
    assert images.shape == (4, 3, 16, 16) and points.shape == (4, 3, 2)
    assert torch.equal(loaders.train_batch(data, SETTINGS, 0, 0)[0], images)  # a pure function of seed and iteration
    assert not torch.equal(loaders.train_batch(data, SETTINGS, 1, 0)[0], images)
    batches = list(loaders.eval_batches(data, "test", SETTINGS, batch_size=10))
    assert [len(target) for _, target in batches] == [10, 10, 4] and len(batches[0][0]) == 1
    assert data.subsets("test")["far"].tolist() == [True, False] * 12 and data.subsets("val") == {}
    limited = loaders.load(data.manifest, Settings(**{**vars(SETTINGS), "test_limit": 5}))
    assert len(limited.rows["test"]) == 5 and len(limited.subsets("test")["far"]) == 5


# Rendered faces


def test_rendered_faces_repeat_and_their_splits_differ():
    images, points = portraits.render("train", 6)
    assert images.shape == (6, 96, 96, 3) and images.dtype == np.uint8 and points.shape == (6, 68, 2)
    again = portraits.render("train", 6)
    assert np.array_equal(images, again[0]) and np.array_equal(points, again[1])
    assert not np.array_equal(points, portraits.render("test", 6)[1])
    assert points.min() > 0 and points.max() < 96


def test_rendered_points_are_where_they_are_drawn():
    """Pixels just inside the jaw are of the skin, pixels just outside are not: its outline is drawn so."""
    rng = np.random.default_rng(0)
    heads = portraits._project(rng, portraits._head(rng, 1))[0]

    class Calm:  # no occluder, fringe, beard of noise: every choice at its middle
        def __getattr__(self, name):
            return {"uniform": lambda a=0, b=1, n=None: (a + b) / 2 if n is None else np.full(n, (a + b) / 2),
                    "random": lambda: 0.99, "normal": lambda a, b, n=None: 0.0 if n is None else np.zeros(n),
                    "integers": lambda *a, dtype=None, **k: np.full(a[2], 128, np.uint8)}[name]  # fmt: skip

    image = portraits._paint(Calm(), heads).astype(float)
    centre = heads[[30, 33]].mean(0)

    def colour(points):
        x, y = points.T.astype(int)
        return image[y.clip(0, 95), x.clip(0, 95)]

    jaw = heads[2:6]
    inside, outside = colour(jaw + 0.12 * (centre - jaw)), colour(jaw - 0.12 * (centre - jaw))
    assert np.abs(inside - inside.mean(0)).max() < 25  # one colour, the skin
    assert (np.abs(outside - inside.mean(0)).max(1) > 25).all()
    lips, cheek = colour(heads[[49, 53, 55, 59]] * 0.6 + heads[[61, 63, 65, 67]] * 0.4), inside.mean(0)
    assert (lips[:, 0] - lips[:, 1] > cheek[0] - cheek[1]).all()  # lips are redder than the skin


def test_rendered_points_follow_the_markup():
    points = portraits.render("train", 40)[1]
    eyes = points[:, 45] - points[:, 36]
    along = eyes / np.linalg.norm(eyes, axis=1, keepdims=True)

    def order(indices):
        return np.einsum("nkd,nd->nk", points[:, indices], along)

    for chain in (list(range(4, 13)), list(range(17, 27)), [31, 32, 33, 34, 35], [36, 39, 42, 45], [48, 51, 54]):
        assert (np.diff(order(chain)) > 0).mean() > 0.97  # from the left of the face to the right
    down = np.stack([-along[:, 1], along[:, 0]], 1)
    height = np.einsum("nkd,nd->nk", points, down)
    assert (np.diff(height[:, [19, 37, 30, 33, 51, 57, 8]]) > 0).all()  # brow, eye, nose, lips, chin


def test_rendered_faces_are_kept(monkeypatch):
    first = portraits.load("faces-rendered", "test", 3)
    monkeypatch.setattr(portraits, "render", lambda *a: pytest.fail("rendered again"))
    assert np.array_equal(portraits.load("faces-rendered", "test", 3)[0], first[0])
    with pytest.raises(ZoolibError, match="unknown embedded landmark dataset"):
        portraits.load("faces", "test", 3)
