"""The journal as a table for other programs: Parquet or CSV."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, BigInteger, RowMapping, SmallInteger, String, select
from sqlalchemy.sql.elements import KeyedColumnElement

from service.database import Database
from service.experiment import Asked
from service.rows import Answer

_ROWS = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SUFFIXES = (".parquet", ".csv")


def export(database: Database, path: Path, asked: Asked) -> int:
    """All answers asked for, in the order of their times, a column each; gives their number.

    `answered` is a time in UTC, `truth_wnid` the last word of feedback, `arms` JSON. The file is complete or not there.
    Raises `ValueError` for another suffix than `SUFFIXES`, `OSError` and `service.database.DatabaseAway`.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path.name} must end with {' or '.join(SUFFIXES)}")
    partial = path.with_name(f".{path.name}.partial")
    try:
        rows = (_write_parquet if path.suffix == ".parquet" else _write_csv)(partial, _groups(database, asked))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _columns() -> list[KeyedColumnElement[Any]]:
    """Without `truth`, whose bits follow from the wnids."""
    return [column for column in Answer.__table__.columns if column.name not in ("answered_us", "truth")]


def _groups(database: Database, asked: Asked) -> Iterator[list[dict[str, Any]]]:
    import orjson

    statement = select(Answer.__table__).order_by(Answer.answered_us)
    if asked.since is not None:
        statement = statement.where(Answer.answered_us >= asked.since)
    if asked.until is not None:
        statement = statement.where(Answer.answered_us < asked.until)
    if asked.detector is not None:
        statement = statement.where(Answer.detector == asked.detector)

    def exported(row: RowMapping) -> dict[str, Any]:
        arms = None if row["arms"] is None else orjson.dumps(row["arms"]).decode()
        answered = _EPOCH + timedelta(microseconds=row["answered_us"])
        return {"answered": answered, **{column.name: row[column.name] for column in _columns()}, "arms": arms}

    with database.reading() as connection:
        found = connection.execution_options(yield_per=_ROWS).execute(statement)
        for group in found.mappings().partitions():
            yield [exported(row) for row in group]


def _write_parquet(path: Path, groups: Iterator[list[dict[str, Any]]]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(column: KeyedColumnElement[Any]) -> Any:
        if isinstance(column.type, (String, JSON)):
            return pa.string()
        return pa.int64() if isinstance(column.type, (BigInteger, SmallInteger)) else pa.float64()

    names = [(column.name, kind(column)) for column in _columns()]
    schema = pa.schema([("answered", pa.timestamp("us", "UTC")), *names])
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(pa.Table.from_pylist(group, schema))
            rows += len(group)
    return rows


def _write_csv(path: Path, groups: Iterator[list[dict[str, Any]]]) -> int:
    rows = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["answered", *(column.name for column in _columns())])
        writer.writeheader()
        for group in groups:
            writer.writerows({**row, "answered": row["answered"].isoformat()} for row in group)
            rows += len(group)
    return rows
