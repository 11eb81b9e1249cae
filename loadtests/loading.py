"""The first backbone's latencies while others are exported and loaded beside serving, and afterwards.

python -m loadtests.loading
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from loadtests.client import Load, run_closed
from loadtests.photos import photos_of
from loadtests.servers import Server, figureground
from models.backbones import bundled_backbone
from models.catalog import DEFAULT_BACKBONES
from service.settings import Settings

_RESULT = Path(__file__).parent / "results" / "loading.json"
_STEP_SECONDS = 2.0
_LIMIT_SECONDS = 600
_MOST = 1.10


def measured(server: Server, clients: int) -> tuple[Load, Load]:
    """While models are loaded, and for as long afterwards."""
    requests = [server.encode(photo) for photo in photos_of("500x375")]
    during, after = Load(0), Load(0)
    while _loads(server) and during.seconds < _LIMIT_SECONDS:
        _add(during, run_closed(server.port, requests, clients, _STEP_SECONDS))
    while after.seconds < during.seconds:
        _add(after, run_closed(server.port, requests, clients, _STEP_SECONDS))
    return during, after


def _add(whole: Load, part: Load) -> None:
    whole.seconds += part.seconds
    whole.samples += part.samples


def _loads(server: Server) -> bool:
    listed = httpx.get(f"http://127.0.0.1:{server.port}/models", timeout=60).json()
    return not all(model["loaded"] for model in listed["backbones"])


def main(
    clients: Annotated[list[int] | None, typer.Option(help="At once; may be repeated.")] = None,
    others: Annotated[int, typer.Option(help="Backbones that are exported and loaded.", min=1, max=2)] = 1,
) -> None:
    """p99 while loading over p99 afterwards; the last line is the verdict."""
    table = Table("clients", "", "seconds", "photos/s", "p50 ms", "p99 ms")
    ratios: dict[int, float] = {}
    names = DEFAULT_BACKBONES[: 1 + others]
    ignored = shutil.ignore_patterns("bentoml", *(bundled_backbone(name).sha256 for name in names[1:]))
    for number in clients or [1, 4]:
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            shutil.copytree(Settings().cache_dir, cache, ignore=ignored)
            chosen = {"load": "first", "cache_dir": cache, "backbones": ",".join(names)}
            with figureground(Path(folder), **chosen) as server:
                during, after = measured(server, number)
        for title, load in (("while loading", during), ("afterwards", after)):
            figures = (load.rate, load.percentile(50), load.percentile(99))
            table.add_row(str(number), title, f"{load.seconds:.0f}", *(f"{figure:.1f}" for figure in figures))
        ratios[number] = during.percentile(99) / after.percentile(99)
    Console().print(table)
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"p99_ratios": ratios}))
    told = ", ".join(f"p99 at {number} clients {ratio:.2f} times as long" for number, ratio in ratios.items())
    if max(ratios.values()) > _MOST:
        raise SystemExit(f"FAILED: {told}")
    print(f"PASSED: {told}")


if __name__ == "__main__":
    typer.run(main)
