"""Every error as `application/problem+json` (RFC 9457), on every path, made in this one place."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus

import orjson
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.photo import PhotoError, TooManyPixels, UnservedFormat
from models.pipeline import BoxOutsidePhoto
from models.served import NotYetLoaded, UnservedChoice
from models.trial import NoTrial
from service import logs, metrics
from service.database import DatabaseAway
from service.scheduler import DeadlinePassed, Draining, HandLost, QueueFull

log = logging.getLogger("figureground.problems")

MEDIA_TYPE = "application/problem+json"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# What a client shall be told of a 503 that says nothing of its own, in seconds.
_RETRY_AFTER = 5
# Headers of somebody else's error response that its problem keeps.
_KEPT_HEADERS = (b"allow", b"retry-after", b"www-authenticate")
_DETAILS = {
    404: "There is nothing at this path; /docs.json lists the paths.",
    405: "The path has not this method; the header Allow lists those that it has.",
    500: "The service failed; its log says why.",
    503: "The service is not ready, or is stopping; try again in a moment.",
}
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (TooManyPixels, 413),
    (UnservedFormat, 415),
    (PhotoError, 400),
    (UnservedChoice, 422),
    (BoxOutsidePhoto, 422),
    (ClientDisconnect, 400),
    (DeadlinePassed, 504),
    (TimeoutError, 504),
)


def _ids() -> Iterator[str]:
    while True:
        # Asking the system for every one would each time let another thread have the interpreter.
        several = os.urandom(256 * 16).hex()
        yield from (several[start : start + 32] for start in range(0, len(several), 32))


_fresh_ids = _ids()


def fresh_request_id() -> str:
    """128 random bits in hexadecimal, which nobody can guess. For the event loop's thread alone."""
    return next(_fresh_ids)


class Problem(Exception):
    """An error as the client is told it; the title is the status's own, `reason` the metric's unless the status's."""

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, reason: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> bytes:
        return orjson.dumps(
            {
                "type": "about:blank",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.detail,
                "request_id": request_id,
            }
        )


def as_problem(error: Exception) -> Problem:
    """What a client is told of any error; one that no one foresaw is logged and says nothing of itself."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ValidationError):
        return Problem(422, _described(error))
    if isinstance(error, QueueFull):
        return Problem(429, str(error), {"Retry-After": str(error.retry_after)})
    if isinstance(error, (Draining, DatabaseAway, NotYetLoaded, NoTrial, HandLost)):
        reason = "process_lost" if isinstance(error, HandLost) else None
        return Problem(503, str(error), {"Retry-After": str(_RETRY_AFTER)}, reason)
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return Problem(status, str(error) or HTTPStatus(status).phrase)
    log.error("unforeseen error", exc_info=error)
    return Problem(500, _DETAILS[500])


def refused(error: Exception, request_id: str) -> bytes:
    """The problem's body, counted among the rejected."""
    problem = as_problem(error)
    metrics.count_rejected(problem.status, problem.reason)
    return problem.body(request_id)


class Problems:
    """ASGI middleware: `X-Request-ID` on every answer, and every error response a problem.

    A client's own `X-Request-ID` is taken over where it is sane. Endpoints find it in `request.state.request_id`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        logs.request_id.set(request_id)
        answer = _Answer(send, request_id)
        try:
            await self.app(scope, receive, answer.send)
        except Exception as error:
            await answer.fail(error)


class _Answer:
    """What goes out to one request."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._started = self._replaced = False

    async def send(self, message: Message) -> None:
        if message["type"] != "http.response.start":
            if not self._replaced:
                await self._send(message)
            return
        headers = list(message.get("headers", ()))
        if message["status"] >= 400 and (b"content-type", MEDIA_TYPE.encode()) not in headers:
            kept = {key.decode().lower(): value.decode() for key, value in headers if key.lower() in _KEPT_HEADERS}
            await self._replace(_problem_of(message["status"], kept))
            return
        self._started = True
        await self._send({**message, "headers": [*headers, (b"x-request-id", self._request_id.encode())]})

    async def fail(self, error: Exception) -> None:
        """An exception that nobody turned into a response; one that came too late can only be logged."""
        if self._started:
            log.error("failed after the answer had begun", exc_info=error)
        elif not self._replaced:
            await self._replace(as_problem(error))

    async def _replace(self, problem: Problem) -> None:
        self._replaced = True
        body = refused(problem, self._request_id)
        headers = {
            **problem.headers,
            "Content-Type": MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "X-Request-ID": self._request_id,
        }
        raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
        await self._send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body})


def _problem_of(status: int, headers: Mapping[str, str]) -> Problem:
    """Of an error response that somebody else made; what it says stays inside."""
    if status == 503:
        headers = {"retry-after": str(_RETRY_AFTER), **headers}
    return Problem(status, _DETAILS.get(status, HTTPStatus(status).phrase), headers)


def _request_id(scope: Scope) -> str:
    for key, value in scope["headers"]:
        if key == b"x-request-id":
            found: str = value.decode("latin-1")
            if _SANE_ID.fullmatch(found):
                return found
    return fresh_request_id()


def _described(error: ValidationError) -> str:
    """The first three faults of the options, each with its name."""
    faults = []
    for fault in error.errors(include_url=False, include_input=False)[:3]:
        name = ".".join(str(part) for part in fault["loc"])[:100]
        known = fault["type"] != "extra_forbidden"
        faults.append(f"{name}: {fault['msg']}" if known else f"{name!r} is no option")
    return "; ".join(faults) + "."
