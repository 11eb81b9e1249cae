"""Processes that work for this one, and what becomes of a job when one of them ends."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from models.photo import UnreadablePhoto
from models.trial import NoTrial
from service.children import Children
from service.running import family
from service.scheduler import HandLost, Turn

# What is to be done, and with what.
Question: TypeAlias = tuple[str, Any]
Asked: TypeAlias = Children[Question, Any]


class Unpackable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


RAISED: dict[str, Callable[[], Exception]] = {
    "typed": lambda: UnreadablePhoto("no photo"),
    "without arguments": NoTrial,
    "unforeseen": lambda: ZeroDivisionError("by nothing"),
    "unpackable": lambda: Unpackable(1, 2),
}


NOW = Turn(queued=0, cores=1)


def work(asked: Sequence[tuple[Question, Turn]]) -> list[Any]:
    return [answer(*one) for one in asked]


def answer(question: Question, turn: Turn) -> Any:
    do, what = question
    match do:
        case "pid":
            time.sleep(what)
            return os.getpid()
        case "length":
            return len(what)
        case "touch":
            Path(what).touch()
        case "raise":
            try:
                raise RAISED[what]()
            except Exception as error:
                return error
        case "end":
            os.kill(os.getpid(), what)
    return turn


def knows(question: Question) -> bool:
    return question[0] != "unknown" and question[1] != "unknown"


def ask(children: Asked, question: Question, turn: Turn = NOW) -> asyncio.Future[Any]:
    return children.start([(question, turn)])[0]


def completed(main: Callable[[Asked], Coroutine[Any, Any, None]], number: int = 2) -> None:
    children: Asked = Children(work, number, knows)

    async def opened() -> None:
        async with asyncio.timeout(60):
            try:
                await children.open()
                await main(children)
            finally:
                await children.close()

    asyncio.run(opened())


async def pids(children: Asked, number: int = 2) -> list[int]:
    """Of so many that work at the same time."""
    found: list[int] = await asyncio.gather(*(ask(children, ("pid", 0.2)) for _ in range(number)))
    return found


def test_each_works_in_a_process_of_its_own() -> None:
    async def main(children: Asked) -> None:
        found = await pids(children, 3)
        assert len({*found, os.getpid()}) == 4

    completed(main, 3)


def test_questions_and_answers_arrive_whole() -> None:
    async def main(children: Asked) -> None:
        assert await ask(children, ("turn", None), Turn(0.5, 3)) == (0.5, 3)
        sizes = [0, 1, 200_000, 30_000_000]
        asked = [await ask(children, ("length", bytes(size))) for size in sizes]
        assert asked == sizes

    completed(main)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("typed", UnreadablePhoto, "no photo"),
        ("without arguments", NoTrial, "try again"),
        ("unforeseen", ZeroDivisionError, "by nothing"),
        ("unpackable", RuntimeError, "Unpackable: 1 and 2"),
    ],
)
def test_errors_come_back_and_harm_nobody(name: str, kind: type[Exception], told: str) -> None:
    async def main(children: Asked) -> None:
        beside = ask(children, ("pid", 0.2))
        with pytest.raises(kind, match=told) as error:
            await ask(children, ("raise", name))
        # Where it was raised is lost on the way but for this.
        assert "in answer" in "".join([*getattr(error.value, "__notes__", ()), str(error.value)])
        assert await beside in await pids(children)

    completed(main)


def test_one_does_several_at_once_and_each_has_its_own_answer() -> None:
    async def main(children: Asked) -> None:
        first, wrong, last = children.start(
            [(question, NOW) for question in (("pid", 0), ("raise", "typed"), ("pid", 0))]
        )
        assert await first == await last
        with pytest.raises(UnreadablePhoto):
            await wrong

    completed(main)


def test_all_that_one_is_at_is_lost_with_it() -> None:
    async def main(children: Asked) -> None:
        before = await pids(children)
        works = children.start([(("pid", 0), NOW), (("end", signal.SIGKILL), NOW)])
        lost = await asyncio.gather(*works, return_exceptions=True)
        assert [type(error) for error in lost] == [HandLost, HandLost]
        assert len(set(before) & set(await until(children, lambda found: len(set(found)) == 2))) == 1

    completed(main)


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGSEGV])
def test_one_that_ends_loses_its_own_job_alone_and_is_replaced(ends: signal.Signals) -> None:
    async def main(children: Asked) -> None:
        before = await pids(children)
        beside = ask(children, ("pid", 0.5))
        with pytest.raises(HandLost, match="try again"):
            await ask(children, ("end", ends))
        stayed = await beside
        assert stayed in before
        after = await until_replaced(children, set(before) - {stayed})
        assert len({*before, *after}) == 3

    completed(main)


def test_a_job_waits_for_the_next_process_and_is_never_done_here() -> None:
    """What has ended all of them may end this one too."""

    async def main(children: Asked) -> None:
        before = await pids(children)
        lost = [ask(children, ("end", signal.SIGKILL)) for _ in before]
        assert all(isinstance(end, HandLost) for end in await asyncio.gather(*lost, return_exceptions=True))
        assert not {*before, os.getpid()} & {*await pids(children, 4)}

    completed(main)


def test_one_that_ended_before_it_was_asked_is_not_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next may fare no better, and forking takes its time."""
    monkeypatch.setattr("service.children._AGAIN_SECONDS", 0.5)

    async def main(children: Asked) -> None:
        first = children._idle[0]
        first.kill()
        while not first.lost:
            await asyncio.sleep(0.001)
        begun = time.monotonic()
        await until_replaced(children, [])
        assert time.monotonic() - begun > 0.5

    completed(main)


def test_a_job_that_is_given_up_before_a_process_is_there() -> None:
    async def main(children: Asked) -> None:
        for pid in await pids(children):
            os.kill(pid, signal.SIGKILL)
        while children._idle:
            await asyncio.sleep(0.001)
        works = [ask(children, ("pid", 0)) for _ in range(2)]
        children.give_up(works[0])
        with pytest.raises(HandLost):
            await works[0]
        assert await works[1] != os.getpid()

    completed(main)


def test_one_that_ends_without_a_job_is_replaced() -> None:
    async def main(children: Asked) -> None:
        before = await pids(children)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        after = await until_replaced(children, before)
        assert len({*before, *after}) == 4

    completed(main)


async def until(children: Asked, is_so: Callable[[list[int]], bool]) -> list[int]:
    """Who works, once that is so: it takes a moment until it is known here that one has ended."""
    while True:
        with suppress(HandLost):
            found = await pids(children)
            if is_so(found):
                return found


async def until_replaced(children: Asked, ended: Iterable[int]) -> list[int]:
    return await until(children, lambda found: len(set(found)) == 2 and not {*ended, os.getpid()} & set(found))


def test_one_that_is_given_up_is_ended() -> None:
    async def main(children: Asked) -> None:
        before = await pids(children)
        work = ask(children, ("pid", 3600))
        stayed = await ask(children, ("pid", 0.1))
        children.give_up(work)
        with pytest.raises(HandLost):
            await work
        assert stayed in await until_replaced(children, set(before) - {stayed})

    completed(main)


def test_one_begins_the_next_as_soon_as_it_has_ended() -> None:
    async def main(children: Asked) -> None:
        begun: list[str] = []
        assert children.start_next([(("pid", 0), NOW)], lambda: begun.append("idle")) is None
        first = ask(children, ("pid", 0.2))
        # Larger than what fits between them at once.
        second = children.start_next([(("length", bytes(5_000_000)), NOW)], lambda: begun.append("second"))
        assert second is not None
        assert children.start_next([(("pid", 0), NOW)], lambda: begun.append("third")) is None
        assert begun == []
        await first
        assert begun == ["second"]
        third = children.start_next([(("pid", 0), NOW), (("pid", 0), NOW)], lambda: begun.append("third"))
        assert third is not None
        assert await second[0] == 5_000_000
        assert await asyncio.gather(*third) == [await first] * 2
        assert begun == ["second", "third"]
        assert await pids(children, 1) == [await first]

    completed(main, 1)


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_what_is_taken_back_is_not_begun(size: int, tmp_path: Path) -> None:
    async def main(children: Asked) -> None:
        begun: list[str] = []
        first = ask(children, ("pid", 0.2))
        unwanted = children.start_next(
            [(("touch", tmp_path / "touched"), NOW), (("length", bytes(size)), NOW)], lambda: begun.append("unwanted")
        )
        assert unwanted is not None
        children.take_back(unwanted[0])
        assert [await first, await ask(children, ("length", "abc"))] == [await first, 3]
        assert begun == []
        assert not any(work.done() for work in unwanted)

    completed(main, 1)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("seconds", [0.3, 60])
def test_what_is_taken_back_too_late_is_done_for_nothing(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not for ever."""
    monkeypatch.setattr("service.children._UNWANTED_SECONDS", 1.0)

    async def main(children: Asked) -> None:
        (before,) = await pids(children, 1)
        first = ask(children, ("pid", 0.1))
        unwanted = children.start_next(
            [(("touch", tmp_path / "touched"), NOW), (("pid", seconds), NOW)], lambda: pytest.fail("it was taken back")
        )
        assert unwanted is not None
        # Nobody here hears of the first one's end meanwhile.
        while not (tmp_path / "touched").exists():
            time.sleep(0.01)
        children.take_back(unwanted[1])
        await first
        assert children.start_next([(("pid", 0), NOW)], lambda: None) is None
        assert await ask(children, ("length", "abc")) == 3
        assert (await pids(children, 1) == [before]) == (seconds < 1)
        assert not any(work.done() for work in unwanted)

    completed(main, 1)


def test_what_one_would_begin_next_is_lost_with_it() -> None:
    async def main(children: Asked) -> None:
        first = ask(children, ("end", signal.SIGKILL))
        second = children.start_next([(("pid", 0), NOW)], lambda: pytest.fail("it has not begun"))
        assert second is not None
        for work in (first, second[0]):
            with pytest.raises(HandLost):
                await work
        assert len(await pids(children)) == 2

    completed(main)


def test_signals_to_stop_are_not_for_them() -> None:
    """They may be sent to all of a group; who stops is the parent."""

    async def main(children: Asked) -> None:
        before = await pids(children)
        for pid in before:
            for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, stop)
        assert sorted(await pids(children)) == sorted(before)

    completed(main)


def test_what_the_fork_does_not_know_is_done_here() -> None:
    async def main(children: Asked) -> None:
        assert await ask(children, ("unknown", None), Turn(0.25, 3)) == (0.25, 3)
        children._knows = lambda _: False
        assert await pids(children) == [os.getpid()] * 2

    completed(main)


def test_without_processes_the_work_is_done_here(caplog: pytest.LogCaptureFixture) -> None:
    async def main(children: Asked) -> None:
        os.kill(children._nursery, signal.SIGKILL)
        for pid in await pids(children):
            os.kill(pid, signal.SIGKILL)
        await until(children, lambda found: found == [os.getpid()] * 2)

    completed(main)
    assert caplog.messages[0].startswith("no process can be started")


def test_processes_come_back_once_they_can(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("service.children._AGAIN_SECONDS", 0.1)
    send = socket.send_fds
    refused = OSError("no more processes")

    def refuse(*_: object) -> int:
        raise refused

    async def main(children: Asked) -> None:
        before = await pids(children)
        monkeypatch.setattr(socket, "send_fds", refuse)
        os.kill(before[0], signal.SIGKILL)
        await until(children, lambda found: os.getpid() in found)
        monkeypatch.setattr(socket, "send_fds", send)
        await until_replaced(children, before[:1])

    completed(main)
    assert [message.partition(":")[0] for message in caplog.messages if "process" in message] == [
        "no process can be started, photos are worked on in threads",
        "processes start again",
    ]


def test_closing_gives_up_those_that_are_starting() -> None:
    async def main(children: Asked) -> None:
        for pid in await pids(children):
            os.kill(pid, signal.SIGKILL)
        while not children._starting:
            await asyncio.sleep(0)

    completed(main)


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    before = set(family(os.getpid()))
    yield
    deadline = time.monotonic() + 10
    while set(family(os.getpid())) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(family(os.getpid())) <= before
