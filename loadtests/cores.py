"""How many cores one worker keeps busy, and how many several do, told on a machine that has fewer.

python -m loadtests.cores

One event loop gives all photos of a worker to its processes; or to threads, of which one at a time runs Python. Here
all that runs outside Python only waits, for as long as it takes (`loadtests.rivals.waiting_figureground`): each process
is a core of its own as far as the photos are concerned, and what is lost is Python's share, all of which these few
cores have to do. Memory and caches, which real cores share, are not seen here.
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
from loadtests.contenders import Served
from loadtests.photos import photos_of
from loadtests.rivals.models import BACKBONE, DETECTOR
from loadtests.servers import changed_figureground

_RESULT = Path(__file__).parent / "results" / "cores.json"
_LEARNING_SECONDS, _LEARNING_SECONDS_EACH = 6, 1.5


def main(
    threads: Annotated[list[int] | None, typer.Option(help="Photos at once in one worker; may be repeated.")] = None,
    workers: Annotated[int, typer.Option(help="Workers.", min=1)] = 1,
    processes: Annotated[bool, typer.Option("--processes/--no-processes", help="A process a photo.")] = True,
    seconds: Annotated[float, typer.Option(help="Of one turn.")] = 4,
    turns: Annotated[int, typer.Option(help="Of each number of threads.", min=1)] = 3,
) -> None:
    """Photos a second with so many threads, over what as many would do that do not wait for each other."""
    table = Table("threads", "photos/s", "of what they could", "p50 ms", "p99 ms")
    found: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in threads or (1, 2, 4, 8, 16, 32):
            alone, loads = measured(Path(folder), workers, number, seconds, turns, processes)
            rate = statistics.median(load.rate for load in loads)
            found[number] = rate / (workers * number * alone.rate)
            p50, p99 = (statistics.median(load.percentile(one) for load in loads) for one in (50, 99))
            table.add_row(str(number), f"{rate:.1f}", f"{found[number]:.2f}", f"{p50:.1f}", f"{p99:.1f}")
    Console().print(table)
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"workers": workers, "threads": found}))
    print("of what they could: " + ", ".join(f"{share:.2f} with {number} threads" for number, share in found.items()))


def measured(
    folder: Path, workers: int, threads: int, seconds: float, turns: int, processes: bool
) -> tuple[Load, list[Load]]:
    """With one client, and in several turns with twice as many clients as threads."""
    photos = photos_of("500x375")
    with ExitStack() as stack:
        started = changed_figureground(
            folder / f"{workers} x {threads}",
            "loadtests.rivals.waiting_figureground:Figureground",
            backbones=BACKBONE,
            detectors=DETECTOR,
            workers=workers,
            threads=threads,
            photo_processes=processes,
        )
        server = Served(f"{workers} x {threads}", stack.enter_context(started))
        server.server.wait_until_it_answers(photos[0])
        # Until every process knows every photo: they learn one after the other.
        server.closed(photos, 2 * workers * threads, max(_LEARNING_SECONDS, _LEARNING_SECONDS_EACH * workers * threads))
        alone = server.closed(photos, 1, seconds)
        return alone, [server.closed(photos, 2 * workers * threads, seconds) for _ in range(turns)]


if __name__ == "__main__":
    typer.run(main)
