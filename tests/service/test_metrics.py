from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY, Histogram
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from models.batching import BatchingEngine
from models.comparison import Options
from models.photo import Photo
from models.pipeline import Pipeline
from models.served import Served
from service import metrics
from service.outcomes import Outcome


async def _hello(_: Request) -> Response:
    return PlainTextResponse("hello")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"figureground_{name}", labels) or 0.0


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [("/hello", "/hello", "200"), ("/hello/", "other", "307"), ("/x", "other", "404"), ("/%00", "other", "404")],
)
def test_unknown_paths_are_one_route(path: str, route: str, status: str) -> None:
    app = metrics.RequestCounter(Starlette(routes=[Route("/hello", _hello)]), routes=["/hello"])
    before = value("requests_total", route=route, status=status)
    TestClient(app, follow_redirects=False).get(path)
    assert value("requests_total", route=route, status=status) == before + 1


def test_a_histogram_is_the_librarys() -> None:
    buckets = (-0.5, 0, 0.1, 1)
    ours, theirs = (
        kind("figureground_test", "", ["label"], buckets=buckets, registry=None)
        for kind in (metrics._Histogram, Histogram)
    )
    for value in (-np.inf, -1, -0.5, -0.1, 0, 0.05, 0.1, 0.5, 1, 1.5, np.inf):
        for one in (ours, theirs):
            one.labels("a").observe(value)
    (found,), (expected,) = ours.collect(), theirs.collect()
    assert [(one.labels, one.value) for one in found.samples if one.name.endswith("bucket")] == [
        (one.labels, one.value) for one in expected.samples if one.name.endswith("bucket")
    ]


def test_one_comparison_is_observed(served: Served, samples: dict[str, Photo]) -> None:
    options = Options(backbone=None)
    comparison = Pipeline(served).compare(samples["chelsea"], options)
    labels = {"backbone": comparison.backbone, "detector": comparison.detector, "outcome": comparison.outcome}
    before = value("comparisons_total", **labels)
    metrics.observe(Outcome(samples["chelsea"], comparison, options, {"total": 0.1}).summary())
    assert value("comparisons_total", **labels) == before + 1
    assert value("box_score_count", detector=comparison.detector) >= 1
    assert value("stage_seconds_count", stage="total") >= 1


def test_a_given_box_says_nothing_of_the_detector(served: Served, samples: dict[str, Photo]) -> None:
    options = Options(box=(10, 10, 100, 100))
    comparison = Pipeline(served).compare(samples["chelsea"], options)
    labels = {"backbone": comparison.backbone, "detector": comparison.detector, "outcome": comparison.outcome}
    before = value("comparisons_total", **labels), value("stage_seconds_count", stage="total")
    metrics.observe(Outcome(samples["chelsea"], comparison, options, {"total": 0.1}).summary())
    after = value("comparisons_total", **labels), value("stage_seconds_count", stage="total")
    assert after == (before[0], before[1] + 1)


def batches(stage: str) -> tuple[float, float]:
    """How many there were, and their sizes together."""
    return value("batch_size_count", stage=stage), value("batch_size_sum", stage=stage)


def gained(before: tuple[float, float], stage: str) -> tuple[float, float]:
    return batches(stage)[0] - before[0], batches(stage)[1] - before[1]


@pytest.mark.parametrize(("box", "detected"), [(None, (1, 1)), ((10, 10, 100, 100), (0, 0))])
def test_a_photo_is_a_batch_of_its_own_on_a_cpu(
    box: Any, detected: tuple[int, int], served: Served, samples: dict[str, Photo]
) -> None:
    options = Options(box=box)
    comparison = Pipeline(served).compare(samples["chelsea"], options)
    detect, classify = batches("detect"), batches("classify")
    metrics.observe(Outcome(samples["chelsea"], comparison, options, {"total": 0.1}).summary())
    assert gained(detect, "detect") == detected
    assert gained(classify, "classify") == (len(views := comparison.batches["classify"]), sum(views))


def test_an_engine_that_batches_tells_of_its_batches(
    served: Served, samples: dict[str, Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_batching", set())
    (name, classifier), *_ = served.backbones.items()
    engine = BatchingEngine(classifier.engine, 32)
    batching = replace(served, backbones={name: replace(classifier, engine=engine)})
    metrics.observe_models(batching)
    comparison = Pipeline(batching).compare(samples["chelsea"], Options())
    classify = batches("classify")
    engine.run(np.zeros((3, 224, 224, 3), np.uint8))
    metrics.observe(Outcome(samples["chelsea"], comparison, Options(), {"total": 0.1}).summary())
    assert gained(classify, "classify") == (1, 3)


def test_reasons_are_bounded() -> None:
    for status in (400, 418, 451, 500):
        metrics.count_rejected(status)
    assert value("rejected_total", reason="unreadable") >= 1
    assert value("rejected_total", reason="other") >= 3
    assert b"figureground_rejected_total" in metrics.exposition()
