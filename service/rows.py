"""The journal's tables: one typed row an answer, every word of feedback, and the sums that the experiment is read from.

Times are microseconds since 1970 in UTC, so that both databases compare and add them alike.
"""

import pickle
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Self, TypeAlias

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    Integer,
    SmallInteger,
    String,
    bindparam,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Row: TypeAlias = dict[str, Any]


class PackedRow(NamedTuple):
    """A row of `Answer` while it waits: less than half of the memory, and quickly passed from process to process."""

    request_id: str
    data: bytes

    @classmethod
    def of(cls, row: Row) -> Self:
        return cls(row["request_id"], pickle.dumps(row))

    def unpacked(self) -> Row:
        row: Row = pickle.loads(self.data)
        return row


HOUR = 3_600_000_000
DAY = 24 * HOUR
# How long the times are that have tallies of their own, longest first; each is a multiple of the next.
SPANS = (DAY, HOUR)
UNLABELLED = -1
# The policy of an answer whose box the request gave: no detector is judged by it, so that it is in no sum.
GIVEN = "given"
# The bits of an answer's `truth`: which arms are right, and which of the further arms were asked for.
RIGHT: Mapping[str, int] = {"plain": 1, "cropped": 2, "combined": 4}
FURTHER_RIGHT: Mapping[str, int] = {"detector": 8, "background": 16, "center": 32, "squashed": 64}
FURTHER_ASKED: Mapping[str, int] = {"detector": 128, "background": 256, "center": 512, "squashed": 1024}
# Upper bounds of the bins of what `Spread` counts; the last bin has none.
MEASURES: Mapping[str, Sequence[float]] = {
    "box_area_fraction": tuple(tenths / 10 for tenths in range(1, 11)),
    "confidence_shift": (-0.8, -0.6, -0.4, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
}


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 as SQLAlchemy declares it
        # The text that is JSON in SQLite is a real JSON in PostgreSQL; wnids and probabilities of the further arms.
        dict[str, Any]: JSON,
        int: BigInteger,
        # Some databases make no key of a text without bounds.
        str: String().with_variant(String(191), "mysql", "mariadb", "mssql", "oracle"),
    }


class Answer(Base):
    """One photo's answer, never its pixels. A client may use a request id again: the time tells the answers apart.

    `outcome` is agree, disagree, no_detection or covers_image; `box_*` are pixels of the upright photo, None without a
    box; `box_area` is its share of the photo. `truth` is UNLABELLED, or the sum of the bits under `truth_wnid`.
    """

    __tablename__ = "answers"

    request_id: Mapped[str] = mapped_column(primary_key=True)
    answered_us: Mapped[int] = mapped_column(primary_key=True, index=True, autoincrement=False)
    backbone: Mapped[str]
    backbone_sha256: Mapped[str | None]
    detector: Mapped[str]
    detector_sha256: Mapped[str | None]
    label_space: Mapped[str]
    box_policy: Mapped[str]
    outcome: Mapped[str]
    plain_wnid: Mapped[str]
    plain_probability: Mapped[float]
    cropped_wnid: Mapped[str | None]
    cropped_probability: Mapped[float | None]
    combined_wnid: Mapped[str]
    combined_probability: Mapped[float]
    arms: Mapped[dict[str, Any] | None]
    box_x1: Mapped[float | None]
    box_y1: Mapped[float | None]
    box_x2: Mapped[float | None]
    box_y2: Mapped[float | None]
    box_score: Mapped[float | None]
    box_area: Mapped[float | None]
    width: Mapped[int]
    height: Mapped[int]
    photo_sha256: Mapped[str]
    decode_ms: Mapped[float]
    queue_ms: Mapped[float]
    detect_ms: Mapped[float]
    crop_ms: Mapped[float]
    classify_ms: Mapped[float]
    total_ms: Mapped[float]
    truth: Mapped[int] = mapped_column(SmallInteger)
    truth_wnid: Mapped[str | None]


class Word(Base):
    """One word of feedback; an answer's last one is its truth, an empty wnid that it was taken back."""

    __tablename__ = "words"

    number: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    request_id: Mapped[str] = mapped_column(index=True)
    answered_us: Mapped[int] = mapped_column(index=True)
    said_us: Mapped[int]
    wnid: Mapped[str]


class Tally(Base):
    """How many answers of one hour or day are alike in all that the experiment asks; kept in step with `answers`.

    The time starts `number` times `span` after 1970.
    """

    __tablename__ = "tallies"

    span: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    backbone: Mapped[str] = mapped_column(primary_key=True)
    detector: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    truth: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    answers: Mapped[int]


class Spread(Base):
    """How many answers of one hour or day have a measure in one bin, counted from 0; kept in step with `answers`."""

    __tablename__ = "spreads"

    span: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    backbone: Mapped[str] = mapped_column(primary_key=True)
    detector: Mapped[str] = mapped_column(primary_key=True)
    measure: Mapped[str] = mapped_column(primary_key=True)
    bin: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    answers: Mapped[int]


class TallyKey(NamedTuple):
    span: int
    number: int
    backbone: str
    detector: str
    outcome: str
    truth: int


class SpreadKey(NamedTuple):
    span: int
    number: int
    backbone: str
    detector: str
    measure: str
    bin: int


Key: TypeAlias = TallyKey | SpreadKey
# In the order in which all writers come to them.
SUMS: Mapping[type[Key], type[Tally] | type[Spread]] = {SpreadKey: Spread, TallyKey: Tally}
_UPSERTS: Mapping[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def tally_keys(row: Mapping[str, Any]) -> list[Key]:
    """Of all tallies that a row of `Answer` is in."""
    if row["box_policy"] == GIVEN:
        return []
    alike = (row["backbone"], row["detector"], row["outcome"], row["truth"])
    return [TallyKey(span, row["answered_us"] // span, *alike) for span in SPANS]


def spread_keys(row: Mapping[str, Any]) -> list[Key]:
    """Of all spreads that a row of `Answer` is in."""
    if row["box_policy"] == GIVEN:
        return []
    values: dict[str, float] = {}
    if row["box_area"] is not None:
        values["box_area_fraction"] = row["box_area"]
    if row["cropped_probability"] is not None:
        values["confidence_shift"] = row["cropped_probability"] - row["plain_probability"]
    return [
        SpreadKey(span, row["answered_us"] // span, row["backbone"], row["detector"], measure, _bin(measure, value))
        for measure, value in values.items()
        for span in SPANS
    ]


def cover(low: int, high: int, spans: Sequence[int] = SPANS) -> Iterator[tuple[int | None, int, int]]:
    """A time in parts: `(span, first, last)` of the sums' numbers, the longest spans that fit, else of microseconds."""
    if low >= high:
        return
    if not spans:
        yield None, low, high
        return
    span, *shorter = spans
    first, last = -(-low // span), high // span
    if first >= last:
        yield from cover(low, high, shorter)
        return
    yield span, first, last
    yield from cover(low, first * span, shorter)
    yield from cover(last * span, high, shorter)


def of_part(table: "type[Tally] | type[Spread]") -> list[ColumnElement[bool]]:
    """The sums of one part that `cover` gives, for the parameters `span`, `first` and `last`."""
    return [
        table.span == bindparam("span"),
        table.number >= bindparam("first"),
        table.number < bindparam("last"),
    ]


def insert_answers(connection: Connection, rows: Sequence[Row], again: bool = False) -> None:
    """Rows of `Answer` and their sums; `again` leaves out those that an earlier try did write after all."""
    if again:
        written = _written(connection, rows)
        rows = [row for row in rows if (row["request_id"], row["answered_us"]) not in written]
    if rows:
        connection.execute(insert(Answer), rows)
        add_to_sums(connection, Counter(key for row in rows for key in [*tally_keys(row), *spread_keys(row)]))


def add_to_sums(connection: Connection, changes: Mapping[Key, int]) -> None:
    """Always in the same order, so that two writers wait for each other instead of in a circle."""
    for kind, table in SUMS.items():
        keys = sorted(key for key, change in changes.items() if isinstance(key, kind) and change)
        sums = [{**key._asdict(), "answers": changes[key]} for key in keys]
        if sums and connection.dialect.name in _UPSERTS:
            connection.execute(_upsert(connection.dialect.name, table), sums)
        else:
            for one in sums:
                _add_or_make(connection, table, one)


@cache
def _upsert(dialect: str, table: type[Tally] | type[Spread]) -> Insert:
    """Adds to a sum that is there already."""
    statement = _UPSERTS[dialect](table)
    added = {"answers": table.answers + statement.excluded.answers}
    upsert: Insert = statement.on_conflict_do_update(index_elements=table.__table__.primary_key, set_=added)
    return upsert


def _add_or_make(connection: Connection, table: type[Tally] | type[Spread], one: Mapping[str, Any]) -> None:
    """The same for a database whose upsert is not known here."""
    if _add(connection, table, one):
        return
    try:
        with connection.begin_nested():
            connection.execute(insert(table), one)
    except IntegrityError:  # Another writer was the first to make it.
        _add(connection, table, one)


def _add(connection: Connection, table: type[Tally] | type[Spread], one: Mapping[str, Any]) -> bool:
    alike = [getattr(table, name) == value for name, value in one.items() if name != "answers"]
    added = update(table).where(*alike).values(answers=table.answers + one["answers"])
    return connection.execute(added).rowcount > 0


def _bin(measure: str, value: float) -> int:
    return bisect_left(MEASURES[measure], value)


def _written(connection: Connection, rows: Iterable[Row]) -> set[tuple[str, int]]:
    keys = [(row["request_id"], row["answered_us"]) for row in rows]
    found = connection.execute(
        select(Answer.request_id, Answer.answered_us).where(tuple_(Answer.request_id, Answer.answered_us).in_(keys))
    )
    return {(request_id, answered_us) for request_id, answered_us in found}
