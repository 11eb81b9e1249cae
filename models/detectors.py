"""Detectors: photos in, boxes with scores out, and on request their own class for a box."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import views
from models.backbones import Backbone, ModelError, Source, example_pixels, file_sha256
from models.boxes import add_margin, clip, merge_overlapping
from models.engines import Engine, Graph
from models.heads import HeadError, HeadFile, describe_head, head_parameters, load_head
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
        found = file_sha256(self.head, self.name)
        if self.expected_sha256 not in (None, found):
            raise ModelError(f"{self.name!r}: {self.head.name} has sha256 {found}, not {self.expected_sha256}")
        return found

    @property
    def architecture(self) -> str:
        return PREFIX + self.backbone.architecture

    @property
    def input_size(self) -> int:
        return self.file.config.view_size

    @cached_property
    def parameters(self) -> int:
        return self.backbone.parameters + head_parameters(self.head)

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
        from models.fcos import Body, Fcos
        from models.normalise import Normalise

        normalise = Normalise(self.backbone.preprocessing)
        body = Body(self.backbone.module, normalise, self.file.config.canvas_size)
        return Fcos(body, self._loaded_head()).eval()

    def _loaded_head(self) -> Any:
        try:
            return load_head(self.head)
        except HeadError as error:
            raise ModelError(f"detector {self.name!r}: {error}") from error

    def _region_module(self) -> Any:
        from models.fcos import RegionClassifier, for_size
        from models.normalise import Normalise

        classifier = for_size(self.backbone.module, self.region_size)
        return RegionClassifier(classifier, Normalise(self.backbone.preprocessing)).eval()


@dataclass(frozen=True)
class LoadedDetector:
    """A detector with its engines; safe from several threads."""

    model: FcosDetector
    engine: Engine
    region_engine: Engine

    def detect(self, photos: Sequence[Photo]) -> list[Detection]:
        """All boxes worth telling apart, at most `MAX_BOXES` a photo, with calibrated scores."""
        size, tuning = self.model.input_size, self.model.file.tuning
        pixels = np.stack([views.squashed_to(photo, size) for photo in photos])
        scores, boxes = self.engine.run(pixels)
        return [
            _in_pixels(photo, kept, tuning.calibrated(kept_scores))
            for photo, unit_boxes, unit_scores in zip(photos, boxes, scores, strict=True)
            for kept, kept_scores in [merge_overlapping(unit_boxes, unit_scores, limit=MAX_BOXES)]
        ]

    def region_logits(self, photos: Sequence[Photo], boxes: Sequence[Floats]) -> Floats:
        """The detector's own class of one box a photo: (N, classes) logits in its backbone's label space."""
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
