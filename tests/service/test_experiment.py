"""The running comparison: its statistics against textbooks, its sums against the rows, its answers over HTTP."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import betaln
from sqlalchemy import func, select
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from service.database import Database
from service.drift import Windows
from service.experiment import Asked, Kind, count, experiment, mcnemar, parse, proportion, sequential, summarise
from service.problems import Problem
from service.rows import FURTHER_ASKED, FURTHER_RIGHT, HOUR, RIGHT, UNLABELLED, Answer, insert_answers
from tests.service.journals import row
from tests.service.test_feedback import predict
from tests.waiting import eventually

OUTCOMES = ("agree", "disagree", "no_detection", "covers_image")


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # Newcombe (1998), Statist. Med. 17, 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson(correct: int, total: int, low: float, high: float) -> None:
    found = proportion(correct, total)
    assert (round(found["low"], 4), round(found["high"], 4)) == (low, high)
    assert found["accuracy"] == correct / total


def test_of_nothing_nothing_is_known() -> None:
    assert proportion(0, 0) == {"labelled": 0, "correct": 0, "accuracy": None, "low": 0.0, "high": 1.0}
    assert mcnemar(0, 0) == 1.0
    assert sequential(0, 0) == {"e_value": 1.0, "p_value": 1.0, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("rescued", "broken", "expected"),
    # Fay (2010), R Journal 2, 53-58: 21 and 9. The others by hand: 2 * P(X <= 1 of 10), 2 / 2**5.
    [(21, 9, 0.04277), (1, 9, 2 * 11 / 1024), (0, 5, 0.0625), (6, 6, 1.0), (400_000, 401_000, None)],
)
def test_mcnemar(rescued: int, broken: int, expected: float | None) -> None:
    found = mcnemar(rescued, broken)
    if expected is not None:
        assert found == pytest.approx(expected, abs=5e-6)
    assert found == pytest.approx(mcnemar(broken, rescued))
    other = statsmodels_mcnemar([[0, broken], [rescued, 0]], exact=True)
    assert found == pytest.approx(min(1.0, float(other.pvalue)))


@pytest.mark.parametrize(("rescued", "broken"), [(10, 0), (0, 10), (7, 3), (50, 20)])
def test_the_stake_is_the_beta_binomials(rescued: int, broken: int) -> None:
    """A uniform prior makes every number of rescued pairs as likely: 1 / (n + 1), against C(n, k) / 2**n."""
    pairs = rescued + broken
    expected = 2**pairs / ((pairs + 1) * math.comb(pairs, rescued))
    found = sequential(rescued, broken)
    assert found["e_value"] == pytest.approx(expected)
    assert found["p_value"] == pytest.approx(min(1, 1 / expected))
    assert (found["low"] <= 0.5 <= found["high"]) == (expected < 20)


def test_the_confidence_sequence_by_hand() -> None:
    """Of ten rescued out of ten, share**10 * 11 reaches 1/20."""
    assert sequential(10, 0)["low"] == pytest.approx((1 / 220) ** 0.1)
    assert sequential(10, 0)["high"] == 1.0
    assert sequential(0, 10)["high"] == pytest.approx(1 - (1 / 220) ** 0.1)


def test_large_counts_stay_finite() -> None:
    found = sequential(900_000, 100_000)
    assert found["e_value"] == pytest.approx(1e300)
    assert found["p_value"] == 0.0
    assert found["low"] < 0.9 < found["high"]


@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_looking_all_the_time_is_no_cheating(share: float) -> None:
    """Of 2000 runs of 1000 pairs, at most 5 % (with 4 sigma of luck) ever exclude the truth; McNemar would."""
    runs, pairs = 2000, 1000
    rescued = (np.random.default_rng(1).random((runs, pairs)) < share).cumsum(1)
    broken = np.arange(1, pairs + 1) - rescued
    stake = betaln(rescued + 1, broken + 1) - rescued * math.log(share) - broken * math.log1p(-share)
    excluded = float((stake.max(1) >= math.log(20)).mean())
    assert 0 < excluded < 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
    for run, look in ((0, 10), (1, 100), (2, 999)):
        found = sequential(int(rescued[run, look]), int(broken[run, look]))
        assert (found["low"] < share < found["high"]) == (stake[run, look] < math.log(20))


def test_a_summary() -> None:
    kinds = {
        Kind("b", "agree", UNLABELLED): 10,
        Kind("b", "agree", sum(RIGHT.values())): 2,
        Kind("b", "agree", sum(RIGHT.values()) + FURTHER_ASKED["center"]): 1,
        Kind("b", "agree", sum(RIGHT.values()) + FURTHER_ASKED["center"] + FURTHER_RIGHT["center"]): 1,
        Kind("b", "disagree", RIGHT["cropped"] | RIGHT["combined"]): 3,
        Kind("b", "disagree", RIGHT["plain"]): 1,
        Kind("b", "no_detection", RIGHT["plain"] | RIGHT["cropped"] | RIGHT["combined"]): 1,
        Kind("b", "covers_image", 0): 1,
    }
    found = summarise(kinds)
    correct = {arm: one["correct"] for arm, one in found["arms"].items()}
    assert (found["answers"], found["labelled"]) == (20, 10)
    assert correct == {"plain": 6, "cropped": 8, "combined": 8, "center": 1}
    assert [found["arms"][arm]["labelled"] for arm in ("plain", "center")] == [10, 2]
    assert (found["rescued"], found["broken"], found["p_value"]) == (3, 1, 0.625)
    assert (found["agreement_rate"], found["no_detection_rate"]) == (14 / 18, 1 / 20)


def rows(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Over about 40 hours, of all kinds."""
    random = np.random.default_rng(seed)
    return [
        row(
            str(one),
            int(random.integers(40 * HOUR)),
            backbone=f"b{random.integers(2)}",
            detector=f"d{random.integers(2)}",
            outcome=OUTCOMES[random.integers(4)],
            truth=int(random.integers(-1, 8)),
        )
        for one in range(number)
    ]


WINDOWS = Windows(24, 168)
TIMES = st.none() | st.integers(-HOUR, 42 * HOUR) | st.integers(0, 42).map(lambda hour: hour * HOUR)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(since=TIMES, until=TIMES, detector=st.sampled_from([None, "d0", "d2"]))
def test_the_sums_are_those_of_the_rows(
    database: Database, since: int | None, until: int | None, detector: str | None
) -> None:
    with database.reading() as connection:
        empty = connection.scalar(select(func.count()).select_from(Answer)) == 0
    if empty:
        with database.writing() as connection:
            insert_answers(connection, rows(600))
    kind = (Answer.backbone, Answer.outcome, Answer.truth)
    statement = select(*kind, func.count()).group_by(*kind)
    if since is not None:
        statement = statement.where(Answer.answered_us >= since)
    if until is not None:
        statement = statement.where(Answer.answered_us < until)
    if detector is not None:
        statement = statement.where(Answer.detector == detector)
    with database.reading() as connection:
        expected = Counter({Kind(b, outcome, truth): n for b, outcome, truth, n in connection.execute(statement)})
        assert count(connection, Asked(since, until, detector)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01t00:00:01.5z", 1_500_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T01:00:00 01:00", 0),
        ("1970-01-01T00:00:00.0000019Z", 1),
        ("1969-12-31T23:59:59-00:00", -1_000_000),
        ("2026-02-29T00:00:00Z", None),
        ("2026-03-01", None),
        ("2026-03-01T00:00:00", None),
        ("20260301T000000Z", None),
        ("", None),
        ("now", None),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(Problem, match="RFC 3339"):
            parse({"since": text})
    else:
        assert parse({"since": text}) == Asked(since=expected)


def test_other_parameters_are_refused() -> None:
    with pytest.raises(Problem, match="sinse"):
        parse({"sinse": "x"})


def test_both_databases_tell_the_same(database: Database) -> None:
    written = rows(300)
    with database.writing() as connection:
        insert_answers(connection, written)
    since, until = HOUR + 1, 30 * HOUR - 1
    told = experiment(database, Asked(since, until), WINDOWS)["backbones"]
    for backbone in ("b0", "b1"):
        truths = [
            one["truth"] for one in written if one["backbone"] == backbone and since <= one["answered_us"] < until
        ]
        plain = sum(truth >= 0 and bool(truth & 1) for truth in truths)
        rescued = sum(truth >= 0 and truth & 3 == 2 for truth in truths)
        found = told[backbone]
        assert (found["answers"], found["labelled"]) == (len(truths), len(truths) - truths.count(UNLABELLED))
        assert (found["arms"]["plain"]["correct"], found["rescued"]) == (plain, rescued)


def test_over_http(client: httpx.Client, photo: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    request_id = predict(client, photo)
    client.post("/feedback", json={"request_id": request_id, "label": 285})

    def asked(**query: str) -> dict[str, Any]:
        found: dict[str, Any] = client.get("/experiment", params=query).json()["backbones"]
        return found

    (found,) = asked(since=before.isoformat()).values()
    names = "answers labelled arms rescued broken p_value sequential agreement_rate no_detection_rate drift"
    assert list(found) == names.split()
    assert (found["answers"], found["labelled"]) == (1, 1)
    assert set(found["arms"]) == {"plain", "cropped", "combined"}
    assert set(found["arms"]["plain"]) == {"labelled", "correct", "accuracy", "low", "high"}
    assert asked(until="2020-01-01T00:00:00Z") == {}
    eventually(lambda: asked(detector="fcos_random"))
    assert client.get("/experiment?detector=nothing").status_code == 422
    assert client.get("/experiment?since=yesterday").status_code == 422
