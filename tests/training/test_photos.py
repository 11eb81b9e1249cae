from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import OBJECT, encoded, painted, write_split
from training.photos import read_photos


def test_all_files_of_a_split_are_read_in_order(photos_folder: Path) -> None:
    train, validation = (read_photos(f"tiny-imagenet:{photos_folder}", split) for split in ("train", "val"))
    assert (len(train), len(validation)) == (16, 6)
    assert train.wnids == ("n01443537",) * 16
    assert train.boxes.dtype == np.float32
    for photos in (train, validation):
        assert photos.labelled().tolist() == list(range(len(photos)))
        for index, box in enumerate(photos.boxes):
            pixels = np.asarray(photos.image(index))
            left, top, right, bottom = (int(value) for value in box)
            inside = np.zeros(pixels.shape[:2], bool)
            inside[top:bottom, left:right] = True
            np.testing.assert_array_equal((pixels == OBJECT).all(2), inside)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([3, 4, 10, 20], [3, 4, 11, 21]),
        ([0, 0, 63, 63], [0, 0, 64, 64]),
        (None, None),
        # A point or a line says nothing about the object.
        ([5, 5, 5, 5], None),
        ([5, 5, 5, 20], None),
        ([20, 5, 5, 20], None),
    ],
)
def test_boxes(written: list[int] | None, expected: list[int] | None, tmp_path: Path) -> None:
    square = painted((8, 8, 16, 16))
    write_split(tmp_path / "train.parquet", [square, square], [written, [8, 8, 15, 15]])
    photos = read_photos(f"tiny-imagenet:{tmp_path}", "train")
    if expected is None:
        assert np.isnan(photos.boxes[0]).all()
        assert photos.labelled().tolist() == [1]
    else:
        assert photos.boxes[0].tolist() == expected
        assert photos.labelled().tolist() == [0, 1]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_photos_of_every_mode_are_rgb(mode: str, tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.new(mode, (5, 3)).save(buffer, "PNG")
    write_split(tmp_path / "val.parquet", [buffer.getvalue()], [[0, 0, 4, 2]])
    image = read_photos(f"tiny-imagenet:{tmp_path}", "val").image(0)
    assert (image.mode, image.size) == ("RGB", (5, 3))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{folder}", "data must be FORMAT:PATH with FORMAT one of tiny-imagenet"),
        ("coco:{folder}", "data must be FORMAT:PATH"),
        ("", "data must be FORMAT:PATH"),
        ("tiny-imagenet:{folder}/none", r"no val\*\.parquet in"),
        ("tiny-imagenet:{folder}", "no photo of .* has a box"),
    ],
)
def test_what_cannot_be_learned_from(source: str, message: str, tmp_path: Path) -> None:
    write_split(tmp_path / "val.parquet", [encoded(Image.new("RGB", (8, 8)))], [None])
    with pytest.raises(ValueError, match=message):
        read_photos(source.format(folder=tmp_path), "val")


def test_an_empty_file(tmp_path: Path) -> None:
    write_split(tmp_path / "val.parquet", [], [])
    with pytest.raises(ValueError, match=r"no photo of .* has a box"):
        read_photos(f"tiny-imagenet:{tmp_path}", "val")
