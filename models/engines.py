"""What computes: a batch of uint8 pixels in, arrays of float32 out.

ONNX Runtime on a CPU (2.5 times eager torch there), torch on a GPU, one interface. Normalisation lives inside the
graph, so that both engines are fed the same bytes.
"""

import fcntl
import hashlib
import importlib.util
import logging
import math
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.batching import BatchingEngine, filled_up, fitting, joined, pieces, repeated
from models.quantised import Calibration, CalibrationError, quantised
from models.recorded import Recorded, outputs_of

log = logging.getLogger("figureground.engines")

Array = NDArray[Any]
EngineName = Literal["onnxruntime", "int8", "torch"]
EngineChoice = Literal["auto", "onnxruntime", "int8", "torch"]

# A later opset or another graph around the same weights must not meet files of an earlier one.
_GRAPH_VERSION = 1
_OPSET = 18
# More rows at once take no less of a core each, only more memory at the same time (docs/performance.md).
_MOST_ROWS = 4
# The batches of a GPU, in rows. A worker has some four photos in work at once, with up to three views each; the memory
# of the largest size stays with it.
GPU_SIZES = (1, 2, 4, 8, 16)
# torch.export is not safe in several threads.
_one_export_at_a_time = threading.Lock()


class EngineError(RuntimeError):
    """A model cannot be computed by the engine that was asked for; the message says what to do."""


class Engine(Protocol):
    name: EngineName
    device: str

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """One forward. The first axis of every input and output is the batch; safe from several threads."""


@dataclass(frozen=True)
class Graph:
    """A torch module together with all that is needed to run or to export it.

    `build` is called only where the module is really needed: a cached export does without. `weights` is the
    sha256 of the weights, `kind` tells apart the graphs around the same weights, and holds every number that is
    baked into the graph (input size, mean and std, ...). `view` gives the pixels (S, S, 3) that the graph sees of a
    photo; a graph without one is never quantised.
    """

    kind: str
    weights: str
    build: Callable[[], Any]
    examples: Callable[[], tuple[Array, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    view: Callable[[Any], Array] | None = None
    # Where false, torch computes it on a CPU too.
    exportable: bool = True

    @property
    def name(self) -> str:
        described = f"{self.kind}|{self.inputs}|{self.outputs}|{_GRAPH_VERSION}|{_OPSET}"
        digest = hashlib.sha256(described.encode()).hexdigest()[:12]
        return f"{self.kind.split('|')[0]}-{digest}"

    def find(self, cache: Path) -> Path | None:
        """Its export, `cache/<hash of the weights>/<kind>-<hash of the graph>.<sha256 of the file>.onnx`."""
        return min((cache / self.weights).glob(f"{self.name}.{'[0-9a-f]' * 64}.onnx"), default=None)


class OnnxEngine:
    """ONNX Runtime on the CPU. One thread a call: parallelism comes from several photos at once.

    A large batch is cut into equal parts of at most `_MOST_ROWS`.
    """

    device = "cpu"

    def __init__(self, path: Path, threads: int = 1, name: EngineName = "onnxruntime") -> None:
        self.name = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        rows = len(inputs[0])
        parts = max(1, math.ceil(rows / _MOST_ROWS))
        return joined([self._run(part) for part in pieces(inputs, math.ceil(rows / parts))])

    def _run(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(self.session.run(None, dict(zip(self.inputs, inputs, strict=True))))


@dataclass
class TorchEngine:
    """Torch on any device, channels last on a CPU: on a GPU that is fast only with numbers of less precision.

    Where there are `sizes`, in rising order, every forward is of one of them: a batch is cut and filled up to it, so
    that a GPU meets only shapes that it has met before; those that were recorded are replayed, the others computed
    eagerly. A batch for which the memory is too small is halved. `threads` are those of one call on a CPU, 0 for as
    many as torch likes.
    """

    module: Any
    device: str
    sizes: tuple[int, ...] = ()
    threads: int = 0
    name: EngineName = field(default="torch", init=False)

    def __post_init__(self) -> None:
        import torch

        order = torch.channels_last
        if self.device.startswith("cuda"):
            # TF32 would be 1.5 times as fast and change a probability by up to 0.02; so answers are the CPU's.
            torch.backends.cudnn.allow_tf32 = False
            order = torch.contiguous_format
        self.module = self.module.eval().to(self.device, memory_format=order)
        self.recorded = Recorded(self.module, self.device)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        most = self.sizes[-1] if self.sizes else len(inputs[0])
        return joined([self._forward(piece) for piece in pieces(inputs, most)])

    def record(self, examples: tuple[Array, ...]) -> None:
        """Every size that can be; the others are computed as before, which is slower."""
        for size in reversed(self.sizes):
            try:
                self.recorded.record(size, examples)
                log.info("batches of %d on %s are recorded", size, self.device)
            except RuntimeError as error:
                log.warning("batches of %d on %s cannot be recorded: %s", size, self.device, error)

    def warm_up(self, examples: tuple[Array, ...]) -> None:
        """Runs a batch of every size."""
        for size in self.sizes:
            self.run(*repeated(examples, size))

    def _forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        import torch

        rows = len(inputs[0])
        if fitting(rows, self.sizes) in self.recorded.sizes:
            return self.recorded.run(*inputs)
        try:
            return self._compute(tuple(filled_up(array, self.sizes) for array in inputs), rows)
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
            log.warning("a batch of %d is too large for the memory of %s; it is halved", rows, self.device)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        return joined([self._forward(half) for half in pieces(inputs, (rows + 1) // 2)])

    def _compute(self, inputs: tuple[Array, ...], rows: int) -> tuple[Array, ...]:
        import torch

        # Of the thread that calls, which keeps it.
        if self.threads and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            outputs = outputs_of(self.module, [self._on_device(torch.from_numpy(array)) for array in inputs])
            return tuple(output[:rows].float().cpu().numpy() for output in outputs)

    def _on_device(self, tensor: Any) -> Any:
        if self.device.startswith("cuda"):
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def engine_name(engine: EngineChoice, device: str) -> EngineName:
    """With `auto` resolved."""
    if engine == "auto":
        return "onnxruntime" if device == "cpu" else "torch"
    return engine


def make_engine(
    graph: Graph,
    engine: EngineChoice,
    device: str,
    cache: Path,
    threads: int = 1,
    calibration: Calibration | None = None,
) -> Engine:
    """The engine for a graph; exports it first where no cached export is found. int8 needs a `calibration`.

    Raises `EngineError` where the export fails or does not answer as torch does.
    """
    if engine == "auto" and not graph.exportable:
        engine = "torch"
    engine = engine_name(engine, device)
    if engine == "torch":
        _need_torch("the engine torch was asked for")
        if device == "cpu":
            # As under ONNX Runtime: a batch gains nothing there, several photos at once do.
            return TorchEngine(graph.build(), device, threads=threads)
        return BatchingEngine(_on_device(graph, device), GPU_SIZES[-1])
    if device != "cpu":
        raise EngineError(f"the engine {engine} runs on the CPU; device {device!r} needs the engine torch")
    if not graph.exportable:
        raise EngineError(
            f"{graph.kind.split('|')[1]} cannot be exported for onnxruntime; use the engine auto or torch"
        )
    path = exported(graph, cache)
    if engine == "onnxruntime" or graph.view is None:
        return OnnxEngine(path, threads)
    if calibration is None:
        raise EngineError("the engine int8 needs photos: FIGUREGROUND_CALIBRATION is a folder of about 100")
    try:
        return OnnxEngine(quantised(path, graph.view, calibration), threads, "int8")
    except CalibrationError as error:
        raise EngineError(str(error)) from error


def _on_device(graph: Graph, device: str) -> TorchEngine:
    """Has answered in every batch size."""
    module, examples, on_gpu = graph.build(), graph.examples(), device.startswith("cuda")
    if on_gpu and graph.exportable:
        from models.folded import folded

        module = folded(module, examples)
    engine = TorchEngine(module, device, GPU_SIZES if on_gpu else ())
    # What cannot be exported does not do the same for all photos, and can as little be recorded.
    if graph.exportable:
        engine.record(examples)
    engine.warm_up(examples)
    if on_gpu:
        # What the forwards before the recording needed, others may have.
        import torch

        torch.cuda.empty_cache()
    return engine


def exported(graph: Graph, cache: Path) -> Path:
    """The path of the graph's ONNX file, which is made if it is not there.

    Raises `EngineError`, also where a file that was there has another sha256 than its name says.
    """
    found = graph.find(cache)
    if found is None:
        _need_torch(f"{graph.kind.split('|')[0]} of the weights {graph.weights[:12]}... is not in {cache}")
        folder = cache / graph.weights
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            # Another thread or process may have been faster.
            found = graph.find(cache)
            if found is None:
                return _export_into(folder, graph)
    if f"{graph.name}.{sha256_of(found)}.onnx" != found.name:
        raise EngineError(f"{found} was changed since its export: its sha256 is another one; delete the file")
    return found


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Among the threads of this process, and the processes of this machine, such as a service's workers."""
    with _one_export_at_a_time:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # A file system may have no locks.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _export_into(folder: Path, graph: Graph) -> Path:
    log.info("exporting %s for ONNX Runtime (once)", graph.kind)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        fresh = Path(temporary) / "model.onnx"
        _export(graph, fresh)
        # Whole or not at all: who only reads is not kept waiting.
        return fresh.replace(folder / f"{graph.name}.{sha256_of(fresh)}.onnx")


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _need_torch(why: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise EngineError(f"{why}, and torch is not installed: export the models where it is (figureground export)")


def _export(graph: Graph, path: Path) -> None:
    import torch

    module = graph.build().eval()
    examples = graph.examples()
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                tuple(torch.from_numpy(array) for array in examples),
                str(path),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=tuple({0: batch} for _ in graph.inputs),
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            # torch's own message is a page of advice around the one that says why.
            reason = str(error.__cause__ or error).strip().partition("\n")[0] or type(error).__name__
            raise EngineError(
                f"{graph.kind} cannot be exported to ONNX ({reason}); use the engine torch instead"
            ) from error
    _check(TorchEngine(module, "cpu").run(*examples), OnnxEngine(path).run(*examples), graph)


def _check(expected: Sequence[Array], found: Sequence[Array], graph: Graph) -> None:
    for name, torch_answer, onnx_answer in zip(graph.outputs, expected, found, strict=True):
        largest = float(np.abs(torch_answer - onnx_answer).max())
        scale = max(1.0, float(np.abs(torch_answer).max()))
        if not largest <= 2e-3 * scale:
            raise EngineError(
                f"{graph.kind}: ONNX Runtime's {name} differs from torch's by {largest:.2g}; "
                "use the engine torch instead"
            )
