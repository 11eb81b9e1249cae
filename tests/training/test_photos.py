import json
import pickle
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import OBJECT, encoded, painted, write_split
from training.photos import FORMATS, BoxedPhotos, read_photos

Box = tuple[int, int, int, int]
# What the writers below put into a split: a photo with two objects, one with one, and one that nobody labelled.
WRITTEN: list[list[Box]] = [[(4, 6, 20, 30), (40, 30, 60, 60)], [(10, 10, 50, 40)], []]


def painted_all(boxes: list[Box], side: int = 64) -> Image.Image:
    image = Image.new("RGB", (side, side))
    for box in boxes:
        image.paste(OBJECT, box)
    return image


def write(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The names end in JPEG, the pixels must stay exact.
    image.save(path, "PNG")


def inclusive(box: Box) -> list[int]:
    return [box[0], box[1], box[2] - 1, box[3] - 1]


def tiny_folders(root: Path) -> None:
    lines = ["\t".join(map(str, (f"n1_{number}.JPEG", *inclusive(boxes[0])))) for number, boxes in _one_each()]
    for number, boxes in enumerate(WRITTEN):
        write(root / "train" / "n1" / "images" / f"n1_{number}.JPEG", painted_all(boxes[:1]))
        write(root / "val" / "images" / f"val_{number}.JPEG", painted_all(boxes[:1]))
    (root / "train" / "n1" / "n1_boxes.txt").write_text("\n".join(lines))
    lines = ["\t".join(map(str, (f"val_{number}.JPEG", "n1", *inclusive(boxes[0])))) for number, boxes in _one_each()]
    (root / "val" / "val_annotations.txt").write_text("\n".join([*lines, "val_2.JPEG\tn1\t0\t0\t0\t0"]))


def _one_each() -> list[tuple[int, list[Box]]]:
    return [(number, boxes) for number, boxes in enumerate(WRITTEN) if boxes]


def loc_csv(root: Path) -> None:
    for split, folder in (("train", "train/n1"), ("val", "val")):
        names = [f"n1_{number}" if split == "train" else f"ILSVRC_{number}" for number in range(3)]
        rows = [
            f"{name}," + " ".join(f"n1 {' '.join(map(str, inclusive(box)))}" for box in boxes)
            for name, boxes in zip(names, WRITTEN, strict=True)
            if boxes
        ]
        (root / f"LOC_{split}_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
        for name, boxes in zip(names, WRITTEN, strict=True):
            write(root / "ILSVRC" / "Data" / "CLS-LOC" / folder / f"{name}.JPEG", painted_all(boxes))


def voc_xml(root: Path) -> None:
    """Drawn on photos of twice the size, as some of ImageNet's are on another size than their photo's."""
    for split, folder in (("train", "train/n1"), ("val", "val")):
        for number, boxes in enumerate(WRITTEN):
            write(root / "Data" / "CLS-LOC" / folder / f"{split}_{number}.JPEG", painted_all(boxes))
            if not boxes:
                continue
            objects = "".join(
                f"<object><name>n1</name><bndbox><xmin>{2 * box[0]}</xmin><ymin>{2 * box[1]}</ymin>"
                f"<xmax>{2 * box[2] - 1}</xmax><ymax>{2 * box[3] - 1}</ymax></bndbox></object>"
                for box in boxes
            )
            xml = f"<annotation><size><width>128</width><height>128</height></size>{objects}</annotation>"
            path = root / "Annotations" / "CLS-LOC" / folder / f"{split}_{number}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(xml)


def coco(root: Path) -> None:
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        images = [{"id": 7 * number, "file_name": f"{number}.png", "width": 64, "height": 64} for number in range(3)]
        annotations = [
            {"image_id": 7 * number, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "iscrowd": 0}
            for number, boxes in enumerate(WRITTEN)
            for box in boxes
        ]
        annotations += [{"image_id": 0, "bbox": [0, 0, 64, 64], "iscrowd": 1}, {"image_id": 0, "bbox": [3, 3, 0, 9]}]
        described = {"images": images, "annotations": annotations}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(described))
        for number, boxes in enumerate(WRITTEN):
            write(root / f"{split}2017" / f"{number}.png", painted_all(boxes))


def parquet(root: Path) -> None:
    for split in ("train", "val"):
        boxes = [inclusive(own[0]) if own else None for own in WRITTEN]
        write_split(root / f"{split}.parquet", [encoded(painted_all(own[:1])) for own in WRITTEN], boxes)


# The format, who writes it, how many boxes of a photo it can hold, and whether it lists photos that nobody labelled.
LAYOUTS: Mapping[str, tuple[str, Callable[[Path], None], int, bool]] = {
    "Parquet": ("tiny-imagenet", parquet, 1, True),
    "Tiny ImageNet's folders": ("tiny-imagenet", tiny_folders, 1, True),
    "LOC csv": ("imagenet", loc_csv, 2, False),
    "VOC XML": ("imagenet", voc_xml, 2, False),
    "COCO": ("coco", coco, 2, True),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str, split: str, tmp_path: Path) -> None:
    kind, write_all, most, lists_unlabelled = LAYOUTS[layout]
    write_all(tmp_path)
    photos = read_photos(f"{kind}:{tmp_path}", split)
    assert len(photos) == (3 if lists_unlabelled else 2)
    assert photos.labelled().tolist() == [0, 1]
    for index, expected in enumerate(WRITTEN[: len(photos)]):
        image, boxes = photos.photo(index)
        assert boxes.dtype == np.float32
        np.testing.assert_allclose(boxes * 64, np.array(expected[:most]).reshape(-1, 4), atol=1e-4)
        inside = np.asarray(painted_all(expected[:most])).any(2)
        np.testing.assert_array_equal((np.asarray(image) == OBJECT).all(2), inside)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_photos_can_be_read_by_other_processes(layout: str, tmp_path: Path) -> None:
    kind, write_all, _, _ = LAYOUTS[layout]
    write_all(tmp_path)
    photos = read_photos(f"{kind}:{tmp_path}", "train")
    sent: BoxedPhotos = pickle.loads(pickle.dumps(photos))
    np.testing.assert_array_equal(sent.photo(1)[0], photos.photo(1)[0])


def test_all_files_of_a_split_are_read_in_order(photos_folder: Path) -> None:
    train, validation = (read_photos(f"tiny-imagenet:{photos_folder}", split) for split in ("train", "val"))
    assert (len(train), len(validation)) == (16, 6)
    for photos in (train, validation):
        assert photos.labelled().tolist() == list(range(len(photos)))
        for index in range(len(photos)):
            image, boxes = photos.photo(index)
            left, top, right, bottom = (round(64 * float(value)) for value in boxes[0])
            inside = np.zeros(image.size, bool)
            inside[top:bottom, left:right] = True
            np.testing.assert_array_equal((np.asarray(image) == OBJECT).all(2), inside)


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
    _, boxes = photos.photo(0)
    assert (boxes * 64).tolist() == ([] if expected is None else [expected])
    assert photos.labelled().tolist() == ([1] if expected is None else [0, 1])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_photos_of_every_mode_are_rgb(mode: str, tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.new(mode, (5, 3)).save(buffer, "PNG")
    write_split(tmp_path / "val.parquet", [buffer.getvalue()], [[0, 0, 4, 2]])
    image, _ = read_photos(f"tiny-imagenet:{tmp_path}", "val").photo(0)
    assert (image.mode, image.size) == ("RGB", (5, 3))


def test_a_large_jpeg_is_decoded_no_larger_than_needed(tmp_path: Path) -> None:
    buffer = BytesIO()
    painted_all([(100, 200, 500, 600)], 800).save(buffer, "JPEG")
    write_split(tmp_path / "val.parquet", [buffer.getvalue()], [[100, 200, 499, 599]])
    photos = read_photos(f"tiny-imagenet:{tmp_path}", "val")
    (whole, boxes), (small, same) = photos.photo(0), photos.photo(0, 64)
    assert (whole.size, small.size) == ((800, 800), (200, 200))
    np.testing.assert_array_equal(boxes, same)
    assert boxes.tolist() == [pytest.approx([0.125, 0.25, 0.625, 0.75])]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{folder}", f"data must be FORMAT:PATH with FORMAT one of {', '.join(FORMATS)}, got"),
        ("voc:{folder}", "data must be FORMAT:PATH"),
        ("", "data must be FORMAT:PATH"),
        ("tiny-imagenet:{folder}/none", "none: no such file or folder"),
        ("tiny-imagenet:{folder}/empty", r"no val\*\.parquet in .*, and not Tiny ImageNet's own folders"),
        ("tiny-imagenet:{folder}", "no photo of val in .* has a box"),
        ("imagenet:{folder}", "no LOC_val_solution.csv and no ILSVRC/Annotations/CLS-LOC/val in"),
        ("imagenet:{folder}/broken", r"0\.xml: "),
        ("coco:{folder}", r"no annotations/instances_val\*\.json in"),
        ("coco:{folder}/broken", "instances_val2017.json is no COCO instances file"),
    ],
)
def test_what_cannot_be_learned_from(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_split(tmp_path / "val.parquet", [encoded(Image.new("RGB", (8, 8)))], [None])
    for path in ("Annotations/CLS-LOC/val/0.xml", "annotations/instances_val2017.json", "val2017/0.png"):
        (tmp_path / "broken" / path).parent.mkdir(parents=True)
        (tmp_path / "broken" / path).write_text("{}")
    with pytest.raises(ValueError, match=message) as caught:
        read_photos(source.format(folder=tmp_path), "val")
    assert "\n" not in str(caught.value)


def test_a_photo_that_cannot_be_read(tmp_path: Path) -> None:
    write_split(tmp_path / "val.parquet", [b"junk"], [[0, 0, 9, 9]])
    with pytest.raises(ValueError, match="photo 0 cannot be read: cannot identify image file"):
        read_photos(f"tiny-imagenet:{tmp_path}", "val").photo(0)


def test_an_empty_file(tmp_path: Path) -> None:
    write_split(tmp_path / "val.parquet", [], [])
    with pytest.raises(ValueError, match=r"no photo of val in .* has a box"):
        read_photos(f"tiny-imagenet:{tmp_path}", "val")
