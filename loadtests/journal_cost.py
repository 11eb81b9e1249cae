"""Throughput with the journal on and off, in turns, each server at a standstill while the other is measured.

python -m loadtests.journal_cost
"""

import json
import os
import signal
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtests.client import multipart, run_closed
from loadtests.photos import photos_of
from models.catalog import DEFAULT_BACKBONES
from service.running import RunningService, family, running_service

_RESULT = Path(__file__).parent / "results" / "journal_cost.json"
_LEAST = 0.97


def measured(service: RunningService, clients: int, seconds: float) -> float:
    """Photos a second."""
    _tell(service, signal.SIGCONT)
    requests = [multipart("/predict", photo, "image") for photo in photos_of("500x375")]
    rate = run_closed(int(service.url.rpartition(":")[2]), requests, clients, seconds).rate
    _tell(service, signal.SIGSTOP)
    return rate


def _tell(service: RunningService, number: signal.Signals) -> None:
    for pid in family(service.process.pid):
        os.kill(pid, number)


def main(
    rounds: Annotated[int, typer.Option(help="Turns of each.", min=2)] = 10,
    seconds: Annotated[float, typer.Option(help="A turn.", min=1)] = 6,
    clients: Annotated[int, typer.Option(help="At once.", min=1)] = 4,
) -> None:
    """The median ratio of the rounds, on over off; the last line is the verdict."""
    rates: dict[str, list[float]] = {"on": [], "off": []}
    with ExitStack() as stack:
        services = {}
        for name in rates:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = f"sqlite:///{folder / 'journal.db'}" if name == "on" else ""
            environment = {**os.environ, "FIGUREGROUND_JOURNAL_URL": url}
            backbone = ("--backbone", DEFAULT_BACKBONES[0])
            services[name] = stack.enter_context(
                running_service(*backbone, environment=environment, output=folder / "log")
            )
            # A process at a standstill hears no signal to stop.
            stack.callback(_tell, services[name], signal.SIGCONT)
            services[name].wait_until_ready()
            measured(services[name], clients, 2)
        for number in range(rounds):
            for name in ("on", "off") if number % 2 else ("off", "on"):
                rates[name].append(measured(services[name], clients, seconds))
    ratios = [on / off for on, off in zip(rates["on"], rates["off"], strict=True)]
    ratio = statistics.median(ratios)
    table = Table("journal", "photos/s, median", "least", "most")
    for name, found in rates.items():
        table.add_row(name, *(f"{figure:.2f}" for figure in (statistics.median(found), min(found), max(found))))
    Console().print(table)
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"rates": rates, "ratios": ratios, "ratio": ratio}, indent=1))
    told = f"{ratio:.3f} of the throughput with the journal on (rounds: {min(ratios):.3f} to {max(ratios):.3f})"
    if ratio < _LEAST:
        raise SystemExit(f"FAILED: {told}")
    print(f"PASSED: {told}")


if __name__ == "__main__":
    typer.run(main)
