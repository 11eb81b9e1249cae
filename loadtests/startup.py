"""From the command to a ready server, with a cold and with a warm cache of exported models.

python -m loadtests.startup
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.running import running_service

_RESULT = Path(__file__).parent / "results" / "startup.json"


def seconds_to_ready(cache: Path) -> float:
    """Start `figureground serve` with this cache folder, wait for /readyz, stop it."""
    environment = {**os.environ, "FIGUREGROUND_CACHE_DIR": str(cache), "FIGUREGROUND_JOURNAL_URL": ""}
    start = time.perf_counter()
    with running_service(environment=environment, output=cache / "output") as service:
        service.wait_until_ready()
        return time.perf_counter() - start


def main(repeat: Annotated[int, typer.Option(help="Warm starts; the median is told.", min=1)] = 3) -> None:
    """Seconds to ready, cold (every model exported anew) and warm (exports found)."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        cold = seconds_to_ready(cache)
        warm = sorted(seconds_to_ready(cache) for _ in range(repeat))
    table = Table("start", "seconds to ready")
    table.add_row("cold cache", f"{cold:.1f}")
    table.add_row(f"warm cache, median of {repeat}", f"{warm[repeat // 2]:.1f}")
    Console().print(table)
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"cold": cold, "warm": warm}, indent=1))


if __name__ == "__main__":
    typer.run(main)
