"""Sample sheets, read back from what was drawn."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from zoolib import sheets
from zoolib.data import embedded, render
from zoolib.spec import ZoolibError


@pytest.fixture(scope="module", autouse=True)
def _own_build(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOOLIB_BUILD", str(tmp_path_factory.mktemp("build")))
        yield


def test_every_embedded_dataset_has_a_sheet_and_rendered_ones_another_of_their_labels() -> None:
    for name in embedded.EMBEDDED:
        assert "samples" in sheets.SHEETS[name]
        assert ("labels" in sheets.SHEETS[name]) == (name in embedded.FAMILIES)
    assert all(sheet.alt for kinds in sheets.SHEETS.values() for sheet in kinds.values())


def test_a_sample_sheet_shows_images_of_the_data_row_by_row() -> None:
    images, labels, classes = embedded.load("textures", "train")
    axes = sheets.samples("textures", columns=4).axes[0]
    drawn = np.asarray(axes.images[0].get_array())
    assert [tick.get_text() for tick in axes.get_yticklabels()] == classes
    zoom = 64 // 24
    cell = 24 * zoom + 6
    assert drawn.shape == (cell * len(classes) - 6, cell * 4 - 6, 3)
    for row, column in ((0, 0), (3, 2), (10, 3)):
        top, left = row * cell, column * cell
        picture = drawn[top : top + 24 * zoom : zoom, left : left + 24 * zoom : zoom]
        assert np.array_equal(picture, images[labels == row][column])
    assert (drawn[24 * zoom : cell] == 255).all()


def test_a_label_sheet_shows_the_boxes_and_the_visible_keypoints() -> None:
    scene = embedded.described("gliders", "train")
    rows = [np.flatnonzero(scene.fine == fine)[1] for fine in (0, 6, 11)]
    seen = render.render(scene.take(np.array(rows)), 160)
    figure = sheets.labels("gliders", columns=3)
    assert len(figure.axes) == 9
    assert figure.axes[0].get_title() == "straight,\ncross tail,\nplain tips"
    small = np.asarray(figure.axes[0].images[0].get_array())
    assert np.array_equal(small, embedded.load("gliders", "train")[0][rows[0]])
    for column, axes in enumerate(figure.axes[6:]):
        (box,) = [patch for patch in axes.patches if patch.get_gid() == "box"]
        left, top, right, bottom = seen.boxes[column, 0] - 0.5
        assert box.get_bbox().extents.tolist() == pytest.approx([left, top, right, bottom])
        dots = [line for line in axes.lines if line.get_gid() == "keypoint"]
        assert len(dots) == seen.visible[column, 0].sum()


def test_the_regions_tint_train_and_test_patches_and_nothing_else() -> None:
    figure = sheets.regions()
    name = list(embedded.PHOTOGRAPHS)[1]
    drawn = np.asarray(figure.axes[1].images[0].get_array())
    grey = embedded.photograph(name) / 255
    plain = np.abs(drawn - (0.25 + 0.75 * grey[..., None])).max(-1) < 1e-9
    for split, colour in (("train", sheets.TRAIN), ("test", sheets.TEST)):
        y, x = embedded.patch_sources(split)[1][0]
        assert drawn[y + 3, x + 3] == pytest.approx(0.55 * grey[y + 3, x + 3] + 0.45 * np.array(to_rgb(colour)))
    patches = sum(len(embedded.patch_sources(split)[1]) for split in ("train", "test"))
    assert (~plain).sum() == pytest.approx(patches * (embedded.PATCH - 1) ** 2, rel=0.01)


def test_sheets_are_pictures_of_moderate_size_and_the_same_twice() -> None:
    first = sheets.jpeg("rendered", "photographs")
    with Image.open(io.BytesIO(first)) as image:
        assert image.format == "JPEG" and image.width == 1050
    assert 20_000 < len(first) < 400_000
    sheets.jpeg.cache_clear()
    assert sheets.jpeg("rendered", "photographs") == first


def test_an_unknown_sheet_is_refused() -> None:
    with pytest.raises(ZoolibError, match=r"unknown sheet 'shapes-sample' \(did you mean 'shapes-samples'\?\)"):
        sheets.jpeg("shapes", "sample")
