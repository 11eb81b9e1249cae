from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from models.backbones import ModelError
from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS
from service import loading
from service.settings import Settings


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each worker has to load its models itself."""
    monkeypatch.setattr(loading, "resolve_device", lambda _: "cuda:0")
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("it is loaded"))


@pytest.mark.usefixtures("on_gpu")
def test_before_a_gpu_is_asked_all_models_are_built() -> None:
    settings = Settings(backbones=DEFAULT_BACKBONES[:1], detectors=DEFAULT_DETECTORS[:1])
    told = list[str]()
    loading.prepare(settings, told.append)
    assert told == [*settings.detectors, *settings.backbones]


@pytest.mark.usefixtures("on_gpu")
def test_what_cannot_be_built_is_told_before_there_are_workers(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "mine.safetensors")
    (tmp_path / "two.tsv").write_text("n1\tone\nn2\tother\n")
    (tmp_path / "models.toml").write_text(
        '[backbones.mine]\narchitecture = "test_resnet"\ncheckpoint = "mine.safetensors"\nlabel_space = "two.tsv"\n'
    )
    settings = Settings(models=tmp_path / "models.toml", backbones=("mine",), detectors=DEFAULT_DETECTORS[:1])
    with pytest.raises(ModelError, match="'mine': the checkpoint does not fit"):
        loading.prepare(settings, lambda _: None)


def test_for_a_cpu_they_are_loaded_so_that_they_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, told = Settings(device="cpu"), list[object]()
    monkeypatch.setattr(loading, "load", lambda *asked: told.append(asked))
    loading.prepare(settings, print)
    assert told == [(settings, print)]
