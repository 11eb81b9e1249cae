import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from evaluation.samples import SAMPLES
from models.backbones import bundled_backbone
from models.catalog import Catalog
from models.detectors import Detector, FcosDetector
from models.fcos import FcosHead
from models.heads import HeadConfig, HeadFile, save_head
from models.photo import Photo, read_photo
from models.served import Loading, Served, load

LITE0 = "tf_efficientnet_lite0.in1k"

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def fcos(detector: Detector) -> FcosDetector:
    """The same, known to be one of ours."""
    assert isinstance(detector, FcosDetector)
    return detector


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small networks gain nothing from a second thread, and lose much where other work runs beside the tests."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where exported graphs go: an export takes seconds, so that all tests of all processes share one folder."""
    chosen = os.environ.get("FIGUREGROUND_CACHE_DIR")
    if chosen:
        return Path(chosen)
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"


@pytest.fixture(scope="session")
def samples() -> Mapping[str, Photo]:
    return {name: read_photo(sample.path.read_bytes()) for name, sample in SAMPLES.items()}


@pytest.fixture(scope="session")
def random_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head for lite0 that finds boxes of all sizes and scores, all of them without a meaning."""
    config = HeadConfig(channels=(40, 112, 1280))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = FcosHead(config)
        torch.nn.init.normal_(head.score.weight, std=0.3)
        torch.nn.init.normal_(head.sides.weight, std=0.1)
    path = tmp_path_factory.mktemp("heads") / "random.safetensors"
    save_head(path, head, HeadFile(LITE0, bundled_backbone(LITE0).sha256, config))
    return path


@pytest.fixture(scope="session")
def catalog(random_head: Path) -> Catalog:
    """The bundled models and a detector `fcos_random`."""
    detector = FcosDetector("fcos_random", bundled_backbone(LITE0), random_head, "manifest")
    return Catalog(detectors={detector.name: detector})


@pytest.fixture(scope="session")
def served(catalog: Catalog, cache_dir: Path) -> Served:
    """lite0 under ONNX Runtime, and the detector `fcos_random` on it."""
    return load(catalog, [LITE0], ["fcos_random"], Loading(cache_dir))


@pytest.fixture(scope="session")
def environment(random_head: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """For a command that can choose the detector fcos_random besides the bundled ones."""
    manifest = tmp_path_factory.mktemp("manifest") / "models.toml"
    manifest.write_text(f'[detectors.fcos_random]\narchitecture = "fcos_{LITE0}"\ncheckpoint = "{random_head}"\n')
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FIGUREGROUND_")}
    return {
        **clean,
        "FIGUREGROUND_MODELS": str(manifest),
        "FIGUREGROUND_CACHE_DIR": str(cache_dir),
        "FIGUREGROUND_BACKBONES": LITE0,
        "FIGUREGROUND_DETECTORS": "fcos_random",
        "FIGUREGROUND_JOURNAL_URL": "",
        "BENTOML_DO_NOT_TRACK": "True",
    }
