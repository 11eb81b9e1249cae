"""What every data set is, whatever its layout: a list of labelled photos, and a way to read their bytes."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from models.comparison import Corners

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


class DataError(ValueError):
    """The data cannot be evaluated; the message is one line for the person who named it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One photo. `path` is its unique key, relative to the data set; `label` a wnid, an index, or a class's name.

    `boxes` are drawn by hand around objects of that class: xyxy, half open, in pixels of the photo, or of the size
    `boxed_size` (width, height) that the photo had when they were drawn. None drawn is the empty tuple.
    """

    path: str
    label: str | int
    boxes: tuple[Corners, ...] = ()
    boxed_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class DataSet:
    """Entries in the order of their files. `reader` gives the bytes of one by its position; safe from threads.

    Raises `DataError` where there is no photo, or two have the same path.
    """

    source: str
    layout: str
    entries: tuple[Entry, ...]
    reader: Callable[[int], bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.entries:
            raise DataError(f"{self.source}: no photo in it ({self.layout})")
        path, count = Counter(entry.path for entry in self.entries).most_common(1)[0]
        if count > 1:
            raise DataError(f"{self.source}: {path!r} is listed {count} times")

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, index: int) -> bytes:
        """Raises `OSError`."""
        return self.reader(index)

    def read_path(self, path: str) -> bytes:
        """Raises `OSError`, also for a path that is not listed."""
        return self.reader(self.position(path))

    def position(self, path: str) -> int:
        """Of the photo with this path. Raises `FileNotFoundError`."""
        if path not in self._places:
            raise FileNotFoundError(f"{self.source} lists no {path!r}")
        return self._places[path]

    @property
    def has_boxes(self) -> bool:
        return any(entry.boxes for entry in self.entries)

    @cached_property
    def sha256(self) -> str:
        """Of the list: paths, labels and boxes in order."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(json.dumps([entry.path, entry.label, entry.boxes, entry.boxed_size]).encode() + b"\n")
        return digest.hexdigest()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {entry.path: place for place, entry in enumerate(self.entries)}

    def with_entries(self, entries: tuple[Entry, ...]) -> "DataSet":
        """The same photos in the same order under other descriptions."""
        return replace(self, entries=entries)


def is_photo(path: str) -> bool:
    """Whether a file's name says that it is a photo; hidden files (.DS_Store, ._photo.jpg) are none."""
    name = path.rsplit("/", 1)[-1]
    return not name.startswith(".") and name.lower().endswith(PHOTO_SUFFIXES)


def inclusive_box(x1: float, y1: float, x2: float, y2: float) -> tuple[Corners, ...]:
    """A box whose both ends are pixels of it, as (box,), half open; () where its corners are out of order or equal."""
    return ((float(x1), float(y1), float(x2) + 1, float(y2) + 1),) if x2 > x1 and y2 > y1 else ()
