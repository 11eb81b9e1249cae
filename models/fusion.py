"""The fused answer: which of the views of one photo is to be believed.

The views are the whole photo and crops: of the first box, and where that leaves a doubt of the next two and a closer
one of the first. A view counts by the odds of its top probability; the whole photo counts less as the object shrinks in
it; a crop counts less as its box's score falls behind the first box's. With L the logit, c a view's top probability, a
the first box's share of the photo's area, s a box's score, and v and w the head's tuned weights:

    z_plain = L(c_plain) + v ln(a)
    z_k     = L(c_k) + w clip(L(s_k) - L(s_1), -6, 0)
    combined = sum of softmax(z) times the views' probabilities

The crop with the largest z is the rescored one. This is the project's own rule; its weights are chosen on photos that
are never reported (`evaluation/tune.py`).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FusionRule:
    area_weight: float = 2.0
    score_weight: float = 2.0
    score_floor: float = -6.0

    def plain_weight(self, probabilities: Floats, area_fraction: float) -> float:
        """The log-weight of the whole photo, whose first box covers `area_fraction` of it."""
        return _logit(float(probabilities.max())) + self.area_weight * math.log(max(area_fraction, 1e-6))

    def crop_weight(self, probabilities: Floats, score: float, first_score: float) -> float:
        """The log-weight of a crop whose box has `score`, the first box `first_score`, both in 0..1."""
        behind = min(max(_logit(score) - _logit(first_score), self.score_floor), 0.0)
        return _logit(float(probabilities.max())) + self.score_weight * behind


def fuse(views: list[Floats], log_weights: list[float]) -> Floats:
    """Probabilities (C,) of the views, mixed by the softmax of their weights, -> (C,)."""
    weights = np.exp(np.asarray(log_weights) - max(log_weights))
    return np.asarray((weights / weights.sum()) @ np.stack(views), dtype=np.float32)


def _logit(probability: float) -> float:
    # float32 probabilities reach 1; without bounds one view could weigh infinitely much.
    bounded = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))
