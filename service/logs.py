"""What is logged, and how: a request's id on every line, never a photo, a query or a key."""

import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

access = logging.getLogger("figureground.access")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is being answered."""

# What a client chose is cut off there, in characters.
_MAX_PATH = 200


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00+0000 INFO figureground.access: GET /models 200 ... request_id=...`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        fields = {**getattr(record, "fields", {}), "request_id": _request_id(record)}
        told = "".join(f" {name}={value}" for name, value in fields.items() if value is not None)
        return super().formatMessage(record) + told


class JsonFormatter(logging.Formatter):
    """One object a line: `time` in seconds since 1970, `level`, `logger`, `message`, `request_id`, and what else."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": record.created,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": _request_id(record),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class AccessLog:
    """ASGI middleware: one line a request, once it has been answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status, sent = 0, 0

        async def seen(message: Message) -> None:
            nonlocal status, sent
            status = message.get("status", status)
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, seen)
        finally:
            state = scope.get("state", {})
            fields = {
                "method": scope["method"],
                # As it came, percent-encoded: a line feed in it makes no line.
                "path": scope.get("raw_path", b"").decode("latin-1")[:_MAX_PATH],
                "status": status,
                "ms": round((time.perf_counter() - start) * 1000, 1),
                "bytes": sent,
                "api_key": state.get("api_key"),
                "request_id": state.get("request_id"),
            }
            access.info("answered", extra={"fields": fields})


def configure(style: str) -> None:
    """Gives this process's handlers the formatter of `style`, "text" or "json", after BentoML has set them up."""
    formatter = JsonFormatter() if style == "json" else TextFormatter()
    for handler in set(_handlers()):
        handler.setFormatter(formatter)
    logging.getLogger("figureground").setLevel(logging.INFO)
    # They tell of every request and photo that cannot be read, so that a client could fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _handlers() -> Iterator[logging.Handler]:
    for name in ("", "bentoml", "uvicorn.error", "circus"):
        yield from logging.getLogger(name).handlers


def _request_id(record: logging.LogRecord) -> str | None:
    fields: dict[str, str] = getattr(record, "fields", {})
    return fields.get("request_id") or request_id.get()
