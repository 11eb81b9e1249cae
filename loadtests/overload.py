"""Four times the load that a server of its own can carry: who is served, how fast, and what the others are told.

python -m loadtests.overload
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtests.client import Load, run_closed, run_open
from loadtests.photos import photos_of
from loadtests.servers import figureground

_RESULT = Path(__file__).parent / "results" / "overload.json"
_LEAST_GOODPUT = 0.9
_SHED = (429, 503)


def verdict(peak: Load, over: Load, deadline: float) -> list[str]:
    """What is wrong; nothing where all is well."""
    faults = []
    if over.rate < _LEAST_GOODPUT * peak.rate:
        faults.append(f"goodput fell to {over.rate / peak.rate:.2f} of its peak")
    if not over.percentile(99) <= 1000 * deadline:
        faults.append(f"p99 of the accepted is {over.percentile(99):.0f} ms, beyond the deadline")
    silent = sum(sample.status in _SHED and not sample.retry_after for sample in over.samples)
    if silent:
        faults.append(f"{silent} shed answers had no Retry-After")
    other = {status: count for status, count in over.statuses.items() if status not in (200, *_SHED)}
    if other:
        faults.append(f"other answers: {other}")
    return faults


def main(
    seconds: Annotated[float, typer.Option(help="Of the peak and of the overload each.")] = 20,
    factor: Annotated[float, typer.Option(help="Load over the peak.")] = 4,
    deadline: Annotated[float, typer.Option(help="FIGUREGROUND_DEADLINE_SECONDS.")] = 10,
) -> None:
    """Goodput, latency and Retry-After under overload; the last line is the verdict."""
    photos = photos_of("500x375")
    with tempfile.TemporaryDirectory() as folder, figureground(Path(folder), deadline_seconds=deadline) as server:
        requests = [server.encode(photo) for photo in photos]
        run_closed(server.port, requests, 4, 3)
        peak = run_closed(server.port, requests, 16, seconds)
        over = run_open(server.port, requests, factor * peak.rate, seconds)
        after = run_closed(server.port, requests, 16, seconds / 2)
    table = Table("load", "asked/s", "good/s", "shed/s", "p50 ms", "p99 ms")
    for name, load in (("peak, 16 clients", peak), (f"{factor:g} times that", over), ("16 clients again", after)):
        shed = sum(load.statuses[status] for status in _SHED)
        rates = (len(load.samples) / load.seconds, load.rate, shed / load.seconds)
        table.add_row(name, *(f"{value:.1f}" for value in (*rates, load.percentile(50), load.percentile(99))))
    Console().print(table)
    faults = verdict(peak, over, deadline)
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"goodput": over.rate / peak.rate, "p99_ms": over.percentile(99), "faults": faults}))
    if faults:
        raise SystemExit("FAILED: " + "; ".join(faults))
    print(f"PASSED: goodput {over.rate / peak.rate:.2f} of its peak, p99 {over.percentile(99):.0f} ms")


if __name__ == "__main__":
    typer.run(main)
