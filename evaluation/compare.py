"""Two evaluations side by side: other models or settings over the same photos, or the same models over other photos."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from evaluation.report import p_value, percent
from evaluation.results import Answers, Key, Run, read_runs
from evaluation.statistics import Paired, Proportion, holm, paired, proportion
from evaluation.summary import in_order
from evaluation.verdict import points
from models.label_spaces import LABEL_SPACES


class NothingToCompare(ValueError):
    """Two evaluations have no condition and label space in common that tells which runs belong together."""


@dataclass(frozen=True)
class Beside:
    """One arm of two runs. `first` and `second` count all photos of each run, `paired` those that both have.

    Photos are the same where their path and their class are; `paired` is of the second against the first, and None
    without such a photo. `p_value_holm` is adjusted over the models of one condition, label space and arm.
    """

    first_key: Key
    second_key: Key
    arm: str
    first: Proportion
    second: Proportion
    paired: Paired | None
    p_value_holm: float | None


def compare(first: Path, second: Path, seed: int = 0) -> list[Beside]:
    """Of the results in two folders. Raises `NothingToCompare`, `UnreadableResults`, and `OSError` without results."""
    pairs = list(_matched(read_runs(first), read_runs(second)))
    if not pairs:
        raise NothingToCompare(f"{first} and {second} have no condition and label space in common")
    rows = [
        _beside(before, after, arm, seed)
        for before, after in pairs
        for arm in in_order(before.arms)
        if arm in after.arms
    ]
    return _adjusted(rows)


def table(rows: Sequence[Beside]) -> Table:
    """For a terminal: a row an arm. The detectors are left out where there is only one."""
    several = len({key.detector for row in rows for key in (row.first_key, row.second_key)}) > 1
    drawn = Table("condition", "labels", "first", "second", "arm")
    for name in ("first, %", "second, %", "shared", "difference", "95 %", "rescued", "broken", "p", "p, Holm"):
        drawn.add_column(name, justify="right")
    for row in rows:
        key = row.first_key
        drawn.add_row(
            key.condition,
            key.label_space,
            _model(key, several),
            _model(row.second_key, several),
            row.arm.replace("_", " "),
            _share(row.first),
            _share(row.second),
            *_shared(row),
        )
    return drawn


def write(rows: Sequence[Beside], path: Path) -> None:
    """As JSON, a list of one object an arm."""
    path.write_text(json.dumps([_figures(row) for row in rows], ensure_ascii=False, indent=1) + "\n", "utf-8")


def _matched(first: Sequence[Run], second: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Runs of the same models; failing that, the only ones left of a condition and label space."""
    later = {run.key: run for run in second if _same_labels(run, first)}
    earlier = {run.key for run in first}
    left: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in second:
        if run.key not in earlier and _same_labels(run, first):
            left[(run.key.condition, run.key.label_space)].append(run)
    alone: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in first:
        if run.key not in later:
            alone[(run.key.condition, run.key.label_space)].append(run)
    for run in first:
        shown = (run.key.condition, run.key.label_space)
        if run.key in later:
            yield run, later[run.key]
        elif len(alone[shown]) == len(left[shown]) == 1:
            yield run, left[shown][0]


def _same_labels(run: Run, others: Sequence[Run]) -> bool:
    """A label space of just the classes that a data set has is the same only where these are."""
    if run.key.label_space in LABEL_SPACES:
        return True
    spaces = [set(other.wnids) for other in others if other.key.label_space == run.key.label_space]
    return set(run.wnids) in spaces


def _beside(first: Run, second: Run, arm: str, seed: int) -> Beside:
    before, after = first.arms[arm], second.arms[arm]
    _, left, right = np.intersect1d(first.paths, second.paths, return_indices=True)
    same = (first.wnids[left] == second.wnids[right]) & before.present[left] & after.present[right]
    left, right = left[same], right[same]
    found = paired(before.correct[left], after.correct[right], first.wnids[left], seed) if len(left) else None
    p_value = None if found is None else found.p_value
    return Beside(first.key, second.key, arm, _proportion(before), _proportion(after), found, p_value)


def _adjusted(rows: Sequence[Beside]) -> list[Beside]:
    families: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row.paired is not None:
            families[(row.first_key.condition, row.first_key.label_space, row.arm)].append(place)
    found = list(rows)
    for places in families.values():
        adjusted = holm([one.p_value for place in places if (one := rows[place].paired) is not None])
        for place, value in zip(places, adjusted, strict=True):
            found[place] = replace(rows[place], p_value_holm=value)
    return found


def _proportion(answers: Answers) -> Proportion:
    return proportion(int(answers.correct.sum()), int(answers.present.sum()))


def _model(key: Key, with_detector: bool) -> str:
    return f"{key.backbone} + {key.detector}" if with_detector else key.backbone


def _share(found: Proportion) -> str:
    if found.total == 0:
        return percent(None)
    return f"{percent(found.accuracy)} [{percent(found.low)}, {percent(found.high)}]"


def _shared(row: Beside) -> list[str]:
    found = row.paired
    if found is None:
        return ["0", *[percent(None)] * 6]
    interval = found.interval
    bounds = percent(None) if interval is None else f"{points(interval.low)} to {points(interval.high)}"
    counts = [str(found.rescued), str(found.broken)]
    return [
        str(found.photos),
        points(found.difference),
        bounds,
        *counts,
        p_value(found.p_value),
        p_value(row.p_value_holm),
    ]


def _figures(row: Beside) -> dict[str, Any]:
    """An accuracy of no photo is null, as JSON has no NaN."""
    figures = asdict(row)
    for name in ("first", "second"):
        if figures[name]["total"] == 0:
            figures[name]["accuracy"] = None
    return figures
