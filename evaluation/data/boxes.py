"""ImageNet's hand-drawn boxes: LOC_*_solution.csv, or a folder of VOC XML (Annotations/CLS-LOC)."""

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from xml.etree import ElementTree

from evaluation.data.files import Place, place
from evaluation.data.listing import DataError, DataSet, Entry, inclusive_box
from models.comparison import Corners


def parse_loc(text: str) -> tuple[str, tuple[Corners, ...]]:
    """`wnid xmin ymin xmax ymax` repeated, both ends inclusive -> the first wnid, and the boxes of that class.

    Raises `DataError`.
    """
    words = text.split()
    objects = [words[start : start + 5] for start in range(0, len(words), 5)]
    try:
        boxes = [(wnid, inclusive_box(int(x1), int(y1), int(x2), int(y2))) for wnid, x1, y1, x2, y2 in objects]
        first = boxes[0][0]
    except (ValueError, IndexError) as error:
        raise DataError(f"{text[:60]!r} is not a wnid and four numbers, repeated") from error
    return first, tuple(box for wnid, found in boxes for box in found if wnid == first)


def parse_voc(xml: bytes, wnid: str | int | None = None) -> tuple[tuple[Corners, ...], tuple[int, int] | None]:
    """The boxes of the objects named `wnid`, or of all, and the (width, height) drawn on.

    Both ends of a box are inclusive in the file. Raises `ElementTree.ParseError` and `ValueError`.
    """
    root = ElementTree.fromstring(xml)
    boxes: tuple[Corners, ...] = ()
    for item in root.iter("object"):
        if wnid is None or item.findtext("name") == wnid:
            corners = (float(item.findtext(f"bndbox/{name}") or "nan") for name in ("xmin", "ymin", "xmax", "ymax"))
            boxes += inclusive_box(*corners)
    width, height = (int(root.findtext(f"size/{name}") or 0) for name in ("width", "height"))
    return boxes, (width, height) if width and height else None


def with_boxes(data: DataSet, url: str) -> DataSet:
    """The data set with boxes from a LOC csv or a folder of XML, paired by the photos' names without suffix.

    A photo without an annotation is one whose objects are not labelled. Raises `DataError` where no photo has one.
    """
    found = place(url)
    entries = _from_csv(data, found) if found.is_file() else _from_xml(data, found)
    if not any(entry.boxes for entry in entries):
        raise DataError(f"{url}: no box for any photo of {data.source}")
    return data.with_entries(entries)


def _from_csv(data: DataSet, table: Place) -> tuple[Entry, ...]:
    rows = csv.DictReader(io.StringIO(table.read().decode("utf-8-sig")))
    if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
        raise DataError(f"{table.url}: no columns ImageId and PredictionString")
    known: Mapping[str, tuple[Corners, ...]] = {row["ImageId"]: parse_loc(row["PredictionString"])[1] for row in rows}
    return tuple(replace(entry, boxes=known.get(_stem(entry), ())) for entry in data.entries)


def _from_xml(data: DataSet, folder: Place) -> tuple[Entry, ...]:
    files = {PurePosixPath(name).stem: name for name in folder.files() if name.endswith(".xml")}
    return tuple(_annotated(entry, folder, files) for entry in data.entries)


def _annotated(entry: Entry, folder: Place, files: Mapping[str, str]) -> Entry:
    name = files.get(_stem(entry))
    if name is None:
        return replace(entry, boxes=())
    try:
        boxes, size = parse_voc(folder.read(name), entry.label)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{folder.url}: {name}: {error}") from error
    return replace(entry, boxes=boxes, boxed_size=size)


def _stem(entry: Entry) -> str:
    return PurePosixPath(entry.path).stem
