import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS, Catalog
from models.engines import Graph
from models.folded import Pointwise, folded
from models.recorded import outputs_of
from tests.conftest import fcos, needs_gpu


def counted(module: nn.Module) -> Counter[type[nn.Module]]:
    return Counter(type(one) for one in module.modules())


def normal(module: nn.Module) -> nn.Module:
    """With numbers in its normalisations as a training leaves them."""
    torch.manual_seed(0)
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            for numbers in (one.running_var, one.weight):
                _ = numbers is None or nn.init.uniform_(numbers, 0.5, 1.5)
            for numbers in (one.running_mean, one.bias):
                _ = numbers is None or nn.init.normal_(numbers, std=0.3)
    return module.eval()


def assert_same(found: nn.Module, module: nn.Module, *inputs: Tensor) -> None:
    with torch.inference_mode():
        for answer, wanted in zip(outputs_of(found, inputs), outputs_of(module, inputs), strict=True):
            np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    catalog = Catalog()
    detector = fcos(catalog.detector(DEFAULT_DETECTORS[0]))
    classifier = catalog.backbone(DEFAULT_BACKBONES[0])
    return {"classifier": classifier.graph(), "detector": detector.graph(), "regions": detector.region_graph()}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", ["classifier", "detector", "regions"])
def test_the_bundled_models_answer_as_before(kind: str, rows: int, graphs: dict[str, Graph]) -> None:
    module, examples = graphs[kind].build(), graphs[kind].examples()
    before = copy.deepcopy(module.state_dict())
    found = folded(module, examples)
    kinds = counted(found)
    assert kinds[BatchNormAct2d] == 0
    assert kinds[Pointwise] > 30
    assert all(torch.equal(numbers, before[name]) for name, numbers in module.state_dict().items())
    pixels = np.random.default_rng(1).integers(0, 256, (rows, *examples[0].shape[1:]), np.uint8)
    assert_same(found, module, *map(torch.from_numpy, [pixels, *(one[:1].repeat(rows, 0) for one in examples[1:])]))


@pytest.mark.parametrize(
    ("architecture", "norms", "pointwise"),
    [
        ("test_resnet", 0, 5),
        ("test_efficientnet", 0, 11),
        ("test_efficientnet_gn", 0, 11),
        ("test_byobnet", 0, 16),
        ("test_nfnet", 0, 8),
        # What its first convolution answers is normalised, and added to what comes of it.
        ("test_coatnet", 7, 0),
        ("test_convnext", 0, 0),
        ("test_vit", 0, 0),
    ],
)
def test_other_architectures_do_too(architecture: str, norms: int, pointwise: int) -> None:
    created: Any = timm.create_model(architecture)
    module, pixels = normal(created), torch.rand(3, *created.default_cfg["input_size"])
    found = folded(module, [pixels[:1].numpy()])
    kinds = counted(found)
    assert sum(count for kind, count in kinds.items() if issubclass(kind, nn.BatchNorm2d)) == norms
    assert kinds[Pointwise] == pointwise
    assert (found is module) == (pointwise == 0)
    assert_same(found, module, pixels)


class Shared(nn.Module):
    """One convolution before two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([norm(self.mix(pixels)) for norm in self.norms], 1)


@pytest.mark.parametrize(
    ("module", "norms"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3, groups=1, padding=1), nn.BatchNorm2d(4, affine=False)), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), 1),
        (Shared(), 2),
    ],
)
def test_only_what_follows_its_convolution_is_folded(module: nn.Module, norms: int) -> None:
    normal(module)
    pixels = torch.rand(2, 3, 8, 8)
    found = folded(module, [pixels[:1].numpy()])
    assert counted(found)[nn.BatchNorm2d] == norms
    assert_same(found, module, pixels)


def test_the_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        folded(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), [np.zeros((1, 3, 8, 8), np.float32)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_matrices_takes_the_place_of_few(stride: int, groups: int, padding: int, bias: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 6, 1, stride, padding, groups=groups, bias=bias)).eval()
    pixels = torch.rand(2, 3, 5, 7)
    found = folded(module, [pixels.numpy()])
    assert counted(found)[Pointwise] == ((stride, groups, padding) == (1, 1, 0))
    assert_same(found, module, pixels)


@needs_gpu
def test_parts_may_be_on_a_gpu_already(graphs: dict[str, Graph]) -> None:
    """Where another model on the same backbone is computed there."""
    catalog = Catalog()
    backbone = catalog.backbone(DEFAULT_BACKBONES[0])
    graph = backbone.graph()
    backbone.module.cuda()
    found = folded(graph.build(), graph.examples())
    assert_same(found, graphs["classifier"].build(), torch.from_numpy(graph.examples()[0]))
