"""How the service takes connections, and how it stops: it says so, its port is closed, what was taken is finished.

The parent and all workers hold one port. The kernel takes connections for it as long as any of them does, and resets
those that nobody has accepted when the last one lets go.
"""

import asyncio
import logging
import math
import socket
import struct
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, cast

import uvicorn

from service.connections import Connection
from service.settings import settings

log = logging.getLogger("figureground.lifecycle")

# For a request that is on its way on a connection accepted last.
_ON_THE_WAY_SECONDS = 0.25
# A worker waits so long for each connection that it has, up to some, so that one that has fewer is faster.
_GENEROUS_SECONDS, _MOST_GENEROUS = 0.001, 10
# After an error, such as that there are too many open files.
_AGAIN_SECONDS = 1.0
# In the kernel's tcp_info, of a port: the connections that wait to be accepted.
_UNACKED = struct.Struct("24xI")


def prepare_parent() -> None:
    """To be called before BentoML makes the parent, which would hold the port until all workers have ended."""
    from bentoml._internal.utils import circus  # 0.1 s and 4 MB that no worker needs.

    class Parent(circus.Arbiter):
        def stop(self) -> Any:
            stopping = super().stop()
            self.sockets.close_all()
            return stopping

    circus.Arbiter = Parent


def prepare_worker() -> None:
    """To be called before BentoML makes the worker's server."""
    uvicorn.Server = _Worker  # type: ignore[misc]


def drain_before_stopping(drain: Callable[[], None], seconds: float) -> None:
    """On SIGTERM or SIGINT, this worker shall `drain` at once, and go on to answer for `seconds`."""
    _Worker.drain, _Worker.drain_seconds = staticmethod(drain), seconds


class _Worker(uvicorn.Server):
    """uvicorn's, which would close its port, and connections without a request, at once."""

    drain: Callable[[], None] = staticmethod(lambda: None)
    drain_seconds = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Of several workers each has its share of the connections, of which some last long."""
        workers = settings().worker_processes
        if workers == 1 or sockets is None:
            await super().startup(sockets)
            return
        await super().startup([])
        doors = [_Door(listener, workers, self._open, self.server_state.connections) for listener in sockets]
        # All that uvicorn does with them is to close them.
        self.servers = cast(list[asyncio.base_events.Server], doors)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.drain()
        self._close_after_answers()
        await asyncio.sleep(self.drain_seconds)
        accepted = _accept_all(sockets or [])
        for server in self.servers:
            server.close()
        opening = [asyncio.ensure_future(self._open(connection)) for connection in accepted]
        await asyncio.sleep(_ON_THE_WAY_SECONDS)
        del opening
        await super().shutdown(sockets)

    def _close_after_answers(self) -> None:
        """So that whoever asks again does it elsewhere, and not on a connection that is about to be closed."""
        self.server_state.default_headers.append((b"connection", b"close"))
        for connection in self.server_state.connections:
            if isinstance(connection, Connection):
                connection.close_after_answer()

    async def _open(self, connection: socket.socket) -> None:
        """As uvicorn does with those that the event loop accepts."""

        def protocol() -> Connection:
            return Connection(self.config, self.server_state, self.lifespan.state)

        await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=self.config.ssl)


class _Door:
    """A listener that several workers take connections from, closed as an `asyncio.Server` is.

    The first to wake would take all of them. A worker takes its share of those that wait, and before that leaves a
    moment to those that have fewer.
    """

    def __init__(
        self,
        listener: socket.socket,
        workers: int,
        take: Callable[[socket.socket], Awaitable[None]],
        taken: Collection[Any],
    ) -> None:
        self._listener, self._workers, self._take, self._taken = listener, workers, take, taken
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._opening = set[asyncio.Future[None]]()
        self._closed = False
        listener.setblocking(False)
        self._watch()

    def close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        self._listener.close()

    def _watch(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._leave_to_others)

    def _leave_to_others(self) -> None:
        self._loop.remove_reader(self._listener)
        held = len(self._taken) + len(self._opening)
        self._pause = self._loop.call_later(_GENEROUS_SECONDS * min(held, _MOST_GENEROUS), self._accept)

    def _accept(self) -> None:
        try:
            for _ in range(max(1, math.ceil(_waiting(self._listener) / self._workers))):
                opening = asyncio.ensure_future(self._take(self._listener.accept()[0]))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)
        except (BlockingIOError, ConnectionAbortedError):
            pass  # Another worker was faster, or the client did not wait.
        except OSError as error:
            log.error("no connection can be taken for %g s: %s", _AGAIN_SECONDS, error)
            self._pause = self._loop.call_later(_AGAIN_SECONDS, self._watch)
            return
        self._watch()


def _accept_all(listeners: Iterable[socket.socket]) -> list[socket.socket]:
    """The connections that wait; there is none any more when this returns."""
    accepted = []
    for listener in listeners:
        waiting = True
        while waiting:
            try:
                accepted.append(listener.accept()[0])
            except BlockingIOError:
                # While it returned, another thread may have had its turn.
                waiting = _waiting(listener) > 0
    return accepted


def _waiting(listener: socket.socket) -> int:
    """Connections that wait to be accepted; 0 where that cannot be told (it is Linux's to tell)."""
    if not hasattr(socket, "TCP_INFO"):
        return 0
    (waiting,) = _UNACKED.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size))
    return int(waiting)
