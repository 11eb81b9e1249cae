"""Models that are loaded beside serving, one after the other, at low priority."""

import copy
import fcntl
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from models.backbones import Backbone, ModelError
from models.detectors import Detector
from models.devices import resolve_device
from models.engines import EngineError, engine_name
from models.served import Served
from service import loading
from service.settings import Settings, settings

log = logging.getLogger("figureground.background")

_LOOK_SECONDS = 0.1
_GENTLE_SECONDS = 600.0

# Before it imports anything: that alone takes a second of a core.
_GENTLY = "import os; os.nice(19); import sys; from service.background import main; main(*sys.argv[1:])"


class BackgroundLoading:
    """Loads what `settings` name beyond their first backbone and detector, and adds it to `served`.

    An export, which takes seconds of a core, is left to a process that gets little but the time nobody else wants.
    `on_loaded` is called with what will be served, before requests can choose each model, in the thread that loads.
    """

    def __init__(self, settings: Settings, served: Served, worker: int, on_loaded: Callable[[Served], object]) -> None:
        self._settings, self._served, self._worker, self._on_loaded = settings, served, worker, on_loaded
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._load_all, name="loading", daemon=True)
        found = loading.catalog(settings)
        awaited: dict[str, Backbone | Detector] = {}
        awaited.update((name, found.detector(name)) for name in settings.detectors if name not in served.detectors)
        awaited.update((name, found.backbone(name)) for name in settings.backbones if name not in served.backbones)
        served.awaited = awaited

    def start(self) -> None:
        if self._served.awaited:
            self._thread.start()

    def close(self) -> None:
        """Gives up what is not loaded yet."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _load_all(self) -> None:
        for name in list(self._served.awaited):
            try:
                self._load(self._alone(name))
            except (ModelError, EngineError) as error:
                if not self._stopping.is_set():
                    log.error("%s is not served: %s", name, error)
            if self._stopping.is_set():
                return
        # What was made along the way lives as long as the process, too.
        gc.freeze()

    def _alone(self, name: str) -> Settings:
        alone = (name,)
        only = {"backbones": (), "detectors": alone} if name in self._settings.detectors else {"backbones": alone}
        return self._settings.model_copy(update={"detectors": (), **only})

    def _load(self, alone: Settings) -> None:
        on_device = engine_name(alone.engine, resolve_device(alone.device, self._worker))
        if on_device != "torch" and not loading.is_exported(alone):
            code = self._export(alone)
            # A server that stops may end its children before it says so here.
            if code < 0:
                raise EngineError(f"its export was ended by signal {-code}")
        if self._stopping.is_set():
            return
        loaded = loading.load(alone, worker=self._worker)
        together = copy.copy(self._served)
        together.add(loaded)
        # First: whoever is answered by the model, or reads that it is loaded, shall find all else that is told of it.
        self._on_loaded(together)
        self._served.add(loaded)

    def _export(self, alone: Settings) -> int:
        """The process's exit code; where it failed, loading the model says why."""
        kind, names = ("backbones", alone.backbones) if alone.backbones else ("detectors", alone.detectors)
        command = [sys.executable, "-c", _GENTLY, kind, *names]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        exporting = subprocess.Popen(command, env=environment, cwd=Path(__file__).resolve().parents[1])
        while (code := exporting.poll()) is None:
            if self._stopping.wait(_LOOK_SECONDS):
                exporting.kill()
        return code


def _yield_at_once() -> None:
    """Linux's SCHED_IDLE, which goes aside as soon as anybody wakes; merely nice after a while.

    Beside a server that is asked all the time it is slower than nice 19, and delays the slowest answers less
    (docs/performance.md); but where nothing ever waits it would take hours.
    """

    def merely_nice() -> None:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # It has just ended.
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))

    with suppress(OSError):  # A container may forbid it.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    timer = threading.Timer(_GENTLE_SECONDS, merely_nice)
    timer.daemon = True
    timer.start()


def main(kind: str, name: str) -> None:
    """Loads one model of the environment's settings for the sake of its exports."""
    _yield_at_once()
    chosen = settings().model_copy(update={"backbones": (), "detectors": (), kind: (name,)})
    chosen.cache_dir.mkdir(parents=True, exist_ok=True)
    # Of several workers one exports, and the others find what it made.
    with (chosen.cache_dir / "background.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        loading.load(chosen)
