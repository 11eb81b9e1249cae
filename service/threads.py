"""Threads of this process, which share one interpreter: for models that cannot be asked from a fork of it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from service.scheduler import Turn

Q = TypeVar("Q", contravariant=True)
A = TypeVar("A")


class Threads(Generic[Q, A]):
    """As `service.scheduler.Hands`; `work` is called with a question and its turn."""

    def __init__(self, work: Callable[[Q, Turn], A], number: int) -> None:
        self.number = number
        self._work = work
        self._pool = ThreadPoolExecutor(number, "photo")

    def start(self, question: Q, turn: Turn) -> asyncio.Future[A]:
        return asyncio.get_running_loop().run_in_executor(self._pool, self._work, question, turn)

    def give_up(self, work: asyncio.Future[A]) -> None:
        """A thread cannot be ended."""

    async def open(self) -> None:
        """Threads start when they are wanted."""

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)
