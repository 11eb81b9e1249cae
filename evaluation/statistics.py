"""Two arms on the same photos: which one is right more often, and how far that can be told.

The arms share their photos, so they are compared pair by pair, never as two independent proportions. Accuracies and
differences are shares of photos, 0..1 and -1..1; intervals are of 95 % unless said otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats import contingency_tables
from statsmodels.stats.proportion import proportion_confint

ALPHA = 0.05
RESAMPLES = 10_000
CLUSTERED_RESAMPLES = 4_000
# So many drawn classes at once: what one block of the clustered bootstrap holds in memory.
_BLOCK = 2_000_000

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def excludes(self, value: float) -> bool:
        return value < self.low or value > self.high


@dataclass(frozen=True)
class Proportion:
    """How many of `total` are right. Of no photo the accuracy is NaN and the interval 0..1: nothing is known."""

    correct: int
    total: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """`after` against `before` on the same photos.

    `rescued` photos are wrong before and right after, `broken` ones the other way about; `p_value` is McNemar's,
    exact and two-sided; `difference` is accuracy after minus before. `bootstrap` resamples photos, `clustered` whole
    classes (None with fewer than two); `score` is Newcombe's interval, which stays honest where no photo changes
    and a bootstrap would claim certainty.
    """

    photos: int
    rescued: int
    broken: int
    p_value: float
    difference: float
    bootstrap: Interval | None
    clustered: Interval | None
    score: Interval | None

    @property
    def interval(self) -> Interval | None:
        """The one to show and to judge by: the wider of the two bootstraps, or `score` where both have no width."""
        widest = max(self._bootstraps, key=lambda one: one.width, default=None)
        return self.score if widest is None or widest.width == 0 else widest

    @property
    def _bootstraps(self) -> list[Interval]:
        return [one for one in (self.clustered, self.bootstrap) if one is not None]


def proportion(correct: int, total: int) -> Proportion:
    """With the score interval of Wilson (1927), J. Am. Stat. Assoc. 22, 209-212."""
    if total == 0:
        return Proportion(0, 0, float("nan"), 0.0, 1.0)
    low, high = proportion_confint(correct, total, alpha=ALPHA, method="wilson")
    return Proportion(correct, total, correct / total, max(0.0, float(low)), min(1.0, float(high)))


def mcnemar(rescued: int, broken: int) -> float:
    """Exact two-sided p-value of the discordant pairs: McNemar (1947), Psychometrika 12, 153-157; 1 without any."""
    if rescued + broken == 0:
        return 1.0
    found: Any = contingency_tables.mcnemar([[0, broken], [rescued, 0]], exact=True)
    return min(1.0, float(found.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for having asked several times: Holm (1979), Scand. J. Stat. 6, 65-70. In the order given.

    The same as statsmodels' `multipletests`, which collects the garbage of the whole program at every call.
    """
    ordered = np.sort(p_values)
    adjusted = np.minimum(np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)), 1)
    return [float(adjusted[np.searchsorted(ordered, value)]) for value in p_values]


def paired(before: Bools, after: Bools, classes: NDArray[Any], seed: int = 0) -> Paired:
    """`before`, `after` (n,) bool: is each photo right? `classes` (n,): its true class, of any comparable type."""
    if not len(before) == len(after) == len(classes):
        raise ValueError(f"{len(before)}, {len(after)} and {len(classes)} entries do not pair")
    change = after.astype(np.int64) - before.astype(np.int64)
    rescued, broken = int((change > 0).sum()), int((change < 0).sum())
    return Paired(
        len(change),
        rescued,
        broken,
        mcnemar(rescued, broken),
        float(change.mean()) if len(change) else float("nan"),
        paired_bootstrap(rescued, broken, len(change), seed),
        clustered_bootstrap(change, classes, seed),
        newcombe(int((before & after).sum()), rescued, broken, int((~before & ~after).sum())),
    )


def paired_bootstrap(
    rescued: int, broken: int, photos: int, seed: int = 0, resamples: int = RESAMPLES
) -> Interval | None:
    """Percentile interval of the difference, photos resampled in pairs; None without photos.

    Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13. A photo's change is one of +1, -1 and 0, so
    that resampling n photos with replacement is one multinomial draw of the three counts: the same distribution.
    """
    if photos == 0:
        return None
    shares = np.array([rescued, broken, photos - rescued - broken]) / photos
    counts = np.random.default_rng((seed, 1)).multinomial(photos, shares, size=resamples)
    return _percentiles((counts[:, 0] - counts[:, 1]) / photos)


def clustered_bootstrap(
    change: NDArray[np.int64], classes: NDArray[Any], seed: int = 0, resamples: int = CLUSTERED_RESAMPLES
) -> Interval | None:
    """Percentile interval of the mean `change` (n,), whole classes resampled; None with fewer than two classes.

    Photos of one class share their difficulty and are no independent witnesses: Davison & Hinkley (1997), Bootstrap
    Methods, section 3.8. With fewer than about 20 classes such an interval is somewhat too narrow.
    """
    _, member = np.unique(classes, return_inverse=True)
    count = int(member.max()) + 1 if len(member) else 0
    if count < 2:
        return None
    sums, sizes = np.bincount(member, weights=change), np.bincount(member).astype(float)
    random = np.random.default_rng((seed, 2))
    means = []
    rows = max(1, _BLOCK // count)
    for start in range(0, resamples, rows):
        drawn = random.integers(count, size=(min(rows, resamples - start), count), dtype=np.int32)
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return _percentiles(np.concatenate(means))


def newcombe(both: int, rescued: int, broken: int, neither: int) -> Interval | None:
    """Score interval of the paired difference: Newcombe (1998), Statist. Med. 17, 2635-2650, method 10.

    The four cells of the table of pairs; None when they are all zero. Two Wilson intervals, squared and added, with
    the correlation of the pairs, lowered by a continuity correction where it is positive.
    """
    photos = both + rescued + broken + neither
    if photos == 0:
        return None
    after, before = proportion(both + rescued, photos), proportion(both + broken, photos)
    margins = (both + rescued) * (broken + neither) * (both + broken) * (rescued + neither)
    product = both * neither - rescued * broken
    corrected = max(product - photos / 2, 0) if product > 0 else product
    phi = corrected / margins**0.5 if margins else 0.0
    difference = after.accuracy - before.accuracy
    down = _joined(after.accuracy - after.low, before.high - before.accuracy, phi)
    up = _joined(after.high - after.accuracy, before.accuracy - before.low, phi)
    return Interval(difference - down, difference + up)


def _joined(first: float, second: float, phi: float) -> float:
    return float(max(0.0, first**2 - 2 * phi * first * second + second**2) ** 0.5)


def _percentiles(estimates: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(estimates, (ALPHA / 2, 1 - ALPHA / 2))
    return Interval(float(low), float(high))
