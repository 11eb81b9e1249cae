from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from models.fcos import STRIDES, Body, Fcos, FcosHead, RegionClassifier, UnfitBackbone, _coverage, for_size
from models.heads import HeadConfig
from models.normalise import Normalise
from models.preprocessing import Preprocessing

NORMALISE = Normalise(Preprocessing(64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0, "bicubic"))
SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)}
# Architectures that carry a detector, what makes them small, and the channels of their three levels.
BACKBONES: Mapping[str, tuple[Mapping[str, Any], tuple[int, int, int]]] = {
    "resnet18": ({}, (128, 256, 512)),
    "test_convnext": ({}, (32, 48, 64)),
    "test_efficientnet": ({}, (32, 48, 256)),
    "mobilenetv3_small_050": ({}, (16, 24, 288)),
    "swin_tiny_patch4_window7_224": (SMALL_SWIN, (48, 96, 192)),
}


@cache
def classifier(name: str) -> nn.Module:
    arguments, _ = BACKBONES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = timm.create_model(name, num_classes=7, **arguments)
    return module.eval()


def photos(count: int, size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("canvas_size", [64, 128])
def test_shapes(name: str, canvas_size: int) -> None:
    _, channels = BACKBONES[name]
    body = Body(classifier(name), NORMALISE, canvas_size)
    assert body.channels == channels
    detector = Fcos(body, FcosHead(HeadConfig(channels, canvas_size=canvas_size, width=8))).eval()
    with torch.inference_mode():
        levels = body(photos(3, 32))
        scores, boxes = detector(photos(3, 32))
    sides = [canvas_size // stride for stride in STRIDES]
    assert [tuple(level.shape) for level in levels] == [
        (3, count, side, side) for count, side in zip(channels, sides, strict=True)
    ]
    points = sum(side * side for side in sides)
    assert scores.shape == (3, points)
    assert boxes.shape == (3, points, 4)
    assert (scores > 0).all()
    assert (scores < 1).all()
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_the_coarsest_level_is_what_the_classifier_pools() -> None:
    for name in BACKBONES:
        module: Any = for_size(classifier(name), 64)
        body = Body(module, NORMALISE, 64)
        with torch.inference_mode():
            last = body(photos(2, 64))[-1]
            if getattr(module, "output_fmt", "NCHW") == "NHWC":
                last = last.permute(0, 2, 3, 1)
            found, expected = module.forward_head(last), module(NORMALISE(photos(2, 64)))
        torch.testing.assert_close(found, expected, msg=name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit", r"strides 8, 16 and 32; this one has \[16\]"),
        ("levit_128s", r"strides 8, 16 and 32; this one has \[16, 32, 64\]"),
        ("inception_v3", r"feature maps are \[\(288, 13, 13\)"),
        ("efficientformerv2_s0", r"cannot see photos of 128 pixels: shape"),
    ],
)
def test_a_backbone_that_cannot_carry_a_detector(name: str, message: str) -> None:
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=7)
    with pytest.raises(UnfitBackbone, match=message):
        Body(module.to_empty(device="cpu").eval(), NORMALISE, 128)


def test_points_are_the_centres_of_the_cells() -> None:
    points = FcosHead(HeadConfig((4, 4, 4), canvas_size=64, width=8)).get_buffer("points")
    assert points.shape == (64 + 16 + 4, 2)
    expected = {0: (4, 4), 1: (12, 4), 8: (4, 12), 63: (60, 60), 64: (8, 8), 80: (16, 16), 83: (48, 48)}
    assert {index: tuple((points[index] * 64).tolist()) for index in expected} == expected


@pytest.mark.parametrize(
    ("raw", "point", "expected"),
    [
        # exp(0) strides to all sides: 8, 16 and 32 of 64 pixels.
        (0.0, 0, (-4, -4, 12, 12)),
        (0.0, 9, (4, 4, 20, 20)),
        (0.0, 64, (-8, -8, 24, 24)),
        (0.0, 83, (16, 16, 80, 80)),
        (np.log(2), 9, (-4, -4, 28, 28)),
        # However wild the weights, a side is never longer than exp(6) strides.
        (1e6, 0, (4 - 8 * np.exp(6), 4 - 8 * np.exp(6), 4 + 8 * np.exp(6), 4 + 8 * np.exp(6))),
    ],
)
def test_boxes_are_distances_around_the_points(
    raw: float, point: int, expected: tuple[float, float, float, float]
) -> None:
    head = FcosHead(HeadConfig((4, 4, 4), canvas_size=64, width=8)).eval()
    with torch.inference_mode():
        head.side_biases.fill_(0)
        head.sides.weight.fill_(0)
        assert head.sides.bias is not None
        head.sides.bias.fill_(raw)
        _, boxes = head([torch.randn(1, 4, side, side) for side in (8, 4, 2)])
    assert (boxes[0, point] * 64).tolist() == pytest.approx(list(expected), rel=1e-4)


def test_the_four_sides_are_left_top_right_bottom() -> None:
    head = FcosHead(HeadConfig((4, 4, 4), canvas_size=64, width=8)).eval()
    with torch.inference_mode():
        head.side_biases.fill_(0)
        head.sides.weight.fill_(0)
        assert head.sides.bias is not None
        head.sides.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).log())
        _, boxes = head([torch.randn(1, 4, side, side) for side in (8, 4, 2)])
    assert (boxes[0, 9] * 64).tolist() == pytest.approx([12 - 8, 12 - 16, 12 + 24, 12 + 32])


@pytest.mark.parametrize("name", BACKBONES)
def test_regions_over_the_whole_photo_are_the_classifier(name: str) -> None:
    module = for_size(classifier(name), 96)
    regions = RegionClassifier(module, NORMALISE).eval()
    pixels = photos(2, 96)
    with torch.inference_mode():
        found = regions(pixels, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2))
        expected = module(NORMALISE(pixels))
        part = regions(pixels, torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 2))
    torch.testing.assert_close(found, expected)
    assert (part - expected).abs().max() > 1e-6 * expected.abs().max()


def test_a_region_is_the_mean_over_its_cells() -> None:
    module: Any = classifier("resnet18")
    regions = RegionClassifier(module, NORMALISE).eval()
    pixels = photos(1, 128)
    with torch.inference_mode():
        features = module.forward_features(NORMALISE(pixels))
        found = regions(pixels, torch.tensor([[0.25, 0.5, 1.0, 0.75]]))
        expected = module.forward_head(features[:, :, 2:3, 1:4])
    assert features.shape == (1, 512, 4, 4)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0.25, 0.25, 0.25, 0.25]),
        (0, 0.25, [1, 0, 0, 0]),
        (0.5, 1, [0, 0, 0.5, 0.5]),
        (0.125, 0.375, [0.5, 0.5, 0, 0]),
        (0.1875, 0.5, [0.2, 0.8, 0, 0]),
        (0.3, 0.31, [0, 1, 0, 0]),
        (-0.25, 0.25, [1, 0, 0, 0]),
        (0.75, 1.5, [0, 0, 0, 1]),
        (0.4, 0.4, [0, 0, 0, 0]),
        (0.8, 0.2, [0, 0, 0, 0]),
    ],
)
def test_coverage(low: float, high: float, expected: list[float]) -> None:
    found = _coverage(torch.tensor([low, 0.0]), torch.tensor([high, 1.0]), 4)
    torch.testing.assert_close(found, torch.tensor([expected, [0.25] * 4]))


def test_for_size_leaves_the_classifier_as_it_is() -> None:
    swin: Any = classifier("swin_tiny_patch4_window7_224")
    fitted: Any = for_size(swin, 128)
    assert fitted is not swin
    assert swin.patch_embed.img_size == (224, 224)
    assert fitted.patch_embed.img_size == (128, 128)
    resnet = classifier("resnet18")
    assert for_size(resnet, 128) is resnet
