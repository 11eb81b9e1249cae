"""uvicorn's HTTP connection with what it lacks: bounds for heads, slow clients cut off, and our shape of errors."""

import asyncio
from typing import Any

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service import metrics
from service.problems import MEDIA_TYPE, Problem, fresh_request_id, refused
from service.settings import settings

MAX_HEAD = 32 * 1024
"""Bytes of a request line and its headers."""
MAX_HEADERS = 100

# What a worker that is about to stop, or whose threads are busy, may add to the deadline before it answers, in seconds.
_GRACE_SECONDS = 5


def install() -> None:
    """To be called before uvicorn makes its configuration, of which BentoML passes on only a part."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:Connection"


class Connection(HttpToolsProtocol):
    """A fault of HTTP itself is answered here with a problem, and the connection closed.

    Bytes that are no body (heads, trailers, the framing of chunks) are counted as they arrive. Nothing is ever
    upgraded to another protocol. Endpoints find in `request.state.client_left` a future that is done when the
    connection is lost: waiting for the message `http.disconnect` would take a task a request.
    """

    _timer: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _fault: Problem | None = None
    _in_head = _in_body = False
    _head = _beside = _body = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._client_left: asyncio.Future[None] = self.loop.create_future()
        # Ours is another one; this one would have its line made up, to be thrown away.
        self.access_log = False
        most = settings().max_connections
        if len(self.connections) > most:
            self._refuse(Problem(503, f"There are {most} connections already; try again.", {"Retry-After": "5"}))
        else:
            self._arm(settings().head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.resume_writing()
        self._client_left.set_result(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._beside += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._beside > MAX_HEAD + self._body:
            self._refuse(_too_large())
        elif self._timer is None:
            self._wait_for_the_rest()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["client_left"] = self._client_left
        self._in_head, self._in_body = True, False
        self._head = self._beside = self._body = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # A trailer: the request has been handed on without it.
            return
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError
        self._in_head, self._in_body = False, True
        self._disarm()
        super().on_headers_complete()
        # Its task has not begun yet.
        self.cycle.transport = _Answering(self.cycle)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        self._beside -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._disarm()
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writing is None:
            seconds = settings().deadline_seconds + _GRACE_SECONDS
            self._writing = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    def close_after_answer(self) -> None:
        """A connection that waits for no answer stays open for one more."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Called for whatever the parser, or a callback above, raises."""
        self._refuse(self._fault or Problem(400, "This is no HTTP/1.1 request that can be read."))

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """Says nothing: a client could fill the log with it."""

    def _count(self, size: int) -> None:
        """One read may bring more than a head; how much of it is one is known here first."""
        self._head += size
        if self._head > MAX_HEAD or len(self.headers) == MAX_HEADERS:
            self._fault = _too_large()
            raise self._fault

    def _wait_for_the_rest(self) -> None:
        """Of a request that has not come whole in one piece, as most do."""
        if self._in_body:
            self._arm(settings().deadline_seconds + _GRACE_SECONDS)
        elif self._in_head or self.cycle is None or self.cycle.response_complete:
            self._arm(settings().head_seconds)

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._timed_out)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(Problem(408, f"The head of the request took more than {settings().head_seconds:g} s."))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answers where no answer has begun, and closes."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            request_id = fresh_request_id()
            body = refused(problem, request_id)
            metrics.requests.labels("other", problem.status).inc()
            headers = {
                "Content-Type": MEDIA_TYPE,
                "Content-Length": str(len(body)),
                "X-Request-ID": request_id,
                "Connection": "close",
                **problem.headers,
            }
            lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
            self.transport.write(STATUS_LINE[problem.status] + lines + b"\r\n" + body)
        self.transport.close()


class _Answering:
    """The transport as one answer sees it: the head waits for the body's first bytes, and goes out with them."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle, self._transport = cycle, cycle.transport
        self._head = b""
        # No body follows the head of an answer to HEAD.
        self._began = cycle.scope["method"] == "HEAD"

    def write(self, data: bytes) -> None:
        # What comes before the answer is a "100 Continue".
        if self._cycle.response_started and not self._began:
            self._began, self._head = True, data
            return
        self._transport.write(self._head + data if self._head else data)
        self._head = b""

    def is_closing(self) -> bool:
        closing: bool = self._transport.is_closing()
        return closing

    def close(self) -> None:
        """Also where an answer fails after it began."""
        self.write(b"")
        self._transport.close()


def _too_large() -> Problem:
    return Problem(431, f"The head of a request may have {MAX_HEAD} bytes and {MAX_HEADERS} headers.")
