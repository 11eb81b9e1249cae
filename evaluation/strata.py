"""Where does the crop help, and where does it hurt? Plain against cropped, by what the detector found and by class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from evaluation.results import Array, Run
from evaluation.statistics import Interval, holm, mcnemar, newcombe

AREA_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
IOU_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
_SCORE_PARTS = 4


@dataclass(frozen=True)
class Stratum:
    """Photos whose measure is in (low, high]; both None for the photos without a crop.

    `plain` and `cropped` count right answers. `p_value` is McNemar's, exact, and `p_value_holm` the same adjusted over
    the strata of one kind; `interval` is of the difference: Newcombe's, see `evaluation.statistics`.
    """

    low: float | None
    high: float | None
    photos: int
    plain: int
    cropped: int
    rescued: int
    broken: int
    p_value: float
    p_value_holm: float
    interval: Interval | None

    @property
    def difference(self) -> float:
        return (self.cropped - self.plain) / self.photos


@dataclass(frozen=True)
class ClassStratum:
    wnid: str
    photos: int
    plain: int
    cropped: int
    rescued: int
    broken: int


def by_measures(run: Run) -> dict[str, list[Stratum]]:
    """By the box's share of the area, by score (quarters of the photos with a crop) and, where there is any, by IoU."""
    found = {"area": _split(run, run.area, AREA_EDGES), "score": _split(run, run.score, _quantiles(run))}
    if np.isfinite(run.iou).any():
        found["iou"] = _split(run, run.iou, IOU_EDGES)
    return found


def by_class(run: Run) -> list[ClassStratum]:
    """Every class, in the order of the wnids."""
    plain, cropped = run.arms["plain"].correct, run.arms["cropped"].correct
    wnids, member = np.unique(run.wnids, return_inverse=True)

    def count(chosen: Array) -> list[int]:
        return [int(value) for value in np.bincount(member, weights=chosen, minlength=len(wnids))]

    columns = (count(np.ones(len(run))), count(plain), count(cropped), count(cropped & ~plain), count(plain & ~cropped))
    return [ClassStratum(str(wnid), *figures) for wnid, *figures in zip(wnids, *columns, strict=True)]


def _split(run: Run, measure: Array, edges: Sequence[float]) -> list[Stratum]:
    """Photos with a crop by their measure, then those without; strata without a photo are left out."""
    place = np.clip(np.searchsorted(edges, measure, side="left") - 1, 0, len(edges) - 2)
    measured = run.has_crop & np.isfinite(measure)
    parts = [(low, high, measured & (place == index)) for index, (low, high) in enumerate(pairwise(edges))]
    bounds: list[tuple[float | None, float | None, Array]] = [*parts, (None, None, ~run.has_crop)]
    strata = [_stratum(run, low, high, chosen) for low, high, chosen in bounds if chosen.any()]
    # Without a crop nothing can differ: no question is asked there, and none is adjusted for.
    asked = [stratum for stratum in strata if stratum.low is not None]
    adjusted = holm([stratum.p_value for stratum in asked])
    judged = [replace(stratum, p_value_holm=value) for stratum, value in zip(asked, adjusted, strict=True)]
    return judged + strata[len(asked) :]


def _stratum(run: Run, low: float | None, high: float | None, chosen: Array) -> Stratum:
    plain, cropped = run.arms["plain"].correct[chosen], run.arms["cropped"].correct[chosen]
    rescued, broken = int((cropped & ~plain).sum()), int((plain & ~cropped).sum())
    both, neither = int((plain & cropped).sum()), int((~plain & ~cropped).sum())
    p_value = mcnemar(rescued, broken)
    interval = newcombe(both, rescued, broken, neither)
    figures = (len(plain), int(plain.sum()), int(cropped.sum()), rescued, broken)
    return Stratum(low, high, *figures, p_value, p_value, interval)


def _quantiles(run: Run) -> list[float]:
    scores = run.score[run.has_crop & np.isfinite(run.score)]
    if not len(scores):
        return [0.0, 1.0]
    inner = np.quantile(scores, np.arange(1, _SCORE_PARTS) / _SCORE_PARTS)
    return [0.0, *(float(value) for value in np.unique(inner) if 0 < value < 1), 1.0]


def stratum_name(kind: str, stratum: Stratum) -> str:
    """Such as "where the box covers 10 to 25 % of the photo"."""
    if stratum.low is None or stratum.high is None:
        return "without a crop"
    if kind == "area":
        return f"where the box covers {100 * stratum.low:.0f} to {100 * stratum.high:.0f} % of the photo"
    words = {"score": "the detector's score", "iou": "the IoU with the true box"}
    return f"where {words[kind]} is {stratum.low:.2f} to {stratum.high:.2f}"


def stratum_figures(kind: str, stratum: Stratum) -> dict[str, Any]:
    """For `summary.json`."""
    interval = stratum.interval
    return {
        **{name: value for name, value in vars(stratum).items() if name != "interval"},
        "name": stratum_name(kind, stratum),
        "difference": stratum.difference,
        "interval": None if interval is None else [interval.low, interval.high],
    }
