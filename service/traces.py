"""Spans for OpenTelemetry: one a request, in the trace of whoever asked; beneath it one a photo, and one a stage.

Off, it costs nothing and imports nothing. Spans go out in a thread of its own; what finds no room or no receiver is
dropped. The SDK's own variables hold (`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, `OTEL_BSP_...`).
"""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.outcomes import Summary

# In the order in which a photo goes through them. Crops are made and classified in turns: a span tells how long in all.
_STAGES = ("queue", "decode", "detect", "crop", "classify")
_ERRORS_FROM = 500


@dataclass(frozen=True, slots=True)
class Trace:
    """Where the spans of one request's photos belong."""

    tracer: Any
    context: Any

    def observe(self, photo: Summary, request_id: str) -> None:
        """One photo that was compared."""
        from opentelemetry.trace import set_span_in_context

        start = photo.ended_ns - round(photo.seconds["total"] * 1e9)
        attributes = {
            "figureground.request_id": request_id,
            "figureground.backbone": photo.backbone,
            "figureground.detector": photo.detector,
            "figureground.outcome": photo.outcome,
        }
        whole = self.tracer.start_span("photo", self.context, attributes=attributes, start_time=start)
        within = set_span_in_context(whole, self.context)
        for stage in _STAGES:
            span = self.tracer.start_span(stage, within, start_time=start)
            start += round(photo.seconds[stage] * 1e9)
            span.end(start)
        whole.end(photo.ended_ns)


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""Of the request that is being answered; None where traces are off."""


@cache
def _provider(endpoint: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "figureground"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider


def close(endpoint: str) -> None:
    """Sends what was not sent yet. A worker that is told to stop ends by the signal, which leaves no other occasion."""
    _provider(endpoint).shutdown()


class Traces:
    """ASGI middleware: a span of every request. A path that is none of `routes` is "other"."""

    def __init__(self, app: ASGIApp, endpoint: str, routes: Iterable[str]) -> None:
        self.app = app
        self.routes = frozenset(routes)
        self._tracer = _provider(endpoint).get_tracer("figureground")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        route = scope["path"] if scope["path"] in self.routes else "other"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        asked_by = TraceContextTextMapPropagator().extract(headers)
        attributes = {"http.request.method": scope["method"], "http.route": route}
        span = self._tracer.start_span(
            f"{scope['method']} {route}", asked_by, kind=SpanKind.SERVER, attributes=attributes
        )

        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= _ERRORS_FROM:
                    span.set_status(Status(StatusCode.ERROR))
            await send(message)

        current.set(Trace(self._tracer, set_span_in_context(span, asked_by)))
        try:
            await self.app(scope, receive, seen)
        finally:
            span.end()
