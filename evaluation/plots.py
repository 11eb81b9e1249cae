"""Pictures of what was measured: as files, or as SVG inside the report, which follows its light and dark colours."""

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeAlias

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS: Mapping[str, str] = {
    "plain": "#3b6fb6",
    "cropped": "#d9730d",
    "combined": "#2f855a",
    "detector": "#8a5cc2",
    "squashed": "#6d7b91",
    "center": "#2c8f98",
    "random": "#a8823f",
    "background": "#a85577",
    "rectangle": "#9aa1ac",
    "oracle_box": "#9aa1ad",
    "oracle_zoom": "#9aa1ae",
    "calibrated": "#2f855b",
}
_OTHER = "#777777"
_LABELS = {
    "plain": "plain: the whole photo",
    "cropped": "cropped to the detected box",
    "combined": "combined",
    "rectangle": "cropped to the true rectangle",
}
# Stand-ins that become the report's own colours.
_INK, _FAINT, _GRID = "#010203", "#010204", "#010205"
_VARIABLES = {_INK: "--ink", _FAINT: "--faint", _GRID: "--line", _OTHER: "--faint"} | {
    colour: f"--arm-{arm.replace('_', '-')}" for arm, colour in COLOURS.items()
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.titlesize": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.labelcolor": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
_WIDTH = 5.6
_MARKERS = "osD^vP*X"

# (scale, accuracy, low, high), 0..1
Curve: TypeAlias = Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Dot:
    """A figure with its interval in percent or points; `low` and `high` may be None."""

    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Change:
    """One class's accuracy by two arms, 0..1."""

    name: str
    before: float
    after: float


def accuracy_over_scale(curves: Mapping[str, Curve], title: str, path: Path) -> None:
    """Accuracy over the object's scale. `curves` has by arm the points (scale, accuracy, low, high), 0..1."""
    figure, axes = plt.subplots(figsize=(8, 4.2), dpi=150)
    _draw_curves(axes, curves)
    _dress(axes, title)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def stress_svg(curves: Mapping[str, Curve], caption: str) -> str:
    def draw(axes: Any) -> None:
        _draw_curves(axes, curves)
        axes.set_xlabel("side of the photo as a share of the canvas's")
        axes.set_ylabel("top-1 accuracy, %")
        axes.set_ylim(0, 100)
        axes.legend(frameon=False, fontsize=9, loc="best")

    return _svg(draw, 3.9, caption)


def arms_svg(models: Mapping[str, Sequence[Dot]], caption: str) -> str:
    """Accuracy by arm with its interval, percent: one marker a model. `Dot.name` is the arm."""
    arms = list(dict.fromkeys(dot.name for dots in models.values() for dot in dots))

    def draw(axes: Any) -> None:
        step = 0.72 / max(1, len(models))
        for place, (model, dots) in enumerate(models.items()):
            shift = (place - (len(models) - 1) / 2) * step
            for dot in dots:
                colour = COLOURS.get(dot.name, _OTHER)
                _draw_dot(axes, dot, arms.index(dot.name) + shift, colour, _MARKERS[place % len(_MARKERS)])
            axes.plot([], [], _MARKERS[place % len(_MARKERS)], color=_FAINT, label=model)
        axes.set_yticks(range(len(arms)), [arm.replace("_", " ") for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel("top-1 accuracy, %, with 95 % intervals")
        axes.tick_params(axis="y", length=0)
        _legend_above(axes, len(models))

    return _svg(draw, 1.1 + 0.3 * len(arms) + 0.09 * len(arms) * (len(models) - 1), caption, "x")


def gains_svg(models: Mapping[str, Sequence[Dot]], xlabel: str, caption: str) -> str:
    """Accuracy of cropped minus plain, in points, over strata in their order; one marker a model."""
    names = list(dict.fromkeys(dot.name for dots in models.values() for dot in dots))

    def draw(axes: Any) -> None:
        axes.axhline(0, color=_FAINT, lw=1)
        for place, (model, dots) in enumerate(models.items()):
            shift = (place - (len(models) - 1) / 2) * 0.5 / max(1, len(models))
            marker = _MARKERS[place % len(_MARKERS)]
            for dot in dots:
                at, colour = names.index(dot.name) + shift, COLOURS["cropped"]
                if dot.low is not None and dot.high is not None:
                    axes.plot([at, at], [dot.low, dot.high], color=colour, lw=2, solid_capstyle="round")
                axes.plot([at], [dot.value], marker, color=colour, ms=6)
            axes.plot([], [], marker, color=_FAINT, label=model)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("cropped minus plain, points")
        _legend_above(axes, len(models))

    return _svg(draw, 3.6, caption)


def reliability_svg(arms: Mapping[str, Sequence[Mapping[str, float]]], caption: str) -> str:
    """By arm the filled bins with `confidence`, `accuracy` (0..1) and `photos`; a larger dot holds more photos."""

    def draw(axes: Any) -> None:
        _draw_reliability(axes, arms)
        axes.set_xlabel("confidence of the first answer, %")
        axes.set_ylabel("of these right, %")

    return _svg(draw, 4.2, caption)


def score_reliability(scores: Mapping[str, Sequence[Mapping[str, float]]], title: str, path: Path) -> None:
    """As `reliability_svg`, of detectors' scores, as a file."""
    figure, axes = plt.subplots(figsize=(5.6, 4.4), dpi=120)
    _draw_reliability(axes, scores)
    axes.set_title(title)
    axes.set_xlabel("score of the first box, %")
    axes.set_ylabel("of these with an IoU of at least 0.5, %")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _draw_reliability(axes: Any, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    axes.plot([0, 100], [0, 100], "--", color=_FAINT, lw=1)
    most = max((one["photos"] for bins in curves.values() for one in bins), default=1)
    for name, bins in curves.items():
        colour = COLOURS.get(name, _OTHER)
        sure, right = ([100 * one[figure] for one in bins] for figure in ("confidence", "accuracy"))
        axes.plot(sure, right, "-", color=colour, lw=1.5, label=name.replace("_", " "))
        axes.scatter(sure, right, [8 + 70 * one["photos"] / most for one in bins], color=colour, lw=0)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def classes_svg(changes: Sequence[Change], caption: str) -> str:
    """From plain to cropped, class by class."""

    def draw(axes: Any) -> None:
        for row, one in enumerate(changes):
            colour = COLOURS["combined"] if one.after > one.before else COLOURS["background"]
            axes.plot([100 * one.before, 100 * one.after], [row, row], "-", color=colour, lw=2)
        rows = range(len(changes))
        axes.plot([100 * one.before for one in changes], rows, "o", color=COLOURS["plain"], ms=5.5, label="plain")
        axes.plot([100 * one.after for one in changes], rows, "o", color=COLOURS["cropped"], ms=5.5, label="cropped")
        axes.set_yticks(rows, [_short(one.name) for one in changes], fontsize=9.5)
        axes.set_ylim(len(changes) - 0.5, -0.5)
        axes.set_xlim(-3, 103)
        axes.set_xlabel("top-1 accuracy, %")
        axes.tick_params(axis="y", length=0)
        _legend_above(axes, 2)

    return _svg(draw, 1.2 + 0.23 * len(changes), caption, "x")


def _draw_curves(axes: Any, curves: Mapping[str, Curve]) -> None:
    for arm, points in curves.items():
        scales, found, low, high = (list(column) for column in zip(*sorted(points), strict=True))
        colour = COLOURS.get(arm, _OTHER)
        style = "--" if arm in ("rectangle", "oracle_box", "oracle_zoom") else "-"
        label = _LABELS.get(arm, arm.replace("_", " "))
        axes.plot(scales, [100 * value for value in found], style, marker="o", color=colour, label=label)
        axes.fill_between(scales, [100 * v for v in low], [100 * v for v in high], color=colour, alpha=0.15, lw=0)


def _draw_dot(axes: Any, dot: Dot, row: float, colour: str, marker: str) -> None:
    if dot.low is not None and dot.high is not None:
        axes.plot([dot.low, dot.high], [row, row], color=colour, lw=2, solid_capstyle="round")
    axes.plot([dot.value], [row], marker, color=colour, ms=6)


def _legend_above(axes: Any, entries: int) -> None:
    if entries > 1:
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=min(entries, 2))


def _dress(axes: Any, title: str) -> None:
    axes.set_xlabel("side of the photo as a share of the canvas's (1: the photo itself)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_ylim(0, 100)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="y", color="#e5e7eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")


def _svg(draw: Callable[[Any], None], height: float, caption: str, grid: Literal["x", "y"] = "y") -> str:
    """An `<svg>` element for HTML, of `caption` as its name; texts in it are escaped by matplotlib."""
    style: Any = _STYLE | {"svg.hashsalt": caption}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(_WIDTH, height))
        draw(axes)
        axes.grid(axis=grid, color=_GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if grid == "x":
            axes.spines["left"].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.04, transparent=True)
        plt.close(figure)
    return _inlined(buffer.getvalue(), caption)


def _inlined(text: str, caption: str) -> str:
    """Without what HTML does not need, its ids apart from those of other plots, its colours the page's."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    prefix = f"p{zlib.crc32(caption.encode())}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = text.replace('xlink:href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")
    view = re.search(r'viewBox="[^"]*"', text)
    label = escape(caption, quote=True)
    head = f'<svg class="plot" role="img" aria-label="{label}" {view.group(0) if view else ""}>'
    text = re.sub(r"^<svg[^>]*>", lambda _: head, text)
    return re.sub("#[0-9a-f]{6}", lambda found: _themed(found.group(0)), text)


def _themed(colour: str) -> str:
    variable = _VARIABLES.get(colour)
    return f"var({variable})" if variable else colour


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
