"""The course of the experiment: how many answers of each kind, step by step, for a chart.

Minutes are counted from the answers, and only an hour of them; hours and days are read from their tallies.
"""

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, literal_column, select

from service.database import Database
from service.experiment import Asked, Kind, Step, answered, counted
from service.rows import DAY, HOUR, Answer, Tally

# A step in microseconds, and how many of them there are at most, the latest.
_STEPS: dict[Step, tuple[int, int]] = {"minute": (60_000_000, 60), "hour": (HOUR, 7 * 24), "day": (DAY, 366)}


def series(database: Database, asked: Asked, step: Step) -> dict[str, list[dict[str, Any]]]:
    """By backbone: a point for each step that has answers, in order, `start` in RFC 3339.

    A step counts where its start is within `since` and `until`. Raises `service.database.DatabaseAway`.
    """
    length, most = _STEPS[step]
    now = time.time_ns() // 1000
    end = now if asked.until is None else min(asked.until, now)
    first = max(-(-(asked.since or 0) // length), end // length - most + 1)
    with database.reading() as connection:
        counts = _counts(connection, length, (first, -(-end // length)), asked.detector)
    points: dict[str, list[dict[str, Any]]] = {}
    for (backbone, number), kinds in sorted(counts.items()):
        start = datetime.fromtimestamp(number * length // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
        points.setdefault(backbone, []).append({"start": start, **counted(kinds)})
    return points


def _counts(
    connection: Connection, length: int, numbers: tuple[int, int], detector: str | None
) -> dict[tuple[str, int], Counter[Kind]]:
    """Of the steps from the first of `numbers` on and before the last, by backbone and number."""
    first, last = numbers
    table: type[Answer] | type[Tally] = Answer if length < HOUR else Tally
    number: Any
    amount: Any
    if table is Answer:
        number, amount = Answer.answered_us // literal_column(str(length)), func.count()
        where = answered(first * length, last * length)
    else:
        number, amount = Tally.number, func.sum(Tally.answers)
        where = [Tally.span == length, Tally.number >= first, Tally.number < last]
    if detector is not None:
        where.append(table.detector == detector)
    alike = (number, table.backbone, table.outcome, table.truth)
    counts: dict[tuple[str, int], Counter[Kind]] = {}
    found = connection.execute(select(*alike, amount).where(*where).group_by(*alike))
    for step, backbone, outcome, truth, answers in found:
        counts.setdefault((backbone, int(step)), Counter())[Kind(backbone, outcome, truth)] += int(answers)
    return counts
