"""What every arm answers for a batch of shown photos: the service's own pipeline, and the controls beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from evaluation import controls
from evaluation.classes import Classes
from evaluation.stress import Shown
from models import views
from models.boxes import iou
from models.comparison import Arm, Comparison, Options, probabilities_over
from models.detectors import LoadedDetector
from models.label_spaces import LabelSpace
from models.pipeline import Pipeline
from models.served import Classifier, Served

Floats: TypeAlias = NDArray[np.float32]
Row: TypeAlias = dict[str, str | int | float | bool | None]

CONTRACT = ("plain", "cropped", "combined")
ASKED: tuple[Arm, ...] = get_args(Arm)
ARMS = ("plain", "cropped", "detector", "combined", "squashed", "center", "background", *controls.CONTROLS)
DEFAULT_ARMS = tuple(arm for arm in ARMS if arm != "oracle_zoom")


@dataclass(frozen=True)
class _Asked:
    """One photo, by one detector and one backbone, over one label space."""

    shown: Shown
    detector: LoadedDetector
    classifier: Classifier
    space: LabelSpace


@dataclass(frozen=True)
class _Masked(Classifier):
    """A classifier that can also answer in the label space of a data set's classes."""

    mask: LabelSpace | None = None

    @cached_property
    def spaces(self) -> dict[str, LabelSpace]:
        own = dict(super().spaces)
        return own if self.mask is None else own | {self.mask.name: self.mask}


@dataclass(frozen=True)
class Judge:
    """Safe from several threads. `arms` are among `ARMS`; `seed` places the random boxes."""

    served: Served
    classes: Classes
    arms: tuple[str, ...]
    seed: int = 0

    def rows(self, batch: Sequence[Shown]) -> list[Row]:
        """A row a photo, detector, backbone, label space and arm. Every view is made and classified once."""
        served = self.masked
        asked = [
            _Asked(shown, detector, classifier, space)
            for detector in served.detectors.values()
            for classifier in served.backbones.values()
            for space in self.spaces(classifier)
            for shown in batch
        ]
        comparisons = Pipeline(served).compare_all(
            [one.shown.photo for one in asked], [self._options(one) for one in asked]
        )
        rows: list[Row] = []
        for one, comparison, beside in zip(asked, comparisons, self._controls(asked, comparisons), strict=True):
            common = _described(one.shown, comparison)
            for arm, probabilities in (_pipeline_arms(comparison, self.arms) | beside).items():
                rows.append(common | {"arm": arm} | _scored(probabilities, int(str(common["label_index"]))))
        return rows

    def spaces(self, classifier: Classifier) -> list[LabelSpace]:
        """The deployed classes, and the data set's."""
        own, mask = classifier.model.label_space, self.classes.mask
        return [own] if mask is None or mask == own else [own, mask]

    @cached_property
    def masked(self) -> Served:
        """The same models, which can answer over the data set's classes too."""
        masked = {
            name: _Masked(one.model, one.engine, self.classes.mask) for name, one in self.served.backbones.items()
        }
        return replace(self.served, backbones=masked)

    def _options(self, asked: _Asked) -> Options:
        return Options(
            backbone=asked.classifier.model.name,
            detector=asked.detector.model.name,
            label_space=asked.space.name,
            arms=tuple(arm for arm in ASKED if arm in self.arms and _answers(arm, asked.detector, asked.space)),
        )

    def _controls(self, asked: Sequence[_Asked], comparisons: Sequence[Comparison]) -> list[dict[str, Floats]]:
        """By question and control the probabilities (C,).

        Without a detected box `random` is the plain answer, as it is deployed; without a hand-drawn one there is no
        `oracle_box`.
        """
        windows = [self._windows(one, comparison) for one, comparison in zip(asked, comparisons, strict=True)]
        logits = _window_logits(asked, windows)
        found = []
        for one, comparison, looked in zip(asked, comparisons, windows, strict=True):
            own, label = one.classifier.model.label_space, _label(one.shown, one.space)
            answers = {
                control: [probabilities_over(one.space, logits[_key(one, window)], own) for window in at]
                for control, at in looked.items()
            }
            if "random" in self.arms:
                answers.setdefault("random", [comparison.plain.probabilities])
            found.append({control: controls.best_zoom(seen, label) for control, seen in answers.items()})
        return found

    def _windows(self, asked: _Asked, comparison: Comparison) -> dict[str, list[Floats]]:
        """Where the controls look, those that look anywhere."""
        tuning = asked.detector.model.tuning
        wanted = {
            control: controls.windows(control, asked.shown, comparison, tuning, self.seed)
            for control in controls.CONTROLS
            if control in self.arms
        }
        return {control: windows for control, windows in wanted.items() if windows}


def _window_logits(
    asked: Sequence[_Asked], windows: Sequence[Mapping[str, Sequence[Floats]]]
) -> dict[tuple[int, int, bytes], Floats]:
    """Each window once a backbone, whatever the detectors and label spaces that want it; one batch a backbone."""
    wanted: dict[int, dict[tuple[int, int, bytes], tuple[_Asked, Floats]]] = {}
    for one, looked in zip(asked, windows, strict=True):
        for window in chain.from_iterable(looked.values()):
            wanted.setdefault(id(one.classifier), {})[_key(one, window)] = one, window
    logits: dict[tuple[int, int, bytes], Floats] = {}
    for group in wanted.values():
        classifier = next(iter(group.values()))[0].classifier
        preprocessing = classifier.model.preprocessing
        pixels = np.stack([views.cropped(one.shown.photo, window, preprocessing) for one, window in group.values()])
        logits |= zip(group, classifier.logits(pixels), strict=True)
    return logits


def _key(asked: _Asked, window: Floats) -> tuple[int, int, bytes]:
    return id(asked.classifier), id(asked.shown.photo), window.tobytes()


def _answers(arm: str, detector: LoadedDetector, space: LabelSpace) -> bool:
    """A detector on another label space, or without one, has no answer of its own in this one."""
    own = detector.model.label_space
    return arm != "detector" or (own is not None and space.is_subset_of(own))


def _pipeline_arms(comparison: Comparison, arms: Sequence[str]) -> dict[str, Floats]:
    """An arm that needs a crop where there is none counts with the plain answer, as it is deployed."""
    plain = comparison.plain
    answers = {"plain": plain, "cropped": comparison.cropped or plain, "combined": comparison.combined}
    found = {arm: answer.probabilities for arm, answer in answers.items() if arm in arms}
    return found | {arm: (answer or plain).probabilities for arm, answer in comparison.arms.items()}


def _described(shown: Shown, comparison: Comparison) -> Row:
    condition, box, space = shown.condition, comparison.box, comparison.label_space
    x1, y1, x2, y2 = (None,) * 4 if box is None else box.xyxy
    pasted = condition.scale < 1
    return {
        "path": shown.path,
        "condition": condition.name,
        "scale": condition.scale,
        "background": condition.swap or (condition.background if pasted else None),
        "edge": condition.edge if pasted else None,
        "label_index": _label(shown, space),
        "label_wnid": shown.wnid,
        "backbone": comparison.backbone,
        "detector": comparison.detector,
        "label_space": space.name,
        "has_crop": comparison.cropped is not None,
        "no_crop_reason": comparison.no_crop_reason,
        "score": None if box is None else box.score,
        "area_fraction": None if box is None else box.area_fraction,
        "iou": _iou(shown, comparison),
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
    }


def _scored(probabilities: Floats, label: int) -> Row:
    """The Brier score is summed over classes: 0 to 2 (Brier 1950)."""
    exact = probabilities.astype(np.float64)
    first = int(exact.argmax())
    return {
        "index": first,
        "probability": float(exact[first]),
        "probability_true": float(exact[label]),
        "brier": float(exact @ exact - 2 * exact[label] + 1),
        "correct": first == label,
    }


def _label(shown: Shown, space: LabelSpace) -> int:
    found = space.find(shown.wnid)
    if found is None:
        raise LookupError(f"{shown.wnid} is no class of {space.name}")
    return found


def _iou(shown: Shown, comparison: Comparison) -> float | None:
    """Of the first box with the hand-drawn box that it fits best; None where either is missing."""
    drawn = controls.hand_drawn(shown)
    if comparison.box is None or not len(drawn):
        return None
    return float(iou(np.array([comparison.box.xyxy]), drawn).max())
