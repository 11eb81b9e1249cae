"""Processes that work for this one, forked from it: they share what it has loaded, and each dies alone.

Python runs in one thread of a process at a time, so that the threads of one wait for each other. And what ends a
process, a fault in native code or the kernel's want of memory, ends all of its threads; here it costs one job. Only a
question goes in, a photo's bytes and what is wanted of it, and only an answer comes out.
"""

import asyncio
import logging
import os
import pickle
import select
import signal
import socket
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar, cast

from models.outage import Outage
from service.scheduler import HandLost, Turn, Work
from service.threads import Threads

log = logging.getLogger("figureground.children")

Q = TypeVar("Q", contravariant=True)
A = TypeVar("A")

# Before every message comes its length. A question of no length takes back the one before it, unless that has begun.
_LENGTH = 8
_TAKEN_BACK = bytes(_LENGTH)
_START_SECONDS = 60
_AGAIN_SECONDS = 1.0
# How long a process may be at what was taken back when it had just begun: its deadline is nobody's any more.
_UNWANTED_SECONDS = 10.0


@dataclass(eq=False, slots=True)
class _Task:
    """What one process is asked at once."""

    asked: list[Any]
    answers: list[asyncio.Future[Any]]
    on_begun: Callable[[], object]
    taken_back: bool = False


class Children(Generic[Q, A]):
    """As `service.scheduler.Hands`: `work` is called in processes.

    To be made before this process has threads of Python: a process that has some cannot be forked safely. So the first
    fork, the nursery, only waits and forks again whenever a child is wanted. A child that ends is replaced, and a job
    waits for the next one: what ended the last may end whoever is asked. Only while no process can be started, and
    for a question that the fork does not know, `work` is called in threads of this process.
    """

    # Photos that share their batches take less of the processor, and wake this process less often.
    together = 4

    def __init__(self, work: Work[Q, A], number: int, knows: Callable[[Q], bool]) -> None:
        self.number = number
        self._knows = knows
        self._threads = Threads(work, number)
        self._idle: list[_Child] = []
        # The one that has been at its job longest comes first.
        self._busy: list[_Child] = []
        self._unasked: deque[_Task] = deque()
        self._starting: set[asyncio.Task[None]] = set()
        self._closing = False
        self._outage = Outage(
            log, logging.ERROR, "no process can be started, photos are worked on in threads", "processes start again"
        )
        self._control, theirs = socket.socketpair()
        with warnings.catch_warnings():
            # Of numpy's threads, which it stops before a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._nursery = os.fork()
        if self._nursery == 0:
            _tend(theirs, work)
        theirs.close()

    async def open(self) -> None:
        """Starts them all; those that cannot be started yet are tried again later."""
        for started in await asyncio.gather(*(self._add() for _ in range(self.number))):
            if not started:
                self._begin(self._keep_adding(_AGAIN_SECONDS))

    def start(self, asked: Sequence[tuple[Q, Turn]]) -> list[asyncio.Future[A]]:
        if not all(self._knows(question) for question, _ in asked) or (not self._idle and self._outage.away):
            return self._threads.start(asked)
        task = _task(asked)
        self._unasked.append(task)
        if self._idle:
            # The one that was at work last, whose memory is still in the caches.
            self._employ(self._idle.pop())
        return task.answers

    def start_next(
        self, asked: Sequence[tuple[Q, Turn]], begun: Callable[[], object]
    ) -> list[asyncio.Future[A]] | None:
        child = next((child for child in self._busy if len(child.tasks) == 1 and not child.tasks[0].taken_back), None)
        if child is None or not all(self._knows(question) for question, _ in asked):
            return None
        task = _task(asked, begun)
        child.ask(task)
        return task.answers

    def take_back(self, work: asyncio.Future[A]) -> None:
        for child in self._busy:
            if work in child.tasks[-1].answers:
                child.take_back()

    def give_up(self, work: asyncio.Future[A]) -> None:
        for child in self._busy:
            if work in child.tasks[0].answers:
                child.kill()
        for task in [task for task in self._unasked if work in task.answers]:
            self._unasked.remove(task)
            _lose(task)

    async def close(self) -> None:
        """Ends them all. Nothing may be started any more."""
        self._closing = True
        for child in [*self._idle, *self._busy]:
            child.transport.close()
        for task in self._starting:
            task.cancel()
        self._control.close()
        await self._threads.close()
        with suppress(ChildProcessError):
            await asyncio.to_thread(os.waitpid, self._nursery, 0)

    def _employ(self, child: "_Child") -> None:
        """At the job that has waited longest, if there is one."""
        if not self._unasked:
            self._idle.append(child)
            return
        self._busy.append(child)
        child.ask(self._unasked.popleft())

    def _end(self, child: "_Child", told: bytes) -> None:
        task = child.tasks.popleft()
        self._busy.remove(child)
        if not child.tasks:
            self._employ(child)
        else:
            self._busy.append(child)
            if child.tasks[0].taken_back:
                asyncio.get_running_loop().call_later(_UNWANTED_SECONDS, _end_unwanted, child, child.tasks[0])
            else:
                child.tasks[0].on_begun()
        if task.taken_back:
            return
        for answer, found in zip(task.answers, pickle.loads(told), strict=True):
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

    async def _add(self) -> bool:
        """Whether there is one more."""
        try:
            ours, theirs = socket.socketpair()
            with theirs, _closed_on_error(ours):
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
                _, child = await asyncio.get_running_loop().create_unix_connection(_Child, sock=ours)
            with _closed_on_error(child.transport):
                await asyncio.wait_for(child.ready, _START_SECONDS)
        except OSError as error:
            self._outage.tell(str(error))
            self._work_in_threads()
            return False
        self._outage.tell(None)
        child.on_lost, child.on_answer = partial(self._replace, child), partial(self._end, child)
        if child.lost:  # already
            self._replace(child)
        else:
            self._employ(child)
        return True

    def _work_in_threads(self) -> None:
        """What waits for a process."""
        for task in self._unasked:
            for answer, work in zip(task.answers, self._threads.start(task.asked), strict=True):
                work.add_done_callback(partial(_hand_on, answer))
        self._unasked.clear()

    async def _keep_adding(self, pause: float) -> None:
        await asyncio.sleep(pause)
        while not await self._add():
            await asyncio.sleep(_AGAIN_SECONDS)

    def _replace(self, child: "_Child") -> None:
        if child in self._idle:
            self._idle.remove(child)
        if child in self._busy:
            self._busy.remove(child)
        for task in child.tasks:
            if not task.taken_back:
                _lose(task)
        if not self._closing:
            # What ends before it was asked anything may go on doing so.
            self._begin(self._keep_adding(0 if child.was_asked else _AGAIN_SECONDS))

    def _begin(self, starting: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(starting)
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)


def _message(content: bytes) -> bytes:
    """Copied, but in one piece, and sent at once."""
    return len(content).to_bytes(_LENGTH) + content


def _task(asked: Sequence[Any], on_begun: Callable[[], object] = lambda: None) -> _Task:
    loop = asyncio.get_running_loop()
    return _Task(list(asked), [loop.create_future() for _ in asked], on_begun)


def _lose(task: _Task) -> None:
    for answer in task.answers:
        answer.set_exception(HandLost())


def _end_unwanted(child: "_Child", task: _Task) -> None:
    if task in child.tasks:
        child.kill()


def _hand_on(answer: asyncio.Future[A], work: asyncio.Future[A]) -> None:
    if (error := work.exception()) is None:
        answer.set_result(work.result())
    else:
        answer.set_exception(error)


@contextmanager
def _closed_on_error(opened: socket.socket | asyncio.Transport) -> Iterator[None]:
    try:
        yield
    except BaseException:
        opened.close()
        raise


class _Child(asyncio.Protocol):
    """Its connection. It tells its number first, and then answers one question after the other.

    `tasks` are the one that it is at, and the one that it begins next.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.on_lost: Callable[[], object] = lambda: None
        self.on_answer: Callable[[bytes], object] = self._tells_its_number
        self.lost = self.was_asked = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tasks: deque[_Task] = deque()
        self._buffer = bytearray()

    def ask(self, task: _Task) -> None:
        self.was_asked = True
        self.tasks.append(task)
        self.transport.write(_message(pickle.dumps(task.asked)))

    def take_back(self) -> None:
        """The last question. An answer comes in any case, empty where it has not been begun."""
        self.tasks[-1].taken_back = True
        self.transport.write(_TAKEN_BACK)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(0)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= (end := _LENGTH + int.from_bytes(self._buffer[:_LENGTH])):
            message = bytes(self._buffer[_LENGTH:end])
            del self._buffer[:end]
            self.on_answer(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.ready.done():
            self.ready.set_exception(ChildProcessError("it cannot be forked, or has ended at once"))
        self.lost = True
        self.on_lost()

    def _tells_its_number(self, told: bytes) -> None:
        self._pid = int.from_bytes(told)
        self.ready.set_result(None)


def _tend(control: socket.socket, work: Callable[..., Any]) -> NoReturn:
    """The nursery's life: until its parent ends, or closes."""
    try:
        _leave_parent(control.fileno())
        # Nobody waits for its children: their ends are told by their connections.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while (descriptor := _wanted(control)) is not None:
            if _is_child():
                control.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _serve(socket.socket(fileno=descriptor), work)
                os._exit(0)
            os.close(descriptor)
        with suppress(ChildProcessError):
            os.wait()  # for all of them, since their ends are ignored
    except BaseException:
        log.exception("a process for photos ends")
    # Whatever the parent would do at its own end is not for its children.
    os._exit(0)


def _leave_parent(kept: int) -> None:
    """What belongs to the parent: its ports and files, and its signals, which may be sent to all of a group."""
    signal.set_wakeup_fd(-1)
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _wanted(control: socket.socket) -> int | None:
    """The descriptor of the next child's connection; None when there will be no other."""
    word, descriptors, *_ = socket.recv_fds(control, 1, 1)
    return descriptors[0] if word else None


def _is_child() -> bool:
    """After a fork, in both; only in the nursery where the system lets no other process be."""
    try:
        return os.fork() == 0
    except OSError:
        return False


def _serve(parent: socket.socket, work: Callable[..., Any]) -> None:
    """A child's life: until its parent ends, or closes."""
    more = select.poll()
    more.register(parent, select.POLLIN)
    with suppress(BrokenPipeError, ConnectionResetError):
        parent.sendall(_message(os.getpid().to_bytes(_LENGTH)))
        head = _receive(parent, _LENGTH)
        while head:
            following = b""
            # What takes back a question that has been answered comes too late.
            if head != _TAKEN_BACK:
                if not (asked := _receive(parent, int.from_bytes(head))):
                    return
                following = _receive(parent, _LENGTH) if more.poll(0) else b""
                told = b"" if following == _TAKEN_BACK else _answer(asked, work)
                parent.sendall(_message(told))
            head = following or _receive(parent, _LENGTH)


def _receive(parent: socket.socket, size: int) -> bytes:
    """Empty where it closes instead."""
    received = parent.recv(size, socket.MSG_WAITALL)
    return received if len(received) == size else b""


def _answer(asked: bytes, work: Callable[..., Any]) -> bytes:
    found = work(pickle.loads(asked))
    return pickle.dumps([_packable(one) if isinstance(one, Exception) else one for one in found])


def _packable(error: Exception) -> Exception:
    """Not every exception can be packed, or unpacked again."""
    came_from = "".join(traceback.format_exception(error))
    # That is lost on the way to the parent.
    error.add_note(came_from)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(came_from)
    return error
