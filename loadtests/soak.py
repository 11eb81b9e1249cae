"""Memory of a server of its own over many requests.

python -m loadtests.soak --requests 100000
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from loadtests.client import run_closed
from loadtests.photos import SIZES, photos_of
from loadtests.servers import figureground

_RESULT = Path(__file__).parent / "results" / "soak.json"
_MOST_GROWTH = 1.05
_FIRST = 1000
_STEP_SECONDS = 5.0


def main(
    requests: Annotated[int, typer.Option(help="In all.", min=2 * _FIRST)] = 10_000,
    size: Annotated[str, typer.Option(help=f"Of the photos: {', '.join(SIZES)}.")] = "small",
    clients: Annotated[int, typer.Option(help="At once.", min=1)] = 4,
) -> None:
    """Memory after all requests over that after the first 1,000; the last line is the verdict."""
    done, failed = 0, 0
    memory: list[tuple[int, int]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        figureground(Path(folder)) as server,
        Progress(console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("requests", total=requests)
        asked = [server.encode(photo) for photo in photos_of(size)]
        while done < requests:
            load = run_closed(server.port, asked, clients, _STEP_SECONDS)
            done += load.statuses[200]
            failed += len(load.samples) - load.statuses[200]
            memory.append((done, server.memory()))
            progress.update(task, completed=done)
            if load.statuses[200] == 0:
                raise SystemExit("FAILED: the server answers no more")
    first = next(size for count, size in memory if count >= _FIRST)
    growth = memory[-1][1] / first
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"requests": done, "failed": failed, "growth": growth, "memory": memory}))
    for count, size_ in memory[:: max(1, len(memory) // 10)]:
        print(f"{count:8d} requests: {size_ / 2**20:7.1f} MiB")
    told = f"memory after {done} requests is {growth:.3f} of that after {_FIRST}; {failed} requests failed"
    if growth > _MOST_GROWTH or failed:
        raise SystemExit(f"FAILED: {told}")
    print(f"PASSED: {told}")


if __name__ == "__main__":
    typer.run(main)
