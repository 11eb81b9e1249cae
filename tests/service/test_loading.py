import pytest

from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS
from service import loading
from service.settings import Settings


def test_for_a_gpu_they_are_only_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker has to load them there itself. What cannot be built: see test_start."""
    monkeypatch.setattr(loading, "resolve_device", lambda _: "cuda:0")
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("it is loaded"))
    settings = Settings(backbones=DEFAULT_BACKBONES[:1], detectors=DEFAULT_DETECTORS[:1])
    told = list[str]()
    loading.prepare(settings, told.append)
    assert told == [*settings.detectors, *settings.backbones]


def test_for_a_cpu_they_are_loaded_so_that_they_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, told = Settings(device="cpu"), list[object]()
    monkeypatch.setattr(loading, "load", lambda *asked: told.append(asked))
    loading.prepare(settings, print)
    assert told == [(settings, print)]
