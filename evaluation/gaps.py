"""How much of an answer is the background's: the same objects, shown in two ways.

Before backgrounds of their own class and of another, the gap is that of the Backgrounds Challenge: Xiao, Engstrom,
Ilyas & Madry (2020), arXiv:2006.09994, section 3: the accuracy on MIXED-SAME minus that on MIXED-RAND. With a paired
data set (ImageNet-A-Plus: the objects of ImageNet-A, cropped out by hand) it is what the surroundings cost.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from evaluation.results import AS_IT_IS, PAIRED, Run
from evaluation.statistics import Paired, paired

Kind: TypeAlias = Literal["background", "paired"]

# The gap is the first condition's accuracy minus the second's.
CONDITIONS: dict[Kind, tuple[str, str]] = {
    "background": ("background same class", "background another class"),
    "paired": (PAIRED, AS_IT_IS),
}
_ARMS = ("plain", "cropped", "combined")


@dataclass(frozen=True)
class Gap:
    """`first` and `second` are accuracies, 0..1, of the photos that were shown both ways."""

    kind: Kind
    backbone: str
    detector: str
    label_space: str
    arm: str
    first: float
    second: float
    paired: Paired


def gaps(runs: Sequence[Run], seed: int = 0) -> list[Gap]:
    """Of every model that was shown both ways; empty where none was."""
    shown: defaultdict[tuple[str, str, str], dict[str, Run]] = defaultdict(dict)
    for run in runs:
        shown[(run.key.backbone, run.key.detector, run.key.label_space)][run.key.condition] = run
    found = [
        _gap(kind, conditions[first], conditions[second], arm, seed)
        for kind, (first, second) in CONDITIONS.items()
        for conditions in shown.values()
        if first in conditions and second in conditions
        for arm in _ARMS
        if arm in conditions[first].arms and arm in conditions[second].arms
    ]
    return [gap for gap in found if gap.paired.photos]


def _gap(kind: Kind, first: Run, second: Run, arm: str, seed: int) -> Gap:
    _, left, right = np.intersect1d(first.paths, second.paths, return_indices=True)
    before, after = second.arms[arm].correct[right], first.arms[arm].correct[left]
    result = paired(before, after, first.wnids[left], seed)
    shares = (float(np.mean(after)), float(np.mean(before))) if len(left) else (float("nan"), float("nan"))
    return Gap(kind, first.key.backbone, first.key.detector, first.key.label_space, arm, *shares, result)
