"""The port that the parent and all workers hold: how a worker takes connections from it.

The kernel takes connections for a port as long as anybody holds it, and resets those that nobody has accepted when the
last one lets go.
"""

import asyncio
import logging
import math
import socket
import struct
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

log = logging.getLogger("figureground.listener")

# A worker waits so long for each connection that it has, up to some, so that one that has fewer is faster.
_GENEROUS_SECONDS, _MOST_GENEROUS = 0.001, 10
# After an error, such as that there are too many open files.
_AGAIN_SECONDS = 1.0
# In the kernel's tcp_info, of a port: the connections that wait to be accepted.
_UNACKED = struct.Struct("24xI")


class SharedListener:
    """One that several workers take connections from; closed as an `asyncio.Server` is.

    The first to wake would take all of them. A worker takes its share of those that wait, and before that leaves a
    moment to those that have fewer: `taken` are its own, and `take` makes one of a socket.
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
        listener.setblocking(False)
        self._watch()

    def close(self) -> None:
        """Also a second time, as uvicorn does."""
        if self._listener.fileno() < 0:
            return
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        self._listener.close()

    async def wait_closed(self) -> None:
        """At once: whoever has been let in is not the listener's business."""

    def _watch(self) -> None:
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
                opening.add_done_callback(self._opened)
        except (BlockingIOError, ConnectionAbortedError):
            pass  # Another worker was faster, or the client did not wait.
        except OSError as error:
            log.error("no connection can be taken for %g s: %s", _AGAIN_SECONDS, error)
            self._pause = self._loop.call_later(_AGAIN_SECONDS, self._watch)
            return
        self._watch()

    def _opened(self, opening: asyncio.Future[None]) -> None:
        self._opening.discard(opening)
        if not opening.cancelled() and (error := opening.exception()) is not None:
            # The client has gone, or speaks no TLS where that is wanted.
            log.debug("a connection was not opened: %s", error)


def accept_all(listeners: Iterable[socket.socket]) -> list[socket.socket]:
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
