import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from string import ascii_lowercase
from typing import Any

import pytest

from service.scheduler import DeadlinePassed, Draining, HandLost, QueueFull, Scheduler, Turn
from service.threads import Threads

Work = Callable[[Turn], Any]


def call(asked: Sequence[tuple[Work, Turn]]) -> list[Any]:
    (work, turn), *_ = asked
    try:
        return [work(turn)]
    except Exception as error:
        return [error]


class Scheduled:
    """A scheduler whose questions are functions, before so many threads."""

    def __init__(self, threads: int, max_queue: int, **told: Callable[[Any], object]) -> None:
        self.threads = Threads(call, threads)
        self.recorded: list[Any] = []
        self.scheduler: Scheduler[Work, Any] = Scheduler(self.threads, max_queue, 100, **told)
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
    return lambda threads, max_queue: Scheduled(threads, max_queue, on_depth=depths.append)


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


def test_it_is_told_while_jobs_use_several_cores() -> None:
    told: list[bool] = []

    async def main() -> None:
        scheduler, gates = Scheduled(4, 9, on_spread=told.append), [Gate() for _ in range(4)]
        jobs = []
        for gate in gates:
            jobs.append(scheduler.run(gate.work, soon()))
            await until(gate.begun.is_set)
        expected = [(2, [True]), (0, [True]), (3, [True]), (1, [True, False])]
        # On four, two, one and one.
        for number, so_far in expected:
            gates[number].open.set()
            await jobs[number]
            assert told == so_far
        await scheduler.run(lambda turn: turn, soon())
        assert told == [True, False] * len(told[::2])
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


class Slow:
    """Hands that do up to three at once, and end when they are told to."""

    number, together = 2, 3

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.turns: list[Turn] = []
        self.works: dict[str, asyncio.Future[str]] = {}
        self.given_up: list[asyncio.Future[str]] = []

    def start(self, asked: Sequence[tuple[str, Turn]]) -> list[asyncio.Future[str]]:
        self.asked.append([question for question, _ in asked])
        return self.begun(asked)

    def begun(self, asked: Sequence[tuple[str, Turn]]) -> list[asyncio.Future[str]]:
        self.turns += [turn for _, turn in asked]
        works = [asyncio.get_running_loop().create_future() for _ in asked]
        self.works |= zip((question for question, _ in asked), works, strict=True)
        return works

    def start_next(
        self, asked: Sequence[tuple[str, Turn]], begun: Callable[[], object]
    ) -> list[asyncio.Future[str]] | None:
        """None of them can."""

    def take_back(self, work: asyncio.Future[str]) -> None: ...

    def give_up(self, work: asyncio.Future[str]) -> None:
        self.given_up.append(work)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def end(self, questions: str, error: type[Exception] | None = None) -> None:
        for question in questions:
            if error is None:
                self.works[question].set_result(question.upper())
            else:
                self.works[question].set_exception(error())
        await asyncio.sleep(0)
        await asyncio.sleep(0)


class Crowd:
    """A scheduler before such hands, and jobs that were begun in the order of their letters."""

    def __init__(self, jobs: str, pixels: int = 1, hands: Slow | None = None, max_queue: int = 99) -> None:
        self.hands = hands or Slow()
        self.recorded: list[str] = []
        self.depths: list[int] = [0]
        self.scheduler: Scheduler[str, str] = Scheduler(self.hands, max_queue, 10**9, self.depths.append)
        self.jobs = {job: self.run(job, pixels=pixels) for job in jobs}

    def run(self, job: str, seconds: float = 10, pixels: int = 1) -> asyncio.Future[str]:
        return self.scheduler.run(job, soon(seconds), self.recorded.append, pixels)

    async def answers(self, jobs: str) -> str:
        return "".join(await asyncio.gather(*(self.jobs[job] for job in jobs)))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few jobs are many."""
    monkeypatch.setattr("service.scheduler._WAITING_A_JOB", 1)


@pytest.mark.parametrize(
    ("waiting", "pixels", "taken"),
    [
        (0, 1, []),
        (5, 1, ["c"]),
        (11, 1, ["c"]),
        (12, 1, ["c", "d"]),
        (18, 1, ["c", "d", "e"]),
        (24, 1, ["c", "d", "e"]),
        (18, 2_000_000, ["c", "d"]),
        (18, 2_000_001, ["c"]),
    ],
)
def test_who_gets_free_takes_several_where_many_wait(waiting: int, pixels: int, taken: list[str]) -> None:
    async def main() -> None:
        crowd = Crowd(ascii_lowercase[: 2 + waiting], pixels)
        assert crowd.hands.asked == [["a"], ["b"]]
        await crowd.hands.end("a")
        assert crowd.hands.asked[2:] == ([taken] if taken else [])
        assert all(turn.cores == 1 for turn in crowd.hands.turns[1:])

    asyncio.run(main())


@pytest.mark.usefixtures("eager")
def test_a_hand_is_free_when_it_has_done_all_that_it_took() -> None:
    async def main() -> None:
        crowd = Crowd("abcdefgh")
        await crowd.hands.end("a")
        assert crowd.hands.asked[2:] == [["c", "d", "e"]]
        await crowd.hands.end("cd")
        assert await crowd.answers("cd") == "CD"
        assert len(crowd.hands.asked) == 3
        assert not crowd.scheduler.stuck(60)
        assert crowd.scheduler.stuck(-1)
        await crowd.hands.end("e")
        await crowd.hands.end("bf")
        assert crowd.hands.asked[3:] == [["f"], ["g"], ["h"]]
        assert crowd.scheduler.stuck(-1)
        await crowd.hands.end("g")
        assert not crowd.scheduler.stuck(-1)
        await crowd.hands.end("h")
        await crowd.scheduler.close()
        assert sorted(crowd.recorded) == list("ABCDEFGH")

    asyncio.run(main())


@pytest.mark.usefixtures("eager")
def test_of_those_that_are_lost_together_each_is_done_again_alone() -> None:
    async def main() -> None:
        crowd = Crowd("abcdefgh")
        await crowd.hands.end("a")
        await crowd.hands.end("cde", HandLost)
        assert crowd.hands.asked[3:] == [["e"]]
        await crowd.hands.end("b")
        assert crowd.hands.asked[4:] == [["d"]]
        # What is lost alone is lost.
        await crowd.hands.end("d", HandLost)
        with pytest.raises(HandLost):
            await crowd.jobs["d"]
        assert crowd.hands.asked[5:] == [["c"]]
        await crowd.hands.end("ec")
        assert await crowd.answers("abce") == "ABCE"
        assert crowd.hands.asked[6:] == [["f"], ["g"]]
        await crowd.hands.end("fg")
        await crowd.hands.end("h")
        await crowd.scheduler.close()
        assert sorted(crowd.recorded) == list("ABCEFGH")

    asyncio.run(main())


@pytest.mark.usefixtures("eager")
def test_another_error_is_for_its_own_job() -> None:
    async def main() -> None:
        crowd = Crowd("abcdef")
        await crowd.hands.end("a")
        await crowd.hands.end("c", ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            await crowd.jobs["c"]
        await crowd.hands.end("d")
        assert await crowd.answers("d") == "D"

    asyncio.run(main())


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("leaves", [False, True])
def test_who_is_late_or_has_left_is_not_done_again(leaves: bool) -> None:
    async def main() -> None:
        crowd = Crowd("abc")
        late = crowd.run("l", 10 if leaves else 0.1)
        crowd.jobs |= {job: crowd.run(job) for job in "defg"}
        await crowd.hands.end("a")
        assert crowd.hands.asked[2:] == [["c", "l", "d"]]
        if leaves:
            late.cancel()
        else:
            await until(lambda: crowd.hands.given_up == [crowd.hands.works["l"]])
        await crowd.hands.end("cld", HandLost)
        with pytest.raises(asyncio.CancelledError if leaves else DeadlinePassed):
            await late
        await crowd.hands.end("b")
        assert crowd.hands.asked[3:] == [["d"], ["c"]]
        await crowd.hands.end("dc")
        assert await crowd.answers("cd") == "CD"

    asyncio.run(main())


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("leaves", [False, True])
def test_one_that_is_to_be_done_again_waits_no_longer_than_others(leaves: bool) -> None:
    async def main() -> None:
        crowd = Crowd("ab")
        late = crowd.run("l", 10 if leaves else 0.2)
        crowd.jobs |= {job: crowd.run(job) for job in "cdef"}
        await crowd.hands.end("a")
        await crowd.hands.end("lc", HandLost)
        assert crowd.hands.asked[2:] == [["l", "c"], ["c"]]
        if leaves:
            late.cancel()
        with pytest.raises(asyncio.CancelledError if leaves else DeadlinePassed):
            await late
        await crowd.hands.end("b")
        assert crowd.hands.asked[4:] == [["d"]]
        assert crowd.hands.given_up == []

    asyncio.run(main())


class Busy(Slow):
    """Each of these can be told what it will begin next."""

    def __init__(self, together: int = 1) -> None:
        super().__init__()
        self.together = together
        self.ahead: dict[str, Callable[[], object]] = {}
        self.taken_back: list[str] = []

    def start_next(
        self, asked: Sequence[tuple[str, Turn]], begun: Callable[[], object]
    ) -> list[asyncio.Future[str]] | None:
        if len(self.ahead) == self.number:
            return None
        self.ahead["".join(question for question, _ in asked)] = begun
        return self.begun(asked)

    def take_back(self, work: asyncio.Future[str]) -> None:
        for questions in [one for one in self.ahead if self.works[one[0]] is work]:
            del self.ahead[questions]
            self.taken_back.append(questions)

    async def end_and_begin(self, questions: str, begun: str) -> None:
        """The hand does not wait until its answers have been looked at."""
        self.ahead.pop(begun)()
        await self.end(questions)


def test_what_is_next_is_given_in_advance_where_one_waits_for_each_hand() -> None:
    async def main() -> None:
        hands = Busy()
        crowd = Crowd("abc", hands=hands)
        assert (hands.asked, [*hands.ahead], crowd.depths[-1]) == ([["a"], ["b"]], [], 1)
        crowd.jobs |= {job: crowd.run(job) for job in "def"}
        assert (hands.asked, [*hands.ahead], crowd.depths[-1]) == ([["a"], ["b"]], ["c", "d"], 4)
        await hands.end_and_begin("b", "d")
        assert await crowd.answers("b") == "B"
        # No other is started for it, and the next one is given at once.
        assert (hands.asked, [*hands.ahead], crowd.depths[-1]) == ([["a"], ["b"]], ["c", "e"], 3)
        await hands.end_and_begin("a", "c")
        await hands.end_and_begin("d", "e")
        # Only one waits: whoever is free first shall have it.
        assert ([*hands.ahead], crowd.depths[-1]) == (["f"], 1)
        assert crowd.scheduler.stuck(-1)
        await hands.end_and_begin("c", "f")
        await hands.end("ef")
        assert await crowd.answers("acdef") == "ACDEF"
        assert crowd.depths[-1] == 0
        assert all(turn.cores == 1 for turn in hands.turns[1:])
        await crowd.scheduler.close()
        assert sorted(crowd.recorded) == list("ABCDEF")

    asyncio.run(main())


@pytest.mark.parametrize("leaves", [False, True])
def test_what_is_given_in_advance_is_taken_back_where_it_is_late_or_its_client_leaves(leaves: bool) -> None:
    async def main() -> None:
        hands = Busy()
        crowd = Crowd("ab", hands=hands)
        late = crowd.run("l", 10 if leaves else 0.05)
        crowd.jobs["c"] = crowd.run("c")
        assert [*hands.ahead] == ["l", "c"]
        if leaves:
            late.cancel()
        with pytest.raises(asyncio.CancelledError if leaves else DeadlinePassed):
            await late
        await asyncio.sleep(0)
        assert (hands.taken_back, hands.given_up, [*hands.ahead], crowd.depths[-1]) == (["l"], [], ["c"], 1)
        # The hand that has nothing now is free first.
        await hands.end("a")
        assert (hands.taken_back, hands.asked[2:]) == (["l", "c"], [["c"]])
        await hands.end("bc")
        assert await crowd.answers("abc") == "ABC"
        await crowd.scheduler.close()
        assert sorted(crowd.recorded) == list("ABC")

    asyncio.run(main())


def test_of_those_that_were_given_together_the_others_wait_again() -> None:
    async def main() -> None:
        hands = Busy(together=2)
        crowd = Crowd(ascii_lowercase[:16], hands=hands)
        assert [*hands.ahead] == ["c", "d"]
        await hands.end_and_begin("a", "c")
        assert [*hands.ahead] == ["d", "ef"]
        crowd.jobs["e"].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (hands.taken_back, crowd.depths[-1]) == (["ef"], 12)
        crowd.jobs["q"] = crowd.run("q")
        assert [*hands.ahead] == ["d", "fg"]

    asyncio.run(main())


def test_what_is_lost_before_it_has_begun_waits_again() -> None:
    async def main() -> None:
        hands = Busy()
        crowd = Crowd("abcd", hands=hands)
        # The hand has ended.
        del hands.ahead["c"]
        hands.works["a"].set_exception(HandLost())
        await hands.end("c", HandLost)
        with pytest.raises(HandLost):
            await crowd.jobs["a"]
        # It is for whoever takes the place of the lost one.
        assert (hands.asked[2:], [*hands.ahead], crowd.depths[-1]) == ([["c"]], ["d"], 1)
        await hands.end_and_begin("b", "d")
        await hands.end("cd")
        assert await crowd.answers("bcd") == "BCD"
        await crowd.scheduler.close()

    asyncio.run(main())


def test_what_is_given_in_advance_takes_room_in_the_queue() -> None:
    async def main() -> None:
        crowd = Crowd("abcd", hands=Busy(), max_queue=2)
        with pytest.raises(QueueFull):
            crowd.scheduler.check()

    asyncio.run(main())


def test_large_photos_are_not_given_in_advance() -> None:
    async def main() -> None:
        hands = Busy()
        Crowd("abcdef", 4_000_001, hands)
        assert hands.ahead == {}

    asyncio.run(main())
