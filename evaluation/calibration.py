"""Does a confidence mean what it says? Of all predictions made with 80 % about 80 % should be right.

Everywhere `confidence` (n,) is the first answer's probability, 0..1, and `correct` (n,) whether it is right. Of
no photo every figure is NaN. Where confidences are equal their photos count with their mean correctness, so that
no figure hangs on the order of the photos.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
RMS_BIN_SIZE = 100
# The smallest normal float32: a probability that was rounded to 0 costs 87 nats, not infinity.
_SMALLEST = float(np.finfo(np.float32).tiny)

Floats = NDArray[Any]


@dataclass(frozen=True)
class Calibration:
    """All are 0 at best, `aurra` 1 at best; `nll` in nats, `brier` summed over the classes, 0..2."""

    photos: int
    confidence: float
    ece_equal_width: float
    ece_equal_mass: float
    rms: float
    brier: float
    nll: float
    aurra: float


@dataclass(frozen=True)
class Bin:
    """The photos with a confidence in (low, high]: how sure on average, how often right, how many."""

    low: float
    high: float
    confidence: float
    accuracy: float
    photos: int


def calibration(confidence: Floats, correct: Floats, probability_true: Floats, brier: Floats) -> Calibration:
    """`probability_true` (n,): what the true class was given; `brier` (n,): each photo's own score."""
    return Calibration(
        len(confidence),
        _mean(confidence),
        ece_equal_width(confidence, correct),
        ece_equal_mass(confidence, correct),
        rms_calibration_error(confidence, correct),
        _mean(brier),
        negative_log_likelihood(probability_true),
        aurra(confidence, correct),
    )


def ece_equal_width(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """Expected calibration error, bins of equal width: Guo et al. (2017), arXiv:1706.04599, equation 3."""
    return _weighted_gap(_bins(confidence, correct, bins), len(confidence))


def ece_equal_mass(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """The same with as many photos in every bin: Nguyen & O'Connor (2015), arXiv:1508.05154, section 3."""
    if not len(confidence):
        return float("nan")
    ordered, right = _sorted(confidence, correct)
    places = [part for part in np.array_split(np.arange(len(ordered)), bins) if len(part)]
    gaps = [len(part) * abs(ordered[part].mean() - right[part].mean()) for part in places]
    return float(sum(gaps) / len(ordered))


def rms_calibration_error(confidence: Floats, correct: Floats, bin_size: int = RMS_BIN_SIZE) -> float:
    """Root mean square calibration error of ImageNet-A's authors: Hendrycks et al., arXiv:1907.07174, with 100 a bin.

    Their published `calib_err` walks over all bins but the last, the most confident one, and so leaves out
    where a confident classifier errs worst; here that bin counts too. It takes up what 100 does not divide.
    """
    if not len(confidence):
        return float("nan")
    ordered, right = _sorted(confidence, correct)
    starts = [index * bin_size for index in range(max(1, len(ordered) // bin_size))]
    squares = 0.0
    for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True):
        squares += (end - start) * (ordered[start:end].mean() - right[start:end].mean()) ** 2
    return float((squares / len(ordered)) ** 0.5)


def aurra(confidence: Floats, correct: Floats) -> float:
    """Area under the response rate accuracy curve: Hendrycks et al., arXiv:1907.07174, section 4.

    The mean of the accuracies of the k most confident answers over k = 1..n.
    """
    if not len(confidence):
        return float("nan")
    _, right = _sorted(confidence, correct)
    return float(np.mean(np.cumsum(right[::-1]) / np.arange(1, len(right) + 1)))


def negative_log_likelihood(probability_true: Floats) -> float:
    """Mean of -ln(probability of the true class), in nats."""
    if not len(probability_true):
        return float("nan")
    return float(-np.log(np.clip(probability_true, _SMALLEST, 1)).mean())


def reliability(confidence: Floats, correct: Floats, bins: int = 10) -> list[Bin]:
    """The filled bins of a reliability diagram: Niculescu-Mizil & Caruana (2005), ICML, figure 1."""
    return list(_bins(confidence, correct, bins))


def _bins(confidence: Floats, correct: Floats, bins: int) -> Iterable[Bin]:
    place = np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(int) - 1, 0, bins - 1)
    for index in np.unique(place):
        inside = place == index
        yield Bin(
            index / bins,
            (index + 1) / bins,
            float(np.mean(confidence[inside])),
            float(np.mean(correct[inside])),
            int(inside.sum()),
        )


def _weighted_gap(bins: Iterable[Bin], photos: int) -> float:
    if photos == 0:
        return float("nan")
    return sum(one.photos * abs(one.confidence - one.accuracy) for one in bins) / photos


def _sorted(confidence: Floats, correct: Floats) -> tuple[Floats, Floats]:
    """Least confident first; the correctness of equals is their mean."""
    values, group = np.unique(np.asarray(confidence, np.float64), return_inverse=True)
    counts = np.bincount(group)
    right = np.bincount(group, weights=np.asarray(correct, np.float64)) / counts
    return np.repeat(values, counts), np.repeat(right, counts)


def _mean(values: Floats) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
