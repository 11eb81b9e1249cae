"""Figureground against the bare pipeline and the rival servers: the same machine, models, photos and client.

python -m loadtests.bench --models ours

The contenders take turns, each stopped in its tracks (SIGSTOP) while another is measured. The rivals run with the same
models in torch, as the libraries' docs show them, or with our own pipeline handed to them; every one has a process a
core. Closed loop: so many clients, each of which asks again as soon as it is answered. Open loop: requests at random
moments, at rising shares of what the bare pipeline can do.

Every load is written down as soon as it is over, and is not run again: a benchmark that was stopped goes on where it
was. `--minutes` stops it beforehand, and `python -m loadtests.fleet` keeps the servers meanwhile. `docs/performance.md`
says what came of it.
"""

import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from loadtests.client import Load
from loadtests.contenders import BARE, CORES, Contender, bare
from loadtests.fleet import found_or_started
from loadtests.photos import SIZES, photos_of
from loadtests.report import Cell, cells_of, draw, print_report
from service.running import ended_in_order

RESULTS = Path(__file__).parent / "results"
_SHARES = (0.25, 0.5, 0.75, 0.9, 1.1)


@dataclass(frozen=True)
class Asked:
    """A load on every contender: a number of clients, or a share of what the bare pipeline can do."""

    size: str
    clients: int | None
    share: float | None = None

    @property
    def title(self) -> str:
        return f"{self.size}, " + (f"{self.share:.0%} of the limit" if self.share else f"{self.clients} clients")


class Results:
    """The loads that were run, a line of JSON each, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lines: list[dict[str, Any]] = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )

    def holds(self, contender: str, asked: Asked, turn: int) -> bool:
        wanted = {"contender": contender, "turn": turn, **asdict(asked)}
        return any(wanted.items() <= line.items() for line in self.lines)

    def add(self, contender: str, asked: Asked, turn: int, load: Load, rate: float | None = None) -> None:
        good = [sample for sample in load.samples if sample.status == 200]
        line = {
            "contender": contender,
            "turn": turn,
            **asdict(asked),
            "asked_rate": rate,
            "seconds": load.seconds,
            "milliseconds": [round(1000 * sample.seconds, 2) for sample in good],
            "failed": len(load.samples) - len(good),
            "client_share": load.client_share,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def cells(self) -> list[Cell]:
        return cells_of(self.lines)

    def limit(self, size: str) -> float:
        """Photos a second of the better bare pipeline, at its best."""
        rates = [cell.rate for cell in self.cells if cell.contender.startswith(BARE) and cell.size == size]
        if not rates:
            raise SystemExit(f"the open loop needs the contender {BARE} at {size}")
        return max(rates)


def keeps_up(contender: str, results: Results, asked: Asked, seconds: float) -> bool:
    """Whoever could not at a smaller share would only pile up what is asked for."""
    found = [
        cell
        for cell in results.cells
        if (cell.contender, cell.size) == (contender, asked.size) and cell.share is not None
    ]
    return all(cell.p99 < 1000 * seconds / 2 for cell in found if (cell.share or 0) < (asked.share or 0))


def left(loads: Sequence[Asked], turns: int, contenders: Sequence[Contender], results: Results) -> Iterator[Any]:
    """What is still to be run: contender, load, turn."""
    for asked in loads:
        for turn in range(turns):
            # In another order every turn, so that no one always comes after the same other.
            order = random.Random(f"{asked}{turn}").sample(list(contenders), len(contenders))
            for contender in order:
                if asked.share and contender.name.startswith(BARE):
                    continue
                if not results.holds(contender.name, asked, turn):
                    yield contender, asked, turn


def run(contender: Contender, asked: Asked, turn: int, seconds: float, results: Results) -> None:
    photos = photos_of(asked.size)
    if asked.share and not keeps_up(contender.name, results, asked, seconds):
        return
    contender.resume()
    try:
        if asked.clients is not None:
            results.add(contender.name, asked, turn, contender.closed(photos, asked.clients, seconds))
        elif asked.share is not None:
            rate = asked.share * results.limit(asked.size)
            results.add(contender.name, asked, turn, contender.open(photos, rate, seconds), rate)
    finally:
        contender.pause()


def main(
    models: Annotated[str, typer.Option(help="The rivals' models, torch or ours.")] = "torch",
    seconds: Annotated[float, typer.Option(help="Of one load on one contender.")] = 5,
    turns: Annotated[int, typer.Option(help="Of every contender under every load.", min=1)] = 3,
    size: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SIZES)}; may be repeated.")] = None,
    clients: Annotated[list[int] | None, typer.Option(help="Of a closed loop; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A contender, such as figureground, bare, mosec.")] = None,
    open_loop: Annotated[
        bool, typer.Option("--open/--no-open", help="Also at rising rates, at the first size.")
    ] = True,
    minutes: Annotated[float, typer.Option(help="After which no further load is begun.")] = 24 * 60,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was measured before.")] = False,
    out: Annotated[Path | None, typer.Option(help="The file of the loads; the picture lies beside it.")] = None,
) -> None:
    """Photos a second and latencies of Figureground, the bare pipeline and the rivals, interleaved."""
    sizes = size or list(SIZES)
    if unknown := set(sizes) - set(SIZES):
        raise typer.BadParameter(f"{', '.join(unknown)}; there are {', '.join(SIZES)}", param_hint="--size")
    path = out or RESULTS / f"serving-{models}.jsonl"
    if fresh:
        path.unlink(missing_ok=True)
    results = Results(path)
    loads = [Asked(one, number) for one in sizes for number in clients or (1, 4, 16, 64)]
    loads += [Asked(sizes[0], None, share) for share in _SHARES] if open_loop else []
    for one in sizes:
        photos_of(one)
    servers = [name for name in only or [] if name != BARE]
    remaining = 0
    with ended_in_order(), ExitStack() as stack:
        contenders: list[Contender] = []
        if not only or BARE in only:
            contenders += stack.enter_context(bare())
        if not only or servers:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            contenders += stack.enter_context(found_or_started(servers, models, folder))
        todo = list(left(loads, turns, contenders, results))
        end = time.monotonic() + 60 * minutes
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=len(todo))
            for number, (contender, asked, turn) in enumerate(todo):
                if time.monotonic() > end:
                    remaining = len(todo) - number
                    break
                progress.update(task, completed=number, description=f"{asked.title}: {contender.name}")
                run(contender, asked, turn, seconds, results)
    report(results)
    if remaining:
        print(f"{remaining} of {len(todo)} loads are left: run it again")


def report(results: Results) -> None:
    cells = results.cells
    found: dict[str, Any] = {"cells": [asdict(cell) for cell in cells], "machine": machine()}
    results.path.with_suffix(".json").write_text(json.dumps(found, indent=1))
    draw(cells, results.path.with_suffix(".png"))
    print_report(cells)


def machine() -> dict[str, Any]:
    return {
        "cores": CORES,
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": version("onnxruntime"),
        "numpy": np.__version__,
        "load_average": os.getloadavg(),
    }


if __name__ == "__main__":
    typer.run(main)
