"""The running comparison: whether crops help in production, from the answers whose truth was told.

A journal of a million answers is read in milliseconds: whole days and hours from their tallies, the rest of the first
and last hour from its answers.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from scipy.special import bdtr, betaln, ndtri
from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select

from service.database import Database
from service.drift import Windows, drift
from service.problems import Problem
from service.rows import DAY, FURTHER_ASKED, FURTHER_RIGHT, GIVEN, RIGHT, UNLABELLED, Answer, Tally, cover, of_part

ALPHA = 0.05
# An e-value above it is told as it: JSON has no infinity.
_LARGEST = 1e300
# No answer is later: the end of days, which is a multiple of all spans.
_NEVER = 10_000_000 * DAY
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6}\d*)?([Zz]|[+-]\d\d:\d\d)")
_PARAMETERS = ("since", "until", "detector", "series")
Step: TypeAlias = Literal["minute", "hour", "day"]
STEPS: tuple[Step, ...] = ("minute", "hour", "day")


class Kind(NamedTuple):
    """What answers have in common; `truth` as in `service.rows.Answer`."""

    backbone: str
    outcome: str
    truth: int


@dataclass(frozen=True, slots=True)
class Asked:
    """Which answers: from `since` on and before `until`, in microseconds since 1970; None is all.

    `series` asks for the course of it too, a point a step.
    """

    since: int | None = None
    until: int | None = None
    detector: str | None = None
    series: Step | None = None


def parse(query: Mapping[str, str]) -> Asked:
    """Of a request's query. Raises `Problem` (422)."""
    for name in query:
        if name not in _PARAMETERS:
            raise Problem(422, f"{name[:100]!r} is no option; there are {', '.join(_PARAMETERS)}.")
    if not query.get("detector", "").isprintable():
        raise Problem(422, "detector is no name.")
    if query.get("series", STEPS[0]) not in STEPS:
        raise Problem(422, f"series must be one of {', '.join(STEPS)}.")
    times = {name: _microseconds(name, query[name]) for name in ("since", "until") if name in query}
    return Asked(**times, detector=query.get("detector"), series=cast("Step | None", query.get("series")))


def experiment(database: Database, asked: Asked, windows: Windows) -> dict[str, Any]:
    """What GET /experiment answers; the drift is that of the hours before `until`, or now.

    Raises `service.database.DatabaseAway`.
    """
    with database.reading() as connection:
        kinds = count(connection, asked)
        until = time.time_ns() // 1000 if asked.until is None else min(asked.until, _NEVER)
        drifts = drift(connection, until, windows, asked.detector)
    backbones: dict[str, Counter[Kind]] = {}
    for kind, answers in kinds.items():
        backbones.setdefault(kind.backbone, Counter())[kind] = answers
    return {
        "backbones": {name: {**summarise(backbones[name]), "drift": drifts.get(name, {})} for name in sorted(backbones)}
    }


def count(connection: Connection, asked: Asked) -> Counter[Kind]:
    """How many answers of each kind."""
    counts: Counter[Kind] = Counter()
    low, high = max(0, asked.since or 0), _NEVER if asked.until is None else min(asked.until, _NEVER)
    for span, first, last in cover(low, high):
        statement = _kinds(Answer if span is None else Tally, asked.detector is not None)
        parameters = {"span": span, "first": first, "last": last, "detector": asked.detector}
        for backbone, outcome, truth, number in connection.execute(statement, parameters):
            counts[Kind(backbone, outcome, truth)] += int(number)
    return +counts


def answered(low: Any, high: Any) -> list[ColumnElement[bool]]:
    """The answers of this time that have tallies."""
    return [Answer.answered_us >= low, Answer.answered_us < high, Answer.box_policy != GIVEN]


@cache
def _kinds(table: type[Tally] | type[Answer], of_detector: bool) -> Select[str, str, int, int]:
    """Backbone, outcome, truth and answers of one part of a time; made once: that takes as long as an answer to it."""
    kind = (table.backbone, table.outcome, table.truth)
    if table is Tally:
        statement = select(*kind, func.sum(Tally.answers)).where(*of_part(Tally))
    else:
        statement = select(*kind, func.count()).where(*answered(bindparam("first"), bindparam("last")))
    if of_detector:
        statement = statement.where(table.detector == bindparam("detector"))
    return statement.group_by(*kind)


def summarise(kinds: Mapping[Kind, int]) -> dict[str, Any]:
    """One backbone's answers: what `counted` says, and what follows from it.

    The further arms are there where they were asked for, out of the labelled answers that have them.
    """
    found, truths = counted(kinds), _truths(kinds)
    labelled, rescued, broken = found["labelled"], found["rescued"], found["broken"]
    asked = dict.fromkeys(RIGHT, labelled) | {arm: _having(truths, bit) for arm, bit in FURTHER_ASKED.items()}
    right = {arm: _having(truths, bit) for arm, bit in {**RIGHT, **FURTHER_RIGHT}.items()}
    return {
        "answers": found["answers"],
        "labelled": labelled,
        "arms": {arm: proportion(right[arm], of) for arm, of in asked.items() if of or arm in RIGHT},
        "rescued": rescued,
        "broken": broken,
        "p_value": mcnemar(rescued, broken),
        "sequential": sequential(rescued, broken),
        "agreement_rate": found["agreement_rate"],
        "no_detection_rate": found["no_detection_rate"],
    }


def counted(kinds: Mapping[Kind, int]) -> dict[str, Any]:
    """Rates are shares, 0..1, None of nothing: agreement of the answers with a crop."""
    outcomes, truths = Counter[str](), _truths(kinds)
    for kind, answers in kinds.items():
        outcomes[kind.outcome] += answers
    total = outcomes.total()
    return {
        "answers": total,
        "labelled": truths.total(),
        "rescued": _only(truths, "cropped", "plain"),
        "broken": _only(truths, "plain", "cropped"),
        "agreement_rate": _share(outcomes["agree"], outcomes["agree"] + outcomes["disagree"]),
        "no_detection_rate": _share(outcomes["no_detection"], total),
    }


def _truths(kinds: Mapping[Kind, int]) -> Counter[int]:
    """Of the answers whose truth is known."""
    truths = Counter[int]()
    for kind, answers in kinds.items():
        if kind.truth != UNLABELLED:
            truths[kind.truth] += answers
    return truths


def _only(truths: Mapping[int, int], right: str, wrong: str) -> int:
    """How many answers have one arm right and another wrong."""
    return sum(number for truth, number in truths.items() if truth & RIGHT[right] and not truth & RIGHT[wrong])


def proportion(correct: int, total: int) -> dict[str, Any]:
    """With the score interval of Wilson (1927), J. Am. Stat. Assoc. 22, 209-212; of nothing, nothing is known."""
    if total == 0:
        return {"labelled": 0, "correct": 0, "accuracy": None, "low": 0.0, "high": 1.0}
    accuracy, z = correct / total, float(ndtri(1 - ALPHA / 2))
    middle = (correct + z * z / 2) / (total + z * z)
    half = z * math.sqrt(correct * (1 - accuracy) + z * z / 4) / (total + z * z)
    # Rounding would miss the ends, which are reached where all or none are right.
    low = middle - half if correct else 0.0
    high = middle + half if correct < total else 1.0
    return {"labelled": total, "correct": correct, "accuracy": accuracy, "low": low, "high": high}


def mcnemar(rescued: int, broken: int) -> float:
    """Exact two-sided p-value of the discordant pairs: McNemar (1947), Psychometrika 12, 153-157; 1 without any.

    It holds for one look at a number of answers that was fixed beforehand.
    """
    return min(1.0, 2 * float(bdtr(min(rescued, broken), rescued + broken, 0.5)))


def sequential(rescued: int, broken: int) -> dict[str, float]:
    """The same question for who looks as often as they like, and stops when they like.

    Each discordant pair is a coin that is fair where crops neither help nor harm. Betting on all biases alike (a
    uniform prior) multiplies a stake of 1 to the e-value; were the coin fair, it would ever exceed 1/alpha with
    probability alpha at most: Ville (1939); Robbins (1970), Ann. Math. Stat. 41, 1397-1409; as e-process and
    beta-binomial boundary in Howard et al. (2021), Ann. Stat. 49, 1055-1080. `p_value` is its inverse; `low` and `high`
    bound the share of rescued among the discordant pairs, at all times together with 95 %. Valid for a `since` chosen
    beforehand.
    """
    log_e = float(betaln(rescued + 1, broken + 1)) + (rescued + broken) * math.log(2)
    low, high = _confidence_sequence(rescued, broken)
    return {
        "e_value": math.exp(min(log_e, math.log(_LARGEST))),
        "p_value": min(1.0, math.exp(-log_e)),
        "low": low,
        "high": high,
    }


def _confidence_sequence(rescued: int, broken: int) -> tuple[float, float]:
    """The biases against which the stake has not reached 1/alpha."""
    if rescued + broken == 0:
        return 0.0, 1.0
    mixture = float(betaln(rescued + 1, broken + 1))

    def excluded(share: float) -> bool:
        return mixture - rescued * math.log(share) - broken * math.log1p(-share) > -math.log(ALPHA)

    middle = rescued / (rescued + broken)
    low = _edge(excluded, 0.0, middle) if rescued else 0.0
    high = _edge(excluded, 1.0, middle) if broken else 1.0
    return low, high


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Between a share that is excluded and one that is not, to the last bits; scipy's roots are seconds of imports."""
    for _ in range(52):
        share = (outside + inside) / 2
        outside, inside = (share, inside) if excluded(share) else (outside, share)
    return inside


def _having(truths: Mapping[int, int], bit: int) -> int:
    return sum(number for truth, number in truths.items() if truth & bit)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _microseconds(name: str, text: str) -> int:
    # A plus that was not encoded arrives as a space.
    text = re.sub(r" (\d\d:\d\d)$", r"+\1", text) if re.search(r"[Tt].* \d\d:\d\d$", text) else text
    try:
        if not _RFC_3339.fullmatch(text):
            raise ValueError
        since = datetime.fromisoformat(text.upper()) - datetime(1970, 1, 1, tzinfo=UTC)
    except ValueError:
        raise Problem(422, f"{name} is no time like 2026-03-01T12:00:00Z (RFC 3339).") from None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
