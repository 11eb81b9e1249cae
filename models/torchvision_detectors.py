"""torchvision's detectors by name, as class-agnostic localisers: their labels are dropped, their scores kept.

COCO's 80 classes miss most of ImageNet's, but where an object is such a detector often knows all the same. Overlapping
boxes of several labels become one box, as for a detector of ours.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from models import views
from models.backbones import (
    ModelError,
    Source,
    example_pixels,
    file_sha256,
    first_line,
    read_checkpoint,
    tensors_sha256,
)
from models.boxes import area, clip, merge_overlapping
from models.detectors import MAX_BOXES, Detection, Floats, LoadedDetector
from models.engines import Engine, Graph
from models.heads import Tuning
from models.photo import Photo
from models.preprocessing import Preprocessing

FIXED_SIDES = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
"""Detectors that were trained on photos squashed to a square, and its side in pixels."""

SHORT_SIDES = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 320,
    "fasterrcnn_mobilenet_v3_large_fpn": 800,
    "fasterrcnn_resnet50_fpn": 800,
    "fasterrcnn_resnet50_fpn_v2": 800,
    "fcos_resnet50_fpn": 800,
    "keypointrcnn_resnet50_fpn": 800,
    "maskrcnn_resnet50_fpn": 800,
    "maskrcnn_resnet50_fpn_v2": 800,
    "retinanet_resnet50_fpn": 800,
    "retinanet_resnet50_fpn_v2": 800,
}
"""Detectors that were trained on photos of any aspect ratio, and the pixels of the shorter side."""

NAMES = (*FIXED_SIDES, *SHORT_SIDES)
# As many of the anchors as torchvision's own post-processing looks at.
_CANDIDATES = 300
_TWO_STAGES = ("fasterrcnn", "keypointrcnn", "maskrcnn")

# Not tuned: the weights come from a hub. A crop with some context is what classifiers are trained on; whatever scores
# less than this on COCO is mostly wrong.
TUNING = Tuning(min_score=0.2, margin_small=0.1, margin_large=0.1)

# Mean and standard deviation.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OTHERS = {
    "ssdlite320_mobilenet_v3_large": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    # Trained on pixels of 0 to 255 less the mean.
    "ssd300_vgg16": ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
}


@dataclass(frozen=True)
class TorchvisionDetector:
    """As `models.detectors.Detector`. `checkpoint` is None where torchvision fetches the weights from its hub.

    It has no label space: COCO's labels are not a classifier's. `model_args` go to torchvision's builder;
    `preprocessing_overrides` may hold `input_size`, `mean`, `std` and `interpolation`.
    """

    name: str
    architecture: str
    source: Source
    checkpoint: Path | None = None
    expected_sha256: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing_overrides: Mapping[str, Any] = field(default_factory=dict)
    tuning: Tuning = TUNING
    label_space: None = field(default=None, init=False)

    @property
    def is_local(self) -> bool:
        return self.checkpoint is not None

    @property
    def is_squashed(self) -> bool:
        """Whether it sees photos squashed to a square; else they keep their aspect ratio."""
        return self.architecture in FIXED_SIDES

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Raises `ModelError`."""
        own = Preprocessing(self._usual_side(), *_OTHERS.get(self.architecture, _IMAGENET), 1.0, "bilinear")
        if "crop_pct" in self.preprocessing_overrides:
            raise ModelError(f"detector {self.name!r}: a detector sees the whole photo, it has no crop_pct")
        try:
            chosen = own.overridden(self.preprocessing_overrides)
        except ValueError as error:
            raise ModelError(f"detector {self.name!r}: {error}") from error
        if self.is_squashed and chosen.input_size != own.input_size:
            raise ModelError(f"detector {self.name!r}: the input_size of {self.architecture} is {own.input_size}")
        if not self.is_squashed and chosen.input_size % 32:
            raise ModelError(f"detector {self.name!r}: input_size must be a multiple of 32, got {chosen.input_size}")
        return chosen

    def _usual_side(self) -> int:
        """Of the square into which a photo is fitted: one of 4:3 is seen as large as torchvision would show it."""
        if self.is_squashed:
            return FIXED_SIDES[self.architecture]
        return math.ceil(SHORT_SIDES[self.architecture] * 4 / 3 / 32) * 32

    @property
    def input_size(self) -> int:
        return self.preprocessing.input_size

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint's bytes; of all tensors where the weights come from a hub."""
        if self.checkpoint is None:
            return tensors_sha256(self.module)
        return file_sha256(self.checkpoint, self.name, self.expected_sha256)

    @cached_property
    def parameters(self) -> int:
        if not self.is_local:
            return sum(parameter.numel() for parameter in self.module.parameters())
        import torch

        with torch.device("meta"):
            module = self._built(weights=None, weights_backbone=None)
        return sum(parameter.numel() for parameter in module.parameters())

    @cached_property
    def module(self) -> Any:
        """torchvision's module with its weights, in evaluation mode. Raises `ModelError`."""
        if self.checkpoint is None:
            return self._built(weights="DEFAULT")
        _ = self.sha256  # a wrong hash is found before the file is read as a checkpoint
        module = self._built(weights=None, weights_backbone=None)
        try:
            module.load_state_dict(read_checkpoint(self.checkpoint, self.name))
        except RuntimeError as error:
            reason = " ".join(str(error).split("\n", 1)[-1].split())
            raise ModelError(f"{self.name!r}: the checkpoint does not fit: {reason:.300}") from error
        return module

    def _built(self, **weights: Any) -> Any:
        try:
            from torchvision.models import get_model_builder
        except ModuleNotFoundError:
            raise ModelError(f"detector {self.name!r} needs torchvision, which is not installed") from None
        builder = get_model_builder(self.architecture)
        try:
            module = builder(**weights, **self.model_args).eval()
        except Exception as error:
            verb = "built" if self.is_local else "fetched"
            raise ModelError(f"detector {self.name!r} cannot be {verb}: {first_line(error)}") from error
        # Some of its classes take whatever they are given.
        takers = [builder, *type(module).__mro__[:-1]]
        known = {name for taker in takers for name in inspect.signature(taker).parameters}
        for name in sorted(set(self.model_args) - known):
            raise ModelError(f"detector {self.name!r}: {self.architecture} takes no model_args {name!r}")
        return module

    def check(self) -> None:
        _ = self.preprocessing
        if self.is_local:
            _ = self.sha256

    def graph(self) -> Graph:
        """uint8 pixels (N, S, S, 3) -> scores (N, K) and unit xyxy boxes (N, K, 4) of the square.

        Two-stage detectors run in torch on a CPU too: what they look at twice depends on the data, and cannot be
        exported.
        """
        seen = self.preprocessing.signature
        return Graph(
            kind=f"detector|{self.architecture}|{sorted(self.model_args.items())}|{seen}",
            weights=self.sha256,
            build=self._wrapped,
            examples=lambda: (example_pixels(self.input_size),),
            inputs=("pixels",),
            outputs=("scores", "boxes"),
            exportable=not self.architecture.startswith(_TWO_STAGES),
        )

    def graphs(self) -> list[Graph]:
        return [self.graph()]

    def _wrapped(self) -> Any:
        from models.class_agnostic import OneStage, TwoStage

        wrapper = TwoStage if self.architecture.startswith(_TWO_STAGES) else OneStage
        return wrapper(self.module, self.preprocessing).eval()

    def load(self, engine_for: Callable[[Graph], Engine]) -> LoadedDetector:
        return LoadedTorchvision(self, engine_for(self.graph()))

    def view(self, photo: Photo) -> tuple[views.Pixels, Floats]:
        """What it sees of a photo, (S, S, 3) uint8, and the photo's pixels that its sides stand for, (2,)."""
        size, interpolation = self.input_size, self.preprocessing.interpolation
        if self.is_squashed:
            return views.squashed_to(photo, size, interpolation), np.array(photo.size, np.float32)
        return views.fitted_into(photo, size, self.preprocessing.mean, interpolation)


@dataclass(frozen=True)
class LoadedTorchvision:
    """As `models.detectors.LoadedDetector`."""

    model: TorchvisionDetector
    engine: Engine

    def detect(self, photos: Sequence[Photo], least: float = 0.0) -> list[Detection]:
        seen = [self.model.view(photo) for photo in photos]
        scores, boxes = self.engine.run(np.stack([pixels for pixels, _ in seen]))
        return [
            _in_pixels(photo, unit * np.tile(extent, 2), self.model.tuning.calibrated(own), least)
            for photo, (_, extent), unit, own in zip(photos, seen, boxes, scores, strict=True)
        ]

    def region_logits(self, photos: Sequence[Photo], boxes: Sequence[Floats]) -> Floats:
        raise NotImplementedError(f"{self.model.name} has no label space")


def _in_pixels(photo: Photo, boxes: Floats, scores: Floats, least: float) -> Detection:
    best = np.argsort(-scores, kind="stable")[:_CANDIDATES]
    boxes, scores = clip(boxes[best], photo.width, photo.height), scores[best]
    real = area(boxes) > 0  # what a two-stage detector's list is filled up with is not
    return Detection(*merge_overlapping(boxes[real], scores[real], limit=MAX_BOXES, least=least))
