"""An evaluation in one table for the terminal: a line a condition, model and label space."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from evaluation.summary import in_order

_CONTRASTED = ("cropped", "combined")
# What tells runs apart; of these only `_ALWAYS` where all are alike.
_NAMES = ("condition", "backbone", "detector", "label_space", "photos")
_ALWAYS = ("condition", "backbone", "photos")


def table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """`runs` are a summary.json's. Accuracies are in percent, with Wilson's 95 % intervals."""
    arms = in_order({arm: None for run in runs for arm in run["arms"]})
    contrasted = [arm for arm in _CONTRASTED if arm in arms]
    named = [name for name in _NAMES if name in _ALWAYS or len({run[name] for run in runs}) > 1]
    found = Table()
    for header in (*named, *arms, *(f"{arm} rescued/broken" for arm in contrasted), "no detection"):
        found.add_column(header.replace("_", " "), no_wrap=True)
    for run in runs:
        found.add_row(
            *(str(run[name]) for name in named),
            *(_share(run["arms"].get(arm)) for arm in arms),
            *(_changes(run, arm) for arm in contrasted),
            f"{100 * run['no_detection_rate']:.0f} %",
        )
    return found


def _share(one: Mapping[str, Any] | None) -> str:
    if one is None or one["accuracy"] is None:
        return "-"
    return f"{100 * one['accuracy']:.1f} [{100 * one['low']:.0f}, {100 * one['high']:.0f}]"


def _changes(run: Mapping[str, Any], arm: str) -> str:
    """Against plain, with exact McNemar's p."""
    for one in run["contrasts"]:
        if (one["arm"], one["against"]) == (arm, "plain"):
            return f"{one['rescued']}/{one['broken']} p={one['p_value']:.2g}"
    return "-"
