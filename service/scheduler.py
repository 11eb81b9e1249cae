"""Who works when: a bounded queue of jobs before a fixed number of hands, one job a hand, or a few where many wait."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

Q = TypeVar("Q", contravariant=True)
A = TypeVar("A")

# The weight of the latest job in the running average of seconds a job.
_LATEST = 0.1
# A client that was answered so lately, in seconds, may be about to ask again.
_LATELY = 0.01
# How many must wait, for each hand, for every job that it takes at once: what one waits for its company is little then,
# beside what it has waited before.
_WAITING_A_JOB = 3
# What those may have, in pixels: large photos gain nothing by company, and need their memory at the same time.
_MOST_PIXELS_TOGETHER = 4_000_000
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


class HandLost(Exception):
    """The hand ended while it was at a job."""

    def __init__(self, told: str = "The process that was at this photo has ended; try again in a moment.") -> None:
        super().__init__(told)


class Turn(NamedTuple):
    """How a job is done: on so many `cores`. It was `queued` at that time of `time.perf_counter`, in any process."""

    queued: float
    cores: int

    @property
    def waited(self) -> float:
        """Seconds until now, which is to be asked when it begins."""
        return time.perf_counter() - self.queued


# Each question has an answer or an error of its own.
Work: TypeAlias = Callable[[Sequence[tuple[Q, Turn]]], Sequence[A | Exception]]


class Hands(Protocol[Q, A]):
    """Who does the work: threads, or processes. All is called in the event loop's thread.

    One does up to `together` jobs sooner at once than one after the other.
    """

    number: int
    together: int

    def start(self, asked: Sequence[tuple[Q, Turn]]) -> list[asyncio.Future[A]]:
        """One of them begins at once. The futures raise `HandLost` where it ends, and what the work raises."""

    def start_next(
        self, asked: Sequence[tuple[Q, Turn]], begun: Callable[[], object]
    ) -> list[asyncio.Future[A]] | None:
        """One that is at work begins it as soon as it has ended, and `begun` is called. None: nobody can.

        The futures raise `HandLost` also where it ends before that.
        """

    def take_back(self, work: asyncio.Future[A]) -> None:
        """What is to be begun next, with all that was asked with it: it is not, and its futures are never done."""

    def give_up(self, work: asyncio.Future[A]) -> None:
        """Nobody waits for this any more; it may be ended before its time, where that is possible."""

    async def open(self) -> None:
        """To be called before anything is started."""

    async def close(self) -> None:
        """To be called once all has ended."""


@dataclass(eq=False, slots=True)
class _Job:
    question: Any
    pixels: int
    afterwards: Callable[[Any], object]
    future: asyncio.Future[Any]
    timer: asyncio.TimerHandle = field(init=False)
    queued: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    work: asyncio.Future[Any] | None = None
    cores: int = 1
    # Those that its hand is still at, and how many they were at first, itself among them.
    company: set["_Job"] = field(default_factory=set)
    together: int = 1
    wants_no_company: bool = False
    # Those that a hand will begin next, itself among them, while it has not.
    ahead: "list[_Job] | None" = None


class Scheduler(Generic[Q, A]):
    """Gives jobs to `hands` while at most `max_queue` others with together `max_pixels` wait.

    One job alone may have more than `max_pixels`. A hand is taken until its job has ended, whether or not somebody
    still waits for the result; a job that begins while others have had nothing to do for a while may use a share of
    their cores. Where many wait, whoever gets free takes several at once; and where one waits for every hand, each is
    given in advance what it will begin next, and has nothing to wait for. Of those that are lost with their hand each
    is done again alone, so that nobody suffers from another's photo. `on_depth` is told how many jobs wait, whenever
    that changes, and `on_spread` when a job begins that uses several cores, and when none is left that does. For one
    event loop.
    """

    def __init__(
        self,
        hands: Hands[Q, A],
        max_queue: int,
        max_pixels: int,
        on_depth: Callable[[int], object] = lambda _: None,
        on_spread: Callable[[bool], object] = lambda _: None,
    ) -> None:
        self._hands = hands
        self._max_queue, self._max_pixels = max_queue, max_pixels
        self._on_depth, self._on_spread = on_depth, on_spread
        self._waiting: deque[_Job] = deque()
        # They wait as well.
        self._ahead: deque[list[_Job]] = deque()
        self._working: set[_Job] = set()
        self._busy = self._spread = 0
        self._ends: deque[float] = deque(maxlen=hands.number)
        self._pixels = 0
        self._seconds = 0.0
        self._draining = False

    @property
    def draining(self) -> bool:
        return self._draining

    def stuck(self, seconds: float) -> bool:
        """Whether every hand has been at its job for longer than that, so that no other will ever be done.

        A thread cannot be stopped from outside; only a new process helps.
        """
        if self._busy < self._hands.number:
            return False
        return max(job.started for job in self._working) < time.perf_counter() - seconds

    def check(self) -> None:
        """To be asked before a request's first job. Raises `Draining`, and `QueueFull` where `run` would now."""
        if self._draining:
            raise Draining("The service is stopping; try again in a moment.")
        self._check_room(0)

    def run(
        self, question: Q, deadline: float, afterwards: Callable[[A], object], pixels: int = 0
    ) -> asyncio.Future[A]:
        """What the hands answer, by `deadline` on the event loop's clock.

        A job that still waits when the deadline passes, or when the future is cancelled, never starts; for one that
        is answered, `afterwards` is called in any case, after whoever waits for the answer. Raises `QueueFull`; the
        future raises `DeadlinePassed`, and what the hands raise.
        """
        self._check_room(pixels)
        loop = asyncio.get_running_loop()
        job = _Job(question, pixels, afterwards, loop.create_future())
        job.timer = loop.call_at(deadline, self._is_late, job)
        job.future.add_done_callback(partial(self._leave, job))
        if self._busy < self._hands.number:
            self._start([job])
        else:
            self._waiting.append(job)
            self._count(pixels)
            self._give_ahead()
        return job.future

    def drain(self) -> None:
        """From now on `check` lets no request in; the jobs of those that it let in are still done."""
        self._draining = True

    async def close(self) -> None:
        """Drains, and returns when the last job has ended."""
        self.drain()
        while self._working:
            await asyncio.wait([job.work for job in self._working if job.work is not None])
            # What its end leads to has been called for, but not called; and then what comes afterwards.
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _check_room(self, pixels: int) -> None:
        depth = self._depth()
        too_many = self._busy >= self._hands.number and depth >= self._max_queue
        if too_many or (depth and self._pixels + pixels > self._max_pixels):
            raise QueueFull(self._retry_after())

    def _depth(self) -> int:
        """How many jobs wait."""
        return len(self._waiting) + sum(map(len, self._ahead))

    def _count(self, pixels: int) -> None:
        """A job with so many pixels has begun to wait, or with minus so many waits no longer."""
        self._pixels += pixels
        self._on_depth(self._depth())

    def _count_spread(self, more: int) -> None:
        """Jobs on several cores: one more, or one less."""
        self._spread += more
        if self._spread == max(0, more):
            self._on_spread(more > 0)

    def _retry_after(self) -> int:
        """Whole seconds until the jobs that wait now will have been worked off; at least 1."""
        return max(1, math.ceil(self._seconds * self._depth() / self._hands.number))

    def _start(self, jobs: Sequence[_Job]) -> None:
        """One hand, at all of them."""
        cores = self._cores(time.perf_counter())
        self._expect(jobs, self._hands.start(_questions(jobs, cores)))
        self._begin(jobs, cores)

    def _expect(self, jobs: Sequence[_Job], works: Sequence[asyncio.Future[Any]]) -> None:
        for job, work in zip(jobs, works, strict=True):
            job.work = work
            work.add_done_callback(partial(self._end, job))

    def _begin(self, jobs: Sequence[_Job], cores: int) -> None:
        now, company = time.perf_counter(), set(jobs)
        self._busy += 1
        if cores > 1:
            self._count_spread(1)
        for job in jobs:
            job.started, job.company, job.together, job.cores = now, company, len(jobs), cores
            self._working.add(job)
            if len(jobs) == 1:
                # The photo shall not stay until the answer has been sent.
                job.question = None

    def _start_next(self) -> None:
        """A hand is free, unless it has begun what was given to it; nothing waits for others while it could begin."""
        if self._busy < self._hands.number:
            if self._ahead and not self._waiting:
                self._take_back(self._ahead[0])
            if self._waiting:
                jobs = self._take(self._first(self._depth()))
                self._start(jobs)
                self._count(-_pixels(jobs))
        self._give_ahead()

    def _first(self, waiting: int) -> list[_Job]:
        """Of those that wait here the first, or several where `waiting` are many."""
        most = min(self._hands.together, waiting // (_WAITING_A_JOB * self._hands.number))
        jobs = [self._waiting[0]]
        pixels = jobs[0].pixels
        for job in islice(self._waiting, 1, max(1, most)):
            pixels += job.pixels
            if jobs[0].wants_no_company or job.wants_no_company or pixels > _MOST_PIXELS_TOGETHER:
                break
            jobs.append(job)
        return jobs

    def _take(self, jobs: list[_Job]) -> list[_Job]:
        for _ in jobs:
            self._waiting.popleft()
        return jobs

    def _give_ahead(self) -> None:
        """Large photos are not: a hand gains little by them, and would hold their bytes."""
        number = self._hands.number
        while self._waiting and self._busy >= number and (depth := self._depth()) >= number:
            # As many wait once it begins as now, and those that its hand is at ask again.
            jobs = self._first(depth + len(self._working) // number)
            if _pixels(jobs) > _MOST_PIXELS_TOGETHER:
                return
            works = self._hands.start_next(_questions(jobs, 1), partial(self._begin_next, jobs))
            if works is None:
                return
            self._ahead.append(self._take(jobs))
            self._expect(jobs, works)
            for job in jobs:
                job.ahead = jobs

    def _begin_next(self, jobs: list[_Job]) -> None:
        self._leave_ahead(jobs)
        self._begin(jobs, 1)
        self._count(-_pixels(jobs))

    def _take_back(self, jobs: list[_Job]) -> None:
        """They wait here again, before all others."""
        if jobs[0].work is not None:
            self._hands.take_back(jobs[0].work)
        self._leave_ahead(jobs)
        for job in jobs:
            job.work = None
        self._waiting.extendleft(reversed(jobs))

    def _leave_ahead(self, jobs: list[_Job]) -> None:
        self._ahead.remove(jobs)
        for job in jobs:
            job.ahead = None

    def _cores(self, now: float) -> int:
        """The share of a job that begins now, among those in work and those that may be about to come.

        One of these is it itself, where it comes from a client that was answered lately.
        """
        lately = sum(now - end < _LATELY for end in self._ends)
        return max(1, self._hands.number // (self._busy + max(1, lately)))

    def _end(self, job: _Job, work: asyncio.Future[Any]) -> None:
        now, error = time.perf_counter(), work.exception()
        if job.work is not work:
            return  # It waits again already.
        if job.ahead is not None:
            # Its hand was lost before it had begun.
            self._take_back(job.ahead)
            return
        seconds = (now - job.started) / job.together
        again = isinstance(error, HandLost) and job.together > 1 and not job.future.done()
        if again:
            self._wait_again(job)
        self._working.remove(job)
        job.company.remove(job)
        if not job.company:
            self._busy -= 1
            self._ends.append(now)
            # First: the hand shall not wait for us.
            self._start_next()
            if job.cores > 1:
                self._count_spread(-1)
        self._seconds += (seconds - self._seconds) * (_LATEST if self._seconds else 1)
        if again:
            return
        job.timer.cancel()
        if not job.future.done():
            if error is None:
                job.future.set_result(work.result())
            else:
                job.future.set_exception(error)
        if error is None:
            asyncio.get_running_loop().call_soon(job.afterwards, work.result())

    def _wait_again(self, job: _Job) -> None:
        """Before all others: it has waited for its turn."""
        job.work, job.wants_no_company = None, True
        self._waiting.appendleft(job)
        self._count(job.pixels)

    def _leave(self, job: _Job, _: asyncio.Future[Any]) -> None:
        """Nobody waits for the job any more: it has been answered, its time is up, or its client has gone."""
        if job.ahead is not None:
            self._take_back(job.ahead)
        if job.work is None:
            job.timer.cancel()
            self._waiting.remove(job)
            self._count(-job.pixels)

    def _is_late(self, job: _Job) -> None:
        if not job.future.done():
            job.future.set_exception(DeadlinePassed(_TOO_LATE))
        if job.work is not None and job.ahead is None:
            self._hands.give_up(job.work)


def _questions(jobs: Sequence[_Job], cores: int) -> list[tuple[Any, Turn]]:
    return [(job.question, Turn(job.queued, cores)) for job in jobs]


def _pixels(jobs: Sequence[_Job]) -> int:
    return sum(job.pixels for job in jobs)
