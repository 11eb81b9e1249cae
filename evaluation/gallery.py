"""Thumbnails of the photos that the crop rescued or broke, and of those where nothing was found."""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from evaluation.cases import MAX_PIXELS
from evaluation.data import DataError, open_data
from evaluation.results import AS_IT_IS, Answers, Array, Run
from models.label_spaces import LABEL_SPACES, imagenet_1k
from models.photo import Photo, PhotoError, read_photo

SHOWN = 24
_SIDE, _QUALITY = 200, 72

Show: TypeAlias = Callable[[str, str], Photo]
"""From a photo's path and the name of a condition to the photo as it was shown. Raises `OSError` or `PhotoError`."""


@dataclass(frozen=True)
class Said:
    """What one arm answered."""

    arm: str
    label: str
    probability: float
    correct: bool


@dataclass(frozen=True)
class Picture:
    """`source` is a data URI; `box` is xyxy in percent of the picture's width and height."""

    path: str
    source: str
    width: int
    height: int
    box: tuple[float, float, float, float] | None
    score: float | None
    truth: str
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Gallery:
    """Some of the `total` photos under one condition, drawn at random with a seed and not picked by hand."""

    condition: str
    name: str
    total: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Names:
    """Label texts: of a built-in label space by index, of any other one through the classes that its photos have."""

    by_index: Mapping[int, str]
    by_wnid: Mapping[str, str]

    @classmethod
    def of(cls, run: Run) -> "Names":
        space = LABEL_SPACES[run.key.label_space]() if run.key.label_space in LABEL_SPACES else imagenet_1k()
        by_wnid = dict(zip(space.wnids, space.labels, strict=True))
        if run.key.label_space in LABEL_SPACES:
            return cls(dict(enumerate(space.labels)), by_wnid)
        pairs = zip(run.labels, run.wnids, strict=True)
        return cls({int(index): by_wnid.get(str(wnid), str(wnid)) for index, wnid in pairs}, by_wnid)

    def of_index(self, index: int) -> str:
        return self.by_index.get(index, f"class {index}")

    def of_wnid(self, wnid: str) -> str:
        return self.by_wnid.get(wnid, wnid)


def galleries(run: Run, show: Show, seed: int = 0, shown: int = SHOWN) -> list[Gallery]:
    """Rescued, broken and no detection of one run. A photo that cannot be shown any more is left out."""
    plain, cropped = run.arms["plain"].correct, run.arms["cropped"].correct
    chosen = {
        "rescued": np.flatnonzero(cropped & ~plain),
        "broken": np.flatnonzero(plain & ~cropped),
        "no detection": np.flatnonzero(run.reasons == "no_detection"),
    }
    drawn = {name: _drawn(places, shown, (seed, number)) for number, (name, places) in enumerate(chosen.items())}
    names = Names.of(run)
    return [
        Gallery(
            run.key.condition,
            name,
            len(chosen[name]),
            tuple(picture for place in places if (picture := _shown(run, place, show, names)) is not None),
        )
        for name, places in drawn.items()
    ]


def reader(source: str) -> Show | None:
    """Of a data set's photos as they are; None where there is no such data set (any more).

    Only what the data set lists is read, whatever path is asked for.
    """
    try:
        data = open_data(source)
    except (DataError, OSError, ValueError, ImportError):
        return None

    def show(path: str, condition: str) -> Photo:
        if condition != AS_IT_IS:
            raise FileNotFoundError(f"{path} is not at hand as {condition}")
        return read_photo(data.read_path(path), MAX_PIXELS)

    return show


def _drawn(places: Array, shown: int, seed: tuple[int, int]) -> list[int]:
    if len(places) > shown:
        places = np.sort(np.random.default_rng(seed).choice(places, shown, replace=False))
    return [int(place) for place in places]


def _shown(run: Run, place: int, show: Show, names: Names) -> Picture | None:
    try:
        photo = show(str(run.paths[place]), run.key.condition)
    except (OSError, PhotoError):
        return None
    return _picture(run, place, photo, names)


def _thumbnail(photo: Photo) -> str:
    """A data URI, small: a report of 72 pictures stays under a megabyte of them."""
    image = photo.image.copy()
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(run: Run, place: int, photo: Photo, names: Names) -> Picture:
    arms = ("plain", "cropped") if run.has_crop[place] else ("plain",)
    size = np.array([photo.width, photo.height] * 2, np.float64)
    box = 100 * run.boxes[place] / size
    x1, y1, x2, y2 = (float(value) for value in box)
    return Picture(
        str(run.paths[place]),
        _thumbnail(photo),
        photo.width,
        photo.height,
        (x1, y1, x2, y2) if np.isfinite(box).all() else None,
        float(run.score[place]) if np.isfinite(run.score[place]) else None,
        names.of_wnid(str(run.wnids[place])),
        tuple(_said(arm, run.arms[arm], place, names) for arm in arms),
    )


def _said(arm: str, answers: Answers, place: int, names: Names) -> Said:
    label = names.of_index(int(answers.index[place]))
    return Said(arm, label, float(answers.confidence[place]), bool(answers.correct[place]))
