"""Whether the photos are still what they were: the statistics by hand, and the sums from both databases."""

import math
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from scipy.stats import chi2

from service.database import Database
from service.drift import Windows, compare, drift
from service.journal import Journal
from service.rows import DAY, GIVEN, HOUR, insert_answers
from service.workers import observe_drift
from tests.service.journals import row

WINDOWS = Windows(hours=2, reference_hours=30)
NOW = 1000 * DAY + 5 * HOUR + HOUR // 2


def test_by_hand() -> None:
    """Half and half against a quarter and three: (1/2 - 1/4) ln 2 + (1/2 - 3/4) ln 2/3, which is ln 3 / 4."""
    found = compare([500_000, 500_000], [250_000, 750_000])
    assert found["psi"] == pytest.approx(math.log(3) / 4, rel=1e-4)
    assert (found["answers"], found["reference"]) == (1_000_000, 1_000_000)
    assert found["p_value"] < 1e-300


def test_the_p_value_is_pearsons() -> None:
    """10 of 20 against 5 of 20: the expected are 7.5 and 12.5, so that chi-squared is 4 * 6.25 / 7.5, or 12.5."""
    statistic = 2 * 2.5**2 / 7.5 + 2 * 2.5**2 / 12.5
    assert compare([10, 10], [5, 15])["p_value"] == pytest.approx(chi2.sf(statistic, 1))


@pytest.mark.parametrize(
    ("latest", "reference"), [([0, 0], [0, 0]), ([0, 0], [1, 2]), ([1, 2], [0, 0])], ids=["both", "latest", "reference"]
)
def test_of_nothing_nothing_is_told(latest: list[int], reference: list[int]) -> None:
    found = compare(latest, reference)
    assert (found["psi"], found["p_value"]) == (None, None)


@pytest.mark.parametrize("answers", [100, 1000])
def test_no_drift_is_told_as_none(answers: int) -> None:
    """Of samples of one distribution with rare bins: about the bias of few answers, and p-values that are even."""
    random, shares = np.random.default_rng(0), [0.5, 0.3, 0.15, 0.04, 0.009, 0.001]
    drawn = ([random.multinomial(size, shares).tolist() for size in (answers, 20_000)] for _ in range(500))
    found = [compare(*both) for both in drawn]
    bias = (len(shares) - 1) * (1 / answers + 1 / 20_000)
    assert np.mean([one["psi"] for one in found]) == pytest.approx(bias, rel=0.5)
    assert 0.02 < np.mean([one["p_value"] < 0.05 for one in found]) < 0.09


def rows(number: int, hours_ago: float, area: float, shift: float, **changed: Any) -> list[dict[str, Any]]:
    when = NOW - int(hours_ago * HOUR)
    probabilities = {"plain_probability": 0.4, "cropped_probability": 0.4 + shift}
    prefix = f"{hours_ago} {changed.get('detector')}"
    return [row(f"{prefix} {one}", when, box_area=area, **{**probabilities, **changed}) for one in range(number)]


@pytest.fixture
def filled(database: Database) -> Database:
    """The latest boxes are larger, and half of them agree; what is older than the reference is another thing again."""
    written = [
        *rows(40, 0.2, 0.85, 0.1),
        *rows(20, 1.2, 0.85, 0.1, outcome="disagree"),
        *rows(30, 3, 0.15, 0.1),
        *rows(30, 29, 0.15, 0.1),
        *rows(7, 60, 0.5, -0.5),
        *rows(9, 0.2, 0.5, 0.1, detector="other", outcome="no_detection", cropped_probability=None),
    ]
    with database.writing() as connection:
        insert_answers(connection, written)
    return database


def told(database: Database, **chosen: Any) -> dict[str, Any]:
    with database.reading() as connection:
        found: dict[str, Any] = drift(connection, **{"until": NOW, "windows": WINDOWS, **chosen}).get("b", {})
        return found


def test_windows(filled: Database) -> None:
    found = told(filled)
    assert {name: (one["answers"], one["reference"]) for name, one in found.items()} == {
        "agreement": (60, 60),
        "box_area_fraction": (69, 60),
        "confidence_shift": (60, 60),
    }
    assert found["box_area_fraction"]["psi"] > 1
    assert found["box_area_fraction"]["p_value"] < 1e-6
    assert found["agreement"]["psi"] > 0.25
    assert (found["confidence_shift"]["psi"], found["confidence_shift"]["p_value"]) == (0, 1)
    assert told(filled, detector="d")["box_area_fraction"]["answers"] == 60
    assert told(filled, until=NOW - 1000 * HOUR) == {}
    assert told(filled, until=0) == {}


def test_a_box_that_was_given_says_nothing(database: Database) -> None:
    with database.writing() as connection:
        insert_answers(connection, rows(3, 0.2, 0.5, 0.1, box_policy=GIVEN))
    assert told(database) == {}


def test_the_metric_is_of_the_served_backbones(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: NOW * 1000)
    journal = Journal(filled, 10, 0, lambda *_: None)
    with filled.writing() as connection:
        insert_answers(connection, rows(3, 0.1, 0.5, 0.1, backbone="not served"))
    observe_drift(journal, WINDOWS, ["b", "c"])
    journal.close()

    def metric(backbone: str, measure: str) -> float | None:
        return REGISTRY.get_sample_value("figureground_drift", {"backbone": backbone, "measure": measure})

    assert metric("b", "agreement") == pytest.approx(told(filled)["agreement"]["psi"])
    assert metric("not served", "agreement") is None
