"""On a CPU all but the GPU's own recording; on a GPU that too."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backbones import bundled_backbone
from models.batching import repeated
from models.catalog import DEFAULT_DETECTORS, Catalog
from models.comparison import Options
from models.engines import Graph, TorchEngine, make_engine
from models.photo import Photo
from models.pipeline import Pipeline
from models.recorded import Recorded
from models.served import Loading, load
from tests.conftest import LITE0, fcos, needs_gpu

everywhere = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])


class Weighted(nn.Module):
    """Two inputs, two outputs, one of them of another type."""

    def forward(self, pixels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return pixels.float().mean((1, 2, 3)) * weights, pixels.amax((1, 2, 3))


def inputs(rows: int, seed: int = 0) -> tuple[Any, ...]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (rows, 4, 4, 3), dtype=np.uint8), random.random(rows, np.float32)


def recorded(device: str, *sizes: int) -> Recorded:
    found = Recorded(Weighted().to(device), device)
    for size in sizes:
        found.record(size, inputs(1))
    return found


@everywhere
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_a_recorded_forward_answers_as_the_module_does(rows: int, device: str) -> None:
    module = recorded(device, 4, 1)
    for seed in range(3):
        means, largest = module.run(*inputs(rows, seed))
        pixels, weights = inputs(rows, seed)
        np.testing.assert_allclose(means, pixels.mean((1, 2, 3)) * weights, rtol=1e-5)
        np.testing.assert_array_equal(largest, pixels.max((1, 2, 3)))
        assert means.dtype == largest.dtype == np.float32


@everywhere
def test_an_answer_is_not_overwritten_by_the_next(device: str) -> None:
    module = recorded(device, 2)
    first = module.run(*inputs(2, 1))
    kept = [array.copy() for array in first]
    module.run(*inputs(2, 2))
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@everywhere
def test_several_threads_each_get_their_own_answer(device: str) -> None:
    module = recorded(device, 2, 1)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: module.run(*inputs(seed % 2 + 1, seed)), range(64)))
    for seed, (means, _) in enumerate(answers):
        pixels, weights = inputs(seed % 2 + 1, seed)
        np.testing.assert_allclose(means, pixels.mean((1, 2, 3)) * weights, rtol=1e-5)


@needs_gpu
def test_a_recorded_forward_and_others_do_not_share_memory() -> None:
    """A graph would go on to write where it once did, whoever has that memory now."""
    module = recorded("cuda", 4, 2, 1)
    others = [torch.full((size,), 7, dtype=torch.uint8, device="cuda") for size in (48, 96, 192, 512, 4096) * 200]
    for rows in (1, 2, 3, 4):
        pixels, weights = inputs(rows, rows)
        np.testing.assert_allclose(module.run(pixels, weights)[0], pixels.mean((1, 2, 3)) * weights, rtol=1e-5)
    assert all(bool((other == 7).all()) for other in others)


def test_sizes_are_told_in_rising_order() -> None:
    assert recorded("cpu", 4, 1, 2).sizes == [1, 2, 4]


class Sum(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().sum((1, 2))


class Deciding(Sum):
    """What it computes depends on the pixels: that cannot be recorded on a GPU."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) if pixels.sum() > 0 else pixels.float().mean((1, 2))


class Small(Sum):
    """Has memory for two rows only."""

    def forward(self, pixels: Tensor) -> Tensor:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError
        return super().forward(pixels)


class Learning(Sum):
    """Answers otherwise the second time, which a recording would not."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(pixels) * (2 if self.calls == 2 else 1)


@pytest.mark.parametrize(
    ("module", "device", "sizes"),
    [
        (Sum(), "cpu", [1, 2, 4]),
        (Small(), "cpu", [1, 2]),
        (Learning(), "cpu", [1, 2]),
        pytest.param(Small(), "cuda", [1, 2], marks=needs_gpu),
        pytest.param(Deciding(), "cuda", [], marks=needs_gpu),
    ],
)
def test_what_cannot_be_recorded_is_computed_all_the_same(module: nn.Module, device: str, sizes: list[int]) -> None:
    engine = TorchEngine(module, device, (1, 2, 4))
    pixels = inputs(3)[0]
    engine.record((pixels,))
    assert engine.recorded.sizes == sizes
    np.testing.assert_allclose(engine.run(pixels)[0], pixels.sum((1, 2), dtype=np.float32), rtol=1e-5)


def graphs(catalog: Catalog) -> list[Graph]:
    detector = fcos(catalog.detector("fcos_random"))
    return [bundled_backbone(LITE0).graph(), detector.graph(), detector.region_graph()]


@pytest.mark.parametrize("number", range(3), ids=["classifier", "detector", "regions"])
def test_every_model_of_ours_can_be_recorded(number: int, catalog: Catalog) -> None:
    graph = graphs(catalog)[number]
    engine = TorchEngine(graph.build(), "cpu", (1, 2))
    examples = tuple(np.concatenate([array, array[:1]]) for array in graph.examples())
    expected = engine.run(*examples)
    engine.record(graph.examples())
    assert engine.recorded.sizes == [1, 2]
    for found, wanted in zip(engine.run(*examples), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("number", range(3), ids=["classifier", "detector", "regions"])
def test_a_gpu_answers_as_the_cpu_does(number: int, catalog: Catalog) -> None:
    graph = graphs(catalog)[number]
    engine = make_engine(graph, "auto", "cuda", cache=None)  # type: ignore[arg-type]
    examples = repeated(graph.examples(), 5)
    expected = TorchEngine(graph.build(), "cpu").run(*examples)
    for found, wanted in zip(engine.run(*examples), expected, strict=True):
        assert np.abs(found - wanted).max() < 1e-3 * max(1, np.abs(wanted).max())


@needs_gpu
def test_a_gpu_compares_photos_as_the_cpu_does(samples: Mapping[str, Photo], cache_dir: Path) -> None:
    """Asked by several threads at once there, so that their views share batches."""
    cpu, gpu = (
        Pipeline(load(Catalog(), [LITE0], DEFAULT_DETECTORS, Loading(cache_dir, device=device)))
        for device in ("cpu", "cuda")
    )
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda photo: gpu.compare(photo, Options()), 4 * list(samples.values())))
    for comparison, photo in zip(found, 4 * list(samples.values()), strict=True):
        expected = cpu.compare(photo, Options())
        assert len(comparison.boxes) == len(expected.boxes)
        assert np.abs(comparison.combined.probabilities - expected.combined.probabilities).max() < 1e-3
        assert np.abs(comparison.plain.probabilities - expected.plain.probabilities).max() < 1e-3
