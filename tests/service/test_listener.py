"""Workers as several listeners of one port, in one event loop."""

import asyncio
import errno
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from service import listener as listeners
from service.listener import SharedListener, accept_all


class Worker:
    def __init__(self, port: socket.socket, workers: int, held: int = 0) -> None:
        self.taken: list[Any] = [None] * held
        self.listener = SharedListener(port.dup(), workers, self.take, self.taken)

    async def take(self, connection: socket.socket) -> None:
        await asyncio.sleep(0)
        self.taken.append(connection)

    def close(self) -> None:
        self.listener.close()
        for connection in filter(None, self.taken):
            connection.close()


def listening() -> socket.socket:
    port = socket.create_server(("127.0.0.1", 0))
    port.setblocking(False)
    return port


async def until(number: int, workers: list[Worker]) -> list[int]:
    async with asyncio.timeout(20):
        while sum(len(worker.taken) for worker in workers) < number:
            await asyncio.sleep(0.01)
    return [len(worker.taken) for worker in workers]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("held", [[0, 0], [12, 0], [0, 0, 0, 0]])
def test_connections_are_shared(held: list[int], at_once: bool) -> None:
    async def main(opened: ExitStack) -> list[int]:
        port = opened.enter_context(listening())
        workers = [Worker(port, len(held), has) for has in held]
        for worker in workers:
            opened.callback(worker.close)
        for number in range(24):
            opened.enter_context(socket.create_connection(port.getsockname()))
            if not at_once:
                await until(sum(held) + number + 1, workers)
        return await until(sum(held) + 24, workers)

    with ExitStack() as opened:
        shares = asyncio.run(main(opened))
    assert sum(shares) == sum(held) + 24
    # Beyond some connections nobody waits longer for having more.
    assert max(shares) - min(shares) <= (12 if any(held) else 6)


def test_after_an_error_it_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(listeners, "_AGAIN_SECONDS", 0.1)

    errors = [OSError(errno.EMFILE, "too many open files"), ConnectionAbortedError(), BlockingIOError()]

    class Full(socket.socket):
        def accept(self) -> Any:
            if errors:
                raise errors.pop(0)
            return super().accept()

    async def main(opened: ExitStack) -> None:
        port = opened.enter_context(listening())
        worker = Worker(port, 2)
        opened.callback(worker.close)
        worker.listener.close()
        worker.listener = SharedListener(Full(fileno=port.dup().detach()), 2, worker.take, worker.taken)
        opened.enter_context(socket.create_connection(port.getsockname()))
        await until(1, [worker])

    with ExitStack() as opened:
        asyncio.run(main(opened))
    assert "too many open files" in caplog.text


def test_a_connection_that_cannot_be_opened_is_no_harm() -> None:
    async def main(opened: ExitStack) -> int:
        port = opened.enter_context(listening())
        refused = 0

        async def refuse(connection: socket.socket) -> None:
            nonlocal refused
            refused += 1
            connection.close()
            raise ConnectionResetError

        shared = SharedListener(port.dup(), 2, refuse, [])
        opened.callback(shared.close)
        for number in range(3):
            opened.enter_context(socket.create_connection(port.getsockname()))
            async with asyncio.timeout(20):
                while refused <= number:
                    await asyncio.sleep(0.01)
        return refused

    with ExitStack() as opened:
        assert asyncio.run(main(opened)) == 3


def test_a_closed_one_takes_nobody() -> None:
    async def main(opened: ExitStack) -> None:
        port = opened.enter_context(listening())
        worker = Worker(port, 2)
        worker.listener.close()
        worker.listener.close()
        await worker.listener.wait_closed()
        waiting = [opened.enter_context(socket.create_connection(port.getsockname())) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert worker.taken == []
        accepted = accept_all([port])
        assert len(accepted) == len(waiting)
        for connection in accepted:
            connection.close()

    with ExitStack() as opened:
        asyncio.run(main(opened))
