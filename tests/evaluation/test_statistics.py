"""Against textbook and hand-computed values; the intervals' coverage by simulation."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose
from statsmodels.stats.multitest import multipletests

from evaluation.statistics import (
    Interval,
    clustered_bootstrap,
    holm,
    mcnemar,
    newcombe,
    paired,
    paired_bootstrap,
    proportion,
)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Newcombe (1998), Statist. Med. 17, 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0000),
    ],
)
def test_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    found = proportion(correct, total)
    assert_allclose((found.low, found.high), (low, high), atol=5e-5)
    assert found.accuracy == correct / total


def test_of_no_photo_nothing_is_known() -> None:
    found = proportion(0, 0)
    assert np.isnan(found.accuracy)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(
    ("rescued", "broken", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        # Fagerland, Lydersen & Laake (2013), BMC Med. Res. Methodol. 13:91: airway hyper-responsiveness, exact 0.070
        (7, 1, 2 * (1 + 8) / 2**8),
        (1, 7, 2 * (1 + 8) / 2**8),
        (10, 0, 2 / 2**10),
        (6, 2, 2 * (1 + 8 + 28) / 2**8),
    ],
)
def test_mcnemar(rescued: int, broken: int, p_value: float) -> None:
    assert mcnemar(rescued, broken) == pytest.approx(p_value, rel=1e-12)


def test_mcnemar_of_many() -> None:
    # Agresti, Categorical Data Analysis, table of approval ratings: 86 and 150 of 1600, z squared 17.36
    assert mcnemar(86, 150) == pytest.approx(3.7e-5, rel=0.05)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, 0.01, 0.03, 0.005], [0.06, 0.03, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_holm_as_statsmodels() -> None:
    p_values = np.random.default_rng(0).random(40) ** 4
    assert_allclose(holm(list(p_values)), multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        # Newcombe (1998), Statist. Med. 17, 2635-2650, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        # Altman et al. (2000), Statistics with Confidence, table 6.2
        ((14, 5, 0, 22), 0.011, 0.226),
        # Without a photo that changes there is still doubt.
        ((20, 0, 0, 0), -0.1611, 0.1611),
    ],
)
def test_newcombe(cells: tuple[int, int, int, int], low: float, high: float) -> None:
    found = newcombe(*cells)
    assert found is not None
    assert_allclose((found.low, found.high), (low, high), atol=5e-4)


def test_a_pair_of_arms_by_hand() -> None:
    before = np.array([1, 1, 0, 0, 1, 0, 0, 1], bool)
    after = np.array([1, 0, 1, 1, 1, 0, 1, 1], bool)
    found = paired(before, after, np.array(list("aabbccdd")))
    assert (found.photos, found.rescued, found.broken) == (8, 3, 1)
    assert found.p_value == pytest.approx(2 * (1 + 4) / 16)
    assert found.difference == 0.25
    for interval in (found.bootstrap, found.clustered, found.score):
        assert interval is not None
        assert interval.low < 0.25 < interval.high


def test_the_seed_decides() -> None:
    random = np.random.default_rng(0)
    change, classes = random.integers(-1, 2, 200), random.integers(20, size=200)
    assert paired_bootstrap(20, 20, 100, 3) == paired_bootstrap(20, 20, 100, 3)
    assert clustered_bootstrap(change, classes, 3) == clustered_bootstrap(change, classes, 3)
    assert clustered_bootstrap(change, classes, 3) != clustered_bootstrap(change, classes, 4)


def test_the_multinomial_draw_is_the_resampling_of_photos() -> None:
    """The quantiles of the shortcut against those of photos drawn one by one."""
    change = np.array([1] * 30 + [-1] * 12 + [0] * 158)
    random = np.random.default_rng(5)
    means = change[random.integers(200, size=(20_000, 200))].mean(1)
    found = paired_bootstrap(30, 12, 200)
    assert found is not None
    assert_allclose((found.low, found.high), np.quantile(means, (0.025, 0.975)), atol=0.005)


def test_no_width_is_no_certainty() -> None:
    """As many rescued as broken in every class: no resampling of classes moves the difference."""
    before, after = np.tile([True, False, True], 10), np.tile([False, True, True], 10)
    found = paired(before, after, np.repeat(np.arange(10), 3))
    assert found.clustered == Interval(0, 0)
    assert found.interval == found.bootstrap
    assert paired(before, before, np.repeat(np.arange(10), 3)).interval == newcombe(20, 0, 0, 10)


@pytest.mark.parametrize("photos", [0, 1])
def test_hardly_a_photo(photos: int) -> None:
    right = np.ones(photos, bool)
    found = paired(~right, right, np.array(["n0"] * photos))
    assert found.photos == found.rescued == photos
    assert found.clustered is None
    assert found.p_value == 1
    assert (found.bootstrap is None) == (photos == 0)


def test_what_does_not_pair() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        paired(np.ones(2, bool), np.ones(3, bool), np.array(["a", "b"]))


Draw = Callable[[np.random.Generator], tuple[Interval | None, float]]


def _wilson(random: np.random.Generator) -> tuple[Interval | None, float]:
    found = proportion(int(random.binomial(300, 0.8)), 300)
    return Interval(found.low, found.high), 0.8


def _photos(random: np.random.Generator) -> tuple[Interval | None, float]:
    rescued, broken, _ = random.multinomial(300, (0.10, 0.06, 0.84))
    return paired_bootstrap(rescued, broken, 300, resamples=500), 0.04


def _score(random: np.random.Generator) -> tuple[Interval | None, float]:
    return newcombe(*random.multinomial(300, (0.7, 0.10, 0.06, 0.14))), 0.04


def _classes(random: np.random.Generator) -> tuple[Interval | None, float]:
    """40 classes of 10 photos: some classes gain and some lose, so that photos are no independent witnesses."""
    gains, change = _clustered_changes(random)
    return clustered_bootstrap(change, np.repeat(np.arange(len(gains)), 10), resamples=500), 0.05


def _photos_of_classes(random: np.random.Generator) -> tuple[Interval | None, float]:
    _, change = _clustered_changes(random)
    return paired_bootstrap(int((change > 0).sum()), int((change < 0).sum()), len(change), resamples=500), 0.05


def _clustered_changes(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    gains = 0.05 + random.choice([-0.3, 0.3], 40)
    draws = random.random((40, 10))
    up, down = np.maximum(gains, 0)[:, None], np.maximum(-gains, 0)[:, None]
    change = np.where(draws < up, 1, np.where(draws > 1 - down, -1, 0))
    return gains, change.ravel()


@pytest.mark.parametrize("draw", [_wilson, _photos, _score, _classes])
def test_95_percent_intervals_cover(draw: Draw) -> None:
    """Over 1000 simulated evaluations; the standard error of a coverage of 95 % is 0.7 points."""
    assert 0.93 <= coverage(draw) <= 0.97


def test_photos_of_few_classes_are_no_independent_witnesses() -> None:
    """Why the bootstrap over classes is there: over photos, the interval of clustered changes is far too narrow."""
    assert coverage(_photos_of_classes) < 0.85


def coverage(draw: Draw, evaluations: int = 1000) -> float:
    random = np.random.default_rng(11)
    found = [draw(random) for _ in range(evaluations)]
    return float(
        np.mean([interval is not None and interval.low <= truth <= interval.high for interval, truth in found])
    )
