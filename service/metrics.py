"""What Prometheus sees. Every label has a bounded set of values, and every metric is right with several workers.

With several processes prometheus_client keeps its values in files under `PROMETHEUS_MULTIPROC_DIR`, which BentoML
sets for its workers before they import this module.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

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

from service.outcomes import Outcome

CONTENT_TYPE = CONTENT_TYPE_LATEST
_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_FRACTIONS = tuple(tenths / 10 for tenths in range(1, 11))
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

requests = Counter("figureground_requests_total", "Requests answered.", ["route", "status"])
stage_seconds = Histogram("figureground_stage_seconds", "Seconds of one photo in a stage.", ["stage"], buckets=_SECONDS)
batch_size = Histogram(
    "figureground_batch_size", "Photos, or views of them, in one batch.", ["stage"], buckets=(1, 2, 4, 8, 16, 32, 64)
)
queue_depth = Gauge("figureground_queue_depth", "Photos that wait for a thread.", multiprocess_mode="livesum")
comparisons = Counter("figureground_comparisons_total", "Photos compared.", ["backbone", "detector", "outcome"])
confidence_shift = Histogram(
    "figureground_confidence_shift",
    "Top probability of the cropped photo minus that of the plain one.",
    ["backbone"],
    buckets=(-0.8, -0.6, -0.4, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1),
)
box_area_fraction = Histogram(
    "figureground_box_area_fraction",
    "Share of the photo that its first box covers.",
    ["detector"],
    buckets=_FRACTIONS,
)
box_score = Histogram("figureground_box_score", "Score of a photo's first box.", ["detector"], buckets=_FRACTIONS)
rejected = Counter("figureground_rejected_total", "Photos and requests refused.", ["reason"])
feedback = Counter("figureground_feedback_total", "True labels told, by who was right.", ["backbone", "arm", "correct"])
journal_rows = Counter("figureground_journal_rows_total", "Answers' rows in the journal, or lost to it.", ["result"])
model_loaded = Gauge(
    "figureground_model_loaded", "1 where a model can be asked for.", ["model"], multiprocess_mode="livemin"
)
model_load_seconds = Gauge(
    "figureground_model_load_seconds",
    "Seconds to load a model, in the slowest worker.",
    ["model"],
    multiprocess_mode="livemax",
)


# A rate needs a series that has been 0.
for _result in ("committed", "lost"):
    journal_rows.labels(_result)


def exposition() -> bytes:
    """All metrics of all workers in Prometheus's text format."""
    if _MULTIPROCESS not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_dead_workers() -> None:
    """Takes the gauges of workers that are no more out of the sums."""
    for file in Path(os.environ.get(_MULTIPROCESS, os.devnull)).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def count_rejected(status: int, reason: str | None = None) -> None:
    rejected.labels(reason or _REASONS.get(status, "other")).inc()


def count_feedback(backbone: str, correct: Mapping[str, bool]) -> None:
    """One label that was told; `correct` by arm."""
    for arm, right in correct.items():
        feedback.labels(backbone, arm, "true" if right else "false").inc()


def count_journal_rows(result: Literal["committed", "lost"], rows: int) -> None:
    journal_rows.labels(result).inc(rows)


def observe_models(load_seconds: Mapping[str, float]) -> None:
    for name, seconds in load_seconds.items():
        model_loaded.labels(name).set(1)
        model_load_seconds.labels(name).set(seconds)


def observe(outcome: Outcome) -> None:
    """One photo that was compared, in a batch of its own."""
    comparison = outcome.comparison
    for stage, seconds in outcome.seconds.items():
        stage_seconds.labels(stage).observe(seconds)
    batch_size.labels("detect").observe(1)
    for views in comparison.batches:
        batch_size.labels("classify").observe(views)
    comparisons.labels(comparison.backbone, comparison.detector, comparison.outcome).inc()
    if comparison.cropped is not None:
        shift = comparison.cropped.confidence - comparison.plain.confidence
        confidence_shift.labels(comparison.backbone).observe(shift)
    if comparison.box is not None:
        box_area_fraction.labels(comparison.detector).observe(comparison.box.area_fraction)
        box_score.labels(comparison.detector).observe(comparison.box.score)


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
                requests.labels(route, message["status"]).inc()
            await send(message)

        await self.app(scope, receive, counted)
