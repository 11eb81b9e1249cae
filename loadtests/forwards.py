"""What a detector costs against the classifier that carries it: one forward each, one photo, one thread, interleaved.

python -m loadtests.forwards
"""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.backbones import example_pixels
from models.catalog import Catalog
from models.detectors import FcosDetector
from models.engines import Engine, make_engine

_RESULT = Path(__file__).parent / "results" / "forwards.json"


def main(repeat: Annotated[int, typer.Option(help="Forwards of each; the median is told.", min=1)] = 60) -> None:
    """Milliseconds of every bundled detector and of its backbone, under the CPU's engine."""
    from service.settings import Settings

    cache, catalog = Settings().cache_dir, Catalog()
    table = Table("detector", "ms", "its classifier", "ms", "ratio")
    results = {}
    for name in catalog.names("detectors"):
        detector = catalog.detector(name)
        assert isinstance(detector, FcosDetector)
        backbone = detector.backbone
        engines = [make_engine(one.graph(), "auto", "cpu", cache) for one in (detector, backbone)]
        sizes = (detector.input_size, backbone.preprocessing.input_size)
        ours, theirs = _medians(engines, sizes, repeat)
        results[name] = {"detector_ms": ours, "classifier_ms": theirs}
        table.add_row(name, f"{ours:.1f}", backbone.name, f"{theirs:.1f}", f"{ours / theirs:.2f}")
    Console(width=140).print(table)
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps(results, indent=1))


def _medians(engines: list[Engine], sizes: tuple[int, ...], repeat: int) -> list[float]:
    seconds: list[list[float]] = [[] for _ in engines]
    for _ in range(repeat + 5):
        for engine, size, taken in zip(engines, sizes, seconds, strict=True):
            pixels = example_pixels(size)[:1]
            start = time.perf_counter()
            engine.run(pixels)
            taken.append(time.perf_counter() - start)
    return [1000 * sorted(taken[5:])[repeat // 2] for taken in seconds]


if __name__ == "__main__":
    typer.run(main)
