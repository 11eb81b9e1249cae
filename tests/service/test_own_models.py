"""An operator's own models over HTTP: two classifiers, a flat ViT and two of torchvision's detectors, by a manifest."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from evaluation.samples import SAMPLES
from service.running import running_service

CLASSIFIERS = {"one": "test_efficientnet", "other": "mobilenetv2_035", "vit": "test_vit"}
FINDERS = {"ssd": "ssdlite320_mobilenet_v3_large", "rcnn": "fasterrcnn_mobilenet_v3_large_320_fpn"}
MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.6, 0.7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half-precision classifiers with padding, mean and std of their own; detectors whose random boxes score enough."""
    folder, tables = tmp_path_factory.mktemp("own"), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, architecture in CLASSIFIERS.items():
            state = timm.create_model(architecture).state_dict()
            halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
            save_file(halves, folder / f"{name}.safetensors")
            padding = "" if name == "vit" else 'model_args = { pad_type = "same" }\n'
            tables.append(
                f'[backbones.{name}]\narchitecture = "{architecture}"\ncheckpoint = "{name}.safetensors"\n'
                f'label_space = "imagenet-1k"\n{padding}'
                f"preprocessing = {{ mean = {MEAN}, std = {STD}, input_size = {160 if name == 'vit' else 128} }}\n"
            )
        for name, architecture in FINDERS.items():
            module = torchvision.models.get_model(architecture, weights=None, weights_backbone=None, num_classes=3)
            save_file(module.state_dict(), folder / f"{name}.safetensors")
            sha256 = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
            tables.append(
                f'[detectors.{name}]\narchitecture = "{architecture}"\ncheckpoint = "{name}.safetensors"\n'
                f'sha256 = "{sha256}"\nmodel_args = {{ num_classes = 3 }}\ntuning = {{ min_score = 0.05 }}\n'
            )
    (folder / "models.toml").write_text("\n".join(tables))
    return folder


@pytest.fixture(scope="module")
def client(folder: Path, environment: Mapping[str, str], cache_dir: Path) -> Iterator[httpx.Client]:
    chosen = {
        "MODELS": str(folder / "models.toml"),
        "BACKBONES": ",".join(CLASSIFIERS),
        "DETECTORS": ",".join(FINDERS),
        "CACHE_DIR": str(cache_dir),
    }
    settings = {f"FIGUREGROUND_{name}": value for name, value in chosen.items()}
    with running_service(environment={**environment, **settings}, output=folder / "log") as service:
        service.wait_until_ready(280)
        with httpx.Client(base_url=service.url, timeout=60) as connected:
            yield connected
        assert service.stop() == 0, (folder / "log").read_text()


def test_models_says_all_of_them(client: httpx.Client, folder: Path) -> None:
    listed = client.get("/models").json()
    keys = "name default loaded architecture input_size label_space classes parameters sha256 source engine device"
    for kind, known in (("backbones", CLASSIFIERS), ("detectors", FINDERS)):
        assert [(one["name"], one["architecture"]) for one in listed[kind]] == list(known.items())
        assert [one["default"] for one in listed[kind]] == [True, *[False] * (len(known) - 1)]
        for one in listed[kind]:
            assert set(one) == set(keys.split())
            assert one["sha256"] == hashlib.sha256((folder / f"{one['name']}.safetensors").read_bytes()).hexdigest()
            assert (one["source"], one["loaded"], one["device"]) == ("manifest", True, "cpu")
            assert one["parameters"] > 100_000
    assert [one["engine"] for one in listed["detectors"]] == ["onnxruntime", "torch"]
    assert [one["input_size"] for one in listed["detectors"]] == [320, 448]
    assert {(one["label_space"], one["classes"]) for one in listed["detectors"]} == {(None, None)}
    assert {(one["label_space"], one["classes"]) for one in listed["backbones"]} == {("imagenet-1k", 1000)}


@pytest.mark.parametrize("detector", FINDERS)
@pytest.mark.parametrize("backbone", CLASSIFIERS)
def test_they_answer(backbone: str, detector: str, client: httpx.Client) -> None:
    for name in ("chelsea", "rocket"):
        query = {"backbone": backbone, "detector": detector, "arms": "detector,squashed", "max_boxes": "20"}
        answer = client.post("/predict", params=query, files={"image": SAMPLES[name].path.read_bytes()})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert [found["models"][kind]["name"] for kind in ("backbone", "detector")] == [backbone, detector]
        assert found["boxes"]
        for box in found["boxes"]:
            x1, y1, x2, y2 = box["xyxy"]
            assert 0 <= x1 < x2 <= found["image"]["width"]
            assert 0 <= y1 < y2 <= found["image"]["height"]
            assert 0.05 <= box["score"] <= 1
        assert len(found["plain"]["top_k"]) == 5
        # Its labels are not the classifier's.
        assert found["arms"]["detector"] is None
        assert found["arms"]["squashed"] is not None
