"""Figureground against the bare pipeline and the rival servers: the same machine, models, photos and client.

python -m loadtests.bench

The contenders take turns, each stopped in its tracks (SIGSTOP) while another is measured. The rivals run once with the
same models in torch, as the libraries' docs show them, and once with our own pipeline handed to them; every one has a
process a core. Closed loop: so many clients, each of which asks again as soon as it is answered. Open loop: requests at
random moments, at rising shares of what the bare pipeline can do. `docs/performance.md` says what came of it.
"""

import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from loadtests.client import Load
from loadtests.contenders import CORES, Contender, started
from loadtests.photos import SIZES, photos_of
from loadtests.report import draw, print_report

RESULTS = Path(__file__).parent / "results"
_SHARES = (0.25, 0.5, 0.75, 0.9, 1.1)


@dataclass(frozen=True)
class Cell:
    """One contender under one load, over all turns; times in milliseconds."""

    contender: str
    size: str
    clients: int | None
    asked_rate: float | None
    rates: list[float]
    rate: float
    p50: float
    p99: float
    failed: int
    client_share: float


def cell_of(contender: str, size: str, clients: int | None, asked: float | None, loads: Sequence[Load]) -> Cell:
    together = Load(sum(load.seconds for load in loads), [sample for load in loads for sample in load.samples])
    rates = [load.rate for load in loads]
    return Cell(
        contender=contender,
        size=size,
        clients=clients,
        asked_rate=asked,
        rates=rates,
        rate=statistics.median(rates),
        p50=together.percentile(50),
        p99=together.percentile(99),
        failed=len(together.samples) - together.statuses[200],
        client_share=statistics.mean(load.client_share for load in loads),
    )


@dataclass
class Bench:
    contenders: list[Contender]
    seconds: float
    turns: int
    progress: Progress

    def closed(self, size: str, photos: Sequence[bytes], clients: int) -> list[Cell]:
        def run(contender: Contender) -> Load:
            return contender.closed(photos, clients, self.seconds)

        loads = self._in_turns(f"{size}, {clients} clients", self.contenders, run)
        return [cell_of(name, size, clients, None, found) for name, found in loads.items()]

    def open(self, size: str, photos: Sequence[bytes], limit: float) -> list[Cell]:
        """`limit` in photos a second."""
        cells = []
        left = [contender for contender in self.contenders if not contender.name.startswith("bare")]
        for share in _SHARES:
            rate = share * limit

            def run(contender: Contender, rate: float = rate) -> Load:
                return contender.open(photos, rate, self.seconds)

            loads = self._in_turns(f"{size}, {rate:.0f} photos/s", left, run)
            found = [cell_of(name, size, None, rate, of) for name, of in loads.items()]
            cells += found
            # Whoever cannot keep up would only pile up what is asked for.
            slow = {cell.contender for cell in found if not cell.p99 < 1000 * self.seconds / 2}
            left = [contender for contender in left if contender.name not in slow]
        return cells

    def _in_turns(self, title: str, contenders: Sequence[Contender], run: Any) -> dict[str, list[Load]]:
        task = self.progress.add_task(title, total=self.turns * len(contenders))
        loads: dict[str, list[Load]] = {contender.name: [] for contender in contenders}
        for turn in range(self.turns):
            # Back and forth, so that no one always comes after the same other.
            for contender in contenders if turn % 2 == 0 else reversed(contenders):
                contender.resume()
                loads[contender.name].append(run(contender))
                contender.pause()
                self.progress.advance(task)
        self.progress.remove_task(task)
        return loads


def main(
    seconds: Annotated[float, typer.Option(help="Of one load on one contender.")] = 6,
    turns: Annotated[int, typer.Option(help="Of every contender under every load.", min=1)] = 3,
    size: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SIZES)}; may be repeated.")] = None,
    clients: Annotated[list[int] | None, typer.Option(help="Of a closed loop; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A contender, such as figureground, bare, mosec.")] = None,
    models: Annotated[list[str] | None, typer.Option(help="The rivals' models, torch or ours.")] = None,
    open_loop: Annotated[bool, typer.Option("--open/--no-open", help="Also at rising rates, at 500x375.")] = True,
    out: Annotated[Path, typer.Option(help="Where the figures go; the picture lies beside it.")] = RESULTS
    / "serving.json",
) -> None:
    """Photos a second and latencies of Figureground, the bare pipeline and the rivals, interleaved."""
    # Whoever is told to stop stops what he started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    photos = {name: photos_of(name) for name in size or SIZES}
    cells: list[Cell] = []
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Progress(console=Console(stderr=True)) as progress,
            started(only or [], models or ["torch", "ours"], Path(folder), photos_of("500x375")[0]) as contenders,
        ):
            bench = Bench(contenders, seconds, turns, progress)
            for name, chosen in photos.items():
                for number in clients or (1, 4, 16, 64):
                    cells += bench.closed(name, chosen, number)
            if open_loop:
                name = "500x375" if "500x375" in photos else next(iter(photos))
                limit = max(cell.rate for cell in cells if cell.size == name)
                cells += bench.open(name, photos[name], limit)
    finally:
        # What was measured is kept, also where the rest could not be.
        if cells:
            write(cells, {"seconds": seconds, "turns": turns}, out)


def write(cells: Sequence[Cell], asked: dict[str, Any], out: Path) -> None:
    found: dict[str, Any] = {"cells": [asdict(cell) for cell in cells], "machine": machine(), **asked}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1))
    draw(found["cells"], out.with_suffix(".png"))
    print_report(found["cells"])


def machine() -> dict[str, Any]:
    return {
        "cores": CORES,
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "load_average": os.getloadavg(),
        "time": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    typer.run(main)
