"""How a photo is shown: as it is, pasted small into clutter, or on another photo's background."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import product
from typing import Literal, TypeAlias
from zlib import crc32

import numpy as np
from PIL import Image

from evaluation.cases import MAX_PIXELS, Condition
from evaluation.clutter import BACKGROUNDS, EDGES, SWAPS, on_background, paste, without_object
from evaluation.data import DataError, DataSet
from evaluation.data.pairs import pair
from models.comparison import Corners
from models.photo import Photo, PhotoError, read_photo

Stress: TypeAlias = Literal["zoom-out", "background"]
SCALES = (0.7, 0.5, 0.35, 0.25)

_TRIES = 20


@dataclass(frozen=True)
class Shown:
    """One photo under one condition. `rectangle` is where it was pasted, None where it was not; `boxes` are drawn
    by hand. All are xyxy in pixels of `photo`, half open."""

    path: str
    wnid: str
    photo: Photo
    condition: Condition
    rectangle: tuple[int, int, int, int] | None = None
    boxes: tuple[Corners, ...] = ()


def conditions(stresses: Sequence[Stress], paired: bool = False) -> tuple[Condition, ...]:
    """The photos as they are, those of a paired data set, and what the stress sets add to them."""
    found = [Condition(), Condition(paired=True)] if paired else [Condition()]
    if "zoom-out" in stresses:
        found += [Condition(scale, background, edge) for background, edge, scale in product(BACKGROUNDS, EDGES, SCALES)]
    if "background" in stresses:
        found += [Condition(swap=swap) for swap in SWAPS]
    return tuple(found)


def chosen(shown: Sequence[Condition], only: Sequence[str]) -> tuple[Condition, ...]:
    """The photos as they are, and the conditions whose names fit a pattern such as `tiles * hard`.

    Raises `DataError` for a pattern that none fits.
    """
    for pattern in only:
        if not any(fnmatch(condition.name, pattern) for condition in shown):
            names = ", ".join(condition.name for condition in shown)
            raise DataError(f"no condition is named {pattern!r}; there are: {names}")
    return tuple(
        condition
        for condition in shown
        if condition.as_it_is or any(fnmatch(condition.name, pattern) for pattern in only)
    )


class Stage:
    """Shows the photos of a data set, each decoded once for all conditions; the same seed shows the same.

    Every photo's canvases follow from the seed and its path alone, and share the other photo and the place, so that
    conditions are paired. Safe from several threads. Raises `DataError` where the data set has not what they need.
    """

    def __init__(
        self,
        data: DataSet,
        wnids: Sequence[str],
        shown: Sequence[Condition],
        seed: int,
        partner: DataSet | None = None,
    ) -> None:
        self.data, self.wnids, self.conditions, self.seed, self.partner = data, wnids, tuple(shown), seed, partner
        self._partners = {} if partner is None else pair(data, partner)
        self._several = len(set(wnids)) > 1
        self._boxed: dict[str, list[int]] = defaultdict(list)
        for index, entry in enumerate(data.entries):
            if entry.boxes:
                self._boxed[wnids[index]].append(index)
        if any(condition.scale < 1 for condition in shown) and len(data) < 2:
            raise DataError(f"{data.source}: a stress set pastes into other photos, and there is only one")
        if any(condition.swap for condition in shown) and len(self._boxed) < 2:
            raise DataError(f"{data.source}: swapping backgrounds needs hand-drawn boxes on photos of two classes")

    def photo(self, path: str, condition: str) -> Photo:
        """The photo of a path, as it is shown under the condition of that name.

        Raises `OSError` and `PhotoError` as `show` does, and where it is not shown so.
        """
        index = self.data.position(path)
        under = [one for one in self.conditions if one.name == condition]
        for shown in self.show(index, self.data.read(index), under):
            return shown.photo
        raise FileNotFoundError(f"{path} is not shown as {condition!r}")

    def show(self, index: int, data: bytes, under: Sequence[Condition] | None = None) -> list[Shown]:
        """One photo, from its bytes, under every condition, or only `under` some.

        Those that swap the background are left out where it has no hand-drawn box, or its class no other.

        Raises `PhotoError` where they, or those of the paired photo, are no photo, and `OSError` where the paired
        one cannot be read or there is no other to paste into.
        """
        entry = self.data.entries[index]
        photo = read_photo(data, MAX_PIXELS)
        as_it_is = Shown(entry.path, self.wnids[index], photo, Condition(), None, _in_pixels(index, self.data, photo))
        others: dict[bool, Image.Image] = {}
        found = []
        for condition in self.conditions if under is None else under:
            if condition.scale < 1:
                if False not in others:
                    others[False] = self._other_photo(index)
                found.append(self._pasted(as_it_is, others[False], condition))
            elif condition.paired:
                found += self._paired(index, condition)
            elif condition.swap is not None:
                found += self._swapped(index, as_it_is, condition)
            else:
                found.append(as_it_is)
        return found

    def random(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, crc32(self.data.entries[index].path.encode())))

    def _paired(self, index: int, condition: Condition) -> list[Shown]:
        entry = self.data.entries[index]
        if self.partner is None or entry.path not in self._partners:
            return []
        other = self._partners[entry.path]
        photo = read_photo(self.partner.read(other), MAX_PIXELS)
        boxes = _in_pixels(other, self.partner, photo)
        return [Shown(entry.path, self.wnids[index], photo, condition, None, boxes)]

    def _pasted(self, shown: Shown, other: Image.Image, condition: Condition) -> Shown:
        random = np.random.default_rng((self.seed, crc32(shown.path.encode()), 1))
        canvas = paste(shown.photo.image, other, condition.scale, random, condition.background, condition.edge)
        left, top, right, _ = canvas.rectangle
        scale = (right - left) / shown.photo.width
        boxes = [
            (left + x1 * scale, top + y1 * scale, left + x2 * scale, top + y2 * scale) for x1, y1, x2, y2 in shown.boxes
        ]
        photo = Photo(canvas.image, shown.photo.format)
        return Shown(shown.path, shown.wnid, photo, condition, canvas.rectangle, tuple(boxes))

    def _other_photo(self, index: int) -> Image.Image:
        """Of another class, where there is one."""
        random = self.random(index)
        for _ in range(_TRIES):
            other = int(random.integers(len(self.data)))
            if other == index or (self._several and self.wnids[other] == self.wnids[index]):
                continue
            try:
                return read_photo(self.data.read(other), MAX_PIXELS).image
            except (OSError, PhotoError):
                continue
        raise OSError(f"no other photo to paste into after {_TRIES} tries")

    def _swapped(self, index: int, shown: Shown, condition: Condition) -> list[Shown]:
        if not shown.boxes:
            return []
        if condition.swap == "removed":
            canvas: Image.Image | None = Image.new("RGB", shown.photo.size)
        else:
            canvas = self._other_background(index, same_class=condition.swap == "same class")
        if canvas is None:
            return []
        image = on_background(shown.photo.image, shown.boxes, canvas)
        return [Shown(shown.path, shown.wnid, Photo(image, shown.photo.format), condition, None, shown.boxes)]

    def _other_background(self, index: int, same_class: bool) -> Image.Image | None:
        """Another boxed photo without its object; None where the class has no other."""
        random, own = self.random(index), self.wnids[index]
        wnids = [own] if same_class else [wnid for wnid in self._boxed if wnid != own]
        choices = [other for wnid in wnids for other in self._boxed[wnid] if other != index]
        for other in random.permutation(choices)[:_TRIES]:
            try:
                photo = read_photo(self.data.read(int(other)), MAX_PIXELS)
            except (OSError, PhotoError):
                continue
            return without_object(photo.image, _in_pixels(int(other), self.data, photo))
        return None


def _in_pixels(index: int, data: DataSet, photo: Photo) -> tuple[Corners, ...]:
    """The hand-drawn boxes, from the size that they were drawn on to the photo's own."""
    entry = data.entries[index]
    if entry.boxed_size is None or entry.boxed_size == photo.size:
        return entry.boxes
    x, y = photo.width / entry.boxed_size[0], photo.height / entry.boxed_size[1]
    return tuple((x1 * x, y1 * y, x2 * x, y2 * y) for x1, y1, x2, y2 in entry.boxes)
