"""What computes: a batch of uint8 pixels in, arrays of float32 out.

ONNX Runtime on a CPU (2.5 times eager torch there), torch on a GPU, one interface. Normalisation lives inside the
graph, so that both engines are fed the same bytes.
"""

import hashlib
import importlib.util
import logging
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

log = logging.getLogger("figureground.engines")

Array = NDArray[Any]
EngineName = Literal["onnxruntime", "torch"]
EngineChoice = Literal["auto", "onnxruntime", "torch"]

# A later opset or another graph around the same weights must not meet files of an earlier one.
_GRAPH_VERSION = 1
_OPSET = 18
# What NVIDIA's and AMD's drivers make, and WSL.
_GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
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
    baked into the graph (input size, mean and std, ...).
    """

    kind: str
    weights: str
    build: Callable[[], Any]
    examples: Callable[[], tuple[Array, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    # Where false, torch computes it on a CPU too.
    exportable: bool = True

    @property
    def file_name(self) -> str:
        described = f"{self.kind}|{self.inputs}|{self.outputs}|{_GRAPH_VERSION}|{_OPSET}"
        digest = hashlib.sha256(described.encode()).hexdigest()[:12]
        return f"{self.kind.split('|')[0]}-{digest}.onnx"

    def path(self, cache: Path) -> Path:
        """Where its export lies or will lie: `cache/<hash of the weights>/<kind>-<hash of the graph>.onnx`."""
        return cache / self.weights / self.file_name


class OnnxEngine:
    """ONNX Runtime on the CPU. One thread a call: parallelism comes from several photos at once."""

    name: EngineName = "onnxruntime"
    device = "cpu"

    def __init__(self, path: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        return tuple(self.session.run(None, dict(zip(self.inputs, inputs, strict=True))))


@dataclass
class TorchEngine:
    """Eager torch on any device, channels last."""

    module: Any
    device: str
    name: EngineName = field(default="torch", init=False)

    def __post_init__(self) -> None:
        import torch

        self.module = self.module.eval().to(self.device, memory_format=torch.channels_last)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        import torch

        with torch.inference_mode():
            outputs = self.module(*(torch.from_numpy(array).to(self.device) for array in inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            return tuple(output.float().cpu().numpy() for output in outputs)


def resolve_device(device: str) -> str:
    """`auto` is the GPU where there is one, else the CPU."""
    if device != "auto":
        return device
    # On a machine without one, a server that finds its exported graphs need not import torch to be told so.
    if sys.platform == "linux" and not any(Path(node).exists() for node in _GPU_NODES):
        return "cpu"
    if importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def make_engine(graph: Graph, engine: EngineChoice, device: str, cache: Path, threads: int = 1) -> Engine:
    """The engine for a graph; exports it first where no cached export is found.

    Raises `EngineError` where the export fails or does not answer as torch does.
    """
    if engine == "auto":
        engine = "onnxruntime" if device == "cpu" and graph.exportable else "torch"
    if engine == "torch":
        _need_torch("the engine torch was asked for")
        return TorchEngine(graph.build(), device)
    if device != "cpu":
        raise EngineError(f"the engine onnxruntime runs on the CPU; device {device!r} needs the engine torch")
    if not graph.exportable:
        raise EngineError(
            f"{graph.kind.split('|')[1]} cannot be exported for onnxruntime; use the engine auto or torch"
        )
    return OnnxEngine(exported(graph, cache), threads)


def exported(graph: Graph, cache: Path) -> Path:
    """The path of the graph's ONNX file, which is made if it is not there. Raises `EngineError`."""
    path = graph.path(cache)
    with _one_export_at_a_time:
        if not path.exists():
            _need_torch(f"{graph.kind.split('|')[0]} of the weights {graph.weights[:12]}... is not in {cache}")
            path.parent.mkdir(parents=True, exist_ok=True)
            log.info("exporting %s for ONNX Runtime (once)", graph.kind)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                fresh = Path(folder) / "model.onnx"
                _export(graph, fresh)
                # Whole or not at all, also where several processes start at once.
                fresh.replace(path)
    return path


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
