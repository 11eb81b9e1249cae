"""The BentoML service: what happens on which path."""

import asyncio
import gc
import io
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import bentoml
import orjson
from _bentoml_sdk import Service, get_current_service
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from models.backbones import ModelError
from models.comparison import Options
from models.engines import EngineError
from models.header import declared_pixels
from models.pipeline import Pipeline
from models.served import Served
from models.trial import Trial
from service import answers, connections, doors, endpoints, lifecycle, loading, logs, metrics, page, traces
from service.answering import Answered, Answering, Question
from service.background import BackgroundLoading
from service.children import Children
from service.database import Database
from service.drift import Windows
from service.journal import Journal
from service.openapi import document
from service.problems import Problems, refused
from service.requests import (
    BatchFields,
    Limits,
    PhotoFields,
    header,
    read_batch_request,
    read_photo_request,
    too_many_bytes,
    wants_png,
    while_connected,
)
from service.scheduler import Hands, Scheduler, Turn
from service.settings import Settings, settings
from service.threads import Threads
from service.workers import watch

_ROUTES = (
    *("/predict", "/predict/batch", "/feedback", "/feedback/batch", "/experiment", "/answers", "/models"),
    *("/metrics", "/livez", "/readyz", "/healthz", "/docs.json", *(route.path for route in page.ROUTES)),
)
# After so many deadlines in one job a thread is given up, and with the last one the process: /livez says so.
_STUCK_DEADLINES = 4
_COSTLY = {"OpenTelemetryMiddleware", "TimeoutMiddleware"}

Endpoint: TypeAlias = Callable[[Any, Request], Awaitable[Response]]


async def _models(request: Request) -> Response:
    described = answers.describe_served(request.app.state.served)
    return Response(orjson.dumps(described), media_type="application/json")


async def _metrics(_: Request) -> Response:
    return Response(await asyncio.to_thread(metrics.exposition), media_type=metrics.CONTENT_TYPE)


async def _readyz(_: Request) -> Response:
    """200 also with a part that is degraded: a prediction needs no journal."""
    state = pages.state
    if state.scheduler.draining:
        return Response(status_code=503)
    degraded = ["journal"] if state.journal is not None and state.journal.away else []
    return Response(orjson.dumps({"ready": True, "degraded": degraded}), media_type="application/json")


async def _docs(_: Request) -> Response:
    return Response(document(Figureground), media_type="application/json")


pages = Starlette(
    routes=[
        Route("/models", _models),
        Route("/metrics", _metrics),
        Route("/docs.json", _docs),
        Route("/feedback", endpoints.feedback, methods=["POST"]),
        Route("/feedback/batch", endpoints.feedback_batch, methods=["POST"]),
        Route("/experiment", endpoints.experiment),
        Route("/answers", endpoints.answers),
        *page.ROUTES,
    ],
    exception_handlers=dict.fromkeys(endpoints.ERRORS, endpoints.problem),
)


def _journal(chosen: Settings) -> Journal | None:
    if not chosen.journal_url:
        return None
    database = Database(chosen.journal_url)
    return Journal(
        database,
        chosen.journal_backlog,
        chosen.journal_days,
        metrics.count_journal_rows,
        metrics.journal_waiting.set,
    )


class Direct:
    """ASGI middleware: a POST to an API of the service goes to its method, which takes the request itself.

    BentoML's way there costs 0.3 ms a request: it looks up the method's signature and makes an input model of it. What
    the method raises would be answered there in BentoML's own way.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint]) -> None:
        self.app = app
        self.endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = None
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self.endpoints.get(scope["path"])
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        response = await endpoint(get_current_service(), Request(scope, receive))
        await response(scope, receive, send)


class LeanService(Service):
    """BentoML's service with its costly middlewares taken out and ours around the rest.

    Tracing costs up to 0.5 ms a request, and the timeout, which keeps a timer of every request until it would
    have fired, would compete with the deadline.
    """

    def to_asgi(self, is_main: bool = True) -> Starlette:
        app: Starlette = super().to_asgi(is_main)
        chosen = settings()
        logs.configure(chosen.log_format)
        connections.install()
        lifecycle.prepare_worker()
        ours = [
            Middleware(metrics.RequestCounter, routes=_ROUTES),
            *([Middleware(logs.AccessLog)] if chosen.access_log else []),
            *([Middleware(traces.Traces, endpoint=chosen.traces, routes=_ROUTES)] if chosen.traces else []),
            *doors.outer(chosen),
            Middleware(Problems),
            *doors.inner(chosen, [*pages.routes, *app.routes], [route.path for route in page.OPEN]),
            Middleware(Direct, endpoints={api.route: api.func for api in self.apis.values()}),
        ]
        theirs = [kept for kept in app.user_middleware if getattr(kept.cls, "__name__", "") not in _COSTLY]
        app.user_middleware = [*ours, *theirs]
        # A redirect would go to whatever the client calls our host.
        app.router.redirect_slashes = pages.router.redirect_slashes = False
        # In front of BentoML's own: one that says nothing of the parts, and a page with other things to show.
        app.router.routes[:0] = [Route("/readyz", _readyz), page.FRONT]
        return app


@bentoml.service(
    name="figureground",
    workers=settings().worker_processes,
    service_class=LeanService,
    # BentoML's own metrics have a series for every path that anyone asks for.
    metrics={"enabled": False},
    # Its access log knows no request id.
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(pages, path="/")
class Figureground:
    """Classifies a photo whole and cropped to a detected box."""

    def __init__(self) -> None:
        self.settings = settings()
        self.limits = Limits(self.settings.max_bytes, self.settings.max_batch)
        # BentoML counts its workers from 1.
        worker = (bentoml.server_context.worker_index or 1) - 1
        served = loading.load(self.settings.at_first, worker=worker)
        self.background = BackgroundLoading(self.settings, served, worker, self._describe)
        self.pipeline = Pipeline(served)
        chosen = self.settings
        self.trial = Trial(chosen.max_pixels, chosen.decode_seconds)
        self._describe(served)
        # A full collection over torch's objects takes a quarter of a second; these live as long as the process. What it
        # does not visit, a fork goes on to share.
        gc.collect()
        gc.freeze()
        # Before there are threads.
        self.hands = self._hands(served)
        self.journal = _journal(chosen)
        pages.state.served, pages.state.journal = served, self.journal
        self.scheduler = Scheduler(
            self.hands,
            chosen.max_queue,
            chosen.max_queue_pixels,
            on_depth=metrics.queue_depth.set,
            on_spread=self.background.exporting.stand_aside,
        )
        pages.state.scheduler = self.scheduler

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """In the parent: a wrong name stops the start before there are workers, started again and again."""
        lifecycle.prepare_parent()
        try:
            loading.check(settings())
        except (ModelError, EngineError) as error:
            raise SystemExit(f"figureground: {error}") from None

    @bentoml.on_startup
    async def start(self) -> None:
        lifecycle.drain_before_stopping(self.scheduler.drain, self.settings.drain_seconds)
        await self.hands.open()
        await self._warm_up()
        self.background.start()
        windows = Windows(self.settings.drift_hours, self.settings.drift_reference_hours)
        number = bentoml.server_context.worker_index or 1
        self.watching = asyncio.create_task(watch(number, self.pipeline.served, self.journal, windows))

    @bentoml.on_shutdown
    async def stop(self) -> None:
        self.watching.cancel()
        await asyncio.to_thread(self.background.close)
        await self.scheduler.close()
        await self.hands.close()
        self.trial.close()
        if self.journal is not None:
            await asyncio.to_thread(self.journal.close)
        if self.settings.traces:
            await asyncio.to_thread(traces.close, self.settings.traces)

    async def _warm_up(self) -> None:
        """Every hand answers once: each process has to find the memory that the models need, which takes its time."""
        file = io.BytesIO()
        Image.new("RGB", (320, 240), "grey").save(file, "JPEG")
        question = Question(file.getvalue(), Options(min_score=0), "warm-up")
        asked = [(question, Turn(time.perf_counter(), cores=2))] * self.hands.together
        works = [work for _ in range(self.hands.number) for work in self.hands.start(asked)]
        await asyncio.gather(*works, return_exceptions=True)

    def _hands(self, served: Served) -> Hands[Question, Answered]:
        chosen = self.settings
        answering = Answering(self.pipeline, chosen.max_pixels, self.trial, bool(chosen.journal_url))
        if not (chosen.photo_processes and served.may_be_forked):
            return Threads(answering, chosen.worker_threads)
        forked = {None, *served.load_seconds}
        return Children(
            answering, chosen.worker_threads, lambda one: {one.options.backbone, one.options.detector} <= forked
        )

    def _describe(self, served: Served) -> None:
        """Once now, and before one more of its models can be asked for: a model is described slowly only once."""
        answers.describe_served(served)
        metrics.observe_models(served)

    def __is_ready__(self) -> bool:
        return not self.scheduler.draining

    def __is_alive__(self) -> bool:
        return not self.scheduler.stuck(_STUCK_DEADLINES * self.settings.deadline_seconds)

    @bentoml.api(input_spec=PhotoFields, output_spec=dict, route="/predict")
    async def predict(self, request: Request) -> Response:
        """Classifies one photo whole and cropped to its main object."""
        deadline = self._deadline()
        self.scheduler.check()
        async with asyncio.timeout_at(deadline):
            upload = await read_photo_request(request, self.limits)
        self.pipeline.check(upload.options)
        png = wants_png(header(request, b"accept"))
        answer = self._answer(upload.photos[0], upload.options, request.state.request_id, deadline, png)
        answered = await while_connected(request, answer)
        return Response(answered.body, media_type="image/png" if png else "application/json")

    @bentoml.api(input_spec=BatchFields, output_spec=dict, route="/predict/batch")
    async def predict_batch(self, request: Request) -> Response:
        """Classifies several photos; each has an answer or an error of its own."""
        deadline = self._deadline()
        self.scheduler.check()
        async with asyncio.timeout_at(deadline):
            upload = await read_batch_request(request, self.limits)
        self.pipeline.check(upload.options)
        # A batch takes no more of the queue than it can be working on.
        gate = asyncio.Semaphore(self.settings.worker_threads)

        async def answer(number: int, photo: bytes | None) -> bytes:
            request_id = f"{request.state.request_id}-{number}"
            async with gate:
                try:
                    return (await self._answer(photo, upload.options, request_id, deadline)).body
                except Exception as error:
                    return b'{"error":' + refused(error, request_id) + b"}"

        everything = asyncio.gather(*(answer(*numbered) for numbered in enumerate(upload.photos)))
        results = await while_connected(request, everything)
        return Response(b'{"results":[' + b",".join(results) + b"]}", media_type="application/json")

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.settings.deadline_seconds

    def _pixels(self, photo: bytes) -> int:
        """What a photo counts in the queue; where its header does not say, as much as a photo may have."""
        declared = declared_pixels(photo)
        return self.settings.max_pixels if declared is None else min(declared, self.settings.max_pixels)

    def _answer(
        self, photo: bytes | None, options: Options, request_id: str, deadline: float, png: bool = False
    ) -> asyncio.Future[Answered]:
        """One photo's whole way. Raises `Problem` and `QueueFull`."""
        if photo is None:
            raise too_many_bytes(self.limits.photo_bytes)
        trace = traces.current.get()

        def record(answered: Answered) -> None:
            summary, row = answered.recorded()
            metrics.observe(summary)
            if trace is not None:
                trace.observe(summary, request_id)
            if self.journal is not None:
                self.journal.put(row)

        question = Question(photo, options, request_id, png)
        return self.scheduler.run(question, deadline, record, self._pixels(photo))
