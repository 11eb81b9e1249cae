"""What a setting costs or brings: the service as it is and with it, in turns, each at a standstill in the other's turn.

python -m loadtests.setting FIGUREGROUND_JOURNAL_URL=                   # the journal off
python -m loadtests.setting GLIBC_TUNABLES=glibc.malloc.hugetlb=1       # the models on large pages
"""

import json
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import binom

from loadtests.client import run_closed
from loadtests.photos import photos_of
from loadtests.servers import Server, serving
from models.catalog import DEFAULT_BACKBONES

_RESULT = Path(__file__).parent / "results" / "setting.json"
_AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Turn:
    """Photos a second, and milliseconds of processor time a photo."""

    rate: float
    cpu: float


def measured(server: Server, clients: int, seconds: float) -> Turn:
    server.resume()
    requests = [server.encode(photo) for photo in photos_of("500x375")]
    before = server.cpu_seconds()
    load = run_closed(server.port, requests, clients, seconds)
    cpu = server.cpu_seconds() - before
    server.pause()
    return Turn(load.rate, 1000 * cpu / max(1, load.statuses[200]))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Holds the median with at least 95 %, whatever the distribution: the order statistics of the sign test.

    Conover (1999), Practical Nonparametric Statistics, section 3.2. One turn at which the machine was at something else
    moves it as little as the median.
    """
    ordered, number = sorted(values), len(values)
    skipped = max(0, int(binom.ppf(0.025, number, 0.5)) - 1)
    return ordered[skipped], ordered[number - 1 - skipped]


def main(
    setting: Annotated[str, typer.Argument(help="NAME=VALUE, an environment variable.")],
    rounds: Annotated[int, typer.Option(help="Turns of each.", min=6)] = 20,
    seconds: Annotated[float, typer.Option(help="A turn.", min=1)] = 4,
    clients: Annotated[int, typer.Option(help="At once.", min=1)] = 4,
    least: Annotated[float, typer.Option(help="The ratio below which the verdict is FAILED.")] = 0.97,
) -> None:
    """The median ratio of the rounds, as it is over with the setting; the last line is the verdict."""
    name, _, value = setting.partition("=")
    turns: dict[str, list[Turn]] = {_AS_IT_IS: [], setting: []}
    with ExitStack() as stack:
        servers = {}
        for title in turns:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            variables = {name: value} if title == setting else {}
            servers[title] = stack.enter_context(serving(folder, ("--backbone", DEFAULT_BACKBONES[0]), variables))
            measured(servers[title], clients, 2)
        for number in range(rounds):
            for title in list(turns)[:: 1 if number % 2 else -1]:
                turns[title].append(measured(servers[title], clients, seconds))
    pairs = list(zip(*turns.values(), strict=True))
    ratios = [own.rate / other.rate for own, other in pairs]
    ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
    table = Table("", "photos/s, median", "least", "most", "CPU ms/photo, median")
    for title, found in turns.items():
        rates, cpu = [turn.rate for turn in found], statistics.median(turn.cpu for turn in found)
        table.add_row(title, *(f"{figure:.2f}" for figure in (statistics.median(rates), min(rates), max(rates), cpu)))
    Console().print(table)
    _RESULT.parent.mkdir(exist_ok=True)
    told_rounds = [{_AS_IT_IS: vars(own), setting: vars(other)} for own, other in pairs]
    _RESULT.write_text(json.dumps({"rounds": told_rounds, "ratio": ratio, "low": low, "high": high}, indent=1))
    told = (
        f"{_AS_IT_IS}, {ratio:.3f} [{low:.3f}, {high:.3f}] of the throughput with {setting} (median of {rounds} rounds)"
    )
    if ratio < least:
        raise SystemExit(f"FAILED: {told}")
    print(f"PASSED: {told}")


if __name__ == "__main__":
    typer.run(main)
