"""Every view of a photo that some tuning could ask for, classified once; what a tuning then makes of them.

The arithmetic of `models/pipeline.py` and `models/fusion.py` over all photos at once, so that hundreds of tunings are
compared in a minute. Margins are rounded to tenths.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from evaluation.cases import Case, Condition, LabelledFolder
from models import views
from models.boxes import area, crop_box, merge_overlapping
from models.comparison import probabilities_over
from models.detectors import LoadedDetector
from models.fusion import FusionRule
from models.heads import Tuning
from models.served import Classifier

CANDIDATES = 3
LOWEST, HIGHEST = -5, 5
"""Margins in tenths, both included."""
_PARALLEL = 2

Floats = NDArray[np.floating]
# A box's share of the photo, and whether it is the first -> the margins in tenths at which it is looked at.
Margins = Callable[[float, bool], set[int]]


@dataclass(frozen=True)
class Looks:
    """Of N photos the probabilities (N, C) of plain and (N, box, margin, C) of crops, zero where there is no look.

    `scores` (N, box) are the head's own, 0 where there is no box; `shares` (N, box) and `covered` (N, box, margin) are
    the boxes' and the crops' parts of the photo's area.
    """

    name: str
    labels: NDArray[np.int64]
    plain: Floats
    crops: Floats
    scores: Floats
    shares: Floats
    covered: Floats


@dataclass(frozen=True)
class Reached:
    """Top-1 in percent of the fused answer and of what it is made of; `oracle` is the best of all its views.

    `log_loss` in nats, `forwards` of the classifier a photo, `no_detection` in percent.
    """

    combined: float
    plain: float
    first_crop: float
    rescored: float
    oracle: float
    log_loss: float
    forwards: float
    no_detection: float


def collect(
    classifier: Classifier,
    detector: LoadedDetector,
    folder: LabelledFolder,
    condition: Condition,
    margins: Margins,
    seed: int,
    canvases: int = 1,
) -> Looks:
    cases = folder.cases(condition, seed, canvases)
    total = len(folder) * (canvases if condition.scale < 1 else 1)
    with ThreadPoolExecutor(_PARALLEL) as pool, Progress(transient=True) as progress:
        rows = pool.map(lambda case: _looked(classifier, detector, case, margins), cases)
        found = list(progress.track(rows, total=total, description=condition.name))
    labels, plain, crops, scores, shares, covered = (np.array(column) for column in zip(*found, strict=True))
    return Looks(condition.name, labels, plain, crops, scores, shares, covered)


def _looked(classifier: Classifier, detector: LoadedDetector, case: Case, margins: Margins) -> tuple[object, ...]:
    photo, preprocessing, space = case.photo, classifier.model.preprocessing, classifier.model.label_space
    whole = photo.width * photo.height
    scores, boxes = detector.engine.run(views.squashed_to(photo, detector.model.input_size)[None])
    kept, kept_scores = merge_overlapping(boxes[0], scores[0], limit=CANDIDATES)
    kept = kept * np.array([photo.width, photo.height] * 2, np.float32)
    places, pixels = [], [views.plain(photo, preprocessing)]
    covered = np.zeros((CANDIDATES, HIGHEST - LOWEST + 1), np.float32)
    for index, box in enumerate(kept):
        for tenths in sorted(margins(float(area(box)) / whole, index == 0)):
            window = crop_box(box, tenths / 10, photo.width, photo.height)
            places.append((index, tenths - LOWEST))
            covered[places[-1]] = float(area(window)) / whole
            pixels.append(views.cropped(photo, window, preprocessing))
    probabilities = probabilities_over(space, classifier.logits(np.stack(pixels)), space)
    crops = np.zeros((*covered.shape, len(space)), np.float16)
    for place, row in zip(places, probabilities[1:], strict=True):
        crops[place] = row
    padded = np.zeros((2, CANDIDATES), np.float32)
    padded[0, : len(kept)], padded[1, : len(kept)] = kept_scores, area(kept) / whole
    return case.label, probabilities[0], crops, padded[0], padded[1], covered


def tenths(tuning: Tuning, share: float, first: bool) -> Iterator[int]:
    """The margins at which the tuning looks at a box."""
    margin = tuning.margin(share)
    yield round(10 * margin)
    if first and tuning.closer_look:
        yield round(10 * (margin - tuning.closer_look))


def reached(looks: Looks, tuning: Tuning) -> Reached:
    """What the pipeline would answer with this tuning."""
    crops, covered, owners = _chosen(looks, tuning)
    scores = tuning.calibrated(looks.scores)
    confidence = crops.max(2)
    exists = scores[:, owners] >= max(tuning.min_score, 1e-6)
    seen = exists.copy()
    seen[confidence[:, 0] > tuning.certain, 1:] = False
    rule = FusionRule(tuning.area_weight, tuning.score_weight)
    behind = np.clip(_logit(scores) - _logit(scores[:, :1]), rule.score_floor, 0)
    weights = np.where(seen, _logit(confidence) + rule.score_weight * behind[:, owners], -np.inf)
    plain_weight = _logit(looks.plain.max(1)) + rule.area_weight * np.log(np.maximum(looks.shares[:, 0], 1e-6))
    row, best = np.arange(len(weights)), weights.argmax(1)
    cropped = exists[:, 0] & (covered[row, best] < tuning.covers_image)
    everything = np.concatenate([plain_weight[:, None], weights], 1)
    mixed = np.exp(everything - everything.max(1, keepdims=True))
    mixed /= mixed.sum(1, keepdims=True)
    fused = mixed[:, :1] * looks.plain + np.einsum("nk,nkc->nc", mixed[:, 1:], crops)
    fused = np.where(cropped[:, None], fused, looks.plain)
    right = crops.argmax(2) == looks.labels[:, None]
    plain_right = looks.plain.argmax(1) == looks.labels
    return Reached(
        combined=_percent(fused.argmax(1) == looks.labels),
        plain=_percent(plain_right),
        first_crop=_percent(np.where(exists[:, 0], right[:, 0], plain_right)),
        rescored=_percent(np.where(cropped, right[row, best], plain_right)),
        oracle=_percent(plain_right | (right & exists).any(1)),
        log_loss=float(-np.log(fused[row, looks.labels] + 1e-6).mean()),
        forwards=float(1 + seen.sum(1).mean()),
        no_detection=_percent(~exists[:, 0]),
    )


def _chosen(looks: Looks, tuning: Tuning) -> tuple[Floats, Floats, list[int]]:
    """The crops (N, K, C) at the tuning's margins, their shares (N, K) of the photo, and the box of each."""
    owners = list(range(CANDIDATES))
    margins = [
        tuning.margin_small + (tuning.margin_large - tuning.margin_small) * looks.shares[:, index] for index in owners
    ]
    if tuning.closer_look:
        owners.append(0)
        margins.append(margins[0] - tuning.closer_look)
    row = np.arange(len(looks.labels))
    places = [np.rint(10 * margin).astype(int) - LOWEST for margin in margins]
    crops = [looks.crops[row, index, place] for index, place in zip(owners, places, strict=True)]
    covered = [looks.covered[row, index, place] for index, place in zip(owners, places, strict=True)]
    return np.stack(crops, 1).astype(np.float32), np.stack(covered, 1), owners


def _logit(probability: Floats) -> Floats:
    bounded = np.clip(np.asarray(probability, np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(bounded / (1 - bounded)))


def _percent(right: NDArray[np.bool_]) -> float:
    return 100 * float(right.mean())
