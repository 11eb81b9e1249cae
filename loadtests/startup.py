"""From the command to a ready server, with a cold and with a warm cache of exported models.

python -m loadtests.startup
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

_LIMIT_SECONDS = 600
_RESULT = Path(__file__).parent / "results" / "startup.json"


def seconds_to_ready(cache: Path) -> float:
    """Start `figureground serve` with this cache folder, wait for /readyz, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "FIGUREGROUND_CACHE_DIR": str(cache), "FIGUREGROUND_JOURNAL_URL": ""}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.perf_counter() - start < _LIMIT_SECONDS:
            if process.poll() is not None:
                raise SystemExit(f"the server ended with exit code {process.returncode}")
            if _ready(port):
                return time.perf_counter() - start
            time.sleep(0.05)
        raise SystemExit(f"not ready after {_LIMIT_SECONDS} s")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


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
