"""Forwards of fixed batch sizes that a GPU is given at once: recorded when the model is loaded, and replayed."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.batching import Array, fitting, repeated

# How far a recording's answers may be from those before it: other kernels may have been chosen.
_RELATIVE, _ABSOLUTE = 1e-2, 1e-3
# torch records one graph at a time.
_one_at_a_time = threading.Lock()


def outputs_of(module: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """A forward's, also where there is one only."""
    outputs = module(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


@dataclass(frozen=True)
class _Recording:
    """One batch size: where its rows are put, what then computes, and where the answers lie.

    `memory` is all that it computes in: a graph knows addresses only, and does not keep what is there.
    """

    inputs: Sequence[Array]
    play: Callable[[], None]
    outputs: Sequence[Array]
    memory: Sequence[Any]


class Recorded:
    """A module's forwards in a few batch sizes. Safe from several threads; one forward at a time.

    Eager torch launches hundreds of kernels a forward, each from Python, which takes longer than they do. A CUDA graph
    is one launch: of the copy of the pixels from pinned memory, of all kernels, and of the copy of the answers back.
    The sizes share one memory pool, and every model has a stream of its own. On a CPU the same steps are done one after
    the other.
    """

    def __init__(self, module: Any, device: str) -> None:
        self.module, self.device = module, device
        self._recordings: dict[int, _Recording] = {}
        self._alone = threading.Lock()
        self._on_gpu = device.startswith("cuda")
        if self._on_gpu:
            import torch

            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # Who waits for the GPU leaves its core to others.
            self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    @property
    def sizes(self) -> list[int]:
        """In rising order."""
        return list(self._recordings)

    def record(self, size: int, examples: Sequence[Array]) -> None:
        """Makes ready for batches of `size` rows like the examples'. The largest size first: the others need no more.

        Raises RuntimeError where the module cannot be recorded, `torch.OutOfMemoryError` among them, or does not answer
        then as it does else.
        """
        import torch

        with torch.inference_mode():
            staged = [self._kept(torch.from_numpy(array)) for array in repeated(examples, size)]
            placed = [one.to(self.device) for one in staged]
            answers = [self._kept(output.float().cpu()) for output in outputs_of(self.module, placed)]

            def step() -> None:
                for there, here in zip(placed, staged, strict=True):
                    there.copy_(here, non_blocking=True)
                for here, output in zip(answers, outputs_of(self.module, placed), strict=True):
                    here.copy_(output, non_blocking=True)

            play = self._captured(step) if self._on_gpu else torch.inference_mode()(step)
        inputs, outputs = ([one.numpy() for one in tensors] for tensors in (staged, answers))
        expected = [output.copy() for output in outputs]
        play()
        if not all(np.allclose(*pair, rtol=_RELATIVE, atol=_ABSOLUTE) for pair in zip(outputs, expected, strict=True)):
            raise RuntimeError("what was recorded answers otherwise")
        recording = _Recording(inputs, play, outputs, [*staged, *placed, *answers])
        self._recordings = dict(sorted({**self._recordings, size: recording}.items()))

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """At most as many rows as the largest size."""
        rows = len(inputs[0])
        recording = self._recordings[fitting(rows, self.sizes)]
        with self._alone:
            # Rows beyond these are an earlier batch's; nobody looks at their answers.
            for place, array in zip(recording.inputs, inputs, strict=True):
                place[:rows] = array
            recording.play()
            return tuple(output[:rows].copy() for output in recording.outputs)

    def _kept(self, tensor: Any) -> Any:
        """Where a GPU reads and writes without the processor."""
        return tensor.pin_memory() if self._on_gpu else tensor.contiguous()

    def _captured(self, step: Callable[[], None]) -> Callable[[], None]:
        import torch

        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        # Of the whole, so that the thread has its own stream back when a recording fails too.
        with torch.cuda.stream(self._stream):
            # Libraries choose their kernels, and take their workspaces, in the first forwards.
            step()
            step()
            # Other models may be asked meanwhile, from other threads.
            with _one_at_a_time, torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                step()

        def play() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()
                self._done.record(self._stream)
            self._done.synchronize()

        return play
