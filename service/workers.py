"""What a worker tells now and then: its memory, processor time and files, its GPUs, and how far the photos drift."""

import asyncio
import itertools
import logging
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path

from models.served import Served
from service import metrics
from service.database import DatabaseAway
from service.drift import Windows, drift
from service.journal import Journal

log = logging.getLogger("figureground.workers")

_SECONDS = 5.0
# Once in so many times, the journal is asked for its drift.
_DRIFT_EVERY = 12
_PAGE = os.sysconf("SC_PAGE_SIZE")


async def watch(number: int, served: Served, journal: Journal | None, windows: Windows) -> None:
    """Until it is cancelled. `number` is the worker's."""
    worker = Worker(number)
    devices = {loaded.engine.device for loaded in served.backbones.values()}
    devices |= {loaded.engine.device for loaded in served.detectors.values()}
    gpus = {device for device in devices if device.startswith("cuda")}
    for turn in itertools.count():
        worker.observe()
        for device in gpus:
            _observe_gpu(device)
        if journal is not None and not journal.away and turn % _DRIFT_EVERY == 0:
            await asyncio.to_thread(observe_drift, journal, windows, served.backbones)
        await asyncio.sleep(_SECONDS)


class Worker:
    """This process."""

    def __init__(self, number: int) -> None:
        self._name = str(number)
        self._cpu = 0.0
        metrics.worker_start.labels(self._name).set(time.time())

    def observe(self) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        metrics.worker_memory.labels(self._name).set(resident)
        metrics.worker_files.labels(self._name).set(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        before, self._cpu = self._cpu, time.process_time()
        metrics.worker_cpu.labels(self._name).inc(self._cpu - before)


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
