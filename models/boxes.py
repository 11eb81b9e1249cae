"""Geometry of boxes as pure functions on arrays.

A box is (x1, y1, x2, y2) in pixels of the upright photo, half open, float32 or float64: a box over the whole
photo is (0, 0, width, height). Functions take (N, 4), and where they say so (4,) too. Boxes come back in the
floating dtype they came in (integers become float64); N may be 0.
"""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]

BoxPolicy: TypeAlias = Literal["rescored", "score", "largest", "central", "score_area"]
"""Which of several boxes is the crop. `rescored` lets a classifier choose among the first by score; here it
orders as `score` does, since a classifier is not this module's business."""

POLICIES: tuple[BoxPolicy, ...] = ("rescored", "score", "largest", "central", "score_area")


def area(boxes: Floats) -> Floats:
    """(N, 4) -> (N,), or (4,) -> (), in square pixels; 0 for a box whose corners are out of order."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: Floats = np.prod(sides, axis=-1)
    return areas


def longer_side(boxes: Floats) -> Floats:
    """(N, 4) -> (N,), or (4,) -> (), in pixels; 0 for a box whose corners are out of order."""
    longer: Floats = np.maximum(boxes[..., 2:] - boxes[..., :2], 0).max(-1)
    return longer


def clip(boxes: Floats, width: float, height: float) -> Floats:
    """(N, 4) or (4,) -> the same, every corner moved into [0, width] x [0, height]."""
    boxes = _floating(boxes)
    limits = np.array([width, height, width, height], dtype=boxes.dtype)
    clipped: Floats = np.clip(boxes, 0, limits)
    return clipped


def iou(boxes_a: Floats, boxes_b: Floats) -> Floats:
    """(N, 4), (M, 4) -> (N, M) float64 in [0, 1]; 0 where both boxes are empty."""
    a = np.asarray(boxes_a, dtype=np.float64)[:, None]
    b = np.asarray(boxes_b, dtype=np.float64)[None]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    intersection = np.prod(np.maximum(high - low, 0), axis=-1)
    union = area(a) + area(b) - intersection
    overlap: Floats = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlap


def add_margin(box: Floats, margin: float | Floats) -> Floats:
    """(N, 4) or (4,) -> the same, every side moved outwards by `margin` times the box's longer side.

    One margin for all, or an (N,) of them.
    """
    box = _floating(box)
    pad = np.asarray(margin, box.dtype) * np.maximum(box[..., 2] - box[..., 0], box[..., 3] - box[..., 1])
    moved = np.stack([box[..., 0] - pad, box[..., 1] - pad, box[..., 2] + pad, box[..., 3] + pad], axis=-1)
    return moved.astype(box.dtype)


def widen_to_square(box: Floats, width: float, height: float) -> Floats:
    """Widens the shorter side of a box inside the photo to the longer one, and both to a pixel at least.

    (N, 4) or (4,) -> the same. The box grows about its centre. Where that would leave the photo, it is
    shifted inside, so that it gains real context and no border; only what the photo has not is cut off: a box
    whose longer side exceeds the photo's other dimension comes back as the full extent in that one. The box
    given is always contained in the result.
    """
    box = _floating(box)
    x1, y1, x2, y2 = np.moveaxis(box.astype(np.float64), -1, 0)
    side = np.maximum(np.maximum(x2 - x1, y2 - y1), 1.0)
    left, right = _widen(x1, x2, side, width)
    top, bottom = _widen(y1, y2, side, height)
    return np.stack([left, top, right, bottom], axis=-1).astype(box.dtype)


def crop_box(box: Floats, margin: float | Floats, width: float, height: float) -> Floats:
    """The part of the photo that is classified for a detected box: a margin, clipped, widened to a square.

    (N, 4) or (4,) -> the same, with one margin for all or an (N,) of them. The result lies inside the photo, has at
    least one pixel (up to the dtype's rounding) in both directions, and contains the clipped box. The photo has at
    least one pixel itself.
    """
    return widen_to_square(clip(add_margin(box, margin), width, height), width, height)


def merge_overlapping(
    boxes: Floats, scores: Floats, iou_threshold: float = 0.45, limit: int = 20, least: float = 0.0
) -> tuple[Floats, Floats]:
    """Greedy non-maximum suppression that averages what it suppresses ("weighted boxes").

    Best first, each box not yet taken takes all such boxes whose IoU with it exceeds `iou_threshold`, becomes
    their mean weighted by the square of the score, and keeps its own score. `boxes` (N, 4) and `scores` (N,) in
    [0, 1] -> (K, 4) and (K,), best first, K at most `limit`, no score below `least`. The threshold and the square were
    chosen by CorLoc on 2,000 training photos (docs/heads.md).
    """
    boxes, scores = _floating(boxes), _floating(scores)
    order = np.argsort(-scores, kind="stable")
    # A row a coordinate: a photo has hundreds of boxes, and few calls on long rows cost the least.
    corners = np.ascontiguousarray(boxes[order].T, dtype=np.float64)
    areas = area(corners.T)
    weights = np.square(scores[order], dtype=np.float64)
    left = np.ones(len(order), dtype=bool)
    # What takes no other box is still taken by a better one.
    able = int((scores >= least).sum())
    kept: list[Floats] = []
    places: list[int] = []
    while len(kept) < limit and left[:able].any():
        place = int(left.argmax())
        # An empty box has no IoU even with itself.
        left[place] = False
        taken = left & _overlap(corners, areas, place, iou_threshold)
        left &= ~taken
        taken[place] = True
        shares = weights * taken
        total = shares.sum()
        kept.append(corners @ shares / total if total > 0 else corners[:, place])
        places.append(place)
    return np.array(kept).reshape(-1, 4).astype(boxes.dtype), scores[order[places]]


def order_by_policy(policy: BoxPolicy, boxes: Floats, scores: Floats, width: float, height: float) -> NDArray[np.int64]:
    """Indices (N,) of `boxes` (N, 4) and `scores` (N,), best first; ties go by score, then by position.

    `score` and `rescored`: by score. `largest`: by area. `central`: by the distance of the box's centre from
    the photo's, relative to half the photo's diagonal. `score_area`: by score times the square root of the
    share of the photo that the box covers.

    Raises `ValueError` for any other policy.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    scores = np.asarray(scores, dtype=np.float64)
    if policy in ("score", "rescored"):
        cost = -scores
    elif policy == "largest":
        cost = -area(boxes)
    elif policy == "central":
        offset = (boxes[:, :2] + boxes[:, 2:] - (width, height)) / 2
        cost = np.hypot(offset[:, 0], offset[:, 1]) / (np.hypot(width, height) / 2)
    elif policy == "score_area":
        cost = -scores * np.sqrt(area(boxes) / (width * height))
    else:
        raise ValueError(f"unknown box policy {policy}; known are {', '.join(POLICIES)}")
    return np.lexsort((-scores, cost)).astype(np.int64)


def _floating(values: Floats) -> Floats:
    values = np.asarray(values)
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)


def _overlap(corners: Floats, areas: Floats, place: int, threshold: float) -> NDArray[np.bool_]:
    """Which of the boxes (4, N) with these areas (N,) have an IoU above `threshold` with that at `place`."""
    box = corners[:, place, None]
    sides = np.minimum(corners[2:], box[2:]) - np.maximum(corners[:2], box[:2])
    np.maximum(sides, 0, out=sides)
    intersection = sides[0] * sides[1]
    above: NDArray[np.bool_] = intersection > threshold * (areas + areas[place] - intersection)
    return above


def _widen(low: Floats, high: Floats, side: Floats, extent: float) -> tuple[Floats, Floats]:
    """[low, high) inside [0, extent] -> an interval of length `side` around it, or as long as fits."""
    start = np.clip((low + high - side) / 2, 0, np.maximum(extent - side, 0))
    # The bounds of the given interval win over rounding.
    return np.minimum(start, low), np.minimum(np.maximum(start + side, high), extent)
