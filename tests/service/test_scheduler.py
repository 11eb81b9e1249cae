import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.scheduler import DeadlinePassed, Draining, QueueFull, Scheduler, Turn
from service.threads import Threads

Work = Callable[[Turn], Any]


def call(work: Work, turn: Turn) -> Any:
    return work(turn)


class Scheduled:
    """A scheduler whose questions are functions, before so many threads."""

    def __init__(self, threads: int, max_queue: int, on_depth: Callable[[int], object] | None = None) -> None:
        self.threads = Threads(call, threads)
        self.recorded: list[Any] = []
        self.scheduler: Scheduler[Work, Any] = Scheduler(self.threads, max_queue, 100, on_depth)
        self.check, self.stuck, self.drain = self.scheduler.check, self.scheduler.stuck, self.scheduler.drain

    def run(self, work: Work, deadline: float, pixels: int = 0) -> asyncio.Future[Any]:
        return self.scheduler.run(work, deadline, self.recorded.append, pixels)

    async def close(self) -> None:
        await self.scheduler.close()
        await self.threads.close()


class Gate:
    """Work that begins, and ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def work(self, turn: Turn) -> Turn:
        self.begun.set()
        assert self.open.wait(10)
        return turn


@pytest.fixture
def depths() -> list[int]:
    return []


@pytest.fixture
def make(depths: list[int]) -> "Make":
    return lambda threads, max_queue: Scheduled(threads, max_queue, depths.append)


def soon(seconds: float = 10) -> float:
    return asyncio.get_running_loop().time() + seconds


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


Make = Callable[[int, int], Scheduled]


def test_results_and_errors_come_back(make: Make) -> None:
    async def main() -> None:
        scheduler = make(2, 4)
        jobs = [scheduler.run(lambda turn: turn, soon()) for _ in range(4)]
        assert all(turn.waited < 1 for turn in await asyncio.gather(*jobs))
        with pytest.raises(ZeroDivisionError):
            await scheduler.run(lambda _: 1 / 0, soon())
        assert await scheduler.run(lambda turn: turn.waited, soon()) < 1
        await scheduler.close()

    asyncio.run(main())


def test_a_job_has_its_share_of_the_idle_cores(make: Make) -> None:
    async def main() -> None:
        scheduler, gates = make(4, 9), [Gate() for _ in range(5)]
        jobs = []
        for gate in gates[:4]:
            jobs.append(scheduler.run(gate.work, soon()))
            await until(gate.begun.is_set)
        jobs.append(scheduler.run(gates[4].work, soon()))
        for gate in gates:
            gate.open.set()
        # The last one begins when another ends.
        assert [turn.cores for turn in await asyncio.gather(*jobs)] == [4, 2, 1, 1, 1]
        await scheduler.close()

    asyncio.run(main())


def test_a_core_is_idle_only_after_a_while(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many clients as there are cores leave each idle for a moment again and again."""
    monkeypatch.setattr("service.scheduler._LATELY", 0.5)

    async def main() -> None:
        scheduler = make(4, 9)

        def cores() -> asyncio.Future[int]:
            return scheduler.run(lambda turn: turn.cores, soon())

        assert [await cores() for _ in range(2)] == [4, 4]
        await asyncio.sleep(0.6)
        assert list(await asyncio.gather(cores(), cores())) == [4, 2]
        assert await cores() == 2
        await asyncio.sleep(0.6)
        assert await cores() == 4
        await scheduler.close()

    asyncio.run(main())


def test_what_comes_afterwards_comes_after_those_who_wait(make: Make) -> None:
    async def main() -> None:
        scheduler, gate = make(1, 2), Gate()
        assert await scheduler.run(lambda _: "answer", soon()) == "answer"
        assert scheduler.recorded == []
        await asyncio.sleep(0)
        assert scheduler.recorded == ["answer"]
        with pytest.raises(ZeroDivisionError):
            await scheduler.run(lambda _: 1 / 0, soon())
        # Also where nobody waits any more.
        left = scheduler.run(gate.work, soon())
        await until(gate.begun.is_set)
        left.cancel()
        gate.open.set()
        await scheduler.close()
        assert len(scheduler.recorded) == 2

    asyncio.run(main())


def test_no_more_than_max_queue_wait(make: Make, depths: list[int]) -> None:
    async def main() -> None:
        scheduler, gate = make(1, 1), Gate()
        running = scheduler.run(gate.work, soon())
        await until(gate.begun.is_set)
        waiting = scheduler.run(lambda _: "waited", soon())
        await until(lambda: depths[-1] == 1)
        with pytest.raises(QueueFull) as full:
            scheduler.check()
        assert full.value.retry_after >= 1
        with pytest.raises(QueueFull):
            await scheduler.run(lambda _: None, soon())
        gate.open.set()
        await running
        assert await waiting == "waited"
        scheduler.check()
        await scheduler.close()

    asyncio.run(main())
    assert depths[-1] == 0


def test_no_more_than_max_pixels_wait(make: Make) -> None:
    async def main() -> None:
        scheduler, gate = make(1, 9), Gate()
        tasks = [scheduler.run(gate.work, soon(), 500)]
        await until(gate.begun.is_set)
        # More than may wait, but alone.
        large = scheduler.run(gate.work, soon(), 101)
        with pytest.raises(QueueFull):
            await scheduler.run(gate.work, soon(), 1)
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)
        tasks += [scheduler.run(gate.work, soon(), 50) for _ in range(2)]
        with pytest.raises(QueueFull):
            await scheduler.run(gate.work, soon(), 1)
        gate.open.set()
        await asyncio.gather(*tasks)
        await scheduler.close()

    asyncio.run(main())


def test_retry_after_follows_the_measured_rate(make: Make) -> None:
    async def main() -> None:
        scheduler, gate = make(1, 30), Gate()
        await scheduler.run(lambda _: time.sleep(0.2), soon())
        tasks = [scheduler.run(gate.work, soon()) for _ in range(31)]
        await until(gate.begun.is_set)
        with pytest.raises(QueueFull) as full:
            scheduler.check()
        gate.open.set()
        await asyncio.gather(*tasks)
        assert 6 <= full.value.retry_after <= 8
        await scheduler.close()

    asyncio.run(main())


def test_a_job_whose_time_is_up_never_starts_and_frees_its_place(make: Make, depths: list[int]) -> None:
    async def main() -> None:
        scheduler, gate, started = make(1, 1), Gate(), threading.Event()
        running = scheduler.run(gate.work, soon())
        await until(gate.begun.is_set)
        with pytest.raises(DeadlinePassed):
            await scheduler.run(lambda _: started.set(), soon(0.05))
        assert depths[-1] == 0
        leaving = scheduler.run(lambda _: started.set(), soon())
        await until(lambda: depths[-1] == 1)
        leaving.cancel()
        await until(lambda: depths[-1] == 0)
        gate.open.set()
        await running
        await scheduler.close()
        assert not started.is_set()

    asyncio.run(main())


def test_a_slot_is_freed_only_when_the_work_has_ended(make: Make) -> None:
    async def main() -> None:
        scheduler, gate = make(1, 0), Gate()
        with pytest.raises(DeadlinePassed):
            await scheduler.run(gate.work, soon(0.05))
        with pytest.raises(QueueFull):
            scheduler.check()
        gate.open.set()
        await asyncio.sleep(0.1)
        assert await scheduler.run(lambda _: "free", soon()) == "free"
        await scheduler.close()

    asyncio.run(main())


def test_draining_takes_no_request_and_finishes_the_accepted(make: Make) -> None:
    async def main() -> None:
        scheduler, gate = make(1, 2), Gate()
        accepted = [scheduler.run(gate.work, soon()) for _ in range(2)]
        await until(gate.begun.is_set)
        scheduler.drain()
        with pytest.raises(Draining):
            scheduler.check()
        gate.open.set()
        await asyncio.gather(*accepted)
        await scheduler.close()

    asyncio.run(main())


def test_it_is_stuck_when_no_thread_ever_comes_back() -> None:
    async def main() -> None:
        scheduler, gates = Scheduled(2, 2), [Gate(), Gate()]
        deadline = asyncio.get_running_loop().time() + 10
        jobs = []
        for number, gate in enumerate(gates):
            assert not scheduler.stuck(0), number
            jobs.append(scheduler.run(gate.work, deadline))
            await asyncio.to_thread(gate.begun.wait, 10)
        assert scheduler.stuck(0)
        assert not scheduler.stuck(60)
        for gate in gates:
            gate.open.set()
        await asyncio.gather(*jobs)
        assert not scheduler.stuck(0)
        await scheduler.close()

    asyncio.run(main())


@pytest.mark.parametrize("leaves", [False, True])
def test_work_that_is_late_is_given_up(make: Make, leaves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its client left before: else it could keep its hand for ever."""

    async def main() -> None:
        scheduler, gate = make(1, 0), Gate()
        given_up: list[asyncio.Future[Any]] = []
        monkeypatch.setattr(scheduler.threads, "give_up", given_up.append)
        late = scheduler.run(gate.work, soon(0.2))
        await until(gate.begun.is_set)
        assert given_up == []
        if leaves:
            late.cancel()
        await until(lambda: len(given_up) == 1)
        gate.open.set()
        await given_up[0]
        with pytest.raises(asyncio.CancelledError if leaves else DeadlinePassed):
            await late
        on_time = scheduler.run(lambda _: "done", soon(0.2))
        assert await on_time == "done"
        await asyncio.sleep(0.3)
        assert len(given_up) == 1
        await scheduler.close()

    asyncio.run(main())
