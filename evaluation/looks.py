"""Every view of a photo that some tuning could ask for, classified once; what a tuning then makes of them.

The arithmetic of `models/pipeline.py` and `models/fusion.py` over all photos at once, so that hundreds of tunings are
compared in minutes. Margins are rounded to tenths, but where a crop has the least size that a tuning allows.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from evaluation.cases import Case
from models import views
from models.boxes import area, crop_box, longer_side, merge_overlapping
from models.comparison import probabilities_over
from models.detectors import LoadedDetector
from models.fusion import FusionRule
from models.heads import Tuning, least_margin
from models.served import Classifier
from service.cores import available_cores

CANDIDATES = 3
MIN_CROPS = (56.0, 48.0, 40.0, 32.0, 0.0)
"""The values of `min_crop` that can be compared, in pixels."""
_LOWEST, _HIGHEST = -5, 5
"""Margins in tenths, both included."""
_PLACES = _HIGHEST - _LOWEST + 1 + len(MIN_CROPS)
"""Where a look is found: the margins, then the least sizes."""
# A photo's classes beyond these are far behind the first in every view of it, and never the mixture's first.
_CLASSES = 64

Floats = NDArray[np.floating]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Looks:
    """Of N photos the probabilities of plain (N, C) and of all crops together (M, C).

    C are the classes that come nearest to the first one in any of the photo's views, and its own, which `labels` (N,)
    gives the place of.
    `rows` (N, box, place) says which of them is the look at a box from a place, -1 where there is none. `scores`
    (N, box) are the head's own, 0 where there is no box; `shares` (N, box) are the boxes' parts of the photo's area,
    `covered` (M,) the crops', and `sides` (N, box) the boxes' longer sides in pixels.
    """

    name: str
    labels: NDArray[np.int64]
    plain: Floats
    crops: Floats
    covered: Floats
    rows: Places
    scores: Floats
    shares: Floats
    sides: Floats

    def write(self, path: Path) -> None:
        """As .npz; a half-written file has another name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".fresh.npz")
        np.savez(fresh, **asdict(self))
        fresh.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Looks":
        with np.load(path) as arrays:
            kept: dict[str, Any] = dict(arrays)
        return cls(**kept | {"name": str(kept["name"])})


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

    @property
    def gain(self) -> float:
        """Of the fused answer over the better of plain and the first box's crop."""
        return self.combined - max(self.plain, self.first_crop)


def collect(
    classifier: Classifier,
    detector: LoadedDetector,
    cases: Iterable[Case],
    total: int,
    tunings: Sequence[Tuning],
    name: str,
) -> Looks:
    """All looks of all tunings at `total` photos, which are called by this name."""
    framings = list({_framing(tuning): tuning for tuning in tunings}.values())
    with ThreadPoolExecutor(available_cores()) as pool, Progress(transient=True) as progress:
        found = pool.map(lambda case: _looked(classifier, detector, case, framings), cases)
        looked = list(progress.track(found, total=total, description=name))
    labels, plain, crops, covered, rows, scores, shares, sides = zip(*looked, strict=True)
    # Every photo counted its crops from 0.
    before = np.cumsum([0, *(len(one) for one in crops[:-1])])
    counted = [np.where(one >= 0, one + start, -1) for one, start in zip(rows, before, strict=True)]
    return Looks(
        name,
        np.array(labels),
        np.array(plain),
        np.concatenate(crops),
        np.concatenate(covered),
        np.array(counted),
        np.array(scores),
        np.array(shares),
        np.array(sides),
    )


def _framing(tuning: Tuning) -> tuple[float, ...]:
    """What decides where a tuning looks."""
    return tuning.margin_small, tuning.margin_large, tuning.closer_look, tuning.min_crop


def _looked(
    classifier: Classifier, detector: LoadedDetector, case: Case, tunings: Sequence[Tuning]
) -> tuple[object, ...]:
    photo, preprocessing, space = case.photo, classifier.model.preprocessing, classifier.model.label_space
    whole = photo.width * photo.height
    scores, boxes = detector.engine.run(views.squashed_to(photo, detector.model.input_size)[None])
    kept, kept_scores = merge_overlapping(boxes[0], scores[0], limit=CANDIDATES)
    kept = kept * np.array([photo.width, photo.height] * 2, np.float32)
    padded = np.zeros((3, CANDIDATES))
    padded[:, : len(kept)] = kept_scores, area(kept) / whole, longer_side(kept)
    rows = np.full((CANDIDATES, _PLACES), -1)
    covered: list[float] = []
    pixels = [views.plain(photo, preprocessing)]
    for index, box in enumerate(kept):
        for place in sorted({int(place) for tuning in tunings for place in places(tuning, *padded[1:, index])}):
            window = crop_box(box, _margin_at(place, padded[2, index]), photo.width, photo.height)
            rows[index, place] = len(covered)
            covered.append(float(area(window)) / whole)
            pixels.append(views.cropped(photo, window, preprocessing))
    label, probabilities = _likeliest(case.label, probabilities_over(space, classifier.logits(np.stack(pixels)), space))
    return label, probabilities[0], probabilities[1:].astype(np.float16), np.array(covered), rows, *padded


def _likeliest(label: int, probabilities: Floats) -> tuple[int, Floats]:
    """Of (V, C) the columns of the classes that some view holds for likely, and where among them the label is."""
    nearest = (probabilities / probabilities.max(1, keepdims=True)).max(0)
    nearest[label] = np.inf
    kept = np.sort(np.argsort(-nearest, kind="stable")[:_CLASSES])
    return int(np.searchsorted(kept, label)), probabilities[:, kept]


def places(tuning: Tuning, shares: Floats, sides: Floats) -> Places:
    """Where a tuning looks at boxes (N,) for the first time, and closer: (2, N)."""
    least = least_margin(tuning.min_crop, sides)
    margins = [tuning.margin(shares, sides, closer) for closer in (0.0, tuning.closer_look)]
    smallest = _HIGHEST - _LOWEST + 1 + MIN_CROPS.index(tuning.min_crop)
    tenths = [np.rint(10 * margin).clip(_LOWEST, _HIGHEST).astype(int) - _LOWEST for margin in margins]
    return np.stack([np.where(margin > least, one, smallest) for margin, one in zip(margins, tenths, strict=True)])


def _margin_at(place: int, longer: float) -> float:
    tenths = place + _LOWEST
    return tenths / 10 if tenths <= _HIGHEST else least_margin(MIN_CROPS[tenths - _HIGHEST - 1], longer)


def reached(looks: Looks, tuning: Tuning) -> Reached:
    """What the pipeline would answer with this tuning."""
    rows, owners = _chosen(looks, tuning)
    crops, covered = looks.crops[rows].astype(np.float32), looks.covered[rows]
    scores = tuning.calibrated(looks.scores)
    confidence = crops.max(2)
    exists = (rows >= 0) & (scores[:, owners] >= max(tuning.min_score, 1e-6))
    seen = exists.copy()
    seen[confidence[:, 0] > tuning.certain, 1:] = False
    rule = FusionRule(tuning.area_weight, tuning.score_weight)
    behind = np.clip(_logit(scores) - _logit(scores[:, :1]), rule.score_floor, 0)
    weights = np.where(seen, _logit(confidence) + rule.score_weight * behind[:, owners], -np.inf)
    plain_weight = _logit(looks.plain.max(1)) + rule.area_weight * np.log(np.maximum(looks.shares[:, 0], 1e-6))
    photo, best = np.arange(len(weights)), weights.argmax(1)
    cropped = exists[:, 0] & (covered[photo, best] < tuning.covers_image)
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
        rescored=_percent(np.where(cropped, right[photo, best], plain_right)),
        oracle=_percent(plain_right | (right & exists).any(1)),
        log_loss=float(-np.log(fused[photo, looks.labels] + 1e-6).mean()),
        forwards=float(1 + seen.sum(1).mean()),
        no_detection=_percent(~exists[:, 0]),
    )


def _chosen(looks: Looks, tuning: Tuning) -> tuple[Places, list[int]]:
    """The rows (N, K) of the crops that the tuning looks at, -1 where it has none, and the box of each."""
    first, closer = places(tuning, looks.shares, looks.sides)
    photo = np.arange(len(looks.labels))
    chosen = [looks.rows[photo, index, first[:, index]] for index in range(CANDIDATES)]
    owners = list(range(CANDIDATES))
    if tuning.closer_look:
        owners.append(0)
        same = closer[:, 0] == first[:, 0]
        chosen.append(np.where(same, -1, looks.rows[photo, 0, closer[:, 0]]))
    return np.stack(chosen, 1), owners


def _logit(probability: Floats) -> Floats:
    bounded = np.clip(np.asarray(probability, np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(bounded / (1 - bounded)))


def _percent(right: NDArray[np.bool_]) -> float:
    return 100 * float(right.mean())
