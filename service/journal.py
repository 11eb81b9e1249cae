"""Writes a row of every answer into the database, behind the answers' backs.

A prediction only puts its row into a bounded queue. One thread commits what is there in groups, holds on to it while
the database is away, and counts what finds no room as lost.
"""

import hashlib
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import Literal, TypeAlias

from sqlalchemy import Connection, delete, func, select

from models.comparison import Prediction
from models.label_spaces import LabelSpace
from models.outage import Outage
from models.served import Served
from service.database import Database, DatabaseAway
from service.outcomes import Outcome
from service.rows import (
    DAY,
    GIVEN,
    HOUR,
    SPANS,
    SUMS,
    UNLABELLED,
    Answer,
    Key,
    PackedRow,
    Row,
    Word,
    add_to_sums,
    insert_answers,
)

log = logging.getLogger("figureground.journal")

OnRows: TypeAlias = Callable[[Literal["committed", "lost"], int], object]

_GROUP = 500
# Between two groups: how long a row may wait that nobody asks for, and how seldom a busy service commits.
_PAUSE_SECONDS = 1.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.1, 2.0
_CLOSE_SECONDS = 5.0
_PRUNE_SECONDS = 600.0


class Journal:
    """At most `backlog` rows wait in memory; rows older than `days` (0: none) are deleted, an hour at a time.

    `on_rows` is told how many rows were committed or lost, and `on_waiting` how many wait, from any thread.
    """

    def __init__(
        self,
        database: Database,
        backlog: int,
        days: float,
        on_rows: OnRows,
        on_waiting: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.database = database
        self._backlog = backlog
        self._days = days
        self._on_rows = on_rows
        self._on_waiting = on_waiting
        self._rows: deque[PackedRow] = deque()
        self._changed = threading.Condition()
        self._closing, self._hurry = threading.Event(), threading.Event()
        self._outage = Outage(
            log, logging.WARNING, "the journal's database is away, rows wait", "the journal's database is back"
        )
        self._pruned = 0.0
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    @property
    def away(self) -> bool:
        """Whether rows cannot be written at present."""
        return self._outage.away

    def put(self, row: PackedRow | None) -> None:
        """Never waits. None is the row of an answer that makes none, and lost."""
        if row is None:
            self._on_rows("lost", 1)
            return
        with self._changed:
            room = len(self._rows) < self._backlog
            if room:
                self._rows.append(row)
                self._on_waiting(len(self._rows))
                self._changed.notify()
        if not room:
            self._on_rows("lost", 1)

    def holds(self, request_ids: Collection[str]) -> bool:
        """Whether the row of any of these is still to be written."""
        # The copy is quick; a prediction must not wait for the search.
        with self._changed:
            waiting = list(self._rows)
        return any(row.request_id in request_ids for row in waiting)

    def hurry(self) -> None:
        """Somebody waits for a row: the next group is not waited for."""
        self._hurry.set()

    def close(self) -> None:
        """Writes what waits, for some seconds at most; the rest is lost."""
        self._closing.set()
        self._hurry.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()
        self.database.close()

    def _write(self) -> None:
        """The thread. Rows stay in the queue until they are committed or refused."""
        size, delay, give_up = _GROUP, _FIRST_RETRY_SECONDS, math.inf
        while group := self._next_group(size):
            try:
                with self.database.writing() as connection:
                    insert_answers(connection, [row.unpacked() for row in group], again=delay > _FIRST_RETRY_SECONDS)
            except DatabaseAway as error:
                self._outage.tell(error.reason)
                if self._closing.is_set():
                    give_up = min(give_up, time.monotonic() + _CLOSE_SECONDS)
                    time.sleep(_FIRST_RETRY_SECONDS)
                if time.monotonic() > give_up:
                    break
                self._closing.wait(delay)
                delay = min(2 * delay, _LAST_RETRY_SECONDS)
                continue
            except Exception:
                # One row that cannot be written must not take the others of its group along.
                if len(group) > 1:
                    size = 1
                    continue
                log.exception("the journal refuses a row")
                self._done(group, "lost")
            else:
                self._outage.tell(None)
                self._done(group, "committed")
            if len(group) < size and not self._closing.is_set():
                self._hurry.wait(_PAUSE_SECONDS)
                self._hurry.clear()
            size, delay = _GROUP, _FIRST_RETRY_SECONDS
        if self._rows:
            self._on_rows("lost", len(self._rows))

    def _next_group(self, size: int) -> list[PackedRow]:
        """Empty when the journal closes and all is written."""
        while True:
            self._prune()
            with self._changed:
                if not self._rows and not self._closing.is_set():
                    self._changed.wait(_PRUNE_SECONDS)
                if self._rows or self._closing.is_set():
                    return list(islice(self._rows, size))

    def _done(self, group: list[PackedRow], result: Literal["committed", "lost"]) -> None:
        with self._changed:
            for _ in group:
                self._rows.popleft()
            self._on_waiting(len(self._rows))
        self._on_rows(result, len(group))

    def _prune(self) -> None:
        if not self._days or time.monotonic() - self._pruned < _PRUNE_SECONDS or self._closing.is_set():
            return
        self._pruned = time.monotonic()
        try:
            prune(self.database, time.time_ns() // 1000 - int(self._days * DAY))
        except DatabaseAway as error:
            log.warning("old rows are kept for now: %s", error.reason)


def prune(database: Database, before_us: int) -> int:
    """Deletes the whole hours before this time with their feedback and sums, in one transaction each.

    Gives the number of hours. Raises `DatabaseAway`.
    """
    hours = 0
    while True:
        with database.writing() as connection:
            oldest = connection.scalar(select(func.min(Answer.answered_us)))
            if oldest is None or (oldest // HOUR + 1) * HOUR > before_us:
                return hours
            _prune_hour(connection, oldest // HOUR)
        hours += 1


def _prune_hour(connection: Connection, hour: int) -> None:
    gone: Counter[Key] = Counter()
    for key, table in SUMS.items():
        of_hour = select(table).where(table.span == HOUR, table.number == hour)
        for found in connection.execute(of_hour).mappings():
            alike = [found[name] for name in key._fields[2:]]
            for span in SPANS:
                gone[key(span, hour * HOUR // span, *alike)] -= found["answers"]
    add_to_sums(connection, gone)
    for table in SUMS.values():
        connection.execute(delete(table).where(table.answers == 0))
    end = (hour + 1) * HOUR
    connection.execute(delete(Word).where(Word.answered_us < end))
    connection.execute(delete(Answer).where(Answer.answered_us < end))


def row_of(outcome: Outcome, served: Served, request_id: str, photo: bytes) -> Row:
    """A row of `Answer`; of `photo`, the file's bytes, only the hash."""
    comparison, space = outcome.comparison, outcome.comparison.label_space
    box = comparison.box
    arms = {arm: None if found is None else _first(found, space) for arm, found in comparison.arms.items()}
    x1, y1, x2, y2 = (None,) * 4 if box is None else box.xyxy
    first = {"plain": comparison.plain, "cropped": comparison.cropped, "combined": comparison.combined}
    row: Row = {
        "request_id": request_id,
        "answered_us": outcome.ended_ns // 1000,
        "backbone": comparison.backbone,
        "backbone_sha256": served.classifier(comparison.backbone).model.sha256,
        "detector": comparison.detector,
        "detector_sha256": served.detector(comparison.detector).model.sha256,
        "label_space": space.name,
        "box_policy": outcome.options.box_policy if outcome.options.box is None else GIVEN,
        "outcome": comparison.outcome,
        "arms": arms or None,
        "box_x1": x1,
        "box_y1": y1,
        "box_x2": x2,
        "box_y2": y2,
        "box_score": None if box is None else box.score,
        "box_area": None if box is None else box.area_fraction,
        "width": comparison.size[0],
        "height": comparison.size[1],
        "photo_sha256": hashlib.sha256(photo).hexdigest(),
        **{f"{stage}_ms": round(seconds * 1000, 3) for stage, seconds in outcome.seconds.items()},
        "truth": UNLABELLED,
        "truth_wnid": None,
    }
    for arm, prediction in first.items():
        row[f"{arm}_wnid"], row[f"{arm}_probability"] = (
            (None, None) if prediction is None else _first(prediction, space)
        )
    return row


def _first(prediction: Prediction, space: LabelSpace) -> tuple[str, float]:
    return space.wnids[prediction.first], prediction.confidence
