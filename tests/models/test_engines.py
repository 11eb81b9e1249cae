import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backbones import bundled_backbone, example_pixels
from models.batching import BatchingEngine
from models.catalog import Catalog
from models.engines import (
    Array,
    EngineError,
    Graph,
    OnnxEngine,
    TorchEngine,
    exported,
    make_engine,
)
from models.normalise import Normalise
from models.preprocessing import Preprocessing
from tests.conftest import LITE0, fcos


class Sums(nn.Module):
    """Two outputs of uint8 (N, 4, 4, 3) pixels."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        scaled = pixels.to(torch.float32) / 255
        return scaled.sum((1, 2)), scaled.amax((1, 2, 3))


class Loop(nn.Module):
    """Cannot be exported: it decides by the values of its input."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().sum((1, 2)) if pixels.float().sum() > 0 else pixels.float().mean((1, 2))


class Unlike(nn.Module):
    """Exports as another function than the one that runs."""

    def forward(self, pixels: Tensor) -> Tensor:
        total = pixels.to(torch.float32).sum((1, 2))
        return total * 1.01 if torch.compiler.is_exporting() else total


class NotANumber(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return (-1 - pixels.to(torch.float32).sum((1, 2))).sqrt()


class Builds:
    """Counts how often the module is asked for."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.make = make
        self.count = 0

    def __call__(self) -> nn.Module:
        self.count += 1
        return self.make()


def small_graph(
    build: Callable[[], Any], outputs: tuple[str, ...] = ("sums", "largest"), kind: str = "sums|4"
) -> Graph:
    return Graph(kind, "a" * 64, build, lambda: (example_pixels(4),), ("pixels",), outputs)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which the small graph lies."""
    folder = tmp_path_factory.mktemp("small")
    exported(small_graph(Sums), folder)
    return folder


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
def test_onnx_answers_as_torch_does(batch: int, cache_dir: Path) -> None:
    graph = bundled_backbone(LITE0).graph()
    engine = make_engine(graph, "auto", "cpu", cache_dir)
    assert (engine.name, engine.device) == ("onnxruntime", "cpu")
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    (found,) = engine.run(pixels)
    (expected,) = TorchEngine(graph.build(), "cpu").run(pixels)
    assert found.shape == (batch, 1000)
    assert found.dtype == expected.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("rows", "parts"), [(1, [1]), (4, [4]), (5, [3, 2]), (6, [3, 3]), (8, [4, 4]), (9, [3, 3, 3]), (11, [4, 4, 3])]
)
def test_onnx_takes_a_large_batch_in_equal_parts(
    rows: int, parts: list[int], cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    run = OnnxEngine._run

    def counted(engine: OnnxEngine, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.append(len(inputs[0]))
        return run(engine, inputs)

    monkeypatch.setattr(OnnxEngine, "_run", counted)
    pixels = np.random.default_rng(rows).integers(0, 256, example_pixels(4)[:1].repeat(rows, 0).shape, dtype=np.uint8)
    found = make_engine(small_graph(Sums), "onnxruntime", "cpu", cached).run(pixels)
    assert seen == parts
    for ours, theirs in zip(found, TorchEngine(Sums(), "cpu").run(pixels), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("kind", ["detector", "regions"])
def test_the_detector_under_onnx_answers_as_torch_does(kind: str, catalog: Catalog, cache_dir: Path) -> None:
    detector = fcos(catalog.detector("fcos_random"))
    graph = detector.graph() if kind == "detector" else detector.region_graph()
    examples = tuple(np.concatenate([array, array[:1]]) for array in graph.examples())
    found = make_engine(graph, "onnxruntime", "cpu", cache_dir).run(*examples)
    expected = make_engine(graph, "torch", "cpu", cache_dir).run(*examples)
    assert len(found) == len(graph.outputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.shape[0] == 3
        assert np.abs(ours - theirs).max() < 1e-4 * max(1, np.abs(theirs).max())


def test_an_export_is_named_by_its_weights_its_graph_and_its_bytes(cached: Path) -> None:
    graph = small_graph(Sums)
    path = exported(graph, cached)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert graph.name.startswith("sums-")
    assert path == graph.find(cached) == cached / ("a" * 64) / f"{graph.name}.{digest}.onnx"
    assert sorted(one.name for one in cached.rglob("*")) == sorted(["a" * 64, path.name])


def test_an_export_that_was_changed_is_not_loaded(tmp_path: Path) -> None:
    graph = small_graph(Sums)
    path = exported(graph, tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match="its sha256 is another one; delete the file"):
        make_engine(graph, "onnxruntime", "cpu", tmp_path)
    path.unlink()
    assert make_engine(graph, "onnxruntime", "cpu", tmp_path).name == "onnxruntime"


def test_an_export_without_its_hash_is_made_anew(tmp_path: Path) -> None:
    """As a version before this one left it."""
    builds = Builds(Sums)
    path = exported(small_graph(builds), tmp_path)
    path.rename(path.with_name(f"{small_graph(Sums).name}.onnx"))
    assert exported(small_graph(builds), tmp_path).exists()
    assert builds.count == 2


@pytest.mark.parametrize(
    "changes", [{"kind": "sums|5"}, {"inputs": ("image",)}, {"outputs": ("sums", "maxima")}], ids=str
)
def test_other_graphs_have_other_names(changes: dict[str, Any]) -> None:
    graph = small_graph(Sums)
    assert replace(graph, **changes).name != graph.name


def test_onnxruntime_keeps_and_sends_nothing(tmp_path: Path) -> None:
    """Its telemetry begins with an id of the machine in the user's cache."""
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = {**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import models.engines"], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_a_second_start_builds_nothing(cached: Path) -> None:
    builds = Builds(Sums)
    engine = make_engine(small_graph(builds), "onnxruntime", "cpu", cached)
    sums, largest = engine.run(np.full((1, 4, 4, 3), 255, np.uint8))
    np.testing.assert_allclose(sums, [[16, 16, 16]], rtol=1e-6)
    np.testing.assert_allclose(largest, [1])
    assert builds.count == 0


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Unlike, r"ONNX Runtime's logits differs from torch's by [0-9.e+]+"),
        (NotANumber, r"ONNX Runtime's logits differs from torch's by nan"),
        (Loop, r"cannot be exported to ONNX \(Could not guard on data-dependent expression [^\n]*\)"),
    ],
)
def test_a_graph_that_does_not_answer_as_torch_does_is_refused(
    module: type[nn.Module], message: str, tmp_path: Path
) -> None:
    graph = small_graph(module, ("logits",), module.__name__)
    with pytest.raises(EngineError, match=f"^{module.__name__}:? {message}; use the engine torch instead$"):
        make_engine(graph, "onnxruntime", "cpu", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert make_engine(graph, "torch", "cpu", tmp_path).run(*graph.examples())[0].shape == (2, 3)


def test_threads_that_export_at_once_all_get_a_whole_file(tmp_path: Path) -> None:
    builds = Builds(Sums)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: exported(small_graph(builds), tmp_path), range(4)))
    assert len(set(paths)) == 1
    assert builds.count == 1
    assert OnnxEngine(paths[0]).run(*small_graph(Sums).examples())[0].shape == (2, 3)
    assert [path.name for path in paths[0].parent.iterdir()] == [paths[0].name]


def test_of_processes_that_export_at_once_one_does_and_all_get_a_whole_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.models.test_engines import *\n"
        "builds = Builds(Sums); exported(small_graph(builds), Path(sys.argv[1])); print(builds.count)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0].strip() for process in processes) == ["0", "1"]
    path = exported(small_graph(Builds(Sums)), tmp_path)
    assert OnnxEngine(path).run(*small_graph(Sums).examples())[0].shape == (2, 3)
    assert [path.name for path in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_one_engine_serves_several_threads(engine: Any, cached: Path) -> None:
    shared = make_engine(small_graph(Sums), engine, "cpu", cached)
    photos = [np.full((count % 3 + 1, 4, 4, 3), count, np.uint8) for count in range(64)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(shared.run, photos))
    for count, (sums, largest) in enumerate(answers):
        np.testing.assert_allclose(sums, np.full((count % 3 + 1, 3), 16 * count / 255), rtol=1e-5)
        np.testing.assert_allclose(largest, np.full(count % 3 + 1, count / 255), rtol=1e-5)


@pytest.mark.parametrize(
    ("engine", "device", "expected"),
    [("auto", "cpu", "onnxruntime"), ("torch", "cpu", "torch"), ("auto", "meta", "torch"), ("torch", "meta", "torch")],
)
def test_which_engine_it_is(engine: Any, device: str, expected: str, cached: Path) -> None:
    found = make_engine(small_graph(Sums), engine, device, cached)
    assert (found.name, found.device) == (expected, device)


def test_onnxruntime_on_a_gpu_is_refused(cached: Path) -> None:
    with pytest.raises(EngineError, match="device 'cuda:1' needs the engine torch"):
        make_engine(small_graph(Sums), "onnxruntime", "cuda:1", cached)


class Shapes(Sums):
    """Remembers its batches, and has memory for so many rows only."""

    def __init__(self, most: int = 99) -> None:
        super().__init__()
        self.most = most
        self.rows: list[int] = []

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.rows.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError
        return super().forward(pixels)


@pytest.mark.parametrize(
    ("rows", "sizes", "most", "expected"),
    [
        (3, (), 99, [3]),
        (1, (1, 2, 4), 99, [1]),
        (3, (1, 2, 4), 99, [4]),
        (4, (1, 2, 4), 99, [4]),
        (11, (1, 2, 4), 99, [4, 4, 4]),
        (9, (1, 2, 4), 99, [4, 4, 1]),
        (3, (1, 2, 4), 2, [4, 2, 1]),
        (5, (), 2, [5, 3, 2, 1, 2]),
        (4, (4,), 4, [4]),
    ],
)
def test_torch_meets_only_its_sizes_and_halves_what_is_too_much(
    rows: int, sizes: tuple[int, ...], most: int, expected: list[int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 4, 4, 3), dtype=np.uint8)
    module = Shapes(most)
    found = TorchEngine(module, "cpu", sizes).run(pixels)
    assert module.rows == expected
    for ours, theirs in zip(found, TorchEngine(Sums(), "cpu").run(pixels), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_photo_alone_for_which_memory_is_too_small_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        TorchEngine(Shapes(0), "cpu", (1, 2)).run(np.zeros((2, 4, 4, 3), np.uint8))


class Meeting(Sums):
    """Waits for a second call that is under way, and remembers how many threads each had."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2)
        self.threads: list[int] = []

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.barrier.wait(20)
        self.threads.append(torch.get_num_threads())
        return super().forward(pixels)


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_on_a_cpu_works_at_several_photos_at_once_with_so_many_threads_each(threads: int, tmp_path: Path) -> None:
    module = Meeting()
    engine = make_engine(small_graph(lambda: module), "torch", "cpu", tmp_path, threads)
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(engine.run, [np.zeros((1, 4, 4, 3), np.uint8)] * 2))) == 2
    assert module.threads == [threads, threads]


def test_every_size_is_warmed_up() -> None:
    module = Shapes()
    TorchEngine(module, "cpu", (1, 2, 8)).warm_up(small_graph(Sums).examples())
    assert module.rows == [1, 2, 8]


def test_lite0_answers_alike_in_batches_of_fixed_sizes() -> None:
    graph = bundled_backbone(LITE0).graph()
    pixels = np.random.default_rng(5).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    module = graph.build()
    (expected,) = TorchEngine(module, "cpu").run(pixels)
    (found,) = BatchingEngine(TorchEngine(module, "cpu", (1, 2)), 2).run(pixels)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))]
)
def test_normalise(mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
    pixels: Array = example_pixels(5)
    layer = Normalise(Preprocessing(5, mean, std, 1.0, "bicubic"))
    expected = (pixels / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(
        layer(torch.from_numpy(pixels)).numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5
    )
