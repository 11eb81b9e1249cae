"""What a photo really shows, told afterwards: the labels that join the journal's answers."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from sqlalchemy import Connection, bindparam, insert, select, update

from models.label_spaces import LabelSpace
from service.database import Database, DatabaseAway
from service.journal import Journal
from service.problems import Problem
from service.rows import FURTHER_ASKED, FURTHER_RIGHT, RIGHT, UNLABELLED, Answer, Key, Word, add_to_sums, tally_keys

# How long a word waits for a row that a worker, here or elsewhere, has not committed yet; looked for so often.
_WAIT_SECONDS = 1.0
_LOOK_SECONDS = 0.1
# Ids in one statement, words in one transaction.
_GROUP = 500
_COLUMNS = (
    *("request_id", "answered_us", "backbone", "detector", "box_policy", "outcome", "label_space"),
    *("truth", "truth_wnid", "arms"),
    *(f"{arm}_wnid" for arm in RIGHT),
)

FindSpace: TypeAlias = Callable[[str, str], LabelSpace | None]


class Said(BaseModel):
    """One word of feedback: the label is a wnid, an index or a label's text, None takes back what was said before.

    Raises `pydantic.ValidationError`.
    """

    model_config = ConfigDict(extra="forbid")

    request_id: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    label: Annotated[StrictStr, Field(max_length=200)] | StrictInt | None


@dataclass(frozen=True, slots=True)
class Class:
    index: int
    wnid: str
    label: str


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the journal holds now: `new` unless the last word was the same. An arm without a crop counts as plain.

    Without a label, which was taken back, nothing is correct or not.
    """

    request_id: str
    backbone: str
    label: Class | None
    correct: Mapping[str, bool] | None
    new: bool

    def as_answer(self) -> dict[str, Any]:
        return {"request_id": self.request_id, "label": self.label, "correct": self.correct}


async def learn(
    journal: Journal, said: Sequence[Said], space: FindSpace, rows_that_wait: Callable[[], float]
) -> list[Learnt | Problem]:
    """One result a word, in order, all of them durable; waits a little for answers that are not in the journal yet.

    `space` gives the label space of a backbone and a label space's name, `rows_that_wait` how many rows the workers of
    this service have still to write. A later word of the same answer wins. Raises `DatabaseAway`.
    """
    if journal.away:
        # Known already; to find out again would hold a thread for seconds.
        raise DatabaseAway("rows wait for it")
    database, missing = journal.database, _ids(said)
    give_up = time.monotonic() + _WAIT_SECONDS
    while missing:
        if held := journal.holds(missing):
            journal.hurry()
        # Asked before the look: what waited by then is written by now, or still waits.
        all_written = database.is_of_one_machine and rows_that_wait() == 0
        missing = await asyncio.to_thread(_missing, database, missing)
        if not missing or all_written or (time.monotonic() > give_up and not held):
            break
        await asyncio.sleep(_LOOK_SECONDS)
    return await asyncio.to_thread(_learn, database, said, space)


def _learn(database: Database, said: Sequence[Said], space: FindSpace) -> list[Learnt | Problem]:
    results: list[Learnt | Problem] = []
    for start in range(0, len(said), _GROUP):
        group = said[start : start + _GROUP]
        with database.writing() as connection:
            results += _Lesson(connection, _ids(group), space).learn(group)
    return results


class _Lesson:
    """One transaction's words, and the answers that they are about."""

    def __init__(self, connection: Connection, request_ids: Iterable[str], space: FindSpace) -> None:
        self._connection = connection
        self._space = space
        self._now = time.time_ns() // 1000
        self._answers = _locked(connection, request_ids)
        self._tallies: Counter[Key] = Counter()
        self._words: list[dict[str, Any]] = []
        self._changed: dict[str, dict[str, Any]] = {}

    def learn(self, said: Iterable[Said]) -> list[Learnt | Problem]:
        results = [self._word(word) for word in said]
        if self._words:
            self._connection.execute(insert(Word), self._words)
            one = (Answer.request_id == bindparam("key_id"), Answer.answered_us == bindparam("key_us"))
            changes = [
                {"key_id": key, "key_us": answer["answered_us"], "bits": answer["truth"], "wnid": answer["truth_wnid"]}
                for key, answer in self._changed.items()
            ]
            change = update(Answer).where(*one).values(truth=bindparam("bits"), truth_wnid=bindparam("wnid"))
            self._connection.execute(change, changes)
            add_to_sums(self._connection, self._tallies)
        return results

    def _word(self, said: Said) -> Learnt | Problem:
        answer = self._answers.get(said.request_id)
        if answer is None:
            return Problem(404, f"The journal has no answer with the request id {said.request_id!r}.")
        if said.label is None:
            return Learnt(said.request_id, answer["backbone"], None, None, self._changed_to(answer, None))
        space = self._space(answer["backbone"], answer["label_space"])
        index = None if space is None else space.find(said.label)
        if space is None or index is None:
            return Problem(
                422, f"label {said.label!r} is no class of the answer's label space {answer['label_space']!r}."
            )
        label = Class(index, space.wnids[index], space.labels[index])
        new = self._changed_to(answer, label.wnid)
        return Learnt(said.request_id, answer["backbone"], label, _correct(answer["truth"]), new)

    def _changed_to(self, answer: dict[str, Any], wnid: str | None) -> bool:
        """Whether this is no repetition of the last word."""
        if answer["truth_wnid"] == wnid:
            return False
        self._tallies.subtract(tally_keys(answer))
        answer["truth"], answer["truth_wnid"] = _truth(answer, wnid), wnid
        self._tallies.update(tally_keys(answer))
        key = {"request_id": answer["request_id"], "answered_us": answer["answered_us"]}
        self._words.append({**key, "said_us": self._now, "wnid": wnid or ""})
        self._changed[answer["request_id"]] = answer
        return True


def _ids(said: Iterable[Said]) -> set[str]:
    """Those that an answer may have: PostgreSQL refuses a text with a NUL."""
    return {word.request_id for word in said if word.request_id.isprintable()}


def _truth(answer: Mapping[str, Any], wnid: str | None) -> int:
    """The bits of the arms that are right, and were asked for; without a crop each arm stands for what plain says."""
    if wnid is None:
        return UNLABELLED
    bits = sum(bit for arm, bit in RIGHT.items() if (answer[f"{arm}_wnid"] or answer["plain_wnid"]) == wnid)
    instead = answer["plain_wnid"] if answer["cropped_wnid"] is None else None
    for arm, found in (answer["arms"] or {}).items():
        said = instead if found is None else found[0]
        if said is not None and arm in FURTHER_ASKED:
            bits += FURTHER_ASKED[arm] + FURTHER_RIGHT[arm] * (said == wnid)
    return bits


def _correct(truth: int) -> dict[str, bool]:
    asked = {arm: FURTHER_RIGHT[arm] for arm, bit in FURTHER_ASKED.items() if truth & bit}
    return {arm: bool(truth & bit) for arm, bit in {**RIGHT, **asked}.items()}


def _locked(connection: Connection, request_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The latest answer under each id; no other transaction changes it until this one has ended."""
    statement = (
        select(*(getattr(Answer, name) for name in _COLUMNS))
        .where(Answer.request_id.in_(sorted(request_ids)))
        .order_by(Answer.request_id, Answer.answered_us)
        .with_for_update()
    )
    return {row["request_id"]: dict(row) for row in connection.execute(statement).mappings()}


def _missing(database: Database, request_ids: set[str]) -> set[str]:
    wanted, found = sorted(request_ids), set[str]()
    with database.reading() as connection:
        for start in range(0, len(wanted), _GROUP):
            group = wanted[start : start + _GROUP]
            found.update(connection.scalars(select(Answer.request_id).where(Answer.request_id.in_(group))))
    return request_ids - found
