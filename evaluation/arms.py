"""Top-1 accuracy of every arm on labelled photos, as they are and in clutter, with intervals.

python -m evaluation.arms FOLDER --scale 1 --scale 0.5 --scale 0.35
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from evaluation import statistics
from evaluation.cases import Case, Condition, LabelledFolder, read_folder
from evaluation.clutter import Background, Edge
from evaluation.statistics import Proportion, proportion
from models import views
from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS, Catalog
from models.comparison import Comparison, Options, Prediction
from models.pipeline import Pipeline
from models.served import Loading, load

ARMS = ("plain", "cropped", "detector", "combined", "squashed", "center", "rectangle")
_PARALLEL = 2


@dataclass(frozen=True)
class Result:
    """One condition. An answer without a crop counts with its plain prediction, as it is deployed.

    `rescued`: plain wrong, cropped right; `broken`: plain right, cropped wrong; `p_value` is McNemar's, exact and
    two-sided; the same of `combined`.
    """

    condition: str
    scale: float
    backbone: str
    photos: int
    arms: dict[str, Proportion]
    rescued: int
    broken: int
    p_value: float
    combined_rescued: int
    combined_broken: int
    combined_p_value: float
    no_crop_rate: float


def measure(
    pipeline: Pipeline, folder: LabelledFolder, condition: Condition, backbone: str, seed: int, canvases: int
) -> Result:
    options = Options(backbone=backbone, arms=("detector", "squashed", "center"))

    def judge(case: Case) -> tuple[dict[str, bool], bool]:
        comparison = pipeline.compare(case.photo, options)
        return _judged(pipeline, case, comparison), comparison.cropped is None

    cases = folder.cases(condition, seed, canvases)
    total = len(folder) * (canvases if condition.scale < 1 else 1)
    with ThreadPoolExecutor(_PARALLEL) as pool, Progress(transient=True) as progress:
        task = progress.add_task(f"{condition.name}, {backbone}", total=total)
        rows = []
        for row in pool.map(judge, cases):
            rows.append(row)
            progress.advance(task)
    return _result(condition, backbone, [row for row, _ in rows], [missing for _, missing in rows])


def _judged(pipeline: Pipeline, case: Case, comparison: Comparison) -> dict[str, bool]:
    plain = comparison.plain
    predictions: dict[str, Prediction] = {
        "plain": plain,
        "cropped": comparison.cropped or plain,
        "combined": comparison.combined,
    }
    predictions |= {str(arm): found or plain for arm, found in comparison.arms.items()}
    right = {arm: found.first == case.label for arm, found in predictions.items()}
    if case.rectangle is not None:
        classifier = pipeline.served.classifier(comparison.backbone)
        pixels = views.cropped(case.photo, np.array(case.rectangle), classifier.model.preprocessing)
        right["rectangle"] = int(classifier.logits(pixels[None]).argmax()) == case.label
    return right


def _result(condition: Condition, backbone: str, rows: list[dict[str, bool]], missing: list[bool]) -> Result:
    arms = {arm: proportion(sum(row[arm] for row in rows), len(rows)) for arm in ARMS if arm in rows[0]}
    rescued, broken, p_value = mcnemar((row["plain"], row["cropped"]) for row in rows)
    also_rescued, also_broken, also_p = mcnemar((row["plain"], row["combined"]) for row in rows)
    return Result(
        condition.name,
        condition.scale,
        backbone,
        len(rows),
        arms,
        rescued,
        broken,
        p_value,
        also_rescued,
        also_broken,
        also_p,
        float(np.mean(missing)),
    )


def mcnemar(pairs: Iterable[tuple[bool, bool]]) -> tuple[int, int, float]:
    """(before, after) pairs -> how many became right, how many became wrong, the exact two-sided p-value."""
    discordant = [after for before, after in pairs if before != after]
    rescued = sum(discordant)
    broken = len(discordant) - rescued
    return rescued, broken, statistics.mcnemar(rescued, broken)


def main(
    folder: Annotated[Path, typer.Argument(help="Photos with a labels.csv (columns file, wnid).")],
    scale: Annotated[list[float], typer.Option(help="1 as they are; below, pasted at this share.")] = [1.0],  # noqa: B006
    background: Annotated[str, typer.Option(help="tiles or colour")] = "tiles",
    edge: Annotated[str, typer.Option(help="hard or feathered")] = "hard",
    backbone: Annotated[list[str], typer.Option()] = list(DEFAULT_BACKBONES[:1]),  # noqa: B006
    detector: Annotated[str, typer.Option()] = DEFAULT_DETECTORS[0],
    canvases: Annotated[int, typer.Option(help="Canvases a photo.", min=1)] = 1,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the results as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the first backbone's curves as PNG.")] = None,
) -> None:
    """Accuracy of the arms: Wilson 95 % intervals, rescued and broken, exact McNemar."""
    from service.settings import Settings

    photos = read_folder(folder)
    served = load(Catalog(), backbone, [detector], Loading(Settings().cache_dir))
    results = [
        measure(Pipeline(served), photos, _condition(share, background, edge), name, seed, canvases)
        for name in backbone
        for share in scale
    ]
    Console(width=200).print(_table(results))
    if out is not None:
        out.write_text(json.dumps([asdict(result) for result in results], indent=1))
    if plot is not None:
        _draw([result for result in results if result.backbone == backbone[0]], background, edge, plot)


def _draw(results: list[Result], background: str, edge: str, path: Path) -> None:
    from evaluation.plots import accuracy_over_scale

    curves = {
        arm: [
            (result.scale, found.accuracy, found.low, found.high)
            for result in results
            if (found := result.arms.get(arm)) is not None
        ]
        for arm in ("plain", "cropped", "combined", "rectangle")
    }
    title = f"{results[0].backbone}, photos pasted into {background}, {edge} edge, with 95 % intervals"
    accuracy_over_scale(curves, title, path)


def _condition(scale: float, background: str, edge: str) -> Condition:
    backgrounds: dict[str, Background] = {"tiles": "tiles", "colour": "colour"}
    edges: dict[str, Edge] = {"hard": "hard", "feathered": "feathered"}
    if background not in backgrounds or edge not in edges:
        raise typer.BadParameter("background is tiles or colour, edge is hard or feathered")
    return Condition(scale, backgrounds[background], edges[edge])


def _table(results: list[Result]) -> Table:
    table = Table("condition", "backbone", "n", *ARMS, "rescued/broken", "combined r/b", "no crop")
    for result in results:
        cells = [
            f"{100 * found.accuracy:.1f} [{100 * found.low:.0f},{100 * found.high:.0f}]" if found else "-"
            for found in (result.arms.get(arm) for arm in ARMS)
        ]
        table.add_row(
            result.condition,
            result.backbone.removeprefix("tf_efficientnet_"),
            str(result.photos),
            *cells,
            f"{result.rescued}/{result.broken} p={result.p_value:.2g}",
            f"{result.combined_rescued}/{result.combined_broken} p={result.combined_p_value:.2g}",
            f"{100 * result.no_crop_rate:.0f} %",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
