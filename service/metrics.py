"""What Prometheus sees. Every label has a bounded set of values, and every metric is right with several workers.

With several processes prometheus_client keeps its values in files under `PROMETHEUS_MULTIPROC_DIR`, which BentoML
sets for its workers before they import this module. It has no exemplars then, and no metrics of the process: those are
`service.workers`'.
"""

import math
import os
import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.batching import BatchingEngine
from models.comparison import OUTCOMES
from models.served import Served
from service.outcomes import Summary
from service.rows import MEASURES

CONTENT_TYPE = CONTENT_TYPE_LATEST
_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
# Finest from 5 to 100 ms, where the stages of an idle machine are (`python -m loadtests.pipeline`).
_MILLISECONDS = (1, 2.5, 5, 7.5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 250, 500, 1000, 2500, 5000, 10_000, 30_000)
_SECONDS = tuple(milliseconds / 1000 for milliseconds in _MILLISECONDS)
_FRACTIONS = MEASURES["box_area_fraction"]
_REASONS = {
    400: "unreadable",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "slow_head",
    413: "too_large",
    415: "unserved_type",
    422: "invalid_option",
    429: "queue_full",
    431: "large_head",
    503: "not_ready",
    504: "deadline",
}


class _Histogram(Histogram):
    """The library's, which looks for a bucket in Python, one after the other: a quarter of what counting takes."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:  # noqa: ARG002
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


requests = Counter("figureground_requests_total", "Requests answered.", ["route", "status"])
stage_seconds = _Histogram(
    "figureground_stage_seconds", "Seconds of one photo in a stage.", ["stage"], buckets=_SECONDS
)
batch_size = _Histogram(
    "figureground_batch_size", "Photos, or views of them, in one batch.", ["stage"], buckets=(1, 2, 4, 8, 16, 32, 64)
)
queue_depth = Gauge("figureground_queue_depth", "Photos that wait for their turn.", multiprocess_mode="livesum")
comparisons = Counter("figureground_comparisons_total", "Photos compared.", ["backbone", "detector", "outcome"])
confidence_shift = _Histogram(
    "figureground_confidence_shift",
    "Top probability of the cropped photo minus that of the plain one.",
    ["backbone"],
    buckets=MEASURES["confidence_shift"],
)
box_area_fraction = _Histogram(
    "figureground_box_area_fraction",
    "Share of the photo that its first box covers.",
    ["detector"],
    buckets=_FRACTIONS,
)
box_score = _Histogram("figureground_box_score", "Score of a photo's first box.", ["detector"], buckets=_FRACTIONS)
rejected = Counter("figureground_rejected_total", "Photos and requests refused.", ["reason"])
feedback = Counter("figureground_feedback_total", "True labels told, by who was right.", ["backbone", "arm", "correct"])
journal_rows = Counter("figureground_journal_rows_total", "Answers' rows in the journal, or lost to it.", ["result"])
journal_waiting = Gauge(
    "figureground_journal_waiting_rows", "Rows that wait for the journal's database.", multiprocess_mode="livesum"
)
drift = Gauge(
    "figureground_drift",
    "Population stability index of the latest answers against the reference.",
    ["backbone", "measure"],
    multiprocess_mode="livemostrecent",
)
# A worker that takes the place of another has its number.
worker_memory = Gauge(
    "figureground_worker_memory_bytes",
    "Memory of a worker and its processes, what they share counted once.",
    ["worker"],
    multiprocess_mode="livemostrecent",
)
worker_files = Gauge("figureground_worker_open_files", "Open files.", ["worker"], multiprocess_mode="livemostrecent")
worker_start = Gauge(
    "figureground_worker_start_time_seconds",
    "When it began, since 1970.",
    ["worker"],
    multiprocess_mode="livemostrecent",
)
worker_cpu = Counter(
    "figureground_worker_cpu_seconds_total",
    "Processor time of a worker and its processes, user and system.",
    ["worker"],
)
gpu_memory = Gauge(
    "figureground_gpu_memory_bytes",
    "Memory of a GPU that models run on, used by whomever, and in total.",
    ["device", "kind"],
    multiprocess_mode="livemostrecent",
)
model_loaded = Gauge(
    "figureground_model_loaded", "1 where a model can be asked for.", ["model"], multiprocess_mode="livemin"
)
model_load_seconds = Gauge(
    "figureground_model_load_seconds",
    "Seconds to load a model, in the slowest worker.",
    ["model"],
    multiprocess_mode="livemax",
)


M = TypeVar("M", Counter, Gauge, Histogram)
_children: dict[tuple[Any, tuple[str, ...]], Any] = {}
# The models whose engine makes batches of several calls.
_batching: set[str] = set()


def labelled(metric: M, *labels: str) -> M:
    """`metric.labels(*labels)`, remembered: the metric itself takes a lock and checks the labels at every call."""
    child: M | None = _children.get((metric, labels))
    if child is None:
        child = _children[metric, labels] = metric.labels(*labels)
    return child


# A rate needs a series that has been 0.
for _result in ("committed", "lost"):
    journal_rows.labels(_result)


def exposition() -> bytes:
    """All metrics of all workers in Prometheus's text format."""
    if _MULTIPROCESS not in os.environ:
        return generate_latest(REGISTRY)
    forget_dead_workers()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_dead_workers() -> None:
    """Takes the gauges of workers that are no more out of the sums."""
    for file in Path(os.environ.get(_MULTIPROCESS, os.devnull)).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():
            # Another worker may be at it too.
            with suppress(FileNotFoundError):
                mark_process_dead(pid)  # type: ignore[no-untyped-call]


def rows_that_wait() -> float:
    """In all workers of this service; infinitely many where that cannot be told.

    Those of a worker that was killed are counted until somebody looks at the metrics.
    """
    name = "figureground_journal_waiting_rows"
    if _MULTIPROCESS not in os.environ:
        return REGISTRY.get_sample_value(name) or 0.0
    files = map(str, Path(os.environ[_MULTIPROCESS]).glob("gauge_livesum_*.db"))
    try:
        merged = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, struct.error):  # A worker that begins has made its file, and not filled it.
        return math.inf
    return float(sum(sample.value for metric in merged if metric.name == name for sample in metric.samples))


def count_rejected(status: int, reason: str | None = None) -> None:
    rejected.labels(reason or _REASONS.get(status, "other")).inc()


def count_feedback(backbone: str, correct: Mapping[str, bool]) -> None:
    """One label that was told; `correct` by arm."""
    for arm, right in correct.items():
        # Both series are there from the first label on: a share needs a 0 as well.
        feedback.labels(backbone, arm, "true").inc(right)
        feedback.labels(backbone, arm, "false").inc(not right)


def count_journal_rows(result: Literal["committed", "lost"], rows: int) -> None:
    journal_rows.labels(result).inc(rows)


def observe_models(served: Served) -> None:
    """Whenever one more was loaded."""
    for name in served.awaited:
        model_loaded.labels(name).set(0)
    for name, seconds in served.load_seconds.items():
        model_loaded.labels(name).set(1)
        model_load_seconds.labels(name).set(seconds)
    for name, stage, engine in (
        *((name, "detect", loaded.engine) for name, loaded in served.detectors.items()),
        *((name, "classify", loaded.engine) for name, loaded in served.backbones.items()),
    ):
        if isinstance(engine, BatchingEngine):
            _batching.add(name)
            engine.on_batch = labelled(batch_size, stage).observe
    for pair in product(served.backbones, served.detectors, OUTCOMES):
        comparisons.labels(*pair)


def observe(photo: Summary) -> None:
    """One photo that was compared."""
    for stage, seconds in photo.seconds.items():
        labelled(stage_seconds, stage).observe(seconds)
    for stage, sizes in photo.batches.items():
        # An engine that makes batches of several photos' views tells of them itself.
        if (photo.detector if stage == "detect" else photo.backbone) not in _batching:
            for size in sizes:
                labelled(batch_size, stage).observe(size)
    if photo.given_box:
        return  # A box that somebody gave says nothing of the detector.
    labelled(comparisons, photo.backbone, photo.detector, photo.outcome).inc()
    if photo.shift is not None:
        labelled(confidence_shift, photo.backbone).observe(photo.shift)
    if photo.box_area is not None and photo.box_score is not None:
        labelled(box_area_fraction, photo.detector).observe(photo.box_area)
        labelled(box_score, photo.detector).observe(photo.box_score)


class RequestCounter:
    """ASGI middleware: counts the answers by route and status; a path that is none of `routes` is "other"."""

    def __init__(self, app: ASGIApp, routes: Iterable[str]) -> None:
        self.app = app
        self.routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self.routes else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                labelled(requests, route, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)
