"""What a worker tells now and then: its memory, processor time and files, its GPUs, and how far the photos drift."""

import asyncio
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from models.served import Served
from service import metrics
from service.database import DatabaseAway
from service.drift import Windows, drift
from service.journal import Journal
from service.running import family

log = logging.getLogger("figureground.workers")

_SECONDS = 5.0
# Once in so many times, the journal is asked for its drift, and the system for memory: it takes 10 ms a process.
_SELDOM = 12
_TICKS = os.sysconf("SC_CLK_TCK")


async def watch(number: int, served: Served, journal: Journal | None, windows: Windows) -> None:
    """Until it is cancelled. `number` is the worker's."""
    worker = Worker(number)
    devices = {loaded.engine.device for loaded in served.backbones.values()}
    devices |= {loaded.engine.device for loaded in served.detectors.values()}
    gpus = {device for device in devices if device.startswith("cuda")}
    for turn in itertools.count():
        worker.observe()
        if turn % _SELDOM == 0:
            await asyncio.to_thread(worker.observe_memory)
        for device in gpus:
            _observe_gpu(device)
        if journal is not None and not journal.away and turn % _SELDOM == 0:
            await asyncio.to_thread(observe_drift, journal, windows, served.backbones)
        await asyncio.sleep(_SECONDS)


class Worker:
    """This process, and those that work for it."""

    def __init__(self, number: int) -> None:
        self._name = str(number)
        self._cpu: dict[int, float] = {}
        metrics.worker_start.labels(self._name).set(time.time())

    def observe(self) -> None:
        metrics.worker_files.labels(self._name).set(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        before, self._cpu = self._cpu, _told_by_each(_cpu_seconds)
        used = sum(seconds - before.get(process, 0.0) for process, seconds in self._cpu.items())
        metrics.worker_cpu.labels(self._name).inc(used)

    def observe_memory(self) -> None:
        metrics.worker_memory.labels(self._name).set(sum(_told_by_each(_memory).values()))


def _told_by_each(told: Callable[[int], float]) -> dict[int, float]:
    """By process: this one and its children, but for those that have just ended."""
    found = {}
    for process in family(os.getpid()):
        with suppress(OSError):
            found[process] = told(process)
    return found


def _cpu_seconds(process: int) -> float:
    """User and system, all threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(process: int) -> float:
    """Resident, in bytes; what it shares with others counts by its part."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def observe_drift(journal: Journal, windows: Windows, backbones: Iterable[str]) -> None:
    """Of these backbones: the journal may know more."""
    try:
        with journal.database.reading() as connection:
            found = drift(connection, time.time_ns() // 1000, windows)
    except DatabaseAway as error:
        log.warning("the drift is not told for now: %s", error.reason)
        return
    for backbone in found.keys() & set(backbones):
        for measure, one in found[backbone].items():
            metrics.drift.labels(backbone, measure).set(math.nan if one["psi"] is None else one["psi"])


def _observe_gpu(device: str) -> None:
    # Only where models run on one: a server on a CPU has no use for torch.
    import torch

    free, total = torch.cuda.mem_get_info(torch.device(device))
    metrics.gpu_memory.labels(device, "used").set(total - free)
    metrics.gpu_memory.labels(device, "total").set(total)
