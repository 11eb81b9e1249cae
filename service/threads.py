"""Threads of this process, which share one interpreter: for models that cannot be asked from a fork of it."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from service.scheduler import Turn, Work

Q = TypeVar("Q", contravariant=True)
A = TypeVar("A")


class Threads(Generic[Q, A]):
    """As `service.scheduler.Hands`."""

    # What would share a batch does so on the way (`models.batching`), or gains nothing by it.
    together = 1

    def __init__(self, work: Work[Q, A], number: int) -> None:
        self.number = number
        self._work = work
        self._pool = ThreadPoolExecutor(number, "photo")

    def start(self, asked: Sequence[tuple[Q, Turn]]) -> list[asyncio.Future[A]]:
        loop = asyncio.get_running_loop()
        return [loop.run_in_executor(self._pool, self._answer, *one) for one in asked]

    def start_next(self, asked: Sequence[tuple[Q, Turn]], begun: Callable[[], object]) -> None:
        """A thread is told of its next job at once."""

    def take_back(self, work: asyncio.Future[A]) -> None:
        """There is nothing to be taken back."""

    def give_up(self, work: asyncio.Future[A]) -> None:
        """A thread cannot be ended."""

    async def open(self) -> None:
        """Threads start when they are wanted."""

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    def _answer(self, question: Q, turn: Turn) -> A:
        (found,) = self._work([(question, turn)])
        if isinstance(found, Exception):
            raise found
        return found
