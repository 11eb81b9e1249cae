"""The servers alone: Figureground and FastAPI with the models taken out, bytes in and JSON out, one process each.

python -m loadtests.empty

Figureground still checks the request, queues it, hands it to a thread, counts it, writes its journal and serialises
the answer; FastAPI has a function that returns a dict, in a thread as its models need it.
"""

import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtests.client import Load
from loadtests.contenders import ENVIRONMENTS, Served
from loadtests.photos import photos_of
from loadtests.rivals.models import BACKBONE, DETECTOR
from loadtests.servers import ROOT, as_form, changed_figureground, running
from service.running import free_port

_RESULT = Path(__file__).parent / "results" / "empty.json"
_CLIENTS = (1, 16, 64)


def start(stack: ExitStack, folder: Path) -> list[Served]:
    port = free_port()
    python = ENVIRONMENTS / "fastapi" / "bin" / "python"
    command = [
        str(python),
        *["-m", "uvicorn", "loadtests.rivals.empty_fastapi:app", "--log-level", "warning", "--port"],
        str(port),
    ]
    fastapi = running(command, port, folder / "FastAPI.log", as_form, {"PYTHONPATH": str(ROOT)})
    ours = changed_figureground(
        folder / "ours",
        "loadtests.rivals.empty_figureground:Figureground",
        backbones=BACKBONE,
        detectors=DETECTOR,
    )
    servers = []
    for name, started in (("figureground", ours), ("FastAPI", fastapi)):
        server = stack.enter_context(started)
        server.wait_until_it_answers(photos_of("500x375")[0])
        server.pause()
        servers.append(Served(name, server))
    return servers


def main(
    seconds: Annotated[float, typer.Option(help="Of one load on one server.")] = 4,
    turns: Annotated[int, typer.Option(help="Of each server under each load.", min=1)] = 3,
) -> None:
    """Requests a second of Figureground over FastAPI's, models taken out; the last line is the ratio at 16 clients."""
    photo = photos_of("small")[:1]
    loads: dict[tuple[int, str], list[Load]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = start(stack, Path(folder))
        for clients in _CLIENTS:
            for _ in range(turns):
                for server in servers:
                    server.resume()
                    loads.setdefault((clients, server.name), []).append(server.closed(photo, clients, seconds))
                    server.pause()
    table = Table("clients", "server", "requests/s", "p50 ms", "p99 ms", "failed", "client's cores")
    rates = {key: statistics.median(load.rate for load in found) for key, found in loads.items()}
    for (clients, name), found in loads.items():
        failed = sum(len(load.samples) - load.statuses[200] for load in found)
        table.add_row(
            *(str(clients), name, f"{rates[clients, name]:.0f}"),
            *(f"{statistics.median(load.percentile(percent) for load in found):.1f}" for percent in (50, 99)),
            *(str(failed), f"{statistics.mean(load.client_share for load in found):.2f}"),
        )
    Console().print(table)
    ratios = {clients: rates[clients, "figureground"] / rates[clients, "FastAPI"] for clients in _CLIENTS}
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"ratios": ratios, "rates": {f"{name}, {n}": r for (n, name), r in rates.items()}}))
    print("requests/s, Figureground / FastAPI: " + ", ".join(f"{r:.2f} at {n} clients" for n, r in ratios.items()))


if __name__ == "__main__":
    typer.run(main)
