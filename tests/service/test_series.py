"""The course of the experiment, from both databases and over HTTP."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.database import Database
from service.experiment import Asked, Step
from service.rows import DAY, GIVEN, HOUR, RIGHT, insert_answers
from service.series import series
from tests.service.journals import row
from tests.service.test_feedback import predict
from tests.waiting import eventually

MINUTE = 60_000_000
CROPPED = RIGHT["cropped"]


@pytest.mark.parametrize(("step", "length", "kept"), [("minute", MINUTE, 60), ("hour", HOUR, 168), ("day", DAY, 366)])
def test_points_by_step(database: Database, step: Step, length: int, kept: int) -> None:
    start = 20_000 * DAY
    until = start + length // 2
    written = [
        row("a", start, truth=CROPPED),
        row("b", start + 1, detector="other", outcome="disagree"),
        row("given", start, box_policy=GIVEN),
        row("c", start - 2 * length, outcome="no_detection", truth=0),
        row("d", start - kept * length),
    ]
    with database.writing() as connection:
        insert_answers(connection, written)
    found = series(database, Asked(until=until), step)["b"]
    starts = [datetime.fromisoformat(point["start"]) for point in found]
    assert starts == [datetime.fromtimestamp(at / 1e6, UTC) for at in (start - 2 * length, start)]
    older, newer = ({name: value for name, value in point.items() if name != "start"} for point in found)
    nothing = {"answers": 1, "labelled": 1, "rescued": 0, "broken": 0, "agreement_rate": None, "no_detection_rate": 1.0}
    assert older == nothing
    rates = {"agreement_rate": 0.5, "no_detection_rate": 0.0}
    assert newer == {"answers": 2, "labelled": 1, "rescued": 1, "broken": 0, **rates}
    (other,) = series(database, Asked(until=until, detector="other"), step)["b"]
    assert (other["answers"], other["agreement_rate"]) == (1, 0.0)
    (recent,) = series(database, Asked(since=start - length, until=until), step)["b"]
    assert recent["start"] == found[1]["start"]
    assert series(database, Asked(until=start - length), step)["b"][1:] == found[:1]


def test_over_http(client: httpx.Client, photo: Path) -> None:
    predict(client, photo)

    def points() -> list[dict[str, Any]]:
        backbones = client.get("/experiment?series=minute").json()["backbones"]
        return next(iter(backbones.values()))["series"] if backbones else []

    eventually(points)
    assert client.get("/experiment?series=week").status_code == 422
