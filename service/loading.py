"""The models that the settings name, found and loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from models.backbones import Backbone, ModelError
from models.catalog import Catalog, read_manifest
from models.detectors import Detector, FcosDetector
from models.devices import resolve_device
from models.engines import Graph, engine_name
from models.exports import Exports
from models.quantised import is_quantised
from models.served import Loading, Served
from models.served import load as load_models
from service.settings import Settings


def catalog(settings: Settings) -> Catalog:
    """Raises `ModelError`."""
    exports = Exports(settings.cache_dir)
    return Catalog(exports=exports) if settings.models is None else read_manifest(settings.models, exports)


def check(settings: Settings) -> None:
    """Raises `ModelError` and `EngineError` for what can be told of a model, and a device, without loading anything."""
    if settings.device != "auto":
        resolve_device(settings.device)
    found = catalog(settings)
    for name in settings.backbones:
        backbone = found.backbone(name)
        if backbone.checkpoint is not None:
            _ = backbone.sha256
    for name in settings.detectors:
        found.detector(name).check()


def _models(settings: Settings) -> list[Backbone | Detector]:
    """In the order in which they are loaded."""
    found = catalog(settings)
    return [*map(found.detector, settings.detectors), *map(found.backbone, settings.backbones)]


def _graphs(model: Backbone | Detector) -> list[Graph]:
    return [model.graph()] if isinstance(model, Backbone) else model.graphs()


def is_exported(settings: Settings) -> bool:
    """Whether all models are files of this machine that were exported before, so that a start takes seconds."""
    models = _models(settings)
    if not all(model.is_local for model in models):
        return False
    graphs = [graph for model in models for graph in _graphs(model)]
    int8 = settings.engine == "int8"
    found_all = [(graph, graph.find(settings.cache_dir)) for graph in graphs]
    return all(path is not None and (is_quantised(path) or graph.view is None or not int8) for graph, path in found_all)


def prepare(settings: Settings, on_progress: Callable[[str], None]) -> None:
    """What takes long only once, in a process that does not serve: weights are fetched, and exported for a CPU.

    Raises as `load` does, for all that could go wrong there.
    """
    device = resolve_device(settings.device)
    if device == "cpu" or engine_name(settings.engine, device) != "torch":
        load(settings, on_progress)
        return
    # Not on the GPU: that takes seconds, and each worker needs its own.
    with _reported():
        for model in _models(settings):
            on_progress(model.name)
            for graph in _graphs(model):
                graph.build()


def load(settings: Settings, on_progress: Callable[[str], None] | None = None, worker: int = 0) -> Served:
    """Of several GPUs, `worker`, counted from 0, gets one of its own.

    Raises `ModelError`, and `models.engines.EngineError` with a message as fit for an operator.
    """
    loading = Loading(
        cache=settings.cache_dir,
        device=settings.device,
        engine=settings.engine,
        worker=worker,
        calibration=settings.calibration,
    )
    with _reported():
        return load_models(catalog(settings), settings.backbones, settings.detectors, loading, on_progress)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"the models cannot be loaded: {error}") from error


def export(settings: Settings, on_progress: Callable[[str], None] | None = None) -> list[str]:
    """Make `cache_dir` a folder of exports that serves the models without anything else; their names.

    Raises as `load` does, and OSError.
    """
    for name in settings.detectors:
        if not isinstance(catalog(settings).detector(name), FcosDetector):
            raise ModelError(f"detector {name!r} needs torch where it is served; only heads of ours are exported")
    served = load(settings, on_progress)
    models: list[Backbone | FcosDetector] = [one.model for one in served.backbones.values()]
    models += [one.model for one in served.detectors.values() if isinstance(one.model, FcosDetector)]
    for model in models:
        Exports(settings.cache_dir).remember(model)
    return [model.name for model in models]
