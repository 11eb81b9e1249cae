"""What comes out: the predictions of all arms for one photo, from the same pixels and the same label space."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.boxes import BoxPolicy
from models.label_spaces import LabelSpace

Arm: TypeAlias = Literal["detector", "background", "center", "squashed"]
ARMS: tuple[Arm, ...] = ("detector", "background", "center", "squashed")
NoCropReason: TypeAlias = Literal["no_detection", "covers_image"]
ComparisonOutcome: TypeAlias = Literal["agree", "disagree", "no_detection", "covers_image"]
OUTCOMES: tuple[ComparisonOutcome, ...] = ("agree", "disagree", "no_detection", "covers_image")
Corners: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True)
class Options:
    """What one request asks for. None is the default of what is served: see `models.pipeline`."""

    backbone: str | None = None
    detector: str | None = None
    box_policy: BoxPolicy = "rescored"
    margin: float | None = None
    min_score: float | None = None
    max_boxes: int = 1
    top_k: int = 5
    label_space: str | None = None
    arms: tuple[Arm, ...] = ()
    box: Corners | None = None
    """In place of the detection, xyxy pixels of the upright photo, half open."""


@dataclass(frozen=True, slots=True)
class Class:
    """One answer: `index` counts in the answer's label space, `probability` is over it."""

    index: int
    wnid: str
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Probabilities (C,) float32 over the label space; `first` is the likeliest class's index."""

    probabilities: NDArray[np.float32]
    first: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", int(self.probabilities.argmax()))

    @property
    def confidence(self) -> float:
        return float(self.probabilities[self.first])

    def ranked(self, count: int) -> list[tuple[int, float]]:
        """Index and probability of the `count` likeliest classes, likeliest first; ties in the label space's order."""
        values = self.probabilities
        chosen = np.arange(len(values))
        # To sort all of them would take several times as long.
        if 0 < count < len(values):
            chosen = (values >= np.partition(values, -count)[-count]).nonzero()[0]
        order = chosen[(-values[chosen]).argsort(kind="stable")][:count]
        return list(zip(order.tolist(), values[order].tolist(), strict=True))

    def top(self, count: int, space: LabelSpace) -> list[Class]:
        """The `count` likeliest classes as `ranked` has them."""
        return [Class(index, space.wnids[index], space.labels[index], found) for index, found in self.ranked(count)]


@dataclass(frozen=True, slots=True)
class Box:
    """xyxy in pixels of the upright photo, half open; its share of the photo's area; no score where it was given."""

    xyxy: Corners
    score: float | None
    area_fraction: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answer for one photo. `boxes` are all that passed, the best first under the policy.

    `stages` are seconds spent in detect, crop and classify, of the whole batch that the photo was in, and `batches` how
    many photos the detector, and views the classifier, was given at once, call by call.
    """

    size: tuple[int, int]
    format: str
    backbone: str
    detector: str
    label_space: LabelSpace
    boxes: tuple[Box, ...]
    crop: Corners | None
    no_crop_reason: NoCropReason | None
    plain: Prediction
    cropped: Prediction | None
    combined: Prediction
    arms: Mapping[Arm, Prediction | None]
    stages: Mapping[str, float] = field(default_factory=dict)
    batches: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def box(self) -> Box | None:
        return self.boxes[0] if self.boxes else None

    @property
    def agreement(self) -> bool | None:
        """Whether plain and cropped have the same first label; None without a crop."""
        return None if self.cropped is None else self.plain.first == self.cropped.first

    @property
    def outcome(self) -> ComparisonOutcome:
        if self.no_crop_reason is not None:
            return self.no_crop_reason
        return "agree" if self.agreement else "disagree"


def probabilities_over(space: LabelSpace, logits: NDArray[np.float32], own: LabelSpace) -> NDArray[np.float32]:
    """Softmax over `space`, (..., len(space)), from logits over `own`, (..., len(own)): those of its classes alone."""
    if space != own:
        logits = logits[..., space.indices_in(own)]
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True), np.float32)
