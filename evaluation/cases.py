"""Labelled photos to measure on: as they are, or pasted into clutter."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.classes import NO_MASK, resolve
from evaluation.clutter import Background, Edge, Swap, paste
from evaluation.data import DataSet
from models.label_spaces import LabelSpace, imagenet_1k
from models.photo import Photo, read_photo

MAX_PIXELS = 200_000_000


@dataclass(frozen=True)
class Condition:
    """How a photo is shown: `scale` 1 is the photo itself, below it is pasted onto a canvas; `swap` keeps the object
    in its hand-drawn box alone; `paired` is the photo of the same path in another data set."""

    scale: float = 1.0
    background: Background = "tiles"
    edge: Edge = "hard"
    swap: Swap | None = None
    paired: bool = False

    @property
    def as_it_is(self) -> bool:
        return self.scale == 1 and self.swap is None and not self.paired

    @property
    def name(self) -> str:
        if self.swap is not None:
            return f"background {self.swap}"
        if self.paired:
            return "paired"
        return "as it is" if self.as_it_is else f"{self.background} {self.scale:g} {self.edge}"


@dataclass(frozen=True)
class Case:
    """One photo under one condition; `rectangle` is where it was pasted, xyxy pixels, None where it was not."""

    path: Path
    label: int
    photo: Photo
    rectangle: tuple[int, int, int, int] | None


@dataclass(frozen=True)
class LabelledFolder:
    """A folder of photos with a `labels.csv` that has the columns `file` and `wnid`.

    With a `side`, every photo is first made so small that its shorter side has so many pixels, in case it has more.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    side: int | None = None

    def __len__(self) -> int:
        return len(self.files)

    def cases(self, condition: Condition, seed: int = 0, canvases: int = 1) -> Iterator[Case]:
        """Every photo, `canvases` times; the same seed gives the same canvases."""
        for repeat in range(canvases if condition.scale < 1 else 1):
            for index, path in enumerate(self.files):
                random = np.random.default_rng((seed, repeat, index))
                yield self._case(index, path, condition, random)

    def _case(self, index: int, path: Path, condition: Condition, random: np.random.Generator) -> Case:
        photo = self._read(path)
        if condition.scale == 1:
            return Case(path, self.labels[index], photo, None)
        other = (index + int(random.integers(1, max(2, len(self))))) % len(self)
        canvas = paste(
            photo.image,
            self._read(self.files[other]).image,
            condition.scale,
            random,
            condition.background,
            condition.edge,
        )
        return Case(path, self.labels[index], Photo(canvas.image, photo.format), canvas.rectangle)

    def _read(self, path: Path) -> Photo:
        photo = read_photo(path.read_bytes(), MAX_PIXELS)
        share = 1 if self.side is None else self.side / min(photo.image.size)
        if share >= 1:
            return photo
        width, height = (round(length * share) for length in photo.image.size)
        return Photo(photo.image.resize((width, height), Image.Resampling.LANCZOS), photo.format)


@dataclass(frozen=True)
class LabelledSample:
    """Photos of a data set, as they are; `chosen` are their numbers in it, `labels` their classes."""

    data: DataSet
    chosen: tuple[int, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.chosen)

    def cases(self) -> Iterator[Case]:
        for index, label in zip(self.chosen, self.labels, strict=True):
            photo = read_photo(self.data.read(index), MAX_PIXELS)
            yield Case(Path(self.data.entries[index].path), label, photo, None)


def sample(data: DataSet, count: int, seed: int) -> LabelledSample:
    """At most `count` of a data set's photos, the same for the same seed. Raises `DataError` for an unknown class."""
    known = imagenet_1k()
    wnids = resolve(data, [known], mask=NO_MASK).wnids
    chosen = sorted(np.random.default_rng(seed).permutation(len(data))[:count].tolist())
    places = {wnid: place for place, wnid in enumerate(known.wnids)}
    return LabelledSample(data, tuple(chosen), tuple(places[wnids[index]] for index in chosen))


def read_folder(folder: Path, space: LabelSpace | None = None) -> LabelledFolder:
    """Raises ValueError where `labels.csv` is missing, or names no photo or an unknown class."""
    chosen = space or imagenet_1k()
    table = folder / "labels.csv"
    if not table.exists():
        raise ValueError(f"{folder} has no labels.csv with the columns file and wnid")
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"file", "wnid"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{table} has no columns file and wnid")
        rows = [(row["file"], row["wnid"]) for row in reader]
    if not rows:
        raise ValueError(f"{table} names no photo")
    labels = [chosen.find(wnid) for _, wnid in rows]
    unknown = [wnid for (_, wnid), label in zip(rows, labels, strict=True) if label is None]
    if unknown:
        raise ValueError(f"{table}: {unknown[0]!r} is no class of {chosen.name}")
    return LabelledFolder(
        tuple(folder / name for name, _ in rows), tuple(label for label in labels if label is not None)
    )
