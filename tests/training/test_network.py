from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.backbones import Backbone
from models.fcos import FcosHead, UnfitBackbone
from models.heads import HeadConfig
from models.label_spaces import LabelSpace
from training.network import Tuned, channels, scales

SPACE = LabelSpace("two", ("n1", "n2"), ("one", "other"))


def backbone(architecture: str, folder: Path, **arguments: Any) -> Backbone:
    module = timm.create_model(architecture, num_classes=2, **arguments)
    save_file(module.state_dict(), folder / "tiny.safetensors")
    return Backbone("tiny", architecture, "manifest", SPACE, folder / "tiny.safetensors", None, arguments)


def tuned(base: Backbone, stages: int, patch: bool = False) -> Tuned:
    head = FcosHead(HeadConfig(channels(base, 64), canvas_size=64, width=8, depth=1))
    return Tuned(head, base, (64,), stages, patch)


@pytest.mark.parametrize(
    ("architecture", "stages", "expected"),
    [
        ("resnet10t", 1, {"layer4"}),
        ("resnet10t", 2, {"layer3", "layer4"}),
        ("resnet10t", 99, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
        ("test_efficientnet", 1, {"conv_head", "bn2", "blocks"}),
        ("test_convnext", 1, {"stages"}),
    ],
)
def test_the_last_stages_are_trained_and_nothing_else(
    architecture: str, stages: int, expected: set[str], tmp_path: Path
) -> None:
    network = tuned(backbone(architecture, tmp_path), stages)
    assert {name.split(".")[0] for name in network.trained()} == expected
    frozen = [name for name, value in network.classifier.named_parameters() if not value.requires_grad]
    assert frozen


@pytest.mark.parametrize(
    ("architecture", "stages", "trained", "frozen"),
    [
        ("test_efficientnet", 0, {"bn1.weight", "blocks.3.0.conv_dw.weight"}, {"blocks.3.0.conv_pw.weight"}),
        ("test_efficientnet", 1, {"bn1.weight", "conv_head.weight"}, {"conv_stem.weight"}),
        ("resnet10t", 0, {"bn1.weight", "layer4.0.bn2.bias"}, {"layer4.0.conv1.weight"}),
        ("test_convnext", 0, {"stages.1.blocks.0.conv_dw.weight"}, {"stages.1.blocks.0.mlp.fc1.weight"}),
    ],
)
def test_a_patch_is_the_normalisations_and_depthwise_convolutions_of_all_stages(
    architecture: str, stages: int, trained: set[str], frozen: set[str], tmp_path: Path
) -> None:
    network = tuned(backbone(architecture, tmp_path), stages, patch=True)
    assert trained <= set(network.trained())
    assert frozen.isdisjoint(network.trained())
    assert frozen <= {name for name, _ in network.classifier.named_parameters()}
    # The classifier's own answer, which no box needs.
    assert not any("fc." in name or "classifier" in name for name in network.trained() if not name.startswith("stages"))


def test_a_step_moves_the_stages_and_leaves_statistics_and_the_served_classifier(tmp_path: Path) -> None:
    base = backbone("resnet10t", tmp_path)
    network = tuned(base, 1).train()
    before = {key: value.clone() for key, value in network.classifier.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 1e-2)
    scores, boxes = network(torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8), 64)
    (scores.sum() + boxes.sum()).backward()
    optimizer.step()
    moved = {key for key, value in network.classifier.state_dict().items() if not torch.equal(value, before[key])}
    # Some have a gain of zero behind them at first.
    assert moved
    assert moved <= set(network.trained())
    for key, value in base.module.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    ("size", "several", "expected"),
    [(128, False, (128,)), (128, True, (96, 128, 160)), (32, True, (32,))],
)
def test_scales(size: int, several: bool, expected: tuple[int, ...]) -> None:
    assert scales(size, several) == expected


def test_what_must_be_told_its_input_size_is_not_fine_tuned(tmp_path: Path) -> None:
    small = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)}
    with pytest.raises(UnfitBackbone, match="cannot be fine-tuned"):
        tuned(backbone("swin_tiny_patch4_window7_224", tmp_path, **small), 1)
