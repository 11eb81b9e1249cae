"""Photos on their way through the core, timed: what the service does, and the command without a server."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from models.comparison import Comparison, ComparisonOutcome, Options
from models.photo import Photo, read_photo
from models.pipeline import Pipeline
from models.trial import Trial


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found in one photo; `seconds` by stage: decode, queue, detect, crop, classify, total.

    `ended_ns` is when, in nanoseconds since 1970.
    """

    photo: Photo
    comparison: Comparison
    options: Options
    seconds: Mapping[str, float]
    ended_ns: int = field(default_factory=time.time_ns)

    def summary(self) -> "Summary":
        comparison, box = self.comparison, self.comparison.box
        cropped = comparison.cropped
        return Summary(
            backbone=comparison.backbone,
            detector=comparison.detector,
            outcome=comparison.outcome,
            given_box=self.options.box is not None,
            seconds=self.seconds,
            ended_ns=self.ended_ns,
            batches=comparison.batches,
            shift=None if cropped is None else cropped.confidence - comparison.plain.confidence,
            box_area=None if box is None else box.area_fraction,
            box_score=None if box is None else box.score,
        )


@dataclass(frozen=True)
class Summary:
    """What is counted of an outcome, without its pixels and probabilities.

    `seconds` and `ended_ns` as of an `Outcome`; `batches` are the sizes by stage, told by the first of those that were
    in them; `shift` is the first probability of the cropped photo minus that of the plain one; `box_area` is the first
    box's share of the photo. `given_box`: by the request.
    """

    backbone: str
    detector: str
    outcome: ComparisonOutcome
    given_box: bool
    seconds: Mapping[str, float]
    ended_ns: int
    batches: Mapping[str, tuple[int, ...]]
    shift: float | None
    box_area: float | None
    box_score: float | None


class Asked(NamedTuple):
    """A photo's file and what is wanted of it, after so many seconds in a queue."""

    data: bytes
    options: Options
    waited: float = 0.0


def outcome_of(data: bytes, options: Options, pipeline: Pipeline, max_pixels: int, cores: int = 1) -> Outcome:
    """Of one photo that is no stranger's. Raises as `outcomes_of` does, but for `NoTrial`."""
    return outcomes_of([Asked(data, options)], pipeline, max_pixels, cores=cores)[0]


def outcomes_of(
    asked: Sequence[Asked], pipeline: Pipeline, max_pixels: int, trial: Trial | None = None, cores: int = 1
) -> list[Outcome]:
    """Of photos in one batch, whose stages count for each of them; `trial` is for those of strangers.

    Raises, for any of them, `models.photo.PhotoError`, `models.trial.NoTrial`, `models.served.UnservedChoice` and
    `models.pipeline.BoxOutsidePhoto`.
    """
    start = time.perf_counter()
    photos, decoding = [], []
    for one in asked:
        begun = time.perf_counter()
        if trial is not None:
            trial.check(one.data)
        photos.append(read_photo(one.data, max_pixels))
        decoding.append(time.perf_counter() - begun)
    first, *others = pipeline.compare_all(photos, [one.options for one in asked], cores)
    comparisons = [first, *(replace(other, batches={}) for other in others)]
    passed = time.perf_counter() - start
    return [
        Outcome(
            photo,
            comparison,
            one.options,
            {"decode": decoded, "queue": one.waited, **comparison.stages, "total": one.waited + passed},
        )
        for one, photo, comparison, decoded in zip(asked, photos, comparisons, decoding, strict=True)
    ]
