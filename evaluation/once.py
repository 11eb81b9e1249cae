"""Models that compute nothing twice: several detectors, label spaces and arms share their views of one photo."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from models.detectors import Detection, LoadedDetector
from models.engines import Array, Engine, EngineName
from models.label_spaces import LabelSpace
from models.photo import Photo
from models.served import Classifier, Served


class OnceEngine:
    """Remembers every row that it was given. For one batch of photos in one thread, then thrown away."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name: EngineName = engine.name
        self.device = engine.device
        self._known: dict[bytes, tuple[Array, ...]] = {}

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        keys = [_key(row) for row in zip(*inputs, strict=True)]
        fresh = {key: place for place, key in enumerate(keys) if key not in self._known}
        if fresh:
            places = list(fresh.values())
            outputs = self.engine.run(*(array[places] for array in inputs))
            self._known |= zip(fresh, zip(*outputs, strict=True), strict=True)
        return tuple(np.stack(column) for column in zip(*(self._known[key] for key in keys), strict=True))


@dataclass(frozen=True)
class OnceDetector(LoadedDetector):
    """Finds the boxes of a photo once. Photos are told apart by identity: they must outlive it."""

    found: dict[int, Detection] = field(default_factory=dict)

    def detect(self, photos: Sequence[Photo]) -> list[Detection]:
        fresh = {id(photo): photo for photo in photos if id(photo) not in self.found}
        if fresh:
            self.found.update(zip(fresh, super().detect(list(fresh.values())), strict=True))
        return [self.found[id(photo)] for photo in photos]


@dataclass(frozen=True)
class MaskedClassifier(Classifier):
    """A classifier that can also answer in the label space of a data set's classes."""

    mask: LabelSpace | None = None

    @cached_property
    def spaces(self) -> dict[str, LabelSpace]:
        own = dict(super().spaces)
        return own if self.mask is None else own | {self.mask.name: self.mask}


def once(served: Served, mask: LabelSpace | None) -> Served:
    """The same models for one batch of photos. Their answers are those of `served`, bit for bit."""
    return Served(
        {name: MaskedClassifier(one.model, OnceEngine(one.engine), mask) for name, one in served.backbones.items()},
        {
            name: OnceDetector(one.model, OnceEngine(one.engine), OnceEngine(one.region_engine))
            for name, one in served.detectors.items()
        },
        served.load_seconds,
    )


def _key(row: tuple[Array, ...]) -> bytes:
    digest = hashlib.sha256()
    for array in row:
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
