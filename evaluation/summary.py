"""`summary.json`: every figure of an evaluation, from its results table alone."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.calibration import calibration, reliability
from evaluation.contrasts import Contrast, contrasts
from evaluation.gaps import CONDITIONS, Gap, gaps
from evaluation.results import Answers, Run, read_runs
from evaluation.statistics import ALPHA, CLUSTERED_RESAMPLES, RESAMPLES, Interval, mcnemar, proportion
from evaluation.strata import by_class, by_measures, stratum_figures
from evaluation.verdict import Judged, headline, one_run, sentence

SUMMARY = "summary.json"
DETAILS = "run.json"
# The order of the arms wherever they are listed; one that is not named comes last.
ARM_ORDER = (
    "plain",
    "cropped",
    "combined",
    "detector",
    "squashed",
    "center",
    "random",
    "background",
    "rectangle",
    "oracle_box",
    "oracle_zoom",
)


def write(folder: Path) -> dict[str, Any]:
    """Writes `summary.json` beside the `results.parquet` in `folder`, and returns it.

    One entry of `runs` is one condition, backbone, detector and label space. Shares are 0..1; a figure of no photo is
    null. An answer without a crop counts with its plain prediction, as it is deployed.
    """
    details = read_details(folder)
    summary = summarise(read_runs(folder), int(details.get("seed") or 0))
    summary["unreadable_photos"] = len(details.get("broken") or [])
    text = json.dumps(summary, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / SUMMARY).write_text(text + "\n", "utf-8")
    return summary


def read_details(folder: Path) -> dict[str, Any]:
    """`run.json`, what the evaluation ran with; empty where there is none."""
    path = folder / DETAILS
    if not path.exists():
        return {}
    details = json.loads(path.read_text("utf-8"))
    if not isinstance(details, dict):
        raise ValueError(f"{path} holds no JSON object")
    return details


def summarise(runs: Sequence[Run], seed: int = 0) -> dict[str, Any]:
    judged = judge(runs, seed)
    leading = headline(judged)
    figures: dict[str, Any] = _clean(
        {
            "verdict": sentence(judged),
            "runs": [{**_run(one), "headline": one in leading} for one in judged],
            "gaps": [_gap(gap) for gap in gaps(runs, seed)],
            "method": {
                "level": 1 - ALPHA,
                "seed": seed,
                "bootstrap_resamples": RESAMPLES,
                "clustered_resamples": CLUSTERED_RESAMPLES,
                "accuracy": "Wilson interval",
                "p_value": "McNemar, exact, two-sided, cropped against plain",
                "p_value_holm": "Holm over the backbones and detectors of one condition and label space",
                "gaps": "first condition minus second (background: Xiao et al. 2020, arXiv:2006.09994)",
                "rms": "RMS calibration error with the most confident bin, which its authors' code leaves out",
            },
        }
    )
    return figures


def judge(runs: Sequence[Run], seed: int = 0) -> list[Judged]:
    """Raises `ValueError` when a run lacks the arm plain or cropped: there is nothing to compare."""
    for run in runs:
        if missing := {"plain", "cropped"} - set(run.arms):
            raise ValueError(f"{run.key} has no arm {', '.join(sorted(missing))}")
    return [Judged(run, found, by_measures(run)) for run, found in zip(runs, contrasts(runs, seed), strict=True)]


def in_order(arms: Mapping[str, object]) -> list[str]:
    known = [arm for arm in ARM_ORDER if arm in arms]
    return known + [arm for arm in arms if arm not in ARM_ORDER]


def _run(judged: Judged) -> dict[str, Any]:
    run, main = judged.run, judged.contrasts[("cropped", "plain")]
    arms = {arm: run.arms[arm] for arm in in_order(run.arms)}
    return {
        **asdict(run.key),
        "scale": run.scale,
        "background": run.background,
        "edge": run.edge,
        "photos": len(run),
        "classes": len(set(run.wnids)),
        "arms": {arm: _accuracy(answers) for arm, answers in arms.items()},
        "rescued": main.paired.rescued,
        "broken": main.paired.broken,
        "p_value": main.paired.p_value,
        "p_value_holm": main.p_value_holm,
        "no_detection_rate": float(np.mean(run.reasons == "no_detection")),
        "covers_image_rate": float(np.mean(run.reasons == "covers_image")),
        "verdict": {"kind": judged.kind, "text": one_run(judged)},
        "difference": _difference(main),
        "contrasts": [_contrast(contrast) for contrast in judged.contrasts.values()],
        "with_crop": _apart(run.only(run.has_crop)),
        "without_crop": _apart(run.only(~run.has_crop)),
        "calibration": {arm: _calibration(answers) for arm, answers in arms.items()},
        "strata": _strata(judged),
    }


def _accuracy(answers: Answers) -> dict[str, Any]:
    found = proportion(int(answers.correct.sum()), int(answers.present.sum()))
    return {"correct": found.correct, "accuracy": found.accuracy, "low": found.low, "high": found.high}


def _difference(contrast: Contrast) -> dict[str, Any]:
    """The difference of the accuracies with its intervals; `shown` is the one that the verdict goes by."""
    paired = contrast.paired
    return {
        "estimate": paired.difference,
        "paired_bootstrap": _pair(paired.bootstrap),
        "clustered_bootstrap": _pair(paired.clustered),
        "newcombe": _pair(paired.score),
        "shown": _pair(contrast.paired.interval),
    }


def _contrast(contrast: Contrast) -> dict[str, Any]:
    paired = contrast.paired
    return {
        "arm": contrast.arm,
        "against": contrast.against,
        "photos": paired.photos,
        "rescued": paired.rescued,
        "broken": paired.broken,
        "p_value": paired.p_value,
        "p_value_holm": contrast.p_value_holm,
        "better": contrast.better,
        "worse": contrast.worse,
        "difference": _difference(contrast),
    }


def _gap(gap: Gap) -> dict[str, Any]:
    paired = gap.paired
    return {
        **{name: getattr(gap, name) for name in ("kind", "backbone", "detector", "label_space", "arm")},
        "conditions": list(CONDITIONS[gap.kind]),
        "accuracies": [gap.first, gap.second],
        "photos": paired.photos,
        "gap": paired.difference,
        "interval": _pair(paired.interval),
        "p_value": paired.p_value,
    }


def _apart(run: Run) -> dict[str, Any]:
    """The photos with a crop, or those without, for themselves."""
    plain, cropped = run.arms["plain"].correct, run.arms["cropped"].correct
    rescued, broken = int((cropped & ~plain).sum()), int((plain & ~cropped).sum())
    return {
        "photos": len(run),
        "arms": {arm: _accuracy(run.arms[arm]) for arm in in_order(run.arms)},
        "rescued": rescued,
        "broken": broken,
        "p_value": mcnemar(rescued, broken),
    }


def _calibration(answers: Answers) -> dict[str, Any]:
    chosen = answers.present
    confidence, correct = answers.confidence[chosen], answers.correct[chosen]
    found = calibration(confidence, correct, answers.probability_true[chosen], answers.brier[chosen])
    return {**asdict(found), "reliability": [asdict(one) for one in reliability(confidence, correct)]}


def _strata(judged: Judged) -> dict[str, Any]:
    """By class only for photos as they are: under every stress they would make most of the file."""
    strata = {kind: [stratum_figures(kind, one) for one in found] for kind, found in judged.strata.items()}
    if judged.run.as_it_is:
        strata["class"] = [asdict(one) for one in by_class(judged.run)]
    return strata


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _clean(value: Any) -> Any:
    """JSON has no NaN: what is not known is null."""
    if isinstance(value, Mapping):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
