"""Photos' whole way, from their bytes to those of the answers: in a thread, or in a process of its own."""

import logging
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from models.comparison import Options
from models.pipeline import Pipeline
from models.trial import Trial
from service import answers
from service.journal import row_of
from service.outcomes import Asked, Outcome, Summary, outcomes_of
from service.rows import PackedRow
from service.scheduler import Turn

log = logging.getLogger("figureground.answering")


@dataclass(frozen=True)
class Question:
    """Of one photo, a file's bytes; the answer is JSON or a picture."""

    photo: bytes
    options: Options
    request_id: str
    png: bool = False


class Record(NamedTuple):
    """What is kept of an answer; `row` goes to the journal: None where there is none, or no row could be made."""

    summary: Summary
    row: PackedRow | None


class Answered(NamedTuple):
    """`body` goes to the client, `record` is a `Record`, packed: it is looked at once the client has its answer."""

    body: bytes
    record: bytes

    @classmethod
    def of(cls, body: bytes, record: Record) -> Self:
        return cls(body, pickle.dumps(record))

    def recorded(self) -> Record:
        found: Record = pickle.loads(self.record)
        return found


@dataclass(frozen=True)
class Answering:
    """Safe from several threads. A photo may have `max_pixels`, and those of rare kinds are put on `trial`."""

    pipeline: Pipeline
    max_pixels: int
    trial: Trial
    with_rows: bool

    def __call__(self, asked: Sequence[tuple[Question, Turn]]) -> list[Answered | Exception]:
        """As `service.scheduler.Work`. The errors are those of `service.outcomes.outcomes_of`."""
        try:
            return [*self._answers(asked)]
        except Exception as error:
            if len(asked) == 1:
                return [error]
        # One of them has spoilt it for all; which one is seen when each is alone.
        return [found for one in asked for found in self([one])]

    def _answers(self, asked: Sequence[tuple[Question, Turn]]) -> list[Answered]:
        photos = [Asked(question.photo, question.options, turn.waited) for question, turn in asked]
        outcomes = outcomes_of(photos, self.pipeline, self.max_pixels, self.trial, asked[0][1].cores)
        return [self._answer(outcome, question) for outcome, (question, _) in zip(outcomes, asked, strict=True)]

    def _answer(self, outcome: Outcome, question: Question) -> Answered:
        row = self._row(outcome, question) if self.with_rows else None
        if question.png:
            body = answers.as_png(outcome)
        else:
            body = answers.as_json(outcome, self.pipeline.served, question.request_id)
        return Answered.of(body, Record(outcome.summary(), row))

    def _row(self, outcome: Outcome, question: Question) -> PackedRow | None:
        """Never raises: what goes wrong here costs a row, not an answer."""
        try:
            return PackedRow.of(row_of(outcome, self.pipeline.served, question.request_id, question.photo))
        except Exception:
            log.exception("an answer makes no row")
            return None
