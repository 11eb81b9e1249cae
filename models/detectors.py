"""Detectors: photos in, boxes with scores out, and on request their own class for a box."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models import views
from models.backbones import Backbone, ModelError, Source, example_pixels, file_sha256
from models.boxes import add_margin, clip, merge_overlapping
from models.engines import Engine, Graph
from models.heads import HeadError, HeadFile, Tuning, describe_head, head_parameters, load_head, with_tuned_stages
from models.label_spaces import LabelSpace
from models.photo import Photo

PREFIX = "fcos_"
# The longest list of boxes that a request may ask for.
MAX_BOXES = 20
# The region classifier sees the whole photo at about 10/7 of the classifier's own input, a multiple of 32, and
# pools over the box and a margin; both were found on held-out photos (224 px: 320 px and 0.2).
_REGION_SCALE = 10 / 7
_REGION_MARGIN = 0.2

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Detection:
    """What was found in one photo: boxes (K, 4) float32 xyxy in its pixels, scores (K,) in 0..1, best first.

    A score is the probability that the box's IoU with the object's is at least 0.5.
    """

    boxes: Floats
    scores: Floats

    def above(self, min_score: float) -> "Detection":
        passed = self.scores >= min_score
        return Detection(self.boxes[passed], self.scores[passed])


class Detector(Protocol):
    """What the catalog knows of a detector. Its properties and methods raise `ModelError` where its files are wrong.

    `input_size` is the side in pixels of the square that it sees. `label_space` is that of its own class of a box;
    None where it has none that could be compared with a classifier's.
    """

    @property
    def name(self) -> str: ...

    @property
    def architecture(self) -> str: ...

    @property
    def source(self) -> Source: ...

    @property
    def sha256(self) -> str: ...

    @property
    def input_size(self) -> int: ...

    @property
    def parameters(self) -> int: ...

    @property
    def tuning(self) -> Tuning: ...

    @property
    def label_space(self) -> LabelSpace | None: ...

    @property
    def is_local(self) -> bool:
        """Whether nothing needs to be fetched."""

    def check(self) -> None:
        """What can be told without loading it."""

    def graph(self) -> Graph:
        """What finds the boxes."""

    def graphs(self) -> list[Graph]:
        """All that are loaded."""

    def load(self, engine_for: Callable[[Graph], Engine]) -> "LoadedDetector":
        """Raises `models.engines.EngineError` too."""


class LoadedDetector(Protocol):
    """A detector with its engines; safe from several threads."""

    @property
    def model(self) -> Detector: ...

    @property
    def engine(self) -> Engine: ...

    def detect(self, photos: Sequence[Photo], least: float = 0.0) -> list[Detection]:
        """All boxes worth telling apart, at most `MAX_BOXES` a photo, with calibrated scores.

        Those with a score below `least`, 0..1, may be left out, which is faster: nearly all of them are.
        """

    def region_logits(self, photos: Sequence[Photo], boxes: Sequence[Floats]) -> Floats:
        """The detector's own class of one box a photo: (N, classes) logits in its label space, where it has one."""


@dataclass(frozen=True)
class FcosDetector:
    """A head of ours on a backbone; what `figureground train` makes."""

    name: str
    backbone: Backbone
    head: Path
    source: Source
    expected_sha256: str | None = None

    @cached_property
    def file(self) -> HeadFile:
        try:
            file = describe_head(self.head)
        except HeadError as error:
            raise ModelError(f"detector {self.name!r}: {error}") from error
        if file.backbone_sha256 != self.backbone.sha256:
            raise ModelError(
                f"detector {self.name!r}: its head was trained on other weights of {file.backbone!r} than "
                f"those of {self.backbone.name!r}"
            )
        return file

    @cached_property
    def sha256(self) -> str:
        """Of the head's file; the backbone has a hash of its own."""
        return file_sha256(self.head, self.name, self.expected_sha256)

    @property
    def architecture(self) -> str:
        return PREFIX + self.backbone.architecture

    @property
    def input_size(self) -> int:
        return self.file.config.view_size

    @cached_property
    def parameters(self) -> int:
        try:
            return self.backbone.parameters + head_parameters(self.head)
        except HeadError as error:
            raise ModelError(f"detector {self.name!r}: {error}") from error

    @property
    def tuning(self) -> Tuning:
        return self.file.tuning

    @property
    def label_space(self) -> LabelSpace:
        return self.backbone.label_space

    @property
    def is_local(self) -> bool:
        return self.backbone.is_local

    def check(self) -> None:
        _ = self.file, self.sha256

    def load(self, engine_for: Callable[[Graph], Engine]) -> "LoadedFcos":
        return LoadedFcos(self, *map(engine_for, self.graphs()))

    def graphs(self) -> list[Graph]:
        return [self.graph(), self.region_graph()]

    @property
    def region_size(self) -> int:
        return round(self.backbone.preprocessing.input_size * _REGION_SCALE / 32) * 32

    def graph(self) -> Graph:
        """uint8 pixels (N, view, view, 3) -> scores (N, P) and unit xyxy boxes (N, P, 4)."""
        config = self.file.config
        return Graph(
            kind=f"detector|{self.backbone.signature}|{config}",
            weights=self.sha256,
            build=self._module,
            examples=lambda: (example_pixels(config.view_size),),
            inputs=("pixels",),
            outputs=("scores", "boxes"),
        )

    def region_graph(self) -> Graph:
        """uint8 pixels (N, R, R, 3) and unit xyxy boxes (N, 4) -> logits (N, classes)."""
        size = self.region_size
        boxes = np.array([[0.1, 0.2, 0.7, 0.6], [0.0, 0.0, 1.0, 1.0]], np.float32)
        return Graph(
            kind=f"regions|{self.backbone.signature}|{size}",
            weights=self.backbone.sha256,
            build=self._region_module,
            examples=lambda: (example_pixels(size), boxes),
            inputs=("pixels", "boxes"),
            outputs=("logits",),
        )

    def _module(self) -> Any:
        from models.fcos import Body, Fcos, UnfitBackbone
        from models.normalise import Normalise

        normalise = Normalise(self.backbone.preprocessing)
        try:
            classifier = with_tuned_stages(self.backbone.module, self.head)
            body = Body(classifier, normalise, self.file.config.canvas_size)
            return Fcos(body, load_head(self.head)).eval()
        except (HeadError, UnfitBackbone) as error:
            raise ModelError(f"detector {self.name!r}: {error}") from error

    def _region_module(self) -> Any:
        from models.fcos import RegionClassifier, for_size
        from models.normalise import Normalise

        classifier = for_size(self.backbone.module, self.region_size)
        return RegionClassifier(classifier, Normalise(self.backbone.preprocessing)).eval()


@dataclass(frozen=True)
class LoadedFcos:
    """As `LoadedDetector`."""

    model: FcosDetector
    engine: Engine
    region_engine: Engine

    def detect(self, photos: Sequence[Photo], least: float = 0.0) -> list[Detection]:
        size, tuning = self.model.input_size, self.model.tuning
        pixels = np.stack([views.squashed_to(photo, size) for photo in photos])
        scores, boxes = self.engine.run(pixels)
        own_least = tuning.uncalibrated(least)
        return [
            _in_pixels(photo, kept, tuning.calibrated(kept_scores))
            for photo, unit_boxes, unit_scores in zip(photos, boxes, scores, strict=True)
            for kept, kept_scores in [merge_overlapping(unit_boxes, unit_scores, limit=MAX_BOXES, least=own_least)]
        ]

    def region_logits(self, photos: Sequence[Photo], boxes: Sequence[Floats]) -> Floats:
        size = self.model.region_size
        pixels = np.stack([views.squashed_to(photo, size) for photo in photos])
        unit = [
            clip(add_margin(box, _REGION_MARGIN), photo.width, photo.height) / np.array([photo.width, photo.height] * 2)
            for photo, box in zip(photos, boxes, strict=True)
        ]
        (logits,) = self.region_engine.run(pixels, np.stack(unit).astype(np.float32))
        return np.asarray(logits)


def _in_pixels(photo: Photo, boxes: Floats, scores: Floats) -> Detection:
    scale = np.array([photo.width, photo.height] * 2, np.float32)
    return Detection(boxes * scale, scores)
