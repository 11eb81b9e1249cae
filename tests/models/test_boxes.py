from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.boxes import (
    POLICIES,
    BoxPolicy,
    Floats,
    add_margin,
    area,
    clip,
    crop_box,
    iou,
    merge_overlapping,
    order_by_policy,
    widen_to_square,
)

EMPTY = np.zeros((0, 4), np.float32)


def array(*rows: tuple[float, float, float, float]) -> Floats:
    return np.array(rows, np.float64).reshape(-1, 4)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 1, 1), 1),
        ((2, 3, 6, 5), 8),
        ((2, 3, 2, 5), 0),
        ((5, 5, 2, 2), 0),
        ((0.5, 0.5, 1.0, 2.5), 1),
    ],
)
def test_area(box: tuple[float, float, float, float], expected: float) -> None:
    assert area(array(box)).tolist() == [expected]
    assert area(np.array(box, np.float32)) == expected


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((2, 3, 6, 5), (2, 3, 6, 5)),
        ((-5, -5, 200, 200), (0, 0, 100, 50)),
        ((0, 0, 100, 50), (0, 0, 100, 50)),
        ((150, 60, 160, 70), (100, 50, 100, 50)),
        ((-np.inf, 1, np.inf, 2), (0, 1, 100, 2)),
    ],
)
def test_clip(box: tuple[float, float, float, float], expected: tuple[float, ...]) -> None:
    assert tuple(clip(array(box), 100, 50)[0]) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (2, 2, 7, 7), 0.25),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),
        ((0, 0, 10, 10), (30, 30, 40, 40), 0),
        ((5, 5, 5, 5), (5, 5, 5, 5), 0),
        ((9, 9, 1, 1), (0, 0, 10, 10), 0),
    ],
)
def test_iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float], expected: float) -> None:
    assert iou(array(a), array(b)) == pytest.approx(np.array([[expected]]))


@pytest.mark.parametrize(
    ("margin", "expected"), [(0, (10, 10, 30, 20)), (0.1, (8, 8, 32, 22)), (1, (-10, -10, 50, 40))]
)
def test_add_margin(margin: float, expected: tuple[float, ...]) -> None:
    assert tuple(add_margin(array((10, 10, 30, 20)), margin)[0]) == expected


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((40, 10, 60, 30), (40, 10, 60, 30)),
        ((40, 20, 60, 24), (40, 12, 60, 32)),
        ((40, 20, 44, 40), (32, 20, 52, 40)),
        ((0, 10, 2, 30), (0, 10, 20, 30)),
        ((98, 10, 100, 30), (80, 10, 100, 30)),
        ((40, 48, 60, 50), (40, 30, 60, 50)),
        ((10, 20, 90, 30), (10, 0, 90, 50)),
        ((0, 0, 100, 50), (0, 0, 100, 50)),
        ((0, 0, 1, 1), (0, 0, 1, 1)),
        ((50, 20, 50, 20), (49.5, 19.5, 50.5, 20.5)),
        ((100, 50, 100, 50), (99, 49, 100, 50)),
    ],
)
def test_widen_to_square_in_a_photo_of_100_by_50(
    box: tuple[float, float, float, float], expected: tuple[float, ...]
) -> None:
    assert tuple(widen_to_square(array(box), 100, 50)[0]) == expected


@pytest.mark.parametrize(
    ("box", "margin", "size", "expected"),
    [
        ((40, 20, 60, 24), 0.1, (100, 50), (38, 10, 62, 34)),
        ((0, 0, 20, 10), 0.5, (100, 50), (0, 0, 30, 30)),
        ((-30, -30, -10, -10), 0, (100, 50), (0, 0, 1, 1)),
        ((0, 0, 1, 1), 1, (1, 1), (0, 0, 1, 1)),
        ((0.2, 0.2, 0.4, 0.4), 0, (1, 1), (0, 0, 1, 1)),
        ((2, 0, 5, 1), 0, (100, 1), (2, 0, 5, 1)),
    ],
)
def test_crop_box(
    box: tuple[float, float, float, float],
    margin: float,
    size: tuple[int, int],
    expected: tuple[float, ...],
) -> None:
    assert tuple(crop_box(np.array(box, np.float64), margin, *size)) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(dtype: type[np.floating]) -> None:
    boxes = np.array([[1, 2, 30, 40]], dtype)
    scores = np.array([0.5], dtype)
    kept, kept_scores = merge_overlapping(boxes, scores)
    results = [add_margin(boxes, 0.1), clip(boxes, 9, 9), widen_to_square(boxes, 99, 99), kept, kept_scores]
    assert {result.dtype for result in results} == {np.dtype(dtype)}


def test_integers_become_floats() -> None:
    assert crop_box(np.array([1, 2, 30, 40]), 0.1, 99, 99).dtype == np.float64


def test_no_boxes() -> None:
    assert area(EMPTY).shape == (0,)
    assert iou(EMPTY, EMPTY).shape == (0, 0)
    assert iou(EMPTY, array((0, 0, 1, 1))).shape == (0, 1)
    for result in (clip(EMPTY, 9, 9), add_margin(EMPTY, 0.1), crop_box(EMPTY, 0.1, 9, 9)):
        assert result.shape == (0, 4)
    boxes, scores = merge_overlapping(EMPTY, np.zeros(0, np.float32))
    assert (boxes.shape, scores.shape) == ((0, 4), (0,))
    for policy in POLICIES:
        assert order_by_policy(policy, EMPTY, np.zeros(0, np.float32), 9, 9).shape == (0,)


def test_merging_averages_by_the_squared_score_and_keeps_the_best_score() -> None:
    boxes = array((2, 0, 12, 10), (50, 50, 60, 60), (0, 0, 10, 10))
    merged, scores = merge_overlapping(boxes, np.array([0.3, 0.7, 0.9]))
    np.testing.assert_allclose(merged, [(0.2, 0, 10.2, 10), (50, 50, 60, 60)])
    np.testing.assert_allclose(scores, [0.9, 0.7])


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold", "limit", "expected"),
    [
        ([(0, 0, 10, 10), (5, 0, 15, 10)], [0.5, 0.5], 0.6, 20, 2),
        ([(0, 0, 10, 10), (5, 0, 15, 10)], [0.5, 0.5], 0.3, 20, 1),
        ([(0, 0, 10, 10), (0, 0, 10, 10)], [0.0, 0.0], 0.6, 20, 1),
        ([(0, 0, 10, 10), (0, 0, 10, 10)], [0.5, 0.5], 1.0, 20, 2),
        ([(5, 5, 5, 5), (5, 5, 5, 5)], [0.5, 0.5], 0.6, 20, 2),
        ([(0, 0, 9, 9), (20, 0, 29, 9), (40, 0, 49, 9)], [0.5, 0.6, 0.7], 0.6, 2, 2),
        ([(0, 0, 9, 9)], [0.5], 0.6, 0, 0),
    ],
)
def test_how_many_boxes_are_kept(
    boxes: list[tuple[float, float, float, float]],
    scores: list[float],
    threshold: float,
    limit: int,
    expected: int,
) -> None:
    kept, kept_scores = merge_overlapping(array(*boxes), np.array(scores), threshold, limit)
    assert len(kept) == len(kept_scores) == expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("score", [2, 0, 1, 3]),
        ("rescored", [2, 0, 1, 3]),
        ("largest", [0, 1, 3, 2]),
        ("central", [3, 1, 0, 2]),
        ("score_area", [0, 1, 3, 2]),
    ],
)
def test_policies(policy: BoxPolicy, expected: list[int]) -> None:
    boxes = array((0, 0, 60, 60), (20, 20, 70, 70), (0, 0, 2, 2), (40, 40, 60, 60))
    scores = np.array([0.6, 0.5, 0.9, 0.4])
    assert order_by_policy(policy, boxes, scores, 100, 100).tolist() == expected


@pytest.mark.parametrize("policy", ["largest", "central"])
def test_ties_go_by_score_then_by_position(policy: BoxPolicy) -> None:
    boxes = array((0, 0, 10, 10), (90, 0, 100, 10), (0, 90, 10, 100))
    assert order_by_policy(policy, boxes, np.array([0.5, 0.7, 0.5]), 100, 100).tolist() == [1, 0, 2]


def test_the_policies_are_those_of_the_type() -> None:
    assert get_args(BoxPolicy) == POLICIES
    with pytest.raises(ValueError, match="unknown box policy nearest; known are rescored, score"):
        order_by_policy("nearest", EMPTY, np.zeros(0), 9, 9)  # type: ignore[arg-type]


coordinates = st.floats(-50, 350, width=32)


@st.composite
def box_arrays(draw: st.DrawFn, max_boxes: int = 12) -> Floats:
    count = draw(st.integers(0, max_boxes))
    corners: Floats = draw(hnp.arrays(np.float64, (count, 2, 2), elements=coordinates))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)


@settings(deadline=None)
@given(
    boxes=box_arrays(),
    margin=st.floats(0, 1),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_crop_boxes_lie_inside_and_contain_the_clipped_box(
    boxes: Floats, margin: float, width: int, height: int, dtype: type[np.floating]
) -> None:
    boxes = boxes.astype(dtype)
    crops = crop_box(boxes, margin, width, height)
    clipped = clip(boxes, width, height)
    assert np.all(crops >= 0)
    assert np.all(crops <= (width, height, width, height))
    assert np.all(crops[:, :2] <= clipped[:, :2])
    assert np.all(crops[:, 2:] >= clipped[:, 2:])
    rounding = 1e-3 if dtype is np.float32 else 1e-9
    sides = crops[:, 2:] - crops[:, :2]
    assert np.all(sides >= 1 - rounding)
    longer, shorter = sides.max(axis=1), sides.min(axis=1)
    assert np.all((longer - shorter <= rounding) | (longer >= min(width, height) - rounding))
    for box, crop in zip(boxes, crops, strict=True):
        np.testing.assert_array_equal(crop_box(box, margin, width, height), crop)
    margins = margin * np.linspace(0, 1, len(boxes))
    for box, own, crop in zip(boxes, margins, crop_box(boxes, margins, width, height), strict=True):
        np.testing.assert_array_equal(crop_box(box, float(own), width, height), crop)


@settings(deadline=None)
@given(a=box_arrays(), b=box_arrays())
def test_iou_is_symmetric_and_in_0_to_1(a: Floats, b: Floats) -> None:
    overlap = iou(a, b)
    assert overlap.shape == (len(a), len(b))
    assert np.all((overlap >= 0) & (overlap <= 1))
    np.testing.assert_array_equal(overlap, iou(b, a).T)
    own = np.diagonal(iou(a, a))
    np.testing.assert_array_equal(own, (area(a) > 0).astype(float))


@settings(deadline=None)
@given(boxes=box_arrays(), limit=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_merged_boxes_are_means_of_their_inputs(boxes: Floats, limit: int, seed: int) -> None:
    scores = np.random.default_rng(seed).random(len(boxes))
    merged, merged_scores = merge_overlapping(boxes, scores, limit=limit)
    assert len(merged) <= min(limit, len(boxes))
    assert np.all(np.diff(merged_scores) <= 0)
    assert np.isin(merged_scores, scores).all()
    if len(boxes):
        assert merged_scores[0] == scores.max()
        assert np.all(merged >= boxes.min(axis=0) - 1e-9)
        assert np.all(merged <= boxes.max(axis=0) + 1e-9)
    # The boxes whose scores were kept suppress one another nowhere.
    keepers = boxes[[int(np.flatnonzero(scores == score)[0]) for score in merged_scores]].reshape(-1, 4)
    assert np.all(iou(keepers, keepers)[~np.eye(len(keepers), dtype=bool)] <= 0.6)


@settings(deadline=None)
@given(boxes=box_arrays(), limit=st.integers(1, 20), least=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_merging_may_stop_at_a_score(boxes: Floats, limit: int, least: float, seed: int) -> None:
    scores = np.random.default_rng(seed).random(len(boxes))
    every, every_score = merge_overlapping(boxes, scores, limit=limit)
    merged, merged_scores = merge_overlapping(boxes, scores, limit=limit, least=least)
    np.testing.assert_array_equal(merged_scores, every_score[every_score >= least])
    np.testing.assert_array_equal(merged, every[every_score >= least])


@settings(deadline=None)
@given(boxes=box_arrays(), policy=st.sampled_from(POLICIES), seed=st.integers(0, 2**32 - 1))
def test_an_order_is_a_permutation(boxes: Floats, policy: BoxPolicy, seed: int) -> None:
    scores = np.random.default_rng(seed).random(len(boxes))
    order = order_by_policy(policy, boxes, scores, 300, 300)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(len(boxes)))
