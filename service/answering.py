"""One photo's whole way, from its bytes to the answer's: in a thread, or in a process of its own."""

import logging
import pickle
from dataclasses import dataclass
from typing import NamedTuple, Self

from models.comparison import Options
from models.pipeline import Pipeline
from models.trial import Trial
from service import answers
from service.journal import row_of
from service.outcomes import Outcome, Summary, outcome_of
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

    def __call__(self, question: Question, turn: Turn) -> Answered:
        """Raises as `service.outcomes.outcome_of` does."""
        outcome = outcome_of(question.photo, question.options, self.pipeline, self.max_pixels, self.trial, *turn)
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
