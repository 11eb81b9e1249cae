"""How long the running comparison takes over a journal of a million answers, with SQLite and with PostgreSQL.

python -m loadtests.experiment
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, event, insert, text

from loadtests.postgresql import databases
from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS
from service.database import Database
from service.drift import Windows, drift
from service.experiment import Asked, count, experiment
from service.rows import DAY, HOUR, SUMS, Answer, Key, Row, spread_keys, tally_keys

_RESULT = Path(__file__).parent / "results" / "experiment.json"
_GROUP = 20_000
_START = 490_000 * HOUR
_WINDOWS = Windows(24, 168)
_OUTCOMES = ("agree", "disagree", "no_detection", "covers_image")


def rows(number: int, days: int = 30) -> Iterator[Row]:
    """Answers over so many days, from all three backbones; a fifth of them labelled."""
    random = np.random.default_rng(0)
    times = np.sort(random.integers(days * DAY, size=number)) + _START
    outcomes = random.choice(4, number, p=(0.7, 0.2, 0.08, 0.02))
    backbones = random.integers(3, size=number)
    truths = np.where(random.random(number) < 0.2, random.integers(8, size=number), -1)
    areas, confidences = random.random(number), random.random(number)
    probabilities = {f"{arm}_probability": 0.5 for arm in ("plain", "combined")}
    timings = {f"{stage}_ms": 9.0 for stage in ("decode", "queue", "detect", "crop", "classify", "total")}
    same = {
        **{f"{arm}_wnid": "n02123045" for arm in ("plain", "cropped", "combined")},
        **probabilities,
        **timings,
        **{f"box_{name}": 0.5 for name in ("x1", "y1", "x2", "y2", "score")},
        "backbone_sha256": "0" * 64,
        "detector_sha256": "0" * 64,
        "photo_sha256": "0" * 64,
        "label_space": "imagenet-1k",
        "box_policy": "rescored",
        "arms": None,
        "width": 640,
        "height": 480,
    }
    for one in range(number):
        truth = int(truths[one])
        yield {
            **same,
            "request_id": random.bytes(16).hex(),
            "answered_us": int(times[one]),
            "backbone": DEFAULT_BACKBONES[backbones[one]],
            "detector": DEFAULT_DETECTORS[0],
            "box_area": float(areas[one]),
            "cropped_probability": float(confidences[one]),
            "outcome": _OUTCOMES[outcomes[one]],
            "truth": truth,
            "truth_wnid": None if truth < 0 else "n02123045",
        }


def fill(database: Database, number: int, days: int) -> None:
    """Faster than the journal would: the sums are written once, at the end."""
    sums: Counter[Key] = Counter()
    source = rows(number, days)
    while group := [row for row, _ in zip(source, range(_GROUP), strict=False)]:
        sums.update(key for row in group for key in [*tally_keys(row), *spread_keys(row)])
        with database.writing() as connection:
            connection.execute(insert(Answer), group)
    with database.writing() as connection:
        for kind, table in SUMS.items():
            of_kind = [{**key._asdict(), "answers": one} for key, one in sums.items() if isinstance(key, kind)]
            connection.execute(insert(table), of_kind)
    if database.url.get_backend_name() == "postgresql":
        with database.writing() as connection:
            connection.execute(text("ANALYZE"))


def plan(connection: Connection, asked: Asked) -> list[str]:
    """What the database says of how it answers each statement."""
    explain = "EXPLAIN (COSTS OFF) " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    statements: list[tuple[str, object]] = []
    event.listen(connection, "before_cursor_execute", lambda *call: statements.append((call[2], call[3])))
    count(connection, asked)
    drift(connection, asked.until or 0, _WINDOWS)
    found = [connection.exec_driver_sql(explain + one, bound) for one, bound in list(statements)]  # type: ignore[arg-type]
    return [str(line[-1]) for one in found for line in one]


def measure(database: Database, asked: Asked, times: int = 15) -> float:
    """The median, in milliseconds."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        experiment(database, asked, _WINDOWS)
        took.append((time.perf_counter() - start) * 1000)
    return statistics.median(took)


def main(
    number: Annotated[int, typer.Option("--rows", help="Answers in the journal.")] = 1_000_000,
    days: Annotated[int, typer.Option(help="In which they were given.", min=1)] = 30,
) -> None:
    """GET /experiment's own work with its drift, without HTTP; once for a time that begins and ends within an hour."""
    console = Console()
    end = _START + days * DAY
    ranges = {"all": Asked(until=end), "hours cut": Asked(_START + HOUR // 2, end - HOUR // 2)}
    table = Table("database", *(f"{name} (ms)" for name in ranges))
    result: dict[str, dict[str, float]] = {}
    told = []
    with databases() as urls:
        for name, url in urls.items():
            database = Database(url)
            fill(database, number, days)
            result[name] = {chosen: measure(database, asked) for chosen, asked in ranges.items()}
            told.append([experiment(database, asked, _WINDOWS) for asked in ranges.values()])
            table.add_row(name, *(f"{one:.1f}" for one in result[name].values()))
            with database.reading() as connection:
                console.print(f"[bold]{name}, hours cut[/bold]", *plan(connection, ranges["hours cut"]), sep="\n  ")
            database.close()
    _RESULT.parent.mkdir(parents=True, exist_ok=True)
    _RESULT.write_text(json.dumps({"rows": number, "days": days, "milliseconds": result}, indent=2))
    console.print(table)
    if any(other != told[0] for other in told):
        raise SystemExit("FAILED: the databases tell different things")


if __name__ == "__main__":
    typer.run(main)
