"""Whether the photos are still what they were: how measures of the latest answers are spread, against a reference.

Read from the journal's sums by the hour and day, so that it takes milliseconds.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc
from sqlalchemy import Connection, Select, bindparam, case, func, literal, select

from service.rows import HOUR, MEASURES, Spread, Tally, cover, of_part

AGREEMENT = "agreement"
_BINS: Mapping[str, int] = {**{measure: len(bounds) + 1 for measure, bounds in MEASURES.items()}, AGREEMENT: 2}

Counts: TypeAlias = dict[tuple[str, str], Counter[int]]


@dataclass(frozen=True, slots=True)
class Windows:
    """Hours of the latest answers, and of the reference right before them."""

    hours: int
    reference_hours: int


def drift(connection: Connection, until: int, windows: Windows, detector: str | None = None) -> dict[str, Any]:
    """By backbone and measure (box_area_fraction, confidence_shift, agreement), what `compare` gives.

    `until`, in microseconds since 1970, counts up to its whole hour.
    """
    end = -(-until // HOUR) * HOUR
    start = end - windows.hours * HOUR
    latest = _counts(connection, start, end, detector)
    reference = _counts(connection, start - windows.reference_hours * HOUR, start, detector)
    found: dict[str, dict[str, Any]] = {}
    for backbone, measure in sorted(latest.keys() | reference.keys()):
        both = (counts.get((backbone, measure), Counter()) for counts in (latest, reference))
        histograms = ([counter[number] for number in range(_BINS[measure])] for counter in both)
        found.setdefault(backbone, {})[measure] = compare(*histograms)
    return found


def compare(latest: Sequence[int], reference: Sequence[int]) -> dict[str, Any]:
    """Two histograms over the same bins; None where one of them is empty.

    `psi` is the population stability index, sum((p - q) * ln(p / q)) over the bins' shares: Siddiqi (2006), Credit Risk
    Scorecards, who calls 0.1 small and 0.25 large; it is the symmetric divergence of Jeffreys (1946), Proc. R. Soc. A
    186, 453-461. Few answers alone make it about (bins - 1) * (1 / answers + 1 / reference), so that `p_value`, of
    Pearson's chi-squared test that both are of one distribution, is told beside it.
    """
    answers, before = sum(latest), sum(reference)
    psi = p_value = None
    if answers and before:
        filled = [(new, old) for new, old in zip(latest, reference, strict=True) if new or old]
        shares = [
            (_share(new, answers, new + old, answers + before), _share(old, before, new + old, answers + before))
            for new, old in filled
        ]
        psi = sum((new - old) * math.log(new / old) for new, old in shares)
        p_value = _pearson(np.array(filled, np.float64))
    return {"psi": psi, "p_value": p_value, "answers": answers, "reference": before}


def _pearson(counts: NDArray[np.float64]) -> float:
    """The p-value of counts, (bins, 2), none of the rows and columns empty; 1 of a single bin."""
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(chdtrc(len(counts) - 1, statistic)) if len(counts) > 1 else 1.0


def _share(part: int, whole: int, pooled_part: int, pooled: int) -> float:
    """With one answer more, spread like both samples together: an empty bin has a logarithm, and adds no difference."""
    return (part + pooled_part / pooled) / (whole + 1)


def _counts(connection: Connection, low: int, high: int, detector: str | None) -> Counts:
    """Answers by backbone and measure, and bin."""
    counts: Counts = {}
    for span, first, last in cover(max(0, low), high):
        parameters = {"span": span, "first": first, "last": last, "detector": detector}
        for statement in _histograms(detector is not None):
            for backbone, measure, number, answers in connection.execute(statement, parameters):
                counts.setdefault((backbone, measure), Counter())[number] += int(answers)
    return counts


@cache
def _histograms(of_detector: bool) -> list[Select[str, str, int, int]]:
    """Backbone, measure, bin and answers; the agreement of those with a crop has two bins, no and yes."""
    key = (Spread.backbone, Spread.measure, Spread.bin)
    spreads = select(*key, func.sum(Spread.answers)).where(*of_part(Spread)).group_by(*key)
    agreed = case((Tally.outcome == "agree", 1), else_=0)
    with_crop = Tally.outcome.in_(("agree", "disagree"))
    agreement = select(Tally.backbone, literal(AGREEMENT), agreed, func.sum(Tally.answers))
    agreement = agreement.where(*of_part(Tally), with_crop).group_by(Tally.backbone, Tally.outcome)
    if of_detector:
        spreads = spreads.where(Spread.detector == bindparam("detector"))
        agreement = agreement.where(Tally.detector == bindparam("detector"))
    return [spreads, agreement]
