"""What the metrics of one answer cost, against the whole of a photo's work.

python -m loadtests.metrics
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_RESULT = Path(__file__).parent / "results" / "metrics.json"
_MOST = 0.01


async def _answers(scope: object, receive: object, send: object) -> None:  # noqa: ARG001
    await send({"type": "http.response.start", "status": 200})  # type: ignore[operator]


async def _nowhere(message: object) -> None:
    pass


def main(
    photos: Annotated[int, typer.Option(help="Photos that are compared, one after the other.", min=10)] = 60,
    times: Annotated[int, typer.Option(help="Times that an answer is counted.", min=100)] = 20_000,
) -> None:
    """With the files that several workers share; the last line is the verdict."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        # Only now: prometheus_client looks for the variable when it is imported.
        from loadtests.photos import photos_of
        from models.catalog import DEFAULT_BACKBONES
        from models.comparison import Options
        from models.pipeline import Pipeline
        from service import loading, metrics
        from service.outcomes import outcome_of
        from service.settings import Settings

        served = loading.load(Settings(backbones=DEFAULT_BACKBONES[:1]))
        metrics.observe_models(served)
        pipeline, photo = Pipeline(served), photos_of("500x375")[0]
        work = []
        for _ in range(photos):
            start = time.perf_counter()
            outcome = outcome_of(photo, Options(), pipeline, 50_000_000)
            work.append(time.perf_counter() - start)
        counter = metrics.RequestCounter(_answers, ["/predict"])
        scope = {"type": "http", "path": "/predict"}

        async def count() -> float:
            summary = outcome.summary()
            start = time.perf_counter()
            for _ in range(times):
                metrics.queue_depth.set(1)
                metrics.queue_depth.set(0)
                metrics.observe(summary)
                metrics.journal_waiting.set(1)
                metrics.count_journal_rows("committed", 1)
                await counter(scope, None, _nowhere)  # type: ignore[arg-type]
            return (time.perf_counter() - start) / times

        cost, whole = asyncio.run(count()), statistics.median(work)
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"metrics": cost, "photo": whole, "ratio": cost / whole}, indent=1))
    Console().print(f"a photo: {whole * 1e3:.1f} ms; its metrics: {cost * 1e6:.0f} µs")
    told = f"the metrics cost {cost / whole:.2%} of a photo's work"
    if cost / whole > _MOST:
        raise SystemExit(f"FAILED: {told}")
    print(f"PASSED: {told}")


if __name__ == "__main__":
    typer.run(main)
