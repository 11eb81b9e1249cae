"""The engine int8 beside the default: accuracy on labelled photos, agreement, and time.

python -m loadtests.int8 LABELLED_FOLDER --calibration OTHER_FOLDER

A labelled folder has a `labels.csv` of `file` and `wnid`.
"""

import csv
import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS, Catalog
from models.comparison import Options
from models.photo import read_photo
from models.pipeline import Pipeline
from models.served import Loading, load
from service.settings import Settings

_RESULT = Path(__file__).parent / "results" / "int8.json"
_ARMS = ("plain", "cropped", "combined")


def main(
    folder: Annotated[Path, typer.Argument(help="Labelled photos.", exists=True)],
    calibration: Annotated[Path, typer.Option(help="Other photos, about 100.", exists=True)],
    backbone: Annotated[str, typer.Option(help="Of the bundled ones.")] = DEFAULT_BACKBONES[0],
) -> None:
    """Right answers and milliseconds of both engines; the last line compares them."""
    cache = Settings().cache_dir
    floats = Loading(cache, device="cpu")
    eights = Loading(cache, device="cpu", engine="int8", calibration=calibration)
    pipelines = {
        name: Pipeline(load(Catalog(), [backbone], DEFAULT_DETECTORS, loading))
        for name, loading in (("onnxruntime", floats), ("int8", eights))
    }
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = {name: dict.fromkeys(_ARMS, 0) for name in pipelines}
    firsts: dict[str, list[int]] = {name: [] for name in pipelines}
    classify: dict[str, list[float]] = {name: [] for name in pipelines}
    total: dict[str, list[float]] = {name: [] for name in pipelines}
    for row in track(rows, console=Console(stderr=True)):
        photo = read_photo((folder / row["file"]).read_bytes())
        # One after the other on the same photo, so that a busy machine hits both.
        for name, pipeline in pipelines.items():
            start = time.perf_counter()
            found = pipeline.compare(photo, Options())
            total[name].append(time.perf_counter() - start)
            classify[name].append(found.stages["classify"])
            firsts[name].append(found.plain.first)
            for arm, prediction in zip(_ARMS, (found.plain, found.cropped or found.plain, found.combined), strict=True):
                right[name][arm] += found.label_space.wnids[prediction.first] == row["wnid"]
    table = Table("engine", *_ARMS, "classify ms", "all but decoding ms")
    for name in pipelines:
        times = (1000 * statistics.median(classify[name]), 1000 * statistics.median(total[name]))
        table.add_row(name, *(f"{right[name][arm]}/{len(rows)}" for arm in _ARMS), *(f"{ms:.1f}" for ms in times))
    Console().print(table)
    agree = statistics.mean(one == other for one, other in zip(*firsts.values(), strict=True))
    speed = statistics.median(classify["onnxruntime"]) / statistics.median(classify["int8"])
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"right": right, "photos": len(rows), "agree": agree, "classify_speed": speed}))
    print(f"int8 classifies {speed:.2f} times as fast, and gives the same plain first label on {agree:.0%} of photos")


if __name__ == "__main__":
    typer.run(main)
