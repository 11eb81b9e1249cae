"""Who works when: a bounded queue of jobs before a fixed number of threads, one job a thread."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

# The weight of the latest job in the running average of seconds a job.
_LATEST = 0.1
_TOO_LATE = "The photo was not done before the deadline."


class QueueFull(Exception):
    """No job more may wait; `retry_after` seconds from now those that wait will have been worked off."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The queue is full; try again in {retry_after} s.")
        self.retry_after = retry_after


class Draining(Exception):
    """The service is about to stop and takes no new work."""


class DeadlinePassed(Exception):
    """A job had not ended in time."""


@dataclass(eq=False, slots=True)
class _Job:
    work: Callable[[float], Any]
    pixels: int
    future: asyncio.Future[Any]
    queued: float = field(default_factory=time.perf_counter)


class Scheduler:
    """Runs jobs in `threads` threads while at most `max_queue` others with together `max_pixels` wait.

    One job alone may have more than `max_pixels`. A thread is taken until its job has ended, whether or not somebody
    still waits for the result. `on_depth` is told how many jobs wait, whenever that changes, from any thread.
    """

    def __init__(
        self, threads: int, max_queue: int, max_pixels: int, on_depth: Callable[[int], object] | None = None
    ) -> None:
        self._max_pixels = max_pixels
        self._capacity = threads + max_queue
        self._on_depth = on_depth or (lambda _: None)
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        # One for every job that came: a thread that gets one looks for work. Cheaper than a condition, which makes a
        # lock whenever somebody waits.
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._pixels = 0
        # When each thread that has a job began it.
        self._started: dict[int, float] = {}
        self._seconds = 0.0
        self._draining = self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"photo-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def draining(self) -> bool:
        return self._draining

    def stuck(self, seconds: float) -> bool:
        """Whether every thread has been at its job for longer than that, so that no other will ever be done.

        A thread cannot be stopped from outside; only a new process helps.
        """
        with self._lock:
            begun = list(self._started.values())
        return len(begun) == len(self._threads) and max(begun) < time.perf_counter() - seconds

    def check(self) -> None:
        """To be asked before a request's first job. Raises `Draining`, and `QueueFull` where `run` would now."""
        if self._draining:
            raise Draining("The service is stopping; try again in a moment.")
        self._check_room(0)

    def run(self, work: Callable[[float], T], deadline: float, pixels: int = 0) -> asyncio.Future[T]:
        """`work(seconds it waited)` in one of the threads, by `deadline` on the event loop's clock.

        A job that still waits when the deadline passes, or when the future is cancelled, never starts. Raises
        `QueueFull`; the future raises `DeadlinePassed`, and what `work` raises.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, pixels, loop.create_future())
        self._add(job)
        timer = loop.call_at(deadline, _settle, job.future, None, DeadlinePassed(_TOO_LATE))

        def ended(_: asyncio.Future[T]) -> None:
            timer.cancel()
            self._forget(job)

        job.future.add_done_callback(ended)
        return job.future

    def drain(self) -> None:
        """From now on `check` lets no request in; the jobs of those that it let in are still done."""
        self._draining = True

    def close(self) -> None:
        """Drains, and returns when the last job has ended."""
        self.drain()
        self._closed = True
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _add(self, job: _Job) -> None:
        with self._lock:
            self._check_room(job.pixels)
            self._waiting.append(job)
            self._count(job.pixels)
        self._calls.put(None)

    def _check_room(self, pixels: int) -> None:
        too_many = len(self._waiting) + len(self._started) >= self._capacity
        if too_many or (self._waiting and self._pixels + pixels > self._max_pixels):
            raise QueueFull(self._retry_after())

    def _count(self, pixels: int) -> None:
        """A job with so many pixels has come, or with minus so many has gone."""
        self._pixels += pixels
        self._on_depth(len(self._waiting))

    def _forget(self, job: _Job) -> None:
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
                self._count(-job.pixels)

    def _retry_after(self) -> int:
        """Whole seconds until the jobs that wait now will have been worked off; at least 1."""
        return max(1, math.ceil(self._seconds * len(self._waiting) / len(self._threads)))

    def _serve(self) -> None:
        while (job := self._take()) is not None:
            self._do(job)
            # Its photo shall not stay until the next one comes.
            del job

    def _do(self, job: _Job) -> None:
        start = time.perf_counter()
        result, error = None, None
        try:
            result = job.work(start - job.queued)
        except BaseException as raised:
            error = raised
        self._ended(time.perf_counter() - start)
        # Nobody waits any more where the loop has been closed.
        with suppress(RuntimeError):
            job.future.get_loop().call_soon_threadsafe(_settle, job.future, result, error)

    def _take(self) -> _Job | None:
        """None once it is closed and all is done."""
        while True:
            self._calls.get()
            with self._lock:
                if self._waiting:
                    job = self._waiting.popleft()
                    self._count(-job.pixels)
                    self._started[threading.get_ident()] = time.perf_counter()
                    return job
                if self._closed:
                    return None

    def _ended(self, seconds: float) -> None:
        with self._lock:
            del self._started[threading.get_ident()]
            self._seconds += (seconds - self._seconds) * (_LATEST if self._seconds else 1)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Unless it has been settled, or nobody waits for it."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
