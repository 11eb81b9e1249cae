import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.fusion import Floats, FusionRule, fuse

RULE = FusionRule()
LARGEST = float(np.log((1 - 1e-6) / 1e-6))


def top(probability: float) -> Floats:
    """Three classes, one of which has this probability, the largest."""
    return np.array([probability, (1 - probability) / 2, (1 - probability) / 2], np.float32)


@st.composite
def distributions(draw: st.DrawFn) -> Floats:
    raw = np.array(draw(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)), np.float64) + 1e-3
    return np.asarray(raw / raw.sum(), np.float32)


@pytest.mark.parametrize(
    ("probability", "area_fraction", "expected"),
    [
        (0.5, 1.0, 0.0),
        (0.9, 1.0, np.log(9)),
        (0.9, 0.25, np.log(9) + 2 * np.log(0.25)),
        (0.6, 0.01, np.log(1.5) + 2 * np.log(0.01)),
        # Limits: a float32 probability of 1, a box without an area.
        (1.0, 1.0, LARGEST),
        (0.5, 0.0, 2 * np.log(1e-6)),
    ],
)
def test_plain_weight(probability: float, area_fraction: float, expected: float) -> None:
    assert RULE.plain_weight(top(probability), area_fraction) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("probability", "score", "first_score", "expected"),
    [
        (0.5, 0.4, 0.4, 0.0),
        (0.9, 0.4, 0.4, np.log(9)),
        (0.9, 0.2, 0.5, np.log(9) + 2 * np.log(0.25)),
        # Never more than the first box, whatever the policy made first, and never less than the floor.
        (0.9, 0.9, 0.5, np.log(9)),
        (0.9, 1e-9, 0.5, np.log(9) - 12),
        (0.9, 0.0, 1.0, np.log(9) - 12),
        (1.0, 1.0, 1.0, LARGEST),
    ],
)
def test_crop_weight(probability: float, score: float, first_score: float, expected: float) -> None:
    assert RULE.crop_weight(top(probability), score, first_score) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_weights_are_the_rules() -> None:
    rule = FusionRule(area_weight=1, score_weight=3, score_floor=-1)
    assert rule.plain_weight(top(0.5), 0.5) == pytest.approx(np.log(0.5))
    assert rule.crop_weight(top(0.5), 0.5, 0.6) == pytest.approx(-3 * np.log(1.5))
    assert rule.crop_weight(top(0.5), 0.01, 0.6) == pytest.approx(-3)


@pytest.mark.parametrize(
    ("log_weights", "expected"),
    [
        ([0.0, 0.0], [0.5, 0.3, 0.2]),
        ([np.log(3), 0.0], [0.7, 0.2, 0.1]),
        ([1000.0, 1000.0], [0.5, 0.3, 0.2]),
        ([-1000.0, -1000.0], [0.5, 0.3, 0.2]),
        ([1000.0, -1000.0], [0.9, 0.1, 0.0]),
        ([-1e4, 1e4], [0.1, 0.5, 0.4]),
    ],
)
def test_fuse(log_weights: list[float], expected: list[float]) -> None:
    views = [np.array([0.9, 0.1, 0.0], np.float32), np.array([0.1, 0.5, 0.4], np.float32)]
    fused = fuse(views, log_weights)
    assert fused.dtype == np.float32
    assert fused == pytest.approx(np.array(expected), abs=1e-6)


@given(
    st.lists(st.tuples(distributions(), st.floats(-1e6, 1e6)), min_size=1, max_size=4),
    st.floats(-100, 100),
)
def test_a_fusion_is_a_distribution_between_its_views(views: list[tuple[Floats, float]], shift: float) -> None:
    probabilities, weights = [view for view, _ in views], [weight for _, weight in views]
    fused = fuse(probabilities, weights)
    assert fused.sum() == pytest.approx(1, abs=1e-5)
    stacked = np.stack(probabilities)
    assert (fused >= stacked.min(0) - 1e-6).all()
    assert (fused <= stacked.max(0) + 1e-6).all()
    # Only differences of log-weights count, and not the order of the views.
    assert fuse(probabilities, [weight + shift for weight in weights]) == pytest.approx(fused, abs=1e-4)
    assert fuse(probabilities[::-1], weights[::-1]) == pytest.approx(fused, abs=1e-5)


@given(distributions(), st.floats(-1e6, 1e6))
def test_one_view_is_itself(view: Floats, weight: float) -> None:
    assert fuse([view], [weight]) == pytest.approx(view, abs=1e-6)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_surer_larger_and_stronger_count_more(first: float, second: float, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert RULE.plain_weight(top(0.6), low) <= RULE.plain_weight(top(0.6), high)
    assert RULE.crop_weight(top(0.6), low, 0.99) <= RULE.crop_weight(top(0.6), high, 0.99)
    less, more = sorted((0.34 + 0.6 * first, 0.34 + 0.6 * second))
    assert RULE.plain_weight(top(less), high) <= RULE.plain_weight(top(more), high)
    assert RULE.crop_weight(top(less), low, high) <= RULE.crop_weight(top(more), low, high)
