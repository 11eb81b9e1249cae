"""What every arm answers for a batch of shown photos: the service's own pipeline, and the controls beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from evaluation import controls
from evaluation.classes import Classes
from evaluation.once import once
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
class Judge:
    """Safe from several threads. `arms` are among `ARMS`; `seed` places the random boxes."""

    served: Served
    classes: Classes
    arms: tuple[str, ...]
    seed: int = 0

    def rows(self, batch: Sequence[Shown]) -> list[Row]:
        """A row a photo, detector, backbone, label space and arm. Every view is made a tensor and classified once."""
        shared = once(self.served, self.classes.mask)
        pipeline = Pipeline(shared)
        rows: list[Row] = []
        for detector in shared.detectors.values():
            for classifier in shared.backbones.values():
                for space in self.spaces(classifier):
                    rows += self._judged(pipeline, batch, detector, classifier, space)
        return rows

    def spaces(self, classifier: Classifier) -> list[LabelSpace]:
        """The deployed classes, and the data set's."""
        own, mask = classifier.model.label_space, self.classes.mask
        return [own] if mask is None or mask == own else [own, mask]

    def _judged(
        self,
        pipeline: Pipeline,
        batch: Sequence[Shown],
        detector: LoadedDetector,
        classifier: Classifier,
        space: LabelSpace,
    ) -> Iterator[Row]:
        options = Options(
            backbone=classifier.model.name,
            detector=detector.model.name,
            label_space=space.name,
            arms=tuple(arm for arm in ASKED if arm in self.arms and _answers(arm, detector, space)),
        )
        comparisons = pipeline.compare_all([shown.photo for shown in batch], [options] * len(batch))
        extra = self._controls(batch, comparisons, detector, classifier, space)
        for shown, comparison, beside in zip(batch, comparisons, extra, strict=True):
            common = _described(shown, comparison)
            for arm, probabilities in (_pipeline_arms(comparison, self.arms) | beside).items():
                yield common | {"arm": arm} | _scored(probabilities, int(str(common["label_index"])))

    def _controls(
        self,
        batch: Sequence[Shown],
        comparisons: Sequence[Comparison],
        detector: LoadedDetector,
        classifier: Classifier,
        space: LabelSpace,
    ) -> list[dict[str, Floats]]:
        """By photo and control the probabilities (C,).

        Without a detected box `random` is the plain answer, as it is deployed; without a hand-drawn one there is no
        `oracle_box`.
        """
        tuning = detector.model.file.tuning
        wanted = [
            (place, control, window)
            for place, (shown, comparison) in enumerate(zip(batch, comparisons, strict=True))
            for control in controls.CONTROLS
            if control in self.arms
            for window in controls.windows(control, shown, comparison, tuning, self.seed)
        ]
        found: list[dict[str, list[Floats]]] = [{} for _ in batch]
        if wanted:
            preprocessing = classifier.model.preprocessing
            pixels = np.stack([views.cropped(batch[place].photo, window, preprocessing) for place, _, window in wanted])
            for (place, control, _), row in zip(wanted, classifier.logits(pixels), strict=True):
                answer = probabilities_over(space, row, classifier.model.label_space)
                found[place].setdefault(control, []).append(answer)
        for answers, comparison in zip(found, comparisons, strict=True):
            if "random" in self.arms:
                answers.setdefault("random", [comparison.plain.probabilities])
        return [
            {control: controls.best_zoom(answers, _label(shown, space)) for control, answers in one.items()}
            for shown, one in zip(batch, found, strict=True)
        ]


def _answers(arm: str, detector: LoadedDetector, space: LabelSpace) -> bool:
    """A detector on another label space has no answer of its own in this one."""
    return arm != "detector" or space.is_subset_of(detector.model.backbone.label_space)


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
