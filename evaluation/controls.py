"""Arms that only an evaluation has: windows of the photo that keep the comparison honest.

`random`: a box of the detected box's area anywhere. `oracle_box`: the hand-drawn box, as a perfect detector would
give it. `rectangle`: where a photo was pasted onto a canvas. `oracle_zoom`: the zoom that makes the true class
likeliest; it peeks at the label, and is a ceiling, never a result.
"""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from evaluation.stress import Shown
from models import views
from models.boxes import Floats, area, clip, crop_box
from models.comparison import Comparison
from models.heads import Tuning
from models.photo import Photo

CONTROLS = ("random", "oracle_box", "rectangle", "oracle_zoom")
ZOOMS = (1.0, 0.75, 0.5, 0.25)
"""Sides of the square windows of `oracle_zoom`, as shares of the photo's shorter side, at 3 x 3 places each."""


def windows(control: str, shown: Shown, comparison: Comparison, tuning: Tuning, seed: int) -> list[Floats]:
    """What a control looks at, xyxy windows (4,) inside the photo; none where the photo has not what it needs."""
    photo = shown.photo
    if control == "oracle_zoom":
        return zoom_windows(photo.width, photo.height)
    if control == "rectangle":
        return [] if shown.rectangle is None else [np.array(shown.rectangle, np.float64)]
    if control == "oracle_box":
        box = largest_box(shown)
        if box is None:
            return []
        (margin,) = tuning.margins_of(box[None], photo.width, photo.height)
        return [crop_box(box, margin, photo.width, photo.height)]
    if comparison.box is None:
        return []
    key = (seed, crc32(shown.path.encode()), crc32(shown.condition.name.encode()))
    return [random_window(photo, np.array(comparison.box.xyxy), np.random.default_rng(key))]


def random_window(photo: Photo, box: Floats, random: np.random.Generator) -> Floats:
    """(4,): the window of `views.center_crop`, of the box's area, moved to a random place of the photo."""
    window = views.center_crop(photo, box)
    width, height = window[2:] - window[:2]
    left, top = random.random(2) * (photo.width - width, photo.height - height)
    return np.array([left, top, left + width, top + height])


def zoom_windows(width: int, height: int) -> list[Floats]:
    """Squares of every zoom at the corners, the edges' middles and the centre; those that coincide once."""
    found = set()
    for zoom in ZOOMS:
        side = zoom * min(width, height)
        for across in (0.0, 0.5, 1.0):
            for down in (0.0, 0.5, 1.0):
                left, top = across * (width - side), down * (height - side)
                found.add((left, top, left + side, top + side))
    return [np.array(window) for window in sorted(found)]


def largest_box(shown: Shown) -> Floats | None:
    """The largest of the hand-drawn boxes inside the photo, (4,); None without one."""
    boxes = hand_drawn(shown)
    return boxes[int(area(boxes).argmax())] if len(boxes) else None


def hand_drawn(shown: Shown) -> Floats:
    """(N, 4) float64: the hand-drawn boxes, clipped to the photo; those with no inside are left out."""
    boxes = clip(np.array(shown.boxes, np.float64).reshape(-1, 4), shown.photo.width, shown.photo.height)
    inside: Floats = boxes[area(boxes) > 0]
    return inside


def best_zoom(probabilities: Sequence[NDArray[np.float32]], label: int) -> NDArray[np.float32]:
    """Of several answers (C,) the one that gives the true class the most."""
    return max(probabilities, key=lambda one: float(one[label]))
