import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from models.batching import Array, BatchingEngine, filled_up, joined, pieces, repeated
from models.engines import EngineName
from tests.waiting import eventually


@dataclass
class Doubling:
    """An engine that waits to be let go on, remembers its batches, and refuses 13."""

    batches: list[list[int]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)
    name: EngineName = "torch"
    device: str = "cpu"

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        self.begun.set()
        assert self.open.wait(10)
        self.batches.append(inputs[0].tolist())
        if 13 in inputs[0]:
            raise ValueError("13")
        return (inputs[0] * 2,)


def asked(engine: Doubling, most: int, *calls: list[int]) -> list[list[int] | str]:
    """What each call gets; the first one is under way before the others come, one after the other."""
    batching = BatchingEngine(engine, most)

    def ask(numbers: list[int]) -> list[int] | str:
        try:
            answer: list[int] = batching.run(np.array(numbers))[0].tolist()
            return answer
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(ask, calls[0])]
        assert engine.begun.wait(10)
        for number, call in enumerate(calls[1:], 1):
            futures.append(pool.submit(ask, call))
            eventually(lambda number=number: len(batching._waiting) == number, 10)  # type: ignore[misc]
        engine.open.set()
        return [future.result() for future in futures]


@pytest.mark.parametrize(
    ("most", "calls", "batches"),
    [
        (8, [[1]], [[1]]),
        (8, [[1], [2, 3], [4]], [[1], [2, 3, 4]]),
        (3, [[1], [2, 3], [4], [5]], [[1], [2, 3, 4], [5]]),
        (2, [[1], [2, 3, 4], [5]], [[1], [2, 3, 4], [5]]),
    ],
)
def test_what_waits_is_one_batch(most: int, calls: list[list[int]], batches: list[list[int]]) -> None:
    engine = Doubling()
    assert asked(engine, most, *calls) == [[2 * number for number in call] for call in calls]
    assert engine.batches == batches


def test_one_bad_input_harms_no_other() -> None:
    engine = Doubling()
    assert asked(engine, 8, [1], [2], [13], [4]) == [[2], [4], "13", [8]]
    assert engine.batches == [[1], [2, 13, 4], [2], [13], [4]]


def test_many_threads_each_get_their_own_answer() -> None:
    engine = Doubling()
    engine.open.set()
    batching = BatchingEngine(engine, 16)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: batching.run(np.array([number, 1000 + number])), range(14, 514)))
    assert [answer[0].tolist() for answer in answers] == [[2 * n, 2000 + 2 * n] for n in range(14, 514)]


def test_batches_are_told_of() -> None:
    engine, told = Doubling(), list[int]()
    engine.open.set()
    batching = BatchingEngine(engine, 16)
    batching.on_batch = told.append
    for numbers in ([1], [2, 3]):
        batching.run(np.array(numbers))
    with pytest.raises(ValueError, match="13"):
        batching.run(np.array([13, 14]))
    assert told == [1, 2]


def test_pieces_and_joined() -> None:
    numbers, letters = np.arange(5), np.array(list("abcde"))
    cut = pieces((numbers, letters), 2)
    assert [piece[0].tolist() for piece in cut] == [[0, 1], [2, 3], [4]]
    assert [array.tolist() for array in joined(cut)] == [numbers.tolist(), letters.tolist()]


@pytest.mark.parametrize(("sizes", "expected"), [((), [1, 2, 3]), ((1, 4), [1, 2, 3, 3]), ((1, 2), [1, 2, 3])])
def test_filled_up(sizes: tuple[int, ...], expected: list[int]) -> None:
    assert filled_up(np.array([1, 2, 3]), sizes).tolist() == expected


@pytest.mark.parametrize(("rows", "expected"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 1, 2, 1])])
def test_repeated(rows: int, expected: list[int]) -> None:
    numbers, pairs = repeated((np.array([1, 2]), np.array([[1, 1], [2, 2]])), rows)
    assert numbers.tolist() == expected
    assert pairs.tolist() == [[number, number] for number in expected]
