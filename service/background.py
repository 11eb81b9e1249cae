"""Models that are loaded beside serving, one after the other."""

import copy
import gc
import logging
import threading
from collections.abc import Callable

from models.backbones import Backbone, ModelError
from models.detectors import Detector
from models.devices import resolve_device
from models.engines import EngineError, engine_name
from models.served import Served
from service import loading
from service.exporting import Exporting, Kind, only
from service.settings import Settings

log = logging.getLogger("figureground.background")


class BackgroundLoading:
    """Loads what `settings` name beyond their first backbone and detector, and adds it to `served`.

    What is not exported yet is first exported by `exporting`, which takes seconds of a core and goes aside for photos.
    `on_loaded` is called with what will be served, before requests can choose each model, in the thread that loads.
    """

    def __init__(self, settings: Settings, served: Served, worker: int, on_loaded: Callable[[Served], object]) -> None:
        self._settings, self._served, self._worker, self._on_loaded = settings, served, worker, on_loaded
        self._stopping = threading.Event()
        self.exporting = Exporting(self._stopping)
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
            kind: Kind = "detectors" if name in self._settings.detectors else "backbones"
            try:
                self._load(kind, name)
            except (ModelError, EngineError) as error:
                if not self._stopping.is_set():
                    log.error("%s is not served: %s", name, error)
            if self._stopping.is_set():
                return
        # What was made along the way lives as long as the process, too.
        gc.freeze()

    def _load(self, kind: Kind, name: str) -> None:
        alone = only(self._settings, kind, name)
        on_device = engine_name(alone.engine, resolve_device(alone.device, self._worker))
        if on_device != "torch" and not loading.is_exported(alone):
            code = self.exporting.run(kind, name)
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
