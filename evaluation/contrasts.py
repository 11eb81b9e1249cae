"""Which arms are set against which: the crop against the whole photo and against every control."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from evaluation.results import Run
from evaluation.statistics import ALPHA, Paired, holm, paired

# A crop that beats these too shows more than a second look, mere zoom, or a box anywhere.
CONTROLS = ("squashed", "center", "random")
PAIRS = (
    ("cropped", "plain"),
    *(("cropped", control) for control in CONTROLS),
    ("combined", "plain"),
    ("combined", "cropped"),
    ("detector", "plain"),
    ("background", "plain"),
    ("oracle_box", "cropped"),
)

Pair: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Contrast:
    """`arm` against `against`; `p_value_holm` is adjusted over the backbones and detectors of the same run."""

    arm: str
    against: str
    paired: Paired
    p_value_holm: float

    @property
    def better(self) -> bool:
        return self._told and self.paired.difference > 0

    @property
    def worse(self) -> bool:
        return self._told and self.paired.difference < 0

    @property
    def _told(self) -> bool:
        """Both must agree: the test over photos after Holm, and the wider interval, over photos or whole classes."""
        interval = self.paired.interval
        return self.p_value_holm < ALPHA and interval is not None and interval.excludes(0)


def contrasts(runs: Sequence[Run], seed: int = 0) -> list[dict[Pair, Contrast]]:
    """Of every run. Holm's family is one pair of arms under one condition and label space, over all models."""
    found = [_of(run, seed) for run in runs]
    families: defaultdict[tuple[str, str, Pair], list[int]] = defaultdict(list)
    for place, (run, pairs) in enumerate(zip(runs, found, strict=True)):
        for pair in pairs:
            families[(run.key.condition, run.key.label_space, pair)].append(place)
    for (_, _, pair), places in families.items():
        adjusted = holm([found[place][pair].paired.p_value for place in places])
        for place, p_value in zip(places, adjusted, strict=True):
            found[place][pair] = replace(found[place][pair], p_value_holm=p_value)
    return found


def _of(run: Run, seed: int) -> dict[Pair, Contrast]:
    found = {}
    for pair in PAIRS:
        if all(arm in run.arms for arm in pair):
            after, before = (run.arms[arm] for arm in pair)
            shared = after.present & before.present
            if shared.any():
                result = paired(before.correct[shared], after.correct[shared], run.wnids[shared], seed)
                found[pair] = Contrast(*pair, result, result.p_value)
    return found


def controls_run(pairs: Mapping[Pair, Contrast]) -> list[str]:
    return [control for control in CONTROLS if ("cropped", control) in pairs]
