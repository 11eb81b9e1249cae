from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models import detection, list_models

from models.backbones import ModelError
from models.boxes import iou
from models.catalog import Catalog, read_manifest
from models.comparison import Options
from models.detectors import MAX_BOXES
from models.engines import EngineError, TorchEngine, make_engine
from models.heads import Tuning
from models.photo import Photo
from models.pipeline import Pipeline
from models.served import Served
from models.torchvision_detectors import (
    FIXED_SIDES,
    NAMES,
    SHORT_SIDES,
    TUNING,
    LoadedTorchvision,
    TorchvisionDetector,
)

SSD, TWO_STAGES = "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"
# Small enough for a test, and without a threshold that random weights would not pass.
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    SSD: {"score_thresh": 0.0},
    "retinanet_resnet50_fpn_v2": {"score_thresh": 0.0, "min_size": 96, "max_size": 96},
    "fcos_resnet50_fpn": {"score_thresh": 0.0, "min_size": 96, "max_size": 96},
    TWO_STAGES: {"box_score_thresh": 0.0, "min_size": 96, "max_size": 96},
}


@cache
def module(name: str) -> nn.Module:
    """With random weights whose scores differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: nn.Module = torchvision.models.get_model(name, weights=None, weights_backbone=None, **ARGUMENTS[name])
        for key, layer in built.named_modules():
            # Of two stages the first would else propose boxes without an inside.
            proposes = name == TWO_STAGES and ("rpn" in key or "bbox" in key)
            if isinstance(layer, nn.Conv2d | nn.Linear) and not proposes:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return built.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def detector(name: str, folder: Path, **changes: Any) -> TorchvisionDetector:
    checkpoint = folder / f"{name}.pth"
    if not checkpoint.exists():
        # As torchvision's own training script wraps it.
        torch.save({"model": module(name).state_dict(), "epoch": 3}, checkpoint)
    side = {} if name in FIXED_SIDES else {"input_size": 96}
    return TorchvisionDetector(
        **{
            "name": "mine",
            "architecture": name,
            "source": "manifest",
            "checkpoint": checkpoint,
            "model_args": ARGUMENTS[name],
            "preprocessing_overrides": side,
            **changes,
        }
    )


def loaded(name: str, folder: Path) -> LoadedTorchvision:
    model = detector(name, folder)
    return LoadedTorchvision(model, TorchEngine(model.graph().build(), "cpu"))


def test_all_of_torchvision_s_detectors_are_known() -> None:
    assert sorted(NAMES) == sorted(list_models(module=detection))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_down_of_a_detector_is_what_torchvision_says(name: str) -> None:
    with torch.device("meta"):
        transform = torchvision.models.get_model(name, weights=None, weights_backbone=None).transform
    preprocessing = TorchvisionDetector(name, name, "hub").preprocessing
    assert preprocessing.mean == pytest.approx(transform.image_mean)
    assert preprocessing.std == pytest.approx(transform.image_std)
    if name in FIXED_SIDES:
        assert (preprocessing.input_size,) * 2 == transform.fixed_size
    else:
        assert max(transform.min_size) == SHORT_SIDES[name]
        assert transform.fixed_size is None


@pytest.mark.parametrize(
    "name", [SSD, "fcos_resnet50_fpn", TWO_STAGES, pytest.param("retinanet_resnet50_fpn_v2", marks=pytest.mark.slow)]
)
def test_the_best_box_is_torchvision_s_own(name: str, folder: Path) -> None:
    """On a square photo of the size that it sees, where nothing is resized."""
    found = loaded(name, folder)
    side = found.model.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    with torch.inference_mode():
        (expected,) = module(name)([torch.from_numpy(pixels).permute(2, 0, 1) / 255])
    scores, boxes = found.engine.run(pixels[None])
    best = scores[0].argmax()
    assert scores[0, best] == pytest.approx(float(expected["scores"][0]), rel=1e-3)
    np.testing.assert_allclose(boxes[0, best] * side, expected["boxes"][0], atol=0.05)
    if name == TWO_STAGES:
        count = len(expected["scores"])
        assert count > 10
        np.testing.assert_allclose(scores[0, :count], expected["scores"], atol=1e-4)
        np.testing.assert_allclose(boxes[0, :count] * side, expected["boxes"], atol=0.05)


@pytest.mark.parametrize("size", [(640, 427), (90, 800), (800, 90), (1, 1), (1, 700)])
@pytest.mark.parametrize("name", [SSD, TWO_STAGES])
def test_boxes_lie_inside_photos_of_any_size_best_first(name: str, size: tuple[int, int], folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    (found,) = loaded(name, folder).detect([Photo(Image.fromarray(pixels), "PNG")])
    assert found.boxes.shape == (len(found.scores), 4)
    assert 0 < len(found.scores) <= MAX_BOXES
    assert found.boxes.dtype == np.float32
    assert found.scores.dtype == np.float32
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= np.array(size * 2)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


@pytest.mark.parametrize("name", [SSD, TWO_STAGES])
def test_a_batch_is_its_photos_one_by_one(name: str, folder: Path, samples: Mapping[str, Photo]) -> None:
    found, photos = loaded(name, folder), list(samples.values())[:3]
    for photo, together in zip(photos, found.detect(photos), strict=True):
        (alone,) = found.detect([photo])
        assert together.scores[0] == pytest.approx(alone.scores[0], rel=1e-3)
        assert iou(together.boxes[:1], alone.boxes[:1])[0, 0] > 0.9
        (few,) = found.detect([photo], float(alone.scores[1]))
        np.testing.assert_array_equal(few.boxes, alone.above(float(alone.scores[1])).boxes)


def test_without_a_label_space_it_has_no_class_of_its_own(
    folder: Path, served: Served, samples: Mapping[str, Photo]
) -> None:
    model = detector(SSD, folder, tuning=Tuning(min_score=0))
    finder = LoadedTorchvision(model, TorchEngine(model.graph().build(), "cpu"))
    pipeline = Pipeline(replace(served, detectors={"mine": finder}))
    found = pipeline.compare(samples["coffee"], Options(arms=("detector", "squashed")))
    assert found.detector == "mine"
    assert found.cropped is not None
    assert found.arms["detector"] is None
    assert found.arms["squashed"] is not None


def test_what_is_told_about_it(folder: Path) -> None:
    model = detector(SSD, folder)
    assert (model.input_size, model.label_space, model.tuning) == (320, None, TUNING)
    assert model.parameters == sum(parameter.numel() for parameter in module(SSD).parameters())
    usual = {name: TorchvisionDetector(name, name, "hub").input_size for name in ("fcos_resnet50_fpn", TWO_STAGES)}
    assert usual == {"fcos_resnet50_fpn": 1088, TWO_STAGES: 448}


def test_by_name_it_comes_from_the_hub_whatever_its_prefix() -> None:
    for name in NAMES:
        found = Catalog().detector(name)
        assert isinstance(found, TorchvisionDetector)
        assert (found.name, found.source, found.is_local) == (name, "hub", False)


def test_a_manifest_may_say_all_of_it(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    checkpoint = detector(SSD, folder).checkpoint
    path.write_text(
        f'[detectors.finder]\narchitecture = "{SSD}"\ncheckpoint = "{checkpoint}"\nlabel_space = "imagenet-1k"\n'
        "model_args = { score_thresh = 0.0 }\npreprocessing = { mean = [0.4, 0.4, 0.4] }\n"
        "tuning = { min_score = 0.05, margin_large = 0.2 }\n"
    )
    found = read_manifest(path).detector("finder")
    assert isinstance(found, TorchvisionDetector)
    assert found.preprocessing.mean == (0.4, 0.4, 0.4)
    assert found.tuning == replace(TUNING, min_score=0.05, margin_large=0.2)
    assert found.model_args == {"score_thresh": 0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expected_sha256": "0" * 64}, r"mine'?: .*has sha256 [0-9a-f]{64}, expected 0+$"),
        ({"architecture": "ssd300_vgg16", "model_args": {}}, "'mine': the checkpoint does not fit: "),
        ({"model_args": {"num_classes": 7}}, "the checkpoint does not fit: size mismatch"),
        ({"model_args": {"no_such_argument": 7}}, "'mine': .* takes no model_args 'no_such_argument'"),
        ({"model_args": {"weights": "DEFAULT"}}, "'mine' cannot be built: .*weights"),
        ({"preprocessing_overrides": {"input_size": 512}}, f"the input_size of {SSD} is 320"),
        ({"preprocessing_overrides": {"std": [0, 1, 1]}}, "detector 'mine': std must be above 0"),
        ({"preprocessing_overrides": {"crop_pct": 0.9}}, "a detector sees the whole photo, it has no crop_pct"),
        (
            {"architecture": TWO_STAGES, "preprocessing_overrides": {"input_size": 500}},
            "input_size must be a multiple of 32, got 500",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(changes: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        detector(SSD, folder, **changes).graph().build()
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=rf"^detector '{SSD}' cannot be fetched: [^\n]+$"):
        _ = Catalog().detector(SSD).sha256


def test_two_stages_run_in_torch_on_a_cpu(folder: Path, tmp_path: Path) -> None:
    graph = detector(TWO_STAGES, folder).graph()
    assert make_engine(graph, "auto", "cpu", tmp_path).name == "torch"
    with pytest.raises(EngineError, match=f"^{TWO_STAGES} cannot be exported for onnxruntime"):
        make_engine(graph, "onnxruntime", "cpu", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [SSD, "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"])
def test_one_stage_is_exported(name: str, folder: Path, tmp_path: Path) -> None:
    """Its answers are compared with torch's when it is exported."""
    graph = detector(name, folder).graph()
    engine = make_engine(graph, "auto", "cpu", tmp_path)
    assert engine.name == "onnxruntime"
    (pixels,) = graph.examples()
    scores, boxes = engine.run(pixels[:1])
    assert boxes.shape == (*scores.shape, 4)
