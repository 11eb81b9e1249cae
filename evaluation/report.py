"""`report.html`: one file to read and to publish, with no network, no script and nothing that was not measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evaluation import plots, summary
from evaluation.anchors import SOURCES, anchors
from evaluation.contrasts import CONTROLS
from evaluation.gallery import SHOWN, Gallery, Names, Show, galleries, reader
from evaluation.results import AS_IT_IS, RESULTS, Run, read_runs
from evaluation.verdict import points

REPORT = "report.html"
_CURVES = ("plain", "cropped", "combined", "center", "rectangle", "oracle_box")
_CALIBRATED = ("plain", "cropped", "combined")
_CLASSES_SHOWN = 12
# Groups of fewer photos are in the tables, and not drawn: a dot at 0 or 100 % would say more than they do.
_FEWEST = 5
_DASH = "\N{EN DASH}"
_STRESS_SHOWN = 12
# Photos under a stress are shown at the scale next to this, and fewer of them.
_STRESS_SCALE, _STRESSED_PHOTOS = 0.5, 8

Figures: TypeAlias = dict[str, Any]


def write(folder: Path, show: Show | None = None) -> Path:
    """Writes `report.html` beside the `results.parquet` in `folder`, and `summary.json` where that is not up to date.

    `show` makes the photos of the galleries once more; without it those as they are come from the data set that
    run.json names, where it is still there.
    """
    figures, details = _summary(folder), summary.read_details(folder)
    runs = read_runs(folder)
    run = _leading_run(runs, figures)
    source = str((details.get("data") or {}).get("source") or "")
    show = show or (reader(source) if source else None)
    shown = None if run is None or show is None else _galleries(runs, run, show, figures["method"]["seed"])
    path = folder / REPORT
    path.write_text(render(figures, details, shown, None if run is None else Names.of(run)), "utf-8")
    return path


def render(
    figures: Figures,
    details: Mapping[str, Any],
    shown: Sequence[Sequence[Gallery]] | None = None,
    names: Names | None = None,
) -> str:
    """The page. `figures` are a `summary.json`'s, `details` a `run.json`'s, `shown` None without pictures."""
    environment = Environment(
        loader=PackageLoader("evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": _points, "p_value": p_value, "rate": _rate}
    runs: list[Figures] = figures["runs"]
    leading = [run for run in runs if run["headline"]]
    natural = [run for run in runs if run["condition"] == AS_IT_IS] or leading
    space = leading[0]["label_space"] if leading else ""
    return environment.get_template("report.html.j2").render(
        figures=figures,
        details=details,
        settings=json.dumps(details, ensure_ascii=False, indent=1),
        command=_command(details),
        runs=runs,
        leading=leading,
        natural=natural,
        stressed=[run for run in runs if run not in natural and run["label_space"] == space],
        controls=CONTROLS,
        arms=_columns(runs),
        named=lambda run: model_name(run, runs),
        plots=_plots(leading, natural, runs, names) if leading else {},
        changed=_changed_classes(leading[0], names) if leading else [],
        fewest=_FEWEST,
        galleries=shown,
        anchors=anchors(),
        sources=SOURCES.values(),
    )


def percent(share: float | None, digits: int = 1) -> str:
    return _DASH if share is None else f"{100 * share:.{digits}f}"


def p_value(value: float | None) -> str:
    if value is None:
        return _DASH
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def model_name(run: Mapping[str, Any], among: Sequence[Mapping[str, Any]]) -> str:
    """The backbone, with the detector where there are several."""
    detectors = {other["detector"] for other in among}
    backbone, detector = str(run["backbone"]), str(run["detector"])
    return backbone if len(detectors) < 2 else f"{backbone} + {detector}"


def _points(difference: float | None) -> str:
    return _DASH if difference is None else points(difference)


def _rate(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3f}"


def _summary(folder: Path) -> Figures:
    path = folder / summary.SUMMARY
    if path.exists() and path.stat().st_mtime >= (folder / RESULTS).stat().st_mtime:
        figures: Figures = json.loads(path.read_text("utf-8"))
        return figures
    return summary.write(folder)


def _leading_run(runs: Sequence[Run], figures: Figures) -> Run | None:
    """The run that the classes are of."""
    leading = next((run for run in figures["runs"] if run["headline"]), None)
    if leading is None:
        return None
    key = {name: leading[name] for name in ("condition", "backbone", "detector", "label_space")}
    return next(run for run in runs if vars(run.key) == key)


def _galleries(runs: Sequence[Run], leading: Run, show: Show, seed: int) -> list[list[Gallery]]:
    """Of the leading run, and of one condition of each kind that the same models met."""
    found = [galleries(leading, show, seed, SHOWN)]
    same = [run for run in runs if replace(run.key, condition=leading.key.condition) == leading.key]
    others = [run for run in same if run is not leading]
    for background in dict.fromkeys(run.background for run in others):
        kind = [run for run in others if run.background == background]
        nearest = min(kind, key=lambda run: (abs(run.scale - _STRESS_SCALE), run.edge != "hard"))
        found.append(galleries(nearest, show, seed, _STRESSED_PHOTOS))
    return found


def _command(details: Mapping[str, Any]) -> str:
    command = details.get("command") or ""
    return command if isinstance(command, str) else " ".join(map(str, command))


def _columns(runs: Sequence[Figures]) -> list[str]:
    return summary.in_order({arm: None for run in runs for arm in run["arms"]})


def _plots(
    leading: Sequence[Figures], natural: Sequence[Figures], runs: Sequence[Figures], names: Names | None
) -> dict[str, list[tuple[str, Markup]]]:
    """By section the captions and the SVG, which matplotlib has escaped."""
    return {
        section: [(caption, Markup(svg)) for caption, svg in found]
        for section, found in {
            "arms": _arm_plots(natural),
            "stress": _stress_plots(leading, runs),
            "strata": _strata_plots(leading),
            "reliability": _reliability_plots(leading),
            "classes": _class_plots(leading[0], names),
        }.items()
    }


def _arm_plots(natural: Sequence[Figures]) -> list[tuple[str, str]]:
    found = []
    for space in dict.fromkeys(run["label_space"] for run in natural):
        runs = [run for run in natural if run["label_space"] == space]
        dots = {
            model_name(run, natural): [
                plots.Dot(arm, 100 * one["accuracy"], 100 * one["low"], 100 * one["high"])
                for arm, one in run["arms"].items()
                if one["accuracy"] is not None
            ]
            for run in runs
        }
        caption = f"Accuracy by arm over the label space {space}"
        found.append((caption, plots.arms_svg(dots, caption)))
    return found


def _stress_plots(leading: Sequence[Figures], runs: Sequence[Figures]) -> list[tuple[str, str]]:
    """One for every model and kind of canvas; the photos as they are stand at scale 1."""
    found = []
    for first in leading:
        same = [run for run in runs if all(run[key] == first[key] for key in ("backbone", "detector", "label_space"))]
        pasted = [run for run in same if run["scale"] < 1]
        for background, edge in dict.fromkeys((run["background"], run["edge"]) for run in pasted):
            kind = [run for run in pasted if (run["background"], run["edge"]) == (background, edge)]
            whole = [first] if first["condition"] == AS_IT_IS else []
            curves = {arm: points for arm in _CURVES if (points := _curve(arm, [*kind, *whole]))}
            caption = f"{model_name(first, runs)}: pasted into {background}, {edge} edge"
            found.append((caption, plots.stress_svg(curves, caption)))
    return found[:_STRESS_SHOWN]


def _curve(arm: str, runs: Sequence[Figures]) -> plots.Curve:
    return [
        (run["scale"], one["accuracy"], one["low"], one["high"])
        for run in runs
        if (one := run["arms"].get(arm)) is not None and one["accuracy"] is not None
    ]


def _strata_plots(leading: Sequence[Figures]) -> list[tuple[str, str]]:
    labels = {
        "area": ("box's share of the photo's area, %", "Gain by the box's area"),
        "score": ("the detector's score, in quarters", "Gain by the detector's score"),
        "iou": ("IoU with the hand-drawn box", "Gain by IoU with the hand-drawn box"),
    }
    found = []
    for kind, (xlabel, caption) in labels.items():
        # Quarters of the scores differ between detectors: only one of them on an axis.
        runs = leading if kind != "score" else leading[:1]
        dots = {model_name(run, leading): _stratum_dots(kind, run["strata"].get(kind, [])) for run in runs}
        if any(dots.values()):
            found.append((caption, plots.gains_svg(dots, xlabel, caption)))
    return found


def _stratum_dots(kind: str, strata: Sequence[Figures]) -> list[plots.Dot]:
    def name(one: Figures) -> str:
        if kind == "area":
            return f"{100 * one['low']:.0f}{_DASH}{100 * one['high']:.0f}"
        return f"{one['low']:.2f}{_DASH}{one['high']:.2f}"

    return [
        plots.Dot(
            name(one),
            100 * one["difference"],
            *((100 * bound for bound in one["interval"]) if one["interval"] else (None, None)),
        )
        for one in strata
        if one["low"] is not None and one["photos"] >= _FEWEST
    ]


def _reliability_plots(leading: Sequence[Figures]) -> list[tuple[str, str]]:
    found = []
    for run in leading:
        caption = f"Reliability: {model_name(run, leading)}"
        bins = {
            arm: [one for one in run["calibration"][arm]["reliability"] if one["photos"] >= _FEWEST]
            for arm in _CALIBRATED
            if arm in run["calibration"]
        }
        found.append((caption, plots.reliability_svg(bins, caption)))
    return found


def _class_plots(run: Figures, names: Names | None) -> list[tuple[str, str]]:
    changed = _changed_classes(run, names)
    if not changed:
        return []
    changes = [
        plots.Change(one["label"], one["plain"] / one["photos"], one["cropped"] / one["photos"]) for one in changed
    ]
    caption = "The classes that gain and lose most"
    return [(caption, plots.classes_svg(changes, caption))]


def _changed_classes(run: Figures, names: Names | None) -> list[Figures]:
    """Those that gain most by photos, then those that lose most, the worst last."""
    classes: list[Figures] = [one for one in run["strata"].get("class", []) if one["photos"] >= _FEWEST]
    ordered = sorted(classes, key=lambda one: (one["plain"] - one["cropped"], one["wnid"]))
    gaining = [one for one in ordered if one["cropped"] > one["plain"]][:_CLASSES_SHOWN]
    losing = [one for one in ordered if one["cropped"] < one["plain"]][-_CLASSES_SHOWN:]
    return [{**one, "label": names.of_wnid(one["wnid"]) if names else one["wnid"]} for one in [*gaining, *losing]]
