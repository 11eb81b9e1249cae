"""Batches: how calls of several threads become one, and how one is cut and filled up."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from models.engines import Engine

Array = NDArray[Any]


class _Call:
    def __init__(self, inputs: tuple[Array, ...]) -> None:
        self.inputs = inputs
        self.result: tuple[Array, ...] | None = None
        self.error: Exception | None = None
        # Held until it is done, or is to work for those that wait.
        self.turn = threading.Lock()
        self.turn.acquire()

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None


class BatchingEngine:
    """Runs what several threads ask for in one batch: all that waits when the device gets free, and no timer.

    Whoever finds it free works for himself; who has waited longest by then, for himself and those behind him. A batch
    that fails is run anew call by call, so that no one is harmed by another's input. `on_batch` is told the rows of
    every batch, from any thread.
    """

    on_batch: Callable[[int], object] | None = None

    def __init__(self, engine: "Engine", most: int) -> None:
        self.engine, self.most = engine, most
        self.name, self.device = engine.name, engine.device
        self._changing = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._busy = False

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        call = _Call(inputs)
        with self._changing:
            self._waiting.append(call)
            is_free, self._busy = not self._busy, True
        if not is_free:
            call.turn.acquire()
        if not call.done:
            try:
                self._work(self._take())
            finally:
                self._pass_on()
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def _pass_on(self) -> None:
        with self._changing:
            self._busy = bool(self._waiting)
            if self._busy:
                self._waiting[0].turn.release()

    def _take(self) -> list[_Call]:
        """At least one, in the order that they came."""
        with self._changing:
            calls = [self._waiting.popleft()]
            rows = len(calls[0].inputs[0])
            while self._waiting and rows + len(self._waiting[0].inputs[0]) <= self.most:
                calls.append(self._waiting.popleft())
                rows += len(calls[-1].inputs[0])
        return calls

    def _work(self, calls: list[_Call]) -> None:
        try:
            outputs = self.engine.run(*joined([call.inputs for call in calls]))
        except Exception as error:
            if len(calls) > 1:
                for call in calls:
                    self._work([call])
                return
            calls[0].error = error
            calls[0].turn.release()
            return
        start = 0
        for call in calls:
            stop = start + len(call.inputs[0])
            call.result = tuple(output[start:stop] for output in outputs)
            call.turn.release()
            start = stop
        if self.on_batch is not None:
            self.on_batch(start)


def pieces(inputs: tuple[Array, ...], most: int) -> list[tuple[Array, ...]]:
    return [
        tuple(array[start : start + most] for array in inputs) for start in range(0, len(inputs[0]), max(1, most))
    ] or [inputs]


def joined(pieces: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    if len(pieces) == 1:
        return pieces[0]
    return tuple(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))


def repeated(inputs: Sequence[Array], rows: int) -> tuple[Array, ...]:
    """So many rows of the same, over and over."""
    return tuple(np.resize(array, (rows, *array.shape[1:])) for array in inputs)


def fitting(rows: int, sizes: Sequence[int]) -> int:
    """The smallest of the sizes, in rising order, that holds so many rows; so many, where none does."""
    return next((size for size in sizes if size >= rows), rows)


def filled_up(array: Array, sizes: Sequence[int]) -> Array:
    """With copies of the last row, to the smallest size that holds it."""
    size = fitting(len(array), sizes)
    return array if size == len(array) else np.concatenate([array, array[-1:].repeat(size - len(array), 0)])
