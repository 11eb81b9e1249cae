"""The models that the settings name, found and loaded."""

from collections.abc import Callable

from models.backbones import ModelError
from models.catalog import Catalog, read_manifest
from models.served import Loading, Served
from models.served import load as load_models
from service.settings import Settings


def catalog(settings: Settings) -> Catalog:
    """Raises `ModelError`."""
    return Catalog() if settings.models is None else read_manifest(settings.models)


def check(settings: Settings) -> None:
    """Raises `ModelError` for what can be told of a model without loading it."""
    found = catalog(settings)
    for name in settings.backbones:
        backbone = found.backbone(name)
        if backbone.checkpoint is not None:
            _ = backbone.sha256
    for name in settings.detectors:
        detector = found.detector(name)
        _ = detector.file, detector.sha256


def is_exported(settings: Settings) -> bool:
    """Whether all models are files of this machine that were exported before, so that a start takes seconds."""
    found = catalog(settings)
    backbones = [found.backbone(name) for name in settings.backbones]
    detectors = [found.detector(name) for name in settings.detectors]
    if any(backbone.checkpoint is None for backbone in [*backbones, *(one.backbone for one in detectors)]):
        return False
    expected = [f"{backbone.sha256}/classifier-*.onnx" for backbone in backbones]
    expected += [f"{detector.sha256}/detector-*.onnx" for detector in detectors]
    return all(any(settings.cache_dir.glob(pattern)) for pattern in expected)


def load(settings: Settings, on_progress: Callable[[str], None] | None = None) -> Served:
    """Raises `ModelError`, and `models.engines.EngineError` with a message as fit for an operator."""
    loading = Loading(cache=settings.cache_dir, device=settings.device, engine=settings.engine)
    try:
        return load_models(catalog(settings), settings.backbones, settings.detectors, loading, on_progress)
    except OSError as error:
        raise ModelError(f"the models cannot be loaded: {error}") from error
