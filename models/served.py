"""The models that are loaded and can be asked for."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.backbones import Backbone
from models.catalog import Catalog
from models.detectors import Detector, FcosDetector, LoadedDetector
from models.devices import resolve_device
from models.engines import Engine, EngineChoice, Graph, make_engine
from models.exports import Exports
from models.label_spaces import LABEL_SPACES, LabelSpace, label_space
from models.quantised import Calibration
from models.views import Pixels

log = logging.getLogger("figureground.served")

Floats = NDArray[np.float32]


class UnservedChoice(ValueError):
    """A request names a model or a label space that is not served; the message lists what is."""


class NotYetLoaded(RuntimeError):
    """A request names a model that is served, but is still being loaded."""


@dataclass(frozen=True)
class Classifier:
    """A backbone with its engine; safe from several threads."""

    model: Backbone
    engine: Engine

    def logits(self, pixels: Pixels) -> Floats:
        """uint8 (N, S, S, 3) -> float32 (N, classes)."""
        (logits,) = self.engine.run(pixels)
        return np.asarray(logits)

    @cached_property
    def spaces(self) -> Mapping[str, LabelSpace]:
        """The label spaces that this backbone can answer in: its own first, then the subsets of it."""
        own = self.model.label_space
        known = [label_space(name) for name in LABEL_SPACES if name != own.name]
        return {space.name: space for space in [own, *(space for space in known if space.is_subset_of(own))]}

    def space(self, name: str | None) -> LabelSpace:
        """Its own for None. Raises `UnservedChoice`."""
        chosen = name or self.model.label_space.name
        if chosen not in self.spaces:
            raise UnservedChoice(
                f"label_space {chosen!r} is not served by backbone {self.model.name!r}; "
                f"served are: {', '.join(self.spaces)}"
            )
        return self.spaces[chosen]


@dataclass
class Served:
    """The loaded models by name, the default first. `load_seconds` has an entry a model.

    `awaited` are those that are still to be loaded beside serving; `add` may be called while others read.
    """

    backbones: Mapping[str, Classifier]
    detectors: Mapping[str, LoadedDetector]
    load_seconds: Mapping[str, float]
    awaited: Mapping[str, Backbone | Detector] = field(default_factory=dict)

    def classifier(self, name: str | None) -> Classifier:
        """The default for None. Raises `UnservedChoice`, and `NotYetLoaded`."""
        return self.backbones[self._chosen(name, "backbone")]

    def detector(self, name: str | None) -> LoadedDetector:
        """The default for None. Raises `UnservedChoice`, and `NotYetLoaded`."""
        return self.detectors[self._chosen(name, "detector")]

    @property
    def may_be_forked(self) -> bool:
        """Whether a fork of this process can ask the models too: torch's threads and a GPU do not come along."""
        engines = [loaded.engine for loaded in self.backbones.values()]
        engines += [loaded.engine for loaded in self.detectors.values()]
        return all(engine.device == "cpu" and engine.name != "torch" for engine in engines)

    def add(self, loaded: "Served") -> None:
        """Lets requests choose these models too."""
        self.backbones = {**self.backbones, **loaded.backbones}
        self.detectors = {**self.detectors, **loaded.detectors}
        self.load_seconds = {**self.load_seconds, **loaded.load_seconds}
        self.awaited = {name: model for name, model in self.awaited.items() if name not in loaded.load_seconds}

    def _chosen(self, name: str | None, kind: Literal["backbone", "detector"]) -> str:
        # In this order: a model that is added meanwhile is in both, never in neither.
        awaited = [name for name, model in self.awaited.items() if isinstance(model, Backbone) == (kind == "backbone")]
        loaded: Mapping[str, object] = self.backbones if kind == "backbone" else self.detectors
        chosen = next(iter(loaded)) if name is None else name
        if chosen in loaded:
            return chosen
        if chosen in awaited:
            raise NotYetLoaded(f"The {kind} {chosen!r} is still being loaded; try again in a moment.")
        raise UnservedChoice(f"{kind} {chosen!r} is not served; served are: {', '.join([*loaded, *awaited])}")


@dataclass(frozen=True)
class Loading:
    """How models are loaded: `device` "auto", "cpu", "cuda", "cuda:1"...; `cache` is the folder
    of `models.exports`.

    Of several GPUs, `worker`, counted from 0, chooses one. `calibration` is the folder of photos that int8 needs.
    """

    cache: Path
    device: str = "auto"
    engine: EngineChoice = "auto"
    threads: int = 1
    worker: int = 0
    calibration: Path | None = None


def load(
    catalog: Catalog,
    backbones: Sequence[str],
    detectors: Sequence[str],
    loading: Loading,
    on_progress: Callable[[str], None] | None = None,
) -> Served:
    """Load the named models in order and let each answer once. Raises `ModelError` and `EngineError`."""
    device = resolve_device(loading.device, loading.worker)
    photos = None if loading.calibration is None else Calibration(loading.calibration)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        if on_progress is not None:
            on_progress(name)
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start
        log.info("%s is loaded, which took %.1f s", name, seconds[name])

    def engine_for(graph: Graph) -> Engine:
        engine = make_engine(graph, loading.engine, device, loading.cache, loading.threads, photos)
        engine.run(*graph.examples())
        return engine

    def remember(model: Backbone | Detector, engine: Engine) -> None:
        # The operator's own models are looked up in the manifest at every start; torchvision's need torch there.
        if engine.name == "torch" or model.source == "manifest":
            return
        if isinstance(model, Backbone | FcosDetector):
            _remember(model, Exports(loading.cache))

    classifiers: dict[str, Classifier] = {}
    finders: dict[str, LoadedDetector] = {}
    for name in dict.fromkeys(detectors):
        with timed(name):
            detector = catalog.detector(name)
            finders[name] = detector.load(engine_for)
            remember(detector, finders[name].engine)
    for name in dict.fromkeys(backbones):
        with timed(name):
            backbone = catalog.backbone(name)
            classifiers[name] = Classifier(backbone, engine_for(backbone.graph()))
            remember(backbone, classifiers[name].engine)
    return Served(classifiers, finders, seconds)


def _remember(model: Backbone | FcosDetector, exports: Exports) -> None:
    try:
        exports.remember(model)
    except OSError as error:  # It is served all the same; the next start is slower.
        log.warning("%s cannot be remembered in %s: %s", model.name, exports.folder, error)
