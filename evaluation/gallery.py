"""Thumbnails of the photos that the crop rescued or broke, and of those where nothing was found."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from evaluation.data import DataError, open_data
from evaluation.results import Answers, Array, Run
from models.label_spaces import LABEL_SPACES, imagenet_1k
from models.photo import PhotoError, read_photo

THUMBNAILS = "thumbnails.parquet"
SHOWN = 24
_SIDE, _QUALITY = 200, 72
_BATCH = 256
_MAX_PIXELS = 200_000_000

Read: TypeAlias = Callable[[str], bytes]


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
    """Some of the `total` photos, drawn at random with a seed and not picked by hand."""

    name: str
    total: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class _Thumbnail:
    """A data URI, and the size of the photo that it was made of."""

    source: str
    width: int
    height: int


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


def galleries(
    folder: Path, run: Run, read: Read | None = None, seed: int = 0, shown: int = SHOWN
) -> list[Gallery] | None:
    """Rescued, broken and no detection of one run.

    Pictures come from the evaluation's thumbnails, or, of photos as they are, from the photos through `read`: from a
    photo's path to its bytes, or `OSError`. None where neither is at hand.
    """
    path = folder / THUMBNAILS
    readable = read if run.as_it_is else None
    if not path.exists() and readable is None:
        return None
    plain, cropped = run.arms["plain"].correct, run.arms["cropped"].correct
    chosen = {
        "rescued": np.flatnonzero(cropped & ~plain),
        "broken": np.flatnonzero(plain & ~cropped),
        "no detection": np.flatnonzero(run.reasons == "no_detection"),
    }
    drawn = {name: _drawn(places, shown, (seed, number)) for number, (name, places) in enumerate(chosen.items())}
    wanted = {str(run.paths[place]) for places in drawn.values() for place in places}
    found = dict(_thumbnails(path, run.key.condition, wanted)) if path.exists() else {}
    if readable is not None:
        found |= dict(_reread(wanted - found.keys(), readable))
    names = Names.of(run)
    return [
        Gallery(
            name,
            len(chosen[name]),
            tuple(
                _picture(run, place, thumbnail, names)
                for place in places
                if (thumbnail := found.get(str(run.paths[place]))) is not None
            ),
        )
        for name, places in drawn.items()
    ]


def reader(source: str) -> Read | None:
    """Of a data set's photos by their paths in it; None where there is no such data set (any more).

    Only what the data set lists is read, whatever path is asked for.
    """
    try:
        data = open_data(source)
    except (DataError, OSError, ValueError, ImportError):
        return None
    places = {entry.path: place for place, entry in enumerate(data.entries)}

    def read(path: str) -> bytes:
        if path not in places:
            raise FileNotFoundError(f"{path} is not in {source}")
        return data.read(places[path])

    return read


def _drawn(places: Array, shown: int, seed: tuple[int, int]) -> list[int]:
    if len(places) > shown:
        places = np.sort(np.random.default_rng(seed).choice(places, shown, replace=False))
    return [int(place) for place in places]


def _thumbnails(path: Path, condition: str, wanted: set[str]) -> Iterator[tuple[str, _Thumbnail]]:
    """Batch by batch, so that the file may be larger than memory. One that cannot be read is left out."""
    with pq.ParquetFile(path) as file:
        columns = ["path", "condition", "thumbnail", "width", "height"]
        for batch in file.iter_batches(_BATCH, columns=columns):
            values: dict[str, Any] = {name: batch.column(name) for name in columns}
            for row in range(batch.num_rows):
                name = values["path"][row].as_py()
                if name in wanted and values["condition"][row].as_py() == condition:
                    source = _source(values["thumbnail"][row].as_py())
                    if source is not None:
                        yield name, _Thumbnail(source, values["width"][row].as_py(), values["height"][row].as_py())


def _reread(wanted: Iterable[str], read: Read) -> Iterator[tuple[str, _Thumbnail]]:
    """What cannot be read any more is left out."""
    for path in wanted:
        try:
            photo = read_photo(read(path), _MAX_PIXELS)
        except (OSError, PhotoError, ValueError):
            continue
        yield path, _Thumbnail(_encoded(photo.image.copy()), photo.width, photo.height)


def _source(encoded: bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return _encoded(image.convert("RGB"))
    except (UnidentifiedImageError, OSError):
        return None


def _encoded(image: Image.Image) -> str:
    """Written anew and small: a report of 72 pictures stays under a megabyte of them."""
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(run: Run, place: int, thumbnail: _Thumbnail, names: Names) -> Picture:
    arms = ("plain", "cropped") if run.has_crop[place] else ("plain",)
    size = np.array([thumbnail.width, thumbnail.height] * 2, np.float64)
    box = 100 * run.boxes[place] / size
    x1, y1, x2, y2 = (float(value) for value in box)
    return Picture(
        str(run.paths[place]),
        thumbnail.source,
        thumbnail.width,
        thumbnail.height,
        (x1, y1, x2, y2) if np.isfinite(box).all() else None,
        float(run.score[place]) if np.isfinite(run.score[place]) else None,
        names.of_wnid(str(run.wnids[place])),
        tuple(_said(arm, run.arms[arm], place, names) for arm in arms),
    )


def _said(arm: str, answers: Answers, place: int, names: Names) -> Said:
    label = names.of_index(int(answers.index[place]))
    return Said(arm, label, float(answers.confidence[place]), bool(answers.correct[place]))
