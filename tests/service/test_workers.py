"""What a worker tells of itself."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest
from prometheus_client import REGISTRY

from models.served import Served
from service import workers
from service.drift import Windows
from service.running import family
from tests.conftest import needs_gpu


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"figureground_{name}", labels) or 0.0


def test_a_worker_tells_of_itself(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_SECONDS", 0.001)

    async def until(condition: Callable[[], bool]) -> None:
        watching = asyncio.create_task(workers.watch(7, served, None, Windows(1, 1)))
        while not condition():
            await asyncio.sleep(0)
        watching.cancel()

    asyncio.run(until(lambda: value("worker_memory_bytes", worker="7") > 0))
    before = value("worker_cpu_seconds_total", worker="7")
    assert 0 < before <= sum(sum(psutil.Process(process).cpu_times()[:2]) for process in family(os.getpid()))
    # Processes that work for it are part of it.
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        asyncio.run(until(lambda: value("worker_cpu_seconds_total", worker="7") > before + 0.5))
        busy.kill()
    assert 10e6 < value("worker_memory_bytes", worker="7") < 64e9
    assert value("worker_open_files", worker="7") > 3
    assert abs(value("worker_start_time_seconds", worker="7") - time.time()) < 60


@needs_gpu
def test_a_gpu_is_told_of() -> None:
    workers._observe_gpu("cuda")
    assert (
        0
        < value("gpu_memory_bytes", device="cuda", kind="used")
        < value("gpu_memory_bytes", device="cuda", kind="total")
    )
