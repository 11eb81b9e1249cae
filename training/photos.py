"""Photos with boxes drawn by hand, to learn from: Tiny ImageNet, ImageNet, COCO."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from evaluation.data import folders, tables
from evaluation.data.boxes import parse_voc
from evaluation.data.files import Place, place
from evaluation.data.listing import Entry, inclusive_box
from models.comparison import Corners

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BoxedPhotos:
    """Photos and their boxes; safe to send to other processes where `read` is.

    `corners` (M, 4) float32 are xyxy in pixels, half open; photo i has the rows `starts[i]` to `starts[i + 1]`.
    A photo without any is one whose objects are not labelled (it is not a photo without objects). `drawn_on` (N, 2)
    is the width and height of the photo that was drawn on, 0 where it is the photo's own size.
    """

    read: Callable[[int], bytes]
    corners: Floats
    starts: NDArray[np.int64]
    drawn_on: Floats

    @classmethod
    def of(
        cls,
        read: Callable[[int], bytes],
        boxes: Sequence[Sequence[Corners]],
        drawn_on: Iterable[tuple[int, int] | None] = (),
    ) -> "BoxedPhotos":
        """Of each photo its boxes, and the size that was drawn on, None for its own."""
        sizes = np.zeros((len(boxes), 2), np.float32)
        for row, size in enumerate(drawn_on):
            sizes[row] = size or 0
        flat = np.array([box for own in boxes for box in own], np.float32).reshape(-1, 4)
        return cls(read, flat, np.cumsum([0, *map(len, boxes)]), sizes)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def photo(self, index: int, side: int | None = None) -> tuple[Image.Image, Floats]:
        """The photo, and its boxes (K, 4) in unit coordinates. A JPEG is decoded no larger than `side` needs it.

        Raises `ValueError` where it cannot be read.
        """
        try:
            file = Image.open(BytesIO(self.read(index)))
            own = file.size
            if side is not None:
                file.draft("RGB", (2 * side, 2 * side))
            image = file.convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"photo {index} cannot be read: {error}") from error
        corners = self.corners[self.starts[index] : self.starts[index + 1]]
        extent = np.where(self.drawn_on[index] > 0, self.drawn_on[index], own)
        return image, (corners / np.tile(extent, 2)).astype(np.float32).clip(0, 1)

    def labelled(self) -> NDArray[np.int64]:
        """Indices of the photos that have a box."""
        return np.flatnonzero(np.diff(self.starts))


@dataclass(frozen=True)
class _Column:
    """Photos of a table that is held in memory: they are read in any order, by several processes."""

    encoded: pa.ChunkedArray

    def __call__(self, index: int) -> bytes:
        return bytes(self.encoded[index].as_py())


def read_photos(source: str, split: str) -> BoxedPhotos:
    """`source` is FORMAT:PATH, `split` is `train` or `val`. Raises `ValueError` for what cannot be read."""
    kind, separator, path = source.partition(":")
    if not separator or kind not in _READERS:
        raise ValueError(f"data must be FORMAT:PATH with FORMAT one of {', '.join(FORMATS)}, got {source!r}")
    photos = _READERS[kind](path, split)
    if not len(photos.labelled()):
        raise ValueError(f"no photo of {split} in {path!r} has a box")
    return photos


def _tiny_imagenet(path: str, split: str) -> BoxedPhotos:
    """`train*.parquet` and `val*.parquet`, or the layout that it is published in."""
    files = sorted(Path(path).glob(f"{split}*.parquet"))
    if files:
        return _parquet(pa.concat_tables([pq.read_table(file) for file in files]))
    root = place(path)
    if split == "val" and folders.is_tiny_imagenet(root):
        return _listed(folders.tiny_imagenet(root))
    inside = Place(f"{root.url}/{split}", root.fs, root.at(split))
    names = inside.files() if root.has(split) else []
    if not folders.is_tiny_imagenet_train(names):
        raise ValueError(f"no {split}*.parquet in {path!r}, and not Tiny ImageNet's own folders")
    return _listed(folders.tiny_imagenet_train(inside, names))


def _parquet(table: pa.Table) -> BoxedPhotos:
    # A box without an inside says nothing about the object.
    rows = [() if row is None else inclusive_box(*row) for row in table.column("box_xyxy").to_pylist()]
    return BoxedPhotos.of(_Column(table.column("image")), rows)


def _listed(data: Any) -> BoxedPhotos:
    """From `evaluation.data.listing.DataSet`."""
    entries: Sequence[Entry] = data.entries
    return BoxedPhotos.of(data.reader, [one.boxes for one in entries], [one.boxed_size for one in entries])


def _imagenet(path: str, split: str) -> BoxedPhotos:
    """`LOC_<split>_solution.csv`, or else the XML of `Annotations/CLS-LOC`, which says the same.

    A photo without an XML is not labelled, and not listed.
    """
    root = place(path)
    table = f"LOC_{split}_solution.csv"
    if root.has(table):
        return _listed(tables.csv_table(Place(f"{root.url}/{table}", root.fs, root.at(table))))
    for inside in ("ILSVRC/", ""):
        if root.has(f"{inside}Annotations/CLS-LOC/{split}"):
            return _annotated(root, inside, split)
    raise ValueError(f"no {table} and no ILSVRC/Annotations/CLS-LOC/{split} in {path!r}")


def _annotated(root: Place, inside: str, split: str) -> BoxedPhotos:
    folder = root.at(f"{inside}Annotations/CLS-LOC/{split}")
    annotations = Place(f"{root.url}/{inside}Annotations/CLS-LOC/{split}", root.fs, folder)
    names = [name for name in annotations.files() if name.endswith(".xml")]
    found = []
    for name in names:
        try:
            found.append(parse_voc(annotations.read(name)))
        except (ElementTree.ParseError, ValueError) as error:
            raise ValueError(f"{annotations.url}/{name}: {error}") from error
    photos = [f"{inside}Data/CLS-LOC/{split}/{PurePosixPath(name).with_suffix('.JPEG')}" for name in names]
    return BoxedPhotos.of(folders.reader_of(root, photos), [boxes for boxes, _ in found], [size for _, size in found])


def _coco(path: str, split: str) -> BoxedPhotos:
    """`annotations/instances_<split>*.json` and the folder of photos of that name. Crowds are no objects."""
    root = Path(path)
    files = sorted(root.glob(f"annotations/instances_{split}*.json"))
    if len(files) != 1:
        raise ValueError(f"{len(files) or 'no'} annotations/instances_{split}*.json in {path!r}; one is expected")
    name = files[0].stem.removeprefix("instances_")
    inside = next((folder for folder in (name, f"images/{name}", "images") if (root / folder).is_dir()), None)
    if inside is None:
        raise ValueError(f"no folder {name} of photos in {path!r}")
    try:
        described = json.loads(files[0].read_bytes())
        images = {image["id"]: image for image in described["images"]}
        boxes: dict[Any, list[Corners]] = {key: [] for key in images}
        for annotation in described["annotations"]:
            x, y, width, height = map(float, annotation["bbox"])
            if width > 0 and height > 0 and not annotation.get("iscrowd"):
                boxes[annotation["image_id"]].append((x, y, x + width, y + height))
        sizes = [(int(image["width"]), int(image["height"])) for image in images.values()]
        names = [f"{inside}/{image['file_name']}" for image in images.values()]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{files[0]} is no COCO instances file: {error!r}") from error
    return BoxedPhotos.of(folders.reader_of(place(path), names), list(boxes.values()), sizes)


_READERS: dict[str, Callable[[str, str], BoxedPhotos]] = {
    "tiny-imagenet": _tiny_imagenet,
    "imagenet": _imagenet,
    "coco": _coco,
}
FORMATS = tuple(_READERS)
