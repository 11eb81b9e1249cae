"""Heads on backbones of many kinds, with random weights: built, trained by the command, and served."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import timm
import torch
from safetensors.torch import save_file

from evaluation.samples import SAMPLES
from models.catalog import read_manifest
from models.comparison import Options
from models.fcos import FcosHead
from models.heads import HeadConfig, HeadFile, describe_head, save_head
from models.photo import Photo
from models.pipeline import Pipeline
from models.served import Loading, load
from service.running import running_service
from tests.commands import figureground

# Without its own size, which would be dear in a test; Swin cannot be told another one here.
SIZES: Mapping[str, int | None] = {
    "test_resnet": 96,
    "resnet18": 96,
    "resnet50": 96,
    "efficientnet_b0": 96,
    "tf_efficientnet_b7": 96,
    "mobilenetv3_large_100": 96,
    "convnext_tiny": 96,
    "swin_tiny_patch4_window7_224": None,
}
NORMAL = "test_resnet"


@dataclass(frozen=True)
class Home:
    """A folder with a manifest of one backbone, `mine`, and what the command needs to find it."""

    folder: Path
    data: str
    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FIGUREGROUND_")}
        return {
            **clean,
            "FIGUREGROUND_MODELS": str(self.manifest),
            "FIGUREGROUND_CACHE_DIR": str(self.cache),
            "FIGUREGROUND_BACKBONES": "mine",
            "FIGUREGROUND_DETECTORS": "finder",
            "FIGUREGROUND_JOURNAL_URL": "",
            "BENTOML_DO_NOT_TRACK": "True",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def manifest(self) -> Path:
        return self.folder / "models.toml"

    @property
    def head(self) -> Path:
        return self.folder / "head.safetensors"

    def train(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        small = {"canvases": 64, "batch-size": 16, "width": 16, "depth": 1, "validation-photos": 6, "data-workers": 0}
        given = [word for name, value in small.items() for word in (f"--{name}", value)]
        words = ("train", "--backbone", "mine", "--data", self.data, "--out", self.head, *given, *arguments)
        return figureground(*words, environment=self.environment)

    def add_detector(self) -> None:
        with self.manifest.open("a") as file:
            file.write('\n[detectors.finder]\narchitecture = "fcos_mine"\ncheckpoint = "head.safetensors"\n')


def home(folder: Path, architecture: str, photos: Path, cache: Path, size: int | None) -> Home:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(architecture, num_classes=5)
    state = {key: value.half() if value.is_floating_point() else value for key, value in module.state_dict().items()}
    save_file(state, folder / "mine.safetensors")
    (folder / "five.tsv").write_text("".join(f"n{number}\tthing {number}\n" for number in range(5)))
    preprocessing = "" if size is None else f"preprocessing = {{ input_size = {size} }}\n"
    (folder / "models.toml").write_text(
        f'[backbones.mine]\narchitecture = "{architecture}"\ncheckpoint = "mine.safetensors"\n'
        f'label_space = "five.tsv"\n{preprocessing}'
    )
    return Home(folder, f"tiny-imagenet:{photos}", cache)


@pytest.mark.parametrize(
    "architecture", [NORMAL, *(pytest.param(name, marks=pytest.mark.slow) for name in SIZES if name != NORMAL)]
)
def test_a_head_is_trained_and_served(
    architecture: str, photos_folder: Path, tmp_path: Path, samples: Mapping[str, Photo]
) -> None:
    place = home(tmp_path, architecture, photos_folder, tmp_path / "cache", SIZES[architecture])
    done = place.train()
    assert done.returncode == 0, done.stderr
    assert f"{place.head}: CorLoc " in done.stdout
    (noted,) = [json.loads(line) for line in (tmp_path / "head.run" / "metrics.jsonl").read_text().splitlines()]
    assert (noted["step"], noted["photos"]) == (4, 6)
    assert describe_head(place.head).backbone == "mine"

    place.add_detector()
    served = load(read_manifest(place.manifest), ["mine"], ["finder"], Loading(place.cache))
    finder = served.detector(None)
    assert finder.model.architecture == f"fcos_{architecture}"
    assert finder.model.parameters > served.classifier(None).model.parameters
    photo = samples["coffee"]
    found = Pipeline(served).compare(photo, Options(min_score=0, margin=0, arms=("detector",)))
    assert found.box is not None
    x1, y1, x2, y2 = found.box.xyxy
    assert 0 <= x1 < x2 <= photo.width
    assert 0 <= y1 < y2 <= photo.height
    assert found.arms["detector"] is not None
    assert found.plain.probabilities.sum() == pytest.approx(1, abs=1e-4)
    if architecture == NORMAL:
        _serve_over_http(place)


def _serve_over_http(place: Home) -> None:
    log = place.folder / "log"
    with running_service(environment=place.environment, output=log) as service:
        service.wait_until_ready(120)
        (listed,) = httpx.get(f"{service.url}/models").json()["detectors"]
        assert (listed["name"], listed["architecture"], listed["label_space"]) == ("finder", f"fcos_{NORMAL}", "five")
        photo = SAMPLES["rocket"].path.read_bytes()
        answer = httpx.post(f"{service.url}/predict?min_score=0&arms=detector", files={"image": photo}, timeout=60)
        assert answer.status_code == 200
        assert answer.json()["box"] is not None
        assert answer.json()["arms"]["detector"]["top_k"][0]["label"].startswith("thing")
        assert service.stop() == 0, log.read_text()


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("test_vit", "a detector needs a backbone with strides 8, 16 and 32; this one has [16]"),
        pytest.param("inception_v3", "the backbone's feature maps are", marks=pytest.mark.slow),
    ],
)
def test_a_backbone_that_carries_no_detector_is_one_line_and_a_classifier_all_the_same(
    architecture: str, message: str, photos_folder: Path, tmp_path: Path, cache_dir: Path, samples: Mapping[str, Photo]
) -> None:
    place = home(tmp_path, architecture, photos_folder, cache_dir, None)
    done = place.train()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(f"figureground: {message}")

    backbone = read_manifest(place.manifest).backbone("mine")
    config = HeadConfig((8, 8, 8), width=8, depth=1)
    save_head(place.head, FcosHead(config), HeadFile("mine", backbone.sha256, config))
    place.add_detector()
    for arguments in (("serve", "--port", 9), ("predict", SAMPLES["rocket"].path)):
        done = figureground(*arguments, environment=place.environment)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith(f"figureground: detector 'finder': {message}")

    bundled = ["fcos_tf_efficientnet_lite0.figureground"]
    served = load(read_manifest(place.manifest), ["mine"], bundled, Loading(cache_dir))
    found = Pipeline(served).compare(samples["coffee"], Options())
    assert found.cropped is not None
    assert found.plain.probabilities.shape == (5,)
