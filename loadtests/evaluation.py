"""What an evaluation costs over the bare pipeline, from a photo's bytes to its rows.

python -m loadtests.evaluation FOLDER

Both look at the same photos with the same models and the same arms, those that the pipeline has; evaluate makes rows
of them, for the deployed classes and for the data set's. They take turns; told is processor time in one thread, which a
busy machine hardly changes, the least of the turns. `pipeline, both` asks the pipeline for both label spaces.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from evaluation.classes import Classes
from evaluation.judge import CONTRACT, Judge
from evaluation.order import Order, Prepared
from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS, Catalog
from models.comparison import ARMS, Options
from models.photo import read_photo
from models.pipeline import Pipeline
from models.served import Loading, Served, load


def contenders(prepared: Prepared, served: Served) -> dict[str, Callable[[int], object]]:
    """By name what one does with the photo at a place of the data set."""
    stage, classes = prepared.stage, prepared.classes
    judges = {name: Judge(served, chosen, (*CONTRACT, *ARMS)) for name, chosen in _label_spaces(classes).items()}
    both = judges["both"]

    def bare(spaces: tuple[str, ...]) -> Callable[[int], object]:
        pipeline, options = Pipeline(both.masked), [Options(label_space=name, arms=ARMS) for name in spaces]

        def compare(place: int) -> object:
            photo = read_photo(stage.data.read(place))
            return pipeline.compare_all([photo] * len(options), options)

        return compare

    spaces = tuple(space.name for space in both.spaces(next(iter(served.backbones.values()))))
    return {
        "pipeline, one label space": bare(spaces[:1]),
        "pipeline, both": bare(spaces),
        "evaluate, one label space": lambda place: judges["one"].rows(stage.show(place, stage.data.read(place))),
        "evaluate, both": lambda place: both.rows(stage.show(place, stage.data.read(place))),
    }


def _label_spaces(classes: Classes) -> dict[str, Classes]:
    return {"one": replace(classes, mask=None), "both": classes}


def main(
    data: Annotated[str, typer.Argument(help="Labelled photos, as figureground evaluate takes them.")],
    photos: Annotated[int, typer.Option(help="A sample of so many.", min=1)] = 60,
    repeat: Annotated[int, typer.Option(help="Turns of each.", min=1)] = 3,
) -> None:
    """Milliseconds of processor time a photo; the last line is the ratio, pipeline over evaluate."""
    from service.settings import Settings

    served = load(Catalog(), DEFAULT_BACKBONES[:1], DEFAULT_DETECTORS[:1], Loading(Settings().cache_dir, device="cpu"))
    prepared = Order(data, CONTRACT).prepare([served.classifier(None).model.label_space])
    everything = len(prepared.stage.data)
    chosen = [int(place) for place in np.random.default_rng(0).permutation(everything)[:photos]]
    spent: dict[str, list[float]] = {}
    for _ in track(range(repeat), "turns", transient=True):
        for name, look in contenders(prepared, served).items():
            start = time.thread_time()
            for place in chosen:
                look(place)
            spent.setdefault(name, []).append(1000 * (time.thread_time() - start) / len(chosen))
    least = {name: min(found) for name, found in spent.items()}
    table = Table("milliseconds of processor time a photo", *least)
    table.add_row(f"{len(chosen)} photos, least of {repeat}", *(f"{found:.1f}" for found in least.values()))
    console = Console(width=160)
    console.print(table)
    one, both = (least[f"pipeline, {name}"] / least["evaluate, both"] for name in ("one label space", "both"))
    alike = least["pipeline, one label space"] / least["evaluate, one label space"]
    console.print(
        f"pipeline / evaluate: {alike:.2f} over one label space, {both:.2f} over both; "
        f"{one:.2f} of evaluate over both against the pipeline over one"
    )


if __name__ == "__main__":
    typer.run(main)
