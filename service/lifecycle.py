"""How the service stops: it says so first, then its port is closed, then what was taken is finished."""

import asyncio
import faulthandler
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any, cast

import uvicorn

from service.connections import Connection
from service.listener import SharedListener, accept_all
from service.settings import settings

log = logging.getLogger("figureground.lifecycle")

# For a request that is on its way on a connection accepted last.
_ON_THE_WAY_SECONDS = 0.25


def prepare_parent() -> None:
    """To be called before BentoML makes the parent, which would hold the port until all workers have ended."""
    from bentoml._internal.utils import circus  # 0.1 s and 4 MB that no worker needs.

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    class Parent(circus.Arbiter):
        def start(self, cb: Callable[[Any], Any] | None = None) -> None:
            for watcher in self.iter_watchers():
                watcher.hooks["after_reap"] = _tell_of_an_end
            # Its own way is to replace all workers, and to live on without the terminal that it was started in.
            if ignored:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            else:
                self.ctrl.sys_hdl.handle_hup = self.ctrl.sys_hdl.quit
            super().start(cb)

        def stop(self) -> Any:
            stopping = super().stop()
            self.sockets.close_all()
            return stopping

    circus.Arbiter = Parent


def prepare_worker() -> None:
    """To be called before BentoML makes the worker's server."""
    uvicorn.Server = _Worker  # type: ignore[misc]
    # A terminal that closes tells all of its processes; what is to be done the parent tells.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Of a driver, say: a process that is ended so would tell nobody.
    faulthandler.enable()


def drain_before_stopping(drain: Callable[[], None], seconds: float) -> None:
    """On SIGTERM or SIGINT, this worker shall `drain` at once, and go on to answer for `seconds`."""
    _Worker.drain, _Worker.drain_seconds = staticmethod(drain), seconds


def _tell_of_an_end(watcher: Any, process_pid: int, exit_code: int | None, **_: object) -> None:
    """A worker that is not asked to stop is replaced, for ever, and without a word."""
    if watcher.is_stopping() or watcher.is_stopped():
        return
    how = f"by {signal.Signals(-exit_code).name}" if exit_code and exit_code < 0 else f"with exit code {exit_code}"
    log.error("the worker process %d has ended, %s; another takes its place", process_pid, how)


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
        shared = [SharedListener(listener, workers, self._open, self.server_state.connections) for listener in sockets]
        # All that uvicorn does with them is to close them, and to wait until they are closed.
        self.servers = cast(list[asyncio.base_events.Server], shared)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.drain()
        self._close_after_answers()
        await asyncio.sleep(self.drain_seconds)
        accepted = accept_all(sockets or [])
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
