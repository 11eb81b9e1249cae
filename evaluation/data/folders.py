"""Folders of photos: one folder a class, a labels.csv, or Tiny ImageNet as it is published."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.data.files import Place
from evaluation.data.listing import DataError, DataSet, Entry, inclusive_box, is_photo


@dataclass(frozen=True)
class _Files:
    """No closure: it goes to other processes."""

    place: Place
    names: Sequence[str]

    def __call__(self, index: int) -> bytes:
        return self.place.read(self.names[index])


def reader_of(place: Place, names: Sequence[str]) -> Callable[[int], bytes]:
    return _Files(place, names)


def class_folders(place: Place) -> DataSet:
    """`<wnid>/<photo>`, as ImageNet, ImageNet-A, ImageNet-A-Plus and ImageNet-R are laid out.

    The first folder's name is the label; photos may lie deeper in it.
    """
    photos = [path for path in place.files() if is_photo(path)]
    names = [path for path in photos if "/" in path]
    if photos and not names:
        raise DataError(f"{place.url}: photos without a label; a folder a class, or a labels.csv, tells what they show")
    entries = tuple(Entry(name, name.partition("/")[0]) for name in names)
    return DataSet(place.url, "a folder a class", entries, reader_of(place, names))


def is_tiny_imagenet(place: Place) -> bool:
    return place.has("val_annotations.txt") or place.has("val/val_annotations.txt") or place.has("wnids.txt")


def tiny_imagenet(place: Place) -> DataSet:
    """Tiny ImageNet's own layout: the folder that holds `train` and `val` (its `val` is meant), or `val` itself."""
    inside = "" if place.has("val_annotations.txt") else "val/"
    table = f"{inside}val_annotations.txt"
    if not place.has(table):
        raise DataError(f"{place.url}: no {table} in it")
    lines = [line.split("\t") for line in place.read(table).decode().splitlines() if line.strip()]
    try:
        entries = tuple(_tiny_entry(*line) for line in lines)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place.url}: {table} is not name, wnid and four numbers a line") from error
    names = [f"{inside}images/{entry.path}" for entry in entries]
    return DataSet(place.url, "Tiny ImageNet", entries, reader_of(place, names))


def _tiny_entry(name: str, wnid: str, x1: str, y1: str, x2: str, y2: str) -> Entry:
    return Entry(name, wnid, inclusive_box(int(x1), int(y1), int(x2), int(y2)))


def is_tiny_imagenet_train(files: Sequence[str]) -> bool:
    return any(name.endswith("_boxes.txt") and name == f"{folder}/{folder}_boxes.txt" for name, folder in _tops(files))


def tiny_imagenet_train(place: Place, files: Sequence[str]) -> DataSet:
    """Tiny ImageNet's `train`: `<wnid>/images/<photo>` with the boxes in `<wnid>/<wnid>_boxes.txt`."""
    boxes = {}
    for name, folder in _tops(files):
        if name == f"{folder}/{folder}_boxes.txt":
            for line in place.read(name).decode().splitlines():
                photo, *corners = line.split("\t")
                boxes[f"{folder}/images/{photo}"] = inclusive_box(*map(int, corners))
    names = [name for name in files if is_photo(name)]
    entries = tuple(Entry(name, name.partition("/")[0], boxes.get(name, ())) for name in names)
    return DataSet(place.url, "Tiny ImageNet, train", entries, reader_of(place, names))


def _tops(files: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, name.partition("/")[0]) for name in files]
