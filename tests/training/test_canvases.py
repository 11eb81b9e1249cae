from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch.utils.data import DataLoader

from tests.training.conftest import GROUND, OBJECT, encoded, painted, write_split
from training.canvases import _KIND_SHARES, _KINDS, MAX_BOXES, Canvases
from training.photos import BoxedPhotos, read_photos

SIZE = 128


@pytest.fixture(scope="module")
def photos(photos_folder: Path) -> BoxedPhotos:
    return read_photos(f"tiny-imagenet:{photos_folder}", "train")


@pytest.fixture(scope="module")
def canvases(photos: BoxedPhotos) -> Canvases:
    # Of this seed, no flat background has by chance the colour of the object on it.
    return Canvases(photos, SIZE, seed=1, count=200)


def kind(canvases: Canvases, index: int) -> str:
    """The first draw of a canvas's own generator."""
    return str(np.random.default_rng((canvases.seed, index)).choice(_KINDS, p=_KIND_SHARES))


def extent(pixels: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit xyxy of the connected patch around the box's centre that has the colour there."""
    size = len(pixels)
    column, row = ((box[:2] + box[2:]) / 2 * size).astype(int)
    patches, _ = ndimage.label(np.abs(pixels.astype(int) - pixels[row, column].astype(int)).max(2) < 50)
    rows, columns = np.nonzero(patches == patches[row, column])
    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return np.asarray(np.array(corners) / size, np.float32)


@pytest.mark.parametrize("wanted", _KINDS)
def test_the_painted_object_is_where_the_box_says(wanted: str, canvases: Canvases) -> None:
    seen = 0
    for index in range(len(canvases)):
        if kind(canvases, index) != wanted:
            continue
        pixels, boxes = (tensor.numpy() for tensor in canvases[index])
        for box in boxes[boxes[:, 2] > 0]:
            seen += 1
            # Resizing blurs the object's edge, and so does a feathered one.
            assert np.abs(extent(pixels, box) - box).max() * SIZE <= 3, (index, box * SIZE)
    assert seen > 20


def test_all_of_several_objects_are_where_their_boxes_say() -> None:
    image = Image.new("RGB", (64, 64), GROUND)
    drawn = [(8, 8, 24, 24), (36, 10, 56, 28), (12, 40, 50, 56)]
    for box in drawn:
        image.paste(OBJECT, box)
    canvases = Canvases(BoxedPhotos.of([encoded(image)].__getitem__, [drawn]), SIZE, seed=1, count=60)
    for index in range(len(canvases)):
        pixels, boxes = (tensor.numpy() for tensor in canvases[index])
        used = boxes[boxes[:, 2] > 0]
        assert len(used) == (12 if kind(canvases, index) == "mosaic" else 3)
        for box in used:
            assert np.abs(extent(pixels, box) - box).max() * SIZE <= 3, (index, box * SIZE)


def test_of_too_many_objects_the_largest_stay() -> None:
    boxes = [(0, 0, 10 + number, 10) for number in range(20)]
    canvases = Canvases(BoxedPhotos.of([painted(boxes[0])].__getitem__, [boxes]), SIZE, seed=1, count=20)
    index = next(index for index in range(20) if kind(canvases, index) == "zoom_out")
    sides = np.diff(canvases[index][1].numpy()[:, ::2])[:, 0]
    assert len(sides) == MAX_BOXES
    assert sides.min() / sides.max() == pytest.approx(14 / 29, abs=0.01)


def test_shapes_and_ranges(canvases: Canvases) -> None:
    kinds = set()
    for index in range(60):
        pixels, boxes = canvases[index]
        assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (SIZE, SIZE, 3))
        assert (boxes.dtype, tuple(boxes.shape)) == (torch.float32, (MAX_BOXES, 4))
        assert (boxes >= 0).all()
        assert (boxes <= 1).all()
        used = 4 if kind(canvases, index) == "mosaic" else 1
        assert (boxes[:used, 2:] > boxes[:used, :2]).all()
        assert (boxes[used:] == 0).all()
        kinds.add(kind(canvases, index))
    assert kinds == set(_KINDS)


def test_a_canvas_depends_on_the_seed_and_its_number_alone(photos: BoxedPhotos, canvases: Canvases) -> None:
    again = Canvases(photos, SIZE, seed=1, count=5_000)
    for index in (7, 0, 150):
        for ours, theirs in zip(canvases[index], again[index], strict=True):
            assert torch.equal(ours, theirs)
    other = Canvases(photos, SIZE, seed=4, count=200)
    assert not torch.equal(canvases[0][0], other[0][0])
    assert not torch.equal(canvases[0][0], canvases[1][0])


def test_workers_make_the_same_canvases(canvases: Canvases) -> None:
    (pixels, boxes), *_ = DataLoader(canvases, 4, num_workers=1)
    for index in range(4):
        assert torch.equal(pixels[index], canvases[index][0])
        assert torch.equal(boxes[index], canvases[index][1])


def test_photos_without_a_box_are_never_shown(tmp_path: Path) -> None:
    """Their objects would be taught to be background."""
    red = encoded(Image.new("RGB", (64, 64), (255, 0, 0)))
    write_split(tmp_path / "train.parquet", [red, painted((20, 20, 44, 44)), red], [None, [20, 20, 43, 43], None])
    canvases = Canvases(read_photos(f"tiny-imagenet:{tmp_path}", "train"), 64, seed=0, count=60)
    for index in range(len(canvases)):
        # Flat backgrounds of a random colour may be red.
        if kind(canvases, index) != "zoom_out":
            red_pixels = (canvases[index][0].int() - torch.tensor([255, 0, 0])).abs().amax(2) < 60
            assert not red_pixels.any()


@pytest.mark.parametrize("box", [(0, 0, 64, 64), (0, 0, 2, 2), (62, 30, 64, 64), (0, 10, 64, 12)])
def test_boxes_at_the_rim_and_of_a_line(box: tuple[int, int, int, int], tmp_path: Path) -> None:
    x1, y1, x2, y2 = box
    write_split(tmp_path / "train.parquet", [painted(box)], [[x1, y1, x2 - 1, y2 - 1]])
    canvases = Canvases(read_photos(f"tiny-imagenet:{tmp_path}", "train"), 64, seed=0, count=40)
    for index in range(len(canvases)):
        _, boxes = canvases[index]
        used = boxes[: 4 if kind(canvases, index) == "mosaic" else 1]
        assert (used >= 0).all()
        assert (used <= 1).all()
        assert (used[:, 2:] > used[:, :2]).all()
