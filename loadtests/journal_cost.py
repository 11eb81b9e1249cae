"""Throughput with the journal on and off, in turns, each server at a standstill while the other is measured.

python -m loadtests.journal_cost
"""

import json
import os
import signal
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import binom

from loadtests.client import multipart, run_closed
from loadtests.photos import photos_of
from models.catalog import DEFAULT_BACKBONES
from service.running import RunningService, family, running_service

_RESULT = Path(__file__).parent / "results" / "journal_cost.json"
_LEAST = 0.97


@dataclass(frozen=True)
class Turn:
    """Photos a second, and milliseconds of processor time a photo."""

    rate: float
    cpu: float


def measured(service: RunningService, clients: int, seconds: float) -> Turn:
    _tell(service, signal.SIGCONT)
    requests = [multipart("/predict", photo, "image") for photo in photos_of("500x375")]
    before = _cpu_seconds(service)
    load = run_closed(int(service.url.rpartition(":")[2]), requests, clients, seconds)
    cpu = _cpu_seconds(service) - before
    _tell(service, signal.SIGSTOP)
    return Turn(load.rate, 1000 * cpu / max(1, load.statuses[200]))


def _tell(service: RunningService, number: signal.Signals) -> None:
    for pid in family(service.process.pid):
        os.kill(pid, number)


def _cpu_seconds(service: RunningService) -> float:
    times = (psutil.Process(pid).cpu_times() for pid in family(service.process.pid))
    return float(sum(one.user + one.system for one in times))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Holds the median with at least 95 %, whatever the distribution: the order statistics of the sign test.

    Conover (1999), Practical Nonparametric Statistics, section 3.2. One turn at which the machine was at something else
    moves it as little as the median.
    """
    ordered, number = sorted(values), len(values)
    skipped = max(0, int(binom.ppf(0.025, number, 0.5)) - 1)
    return ordered[skipped], ordered[number - 1 - skipped]


def main(
    rounds: Annotated[int, typer.Option(help="Turns of each.", min=6)] = 20,
    seconds: Annotated[float, typer.Option(help="A turn.", min=1)] = 4,
    clients: Annotated[int, typer.Option(help="At once.", min=1)] = 4,
) -> None:
    """The median ratio of the rounds, on over off; the last line is the verdict."""
    turns: dict[str, list[Turn]] = {"on": [], "off": []}
    with ExitStack() as stack:
        services = {}
        for name in turns:
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
                turns[name].append(measured(services[name], clients, seconds))
    ratios = [on.rate / off.rate for on, off in zip(turns["on"], turns["off"], strict=True)]
    ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
    table = Table("journal", "photos/s, median", "least", "most", "CPU ms/photo, median")
    for name, found in turns.items():
        rates, cpu = [turn.rate for turn in found], statistics.median(turn.cpu for turn in found)
        table.add_row(name, *(f"{figure:.2f}" for figure in (statistics.median(rates), min(rates), max(rates), cpu)))
    Console().print(table)
    _RESULT.parent.mkdir(exist_ok=True)
    rounds_told = [{"on": vars(on), "off": vars(off)} for on, off in zip(turns["on"], turns["off"], strict=True)]
    _RESULT.write_text(json.dumps({"rounds": rounds_told, "ratio": ratio, "low": low, "high": high}, indent=1))
    told = f"{ratio:.3f} [{low:.3f}, {high:.3f}] of the throughput with the journal on (median of {rounds} rounds)"
    if ratio < _LEAST:
        raise SystemExit(f"FAILED: {told}")
    print(f"PASSED: {told}")


if __name__ == "__main__":
    typer.run(main)
