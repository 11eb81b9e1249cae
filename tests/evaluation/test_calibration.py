import numpy as np
import pytest

from evaluation.calibration import (
    aurra,
    calibration,
    ece_equal_mass,
    ece_equal_width,
    negative_log_likelihood,
    reliability,
    rms_calibration_error,
)

# Ten photos at 0.95 of which 8 are right, ten at 0.55 of which 6 are: gaps of 0.15 and 0.05.
SURE = np.array([0.95] * 10 + [0.55] * 10)
RIGHT = np.array([1] * 8 + [0] * 2 + [1] * 6 + [0] * 4, bool)


def test_equal_width_by_hand() -> None:
    assert ece_equal_width(SURE, RIGHT) == pytest.approx((10 * 0.15 + 10 * 0.05) / 20)


def test_equal_width_bins_end_at_their_upper_edge() -> None:
    """0.2 belongs to (0.1, 0.2], so with ten bins it is apart from 0.21."""
    assert [one.photos for one in reliability(np.array([0.2, 0.21, 1.0, 0.0]), np.ones(4, bool))] == [1, 1, 1, 1]


def test_equal_mass_by_hand() -> None:
    sure, right = np.array([0.1, 0.2, 0.6, 0.8]), np.array([0, 1, 1, 1], bool)
    # (0.15 against 0.5) and (0.7 against 1)
    assert ece_equal_mass(sure, right, bins=2) == pytest.approx((2 * 0.35 + 2 * 0.3) / 4)


def test_equal_mass_differs_from_equal_width_where_most_are_sure() -> None:
    sure = np.linspace(0.91, 0.99, 100)
    right = np.arange(100) >= 50
    assert ece_equal_width(sure, right, bins=2) == pytest.approx(0.45)
    assert ece_equal_mass(sure, right, bins=2) == pytest.approx((0.93 + 0.03) / 2, abs=0.002)


def test_rms_by_hand() -> None:
    assert rms_calibration_error(SURE, RIGHT, bin_size=10) == pytest.approx(((0.15**2 + 0.05**2) / 2) ** 0.5)


def test_rms_counts_the_most_confident_bin() -> None:
    """The authors' loop ends one bin early: here it would see only the perfect half, and report 0."""
    sure = np.array([0.5] * 100 + [1.0] * 100)
    right = np.array([1, 0] * 50 + [0] * 100, bool)
    assert rms_calibration_error(sure, right) == pytest.approx(0.5**0.5)


def test_rms_puts_the_remainder_into_the_last_bin() -> None:
    sure, right = np.linspace(0, 1, 250), np.ones(250, bool)
    gaps = np.array([1 - sure[:100].mean(), 1 - sure[100:].mean()])
    assert rms_calibration_error(sure, right) == pytest.approx(
        float(np.sqrt((100 * gaps[0] ** 2 + 150 * gaps[1] ** 2) / 250))
    )


def test_aurra_by_hand() -> None:
    """By falling confidence right, wrong, right: accuracies 1, 1/2, 2/3."""
    assert aurra(np.array([0.2, 0.9, 0.5]), np.array([1, 1, 0], bool)) == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)


def test_equals_have_no_order() -> None:
    sure = np.full(4, 0.7)
    assert aurra(sure, np.array([1, 0, 1, 0], bool)) == pytest.approx(0.5)
    assert ece_equal_mass(sure, np.array([1, 1, 0, 0], bool)) == pytest.approx(0.2)


def test_the_order_of_photos_makes_no_difference() -> None:
    random = np.random.default_rng(2)
    sure, right = np.round(random.random(500), 2), random.random(500) < 0.6
    true, brier = random.random(500), random.random(500)
    order = random.permutation(500)
    found = calibration(sure, right, true, brier)
    again = calibration(sure[order], right[order], true[order], brier[order])
    assert vars(found) == pytest.approx(vars(again))


def test_the_calibrated_are_calibrated() -> None:
    random = np.random.default_rng(3)
    sure = random.random(20_000)
    right = random.random(20_000) < sure
    for error in (ece_equal_width, ece_equal_mass):
        assert error(sure, right) < 0.015
    assert rms_calibration_error(sure, right) == pytest.approx(0.04, abs=0.01)  # the noise of 100 photos a bin


def test_negative_log_likelihood() -> None:
    assert negative_log_likelihood(np.array([0.5, 0.25])) == pytest.approx(1.5 * np.log(2))
    assert np.isfinite(negative_log_likelihood(np.array([0.0])))


def test_no_photo() -> None:
    none = np.zeros(0)
    found = vars(calibration(none, none, none, none))
    assert found.pop("photos") == 0
    assert all(np.isnan(value) for value in found.values())
    assert reliability(none, none) == []


def test_one_photo() -> None:
    found = calibration(np.array([0.6]), np.array([True]), np.array([0.6]), np.array([0.2]))
    assert (found.ece_equal_width, found.ece_equal_mass, found.rms) == pytest.approx((0.4, 0.4, 0.4))
    assert found.aurra == 1
