"""From photos to comparisons: the one path that the service, the command line and the evaluation use.

A batch goes through in four steps: detect; classify the plain photos and the first crops in one batch a backbone;
classify the further crops of the photos that left a doubt, and choose; classify the arms that were asked for, which
are about the box that was chosen. A photo that is in the batch several times, with other options, is looked at once:
what two of its answers have in common is computed for both. A box that the request gives takes the place of what the
first step finds, and counts as a sure one.

Where a batch has cores to spare, the plain photos are classified while the detector looks, and the views of a later
step next to each other: the answers are the same, only sooner.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models import views
from models.boxes import area, crop_box, order_by_policy
from models.comparison import Arm, Box, Comparison, Corners, NoCropReason, Options, Prediction, probabilities_over
from models.detectors import Detection, LoadedDetector
from models.fusion import FusionRule, fuse
from models.heads import Tuning
from models.label_spaces import LabelSpace
from models.photo import Photo
from models.served import Classifier, Served

Floats: TypeAlias = NDArray[np.float32]
Crop: TypeAlias = tuple[Literal["crop"], int]
View: TypeAlias = Literal["plain", "detector", "background", "center", "squashed"] | Crop
# Which model was asked about which pixels: its id, the photo's, what is done with it, and the box that it is about.
_Question: TypeAlias = tuple[int, int, str, bytes]
_Answers: TypeAlias = dict[_Question, Floats]
_Ask: TypeAlias = Callable[[Classifier, views.Pixels], Floats]
Stage: TypeAlias = Literal["detect", "crop", "classify"]


class BoxOutsidePhoto(ValueError):
    """The box that a request gives is not inside its photo; the message says how large that is."""


# How many boxes the policy `rescored` lets the classifier choose among.
_CANDIDATES = 3


@dataclass
class _Work:
    """One photo on its way: what was found so far."""

    photo: Photo
    options: Options
    classifier: Classifier
    detector: LoadedDetector
    space: LabelSpace
    boxes: Floats = field(default_factory=lambda: np.empty((0, 4), np.float32))
    scores: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    # The candidates' crops, and the box of each: the first box may be looked at twice.
    crops: list[Floats] = field(default_factory=list)
    crop_boxes: list[int] = field(default_factory=list)
    best_crop: int = 0
    probabilities: dict[View, Floats] = field(default_factory=dict)
    # Of the boxes, best first, once the crops are classified.
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def main_box(self) -> Floats:
        box: Floats = self.boxes[self.order[0]]
        return box

    @property
    def tuning(self) -> Tuning:
        return self.detector.model.tuning

    @property
    def min_score(self) -> float:
        asked = self.options.min_score
        return self.tuning.min_score if asked is None else asked


class Stopwatch:
    """Seconds by stage; stages may be entered more than once. `batches` are as those of a `Comparison`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"detect": 0.0, "crop": 0.0, "classify": 0.0}
        self.batches: dict[Stage, list[int]] = {"detect": [], "classify": []}

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


class Pipeline:
    """Safe from several threads at once; each call is one batch."""

    def __init__(self, served: Served) -> None:
        self.served = served
        # Its threads start when a batch first has cores to spare; a fork of this process is to be made before.
        self._aside = ThreadPoolExecutor(thread_name_prefix="figureground-aside")

    def compare(self, photo: Photo, options: Options, cores: int = 1) -> Comparison:
        """One photo. Raises `UnservedChoice` for a model or label space that is not served, and `BoxOutsidePhoto`."""
        return self.compare_all([photo], [options], cores)[0]

    def compare_all(self, photos: Sequence[Photo], options: Sequence[Options], cores: int = 1) -> list[Comparison]:
        """Photos with options of their own, answered in order, on so many `cores`. Raises as `compare` does."""
        works = [self._work(photo, chosen) for photo, chosen in zip(photos, options, strict=True)]
        watch, logits = Stopwatch(), _Answers()
        if cores > 1 and all(work.classifier.engine.device == "cpu" for work in works):
            ask: _Ask = partial(self._ask_spread, cores)
            with self._plain_meanwhile(works, logits, watch):
                _find(works, watch)
                _classify(works, _first_crop, logits, watch)
        else:
            ask = Classifier.logits
            _find(works, watch)
            _classify(works, _first_views, logits, watch)
        _classify(works, _further_views, logits, watch, ask)
        fused = [_judge(work) for work in works]
        _classify(works, _arms, logits, watch, ask)
        return [_conclude(work, combined, watch) for work, combined in zip(works, fused, strict=True)]

    def check(self, options: Options) -> None:
        """Raises `UnservedChoice` where `compare` would, without a photo."""
        self.served.detector(options.detector)
        self.served.classifier(options.backbone).space(options.label_space)

    def _work(self, photo: Photo, options: Options) -> _Work:
        classifier = self.served.classifier(options.backbone)
        detector = self.served.detector(options.detector)
        work = _Work(photo, options, classifier, detector, classifier.space(options.label_space))
        if options.box is not None:
            _check_box(options.box, photo)
            work.boxes, work.scores = np.array([options.box], np.float32), np.ones(1, np.float32)
        return work

    @contextmanager
    def _plain_meanwhile(self, works: Sequence[_Work], logits: _Answers, watch: Stopwatch) -> Iterator[None]:
        """Classifies the plain photos beside what the caller does; both have ended when this ends."""
        meanwhile = Stopwatch()
        plain = self._aside.submit(_classify, works, _plain, logits, meanwhile)
        try:
            yield
        finally:
            with watch.stage("classify"):
                wait([plain])
        plain.result()
        watch.batches["classify"] += meanwhile.batches["classify"]

    def _ask_spread(self, cores: int, classifier: Classifier, pixels: views.Pixels) -> Floats:
        """As `classifier.logits`, a part of the batch a core, one of them the caller's."""
        own, *others = np.array_split(pixels, min(cores, len(pixels)))
        asked = [self._aside.submit(classifier.logits, part) for part in others]
        try:
            answers = [classifier.logits(own)]
        finally:
            wait(asked)
        return np.concatenate([*answers, *(one.result() for one in asked)])


def _find(works: Sequence[_Work], watch: Stopwatch) -> None:
    """The boxes, and where the crops are."""
    with watch.stage("detect"):
        _detect(works, watch)
    for work in works:
        _place_crops(work)


def _detect(works: Sequence[_Work], watch: Stopwatch) -> None:
    """One detector batch a detector; boxes in the order of each request's policy."""
    unknown = [work for work in works if work.options.box is None]
    for group in _groups(unknown, lambda work: id(work.detector)):
        photos = {id(work.photo): work.photo for work in group}
        least = min(work.min_score for work in group)
        found = dict(zip(photos, group[0].detector.detect(list(photos.values()), least), strict=True))
        watch.batches["detect"].append(len(photos))
        for work in group:
            _keep_boxes(work, found[id(work.photo)])


def _check_box(box: Corners, photo: Photo) -> None:
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= photo.width and 0 <= y1 < y2 <= photo.height):
        raise BoxOutsidePhoto(f"box must lie inside the photo, 0,0,{photo.width},{photo.height}, x1 < x2 and y1 < y2")


def _keep_boxes(work: _Work, detection: Detection) -> None:
    passed = detection.above(work.min_score)
    order = order_by_policy(work.options.box_policy, passed.boxes, passed.scores, work.photo.width, work.photo.height)
    work.boxes, work.scores = passed.boxes[order], passed.scores[order]


def _place_crops(work: _Work) -> None:
    """The candidates' crops, best first, then a closer one of the first, unless the request says how close."""
    rescored = work.options.box_policy == "rescored"
    asked = work.options.margin is not None or work.options.box is not None
    candidates = work.boxes[: _CANDIDATES if rescored else 1]
    looks, margins = list(range(len(candidates))), _margins(work, candidates)
    if looks and rescored and not asked:
        closer = _margins(work, candidates[:1], work.tuning.closer_look)
        if closer < margins[0]:
            looks, margins = [*looks, 0], np.append(margins, closer)
    work.crop_boxes = looks
    work.crops = list(crop_box(work.boxes[looks], margins, work.photo.width, work.photo.height))


def _margins(work: _Work, boxes: Floats, closer: float = 0.0) -> NDArray[np.floating]:
    if work.options.margin is not None:
        return np.full(len(boxes), work.options.margin)
    tuned = work.tuning.margins_of(boxes, work.photo.width, work.photo.height, closer)
    # A detector's box may be cut, since it tends to be too large; a given box is as large as it was meant.
    return tuned if work.options.box is None else np.maximum(tuned, 0.0)


def _plain(_: _Work) -> list[View]:
    return ["plain"]


def _first_crop(work: _Work) -> list[View]:
    return [("crop", 0)] if work.crops else []


def _first_views(work: _Work) -> list[View]:
    return [*_plain(work), *_first_crop(work)]


def _further_views(work: _Work) -> list[View]:
    """The other crops, where the first one's answer is not certain."""
    if not work.crops or float(work.probabilities["crop", 0].max()) > work.tuning.certain:
        return []
    return [("crop", index) for index in range(1, len(work.crops))]


def _judge(work: _Work) -> Floats:
    """Settles the order of the boxes; the fused probabilities."""
    plain = work.probabilities["plain"]
    seen = [index for index in range(len(work.crops)) if ("crop", index) in work.probabilities]
    if not seen:
        work.order = np.arange(len(work.boxes))
        return plain
    rule = FusionRule(work.tuning.area_weight, work.tuning.score_weight)
    scores = [float(work.scores[work.crop_boxes[index]]) for index in seen]
    crops = [work.probabilities["crop", index] for index in seen]
    weights = [rule.crop_weight(crop, score, scores[0]) for crop, score in zip(crops, scores, strict=True)]
    plain_weight = rule.plain_weight(plain, _share(work.boxes[0], work.photo))
    best_first = [seen[place] for place in np.argsort(-np.array(weights), kind="stable")]
    work.best_crop = best_first[0]
    # A box counts by its better look; those that were not looked at follow in their order.
    order = [*(work.crop_boxes[index] for index in best_first), *range(len(work.boxes))]
    work.order = np.array(list(dict.fromkeys(order)))
    return fuse([plain, *crops], [plain_weight, *weights])


def _arms(work: _Work) -> list[View]:
    """Without a box, only the arm that needs none."""
    return [arm for arm in work.options.arms if work.crops or arm == "squashed"]


def _classify(
    works: Sequence[_Work],
    views_of: Callable[[_Work], list[View]],
    logits: _Answers,
    watch: Stopwatch,
    ask: _Ask = Classifier.logits,
) -> None:
    """The wanted views of all works, one classifier batch a backbone; the detector's own class apart."""
    for group in _groups(works, lambda work: id(work.classifier)):
        asked = [(_question(work, view), work, view) for work in group for view in views_of(work)]
        fresh = {
            question: (work, view) for question, work, view in asked if view != "detector" and question not in logits
        }
        if fresh:
            with watch.stage("crop"):
                pixels = np.stack([_pixels(work, view) for work, view in fresh.values()])
            with watch.stage("classify"):
                logits.update(zip(fresh, ask(group[0].classifier, pixels), strict=True))
            watch.batches["classify"].append(len(fresh))
        for question, work, view in asked:
            if view == "detector":
                with watch.stage("classify"):
                    _ask_detector(work, question, logits)
            else:
                own = work.classifier.model.label_space
                work.probabilities[view] = probabilities_over(work.space, logits[question], own)


def _question(work: _Work, view: View) -> _Question:
    asked, (name, box) = work.detector if view == "detector" else work.classifier, _about(work, view)
    return id(asked), id(work.photo), name, b"" if box is None else box.tobytes()


def _about(work: _Work, view: View) -> tuple[str, Floats | None]:
    """What is done with the photo, and the box that it depends on, None for the whole photo."""
    if isinstance(view, tuple):
        return "crop", work.crops[view[1]]
    return view, None if view in ("plain", "squashed") else work.main_box


def _pixels(work: _Work, view: View) -> views.Pixels:
    preprocessing = work.classifier.model.preprocessing
    if isinstance(view, tuple):
        return views.cropped(work.photo, work.crops[view[1]], preprocessing)
    if view == "center":
        return views.cropped(work.photo, views.center_crop(work.photo, work.main_box), preprocessing)
    if view == "background":
        return views.background(work.photo, work.main_box, preprocessing)
    if view == "squashed":
        return views.squashed(work.photo, preprocessing)
    return views.plain(work.photo, preprocessing)


def _ask_detector(work: _Work, question: _Question, logits: _Answers) -> None:
    own = work.detector.model.label_space
    if own is None or not work.space.is_subset_of(own):
        return
    if question not in logits:
        logits[question] = work.detector.region_logits([work.photo], [work.main_box])[0]
    work.probabilities["detector"] = probabilities_over(work.space, logits[question], own)


def _conclude(work: _Work, combined: Floats, watch: Stopwatch) -> Comparison:
    boxes = tuple(_box(work, index) for index in work.order)
    plain = Prediction(work.probabilities["plain"])
    crop, reason = _chosen_crop(work)
    cropped = Prediction(work.probabilities["crop", work.best_crop]) if reason is None else None
    return Comparison(
        size=(work.photo.width, work.photo.height),
        format=work.photo.format,
        backbone=work.classifier.model.name,
        detector=work.detector.model.name,
        label_space=work.space,
        boxes=boxes,
        crop=crop,
        no_crop_reason=reason,
        plain=plain,
        cropped=cropped,
        combined=plain if cropped is None else Prediction(combined),
        arms={arm: _arm(work, arm) for arm in work.options.arms},
        stages=dict(watch.seconds),
        batches={stage: tuple(sizes) for stage, sizes in watch.batches.items()},
    )


def _chosen_crop(work: _Work) -> tuple[Corners | None, NoCropReason | None]:
    if not work.crops:
        return None, "no_detection"
    crop = work.crops[work.best_crop]
    if float(area(crop)) >= work.tuning.covers_image * work.photo.width * work.photo.height:
        return None, "covers_image"
    return _corners(crop), None


def _arm(work: _Work, arm: Arm) -> Prediction | None:
    found = work.probabilities.get(arm)
    return None if found is None else Prediction(found)


def _box(work: _Work, index: int) -> Box:
    score = float(work.scores[index]) if work.options.box is None else None
    return Box(_corners(work.boxes[index]), score, _share(work.boxes[index], work.photo))


def _share(box: Floats, photo: Photo) -> float:
    """The box's part of the photo's area."""
    return float(area(box)) / (photo.width * photo.height)


def _corners(box: Floats) -> Corners:
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2


def _groups(works: Sequence[_Work], key) -> Iterable[list[_Work]]:  # type: ignore[no-untyped-def]
    groups: dict[int, list[_Work]] = {}
    for work in works:
        groups.setdefault(key(work), []).append(work)
    return groups.values()
