"""Check the fused answer and the tuned numbers on photos that are never reported.

    python -m evaluation.fusion TUNING_FOLDER

Every photo's views are classified once, as it is and in clutter; then rules and numbers are compared on the
same views. What comes out goes into `models/fusion.py` and into a head's tuning, by hand and with its table.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from evaluation.cases import Case, Condition, LabelledFolder, read_folder
from models import views
from models.boxes import area, crop_box
from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS, Catalog
from models.comparison import probabilities_over
from models.fusion import FusionRule, fuse
from models.served import Loading, Served, load

CONDITIONS = (
    Condition(),
    Condition(0.7),
    Condition(0.5),
    Condition(0.35),
    Condition(0.5, edge="feathered"),
    Condition(0.35, edge="feathered"),
    Condition(0.5, "colour"),
)
MARGINS = (0.0, 0.1, 0.2)
_CANDIDATES = 3
_PARALLEL = 2

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Views:
    """All that a rule may look at for one photo: probabilities of plain (C,) and of the crops (margin, box, C).

    `scores` are the boxes', `share` the first box's part of the photo's area, `covered` the crops' (margin, box).
    """

    label: int
    plain: Floats
    crops: Floats
    scores: Floats
    share: float
    covered: Floats


# What a rule answers for one photo at one of the margins: probabilities (C,).
Rule = Callable[[Views, int], Floats]


def collect(served: Served, folder: LabelledFolder, condition: Condition, seed: int = 0) -> list[Views]:
    """Classify every view of every photo once."""
    with ThreadPoolExecutor(_PARALLEL) as pool, Progress(transient=True) as progress:
        task = progress.add_task(condition.name, total=len(folder))
        found = []
        for one in pool.map(lambda case: _views(served, case), folder.cases(condition, seed)):
            found.append(one)
            progress.advance(task)
    return found


def _views(served: Served, case: Case) -> Views:
    classifier, photo = served.classifier(None), case.photo
    preprocessing = classifier.model.preprocessing
    detection = served.detector(None).detect([photo])[0]
    boxes, scores = detection.boxes[:_CANDIDATES], detection.scores[:_CANDIDATES]
    windows = [crop_box(box, margin, photo.width, photo.height) for margin in MARGINS for box in boxes]
    pixels = [views.plain(photo, preprocessing)]
    pixels += [views.cropped(photo, window, preprocessing) for window in windows]
    own = classifier.model.label_space
    probabilities = probabilities_over(own, classifier.logits(np.stack(pixels)), own)
    whole = photo.width * photo.height
    return Views(
        label=case.label,
        plain=probabilities[0],
        crops=probabilities[1:].reshape(len(MARGINS), len(boxes), -1),
        scores=scores,
        share=float(area(boxes[0])) / whole,
        covered=np.array([float(area(window)) / whole for window in windows], np.float32).reshape(
            len(MARGINS), len(boxes)
        ),
    )


def plain(seen: Views, margin: int) -> Floats:  # noqa: ARG001 -- one signature for all rules
    return seen.plain


def first_crop(seen: Views, margin: int) -> Floats:
    return np.asarray(seen.crops[margin, 0])


def mean_of_logs(seen: Views, margin: int) -> Floats:
    return np.asarray(np.log(seen.plain + 1e-9) + np.log(seen.crops[margin, 0] + 1e-9))


def rescored(rule: FusionRule, certain: float = 1.0) -> Rule:
    def answer(seen: Views, margin: int) -> Floats:
        weights = _crop_weights(rule, seen, margin, certain)
        return np.asarray(seen.crops[margin, int(np.argmax(weights))])

    return answer


def combined(rule: FusionRule, certain: float = 1.0, covers: float = 2.0) -> Rule:
    """The fused answer; where the chosen crop covers the photo there is no crop, and plain is the answer."""

    def answer(seen: Views, margin: int) -> Floats:
        weights = _crop_weights(rule, seen, margin, certain)
        if seen.covered[margin, int(np.argmax(weights))] >= covers:
            return seen.plain
        crops = list(seen.crops[margin, : len(weights)])
        return fuse([seen.plain, *crops], [rule.plain_weight(seen.plain, seen.share), *weights])

    return answer


def _crop_weights(rule: FusionRule, seen: Views, margin: int, certain: float) -> list[float]:
    count = 1 if float(seen.crops[margin, 0].max()) > certain else len(seen.scores)
    return [
        rule.crop_weight(seen.crops[margin, index], float(seen.scores[index]), float(seen.scores[0]))
        for index in range(count)
    ]


def accuracy(rule: Rule, margin: int, photos: Sequence[Views]) -> float:
    """Top-1 in percent."""
    return 100 * float(np.mean([int(rule(seen, margin).argmax()) == seen.label for seen in photos]))


def _named_rules() -> dict[str, tuple[Rule, int]]:
    rule = FusionRule()
    rules: dict[str, tuple[Rule, int]] = {"plain": (plain, 0)}
    for index, margin in enumerate(MARGINS):
        rules[f"first crop, margin {margin:g}"] = (first_crop, index)
        rules[f"rescored crop, margin {margin:g}"] = (rescored(rule), index)
        rules[f"combined, margin {margin:g}"] = (combined(rule), index)
    rules["mean of log-probabilities"] = (mean_of_logs, 0)
    for certain in (0.3, 0.5, 0.7):
        rules[f"combined, further boxes below {certain:g}"] = (combined(rule, certain), 0)
    for covers in (0.8, 0.9, 0.95, 0.99):
        rules[f"combined, covers_image {covers:g}"] = (combined(rule, 0.5, covers), 0)
    for area_weight in (1.0, 1.5, 2.5, 3.0):
        rules[f"combined, area weight {area_weight:g}"] = (combined(FusionRule(area_weight)), 0)
    for score_weight in (1.0, 1.5, 2.5, 3.0):
        rules[f"combined, score weight {score_weight:g}"] = (
            combined(FusionRule(score_weight=score_weight)),
            0,
        )
    return rules


def _table(collected: dict[str, list[Views]]) -> Table:
    table = Table("rule", *collected, "mean")
    for name, (rule, margin) in _named_rules().items():
        figures = [accuracy(rule, margin, photos) for photos in collected.values()]
        table.add_row(name, *(f"{figure:.1f}" for figure in figures), f"{np.mean(figures):.1f}")
    return table


def _score_table(collected: dict[str, list[Views]]) -> Table:
    """How many photos keep a box at a threshold, and how often the first crop is right among those that lose it."""
    table = Table("min_score", *collected)
    for threshold in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
        cells = []
        for photos in collected.values():
            lost = [seen for seen in photos if seen.scores[0] < threshold]
            right = [int(seen.crops[0, 0].argmax()) == seen.label for seen in lost]
            cells.append(f"lost {len(lost)}, of them right {sum(right)}")
        table.add_row(f"{threshold:g}", *cells)
    return table


def main(
    folder: Annotated[Path, typer.Argument(help="Photos with a labels.csv, not those that are reported.")],
    backbone: Annotated[str, typer.Option()] = DEFAULT_BACKBONES[0],
    detector: Annotated[str, typer.Option()] = DEFAULT_DETECTORS[0],
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Top-1 of the rules over ordinary photos and clutter made of them."""
    from service.settings import Settings

    photos = read_folder(folder)
    served = load(Catalog(), [backbone], [detector], Loading(Settings().cache_dir))
    collected = {condition.name: collect(served, photos, condition, seed) for condition in CONDITIONS}
    console = Console(width=200)
    console.print(_table(collected))
    console.print(_score_table(collected))


if __name__ == "__main__":
    typer.run(main)
