"""Versions that follow each other share one database while machines are upgraded one by one."""

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, Table, insert, select, text

import service.migrations.versions
from service.database import Database, DatabaseAway, migrate
from service.rows import insert_answers
from tests.service.journals import row

FOLDER = Path(service.migrations.versions.__file__).parent
REVISIONS = sorted(re.findall(r"v(\d{3})_", " ".join(path.name for path in FOLDER.glob("v*.py"))))
_VALUES: dict[type, Any] = {str: "x", int: 1, float: 0.5, object: {"a": 1}}


@pytest.fixture
def database(url: str) -> Database:
    return Database(url)


@pytest.fixture
def connection(database: Database) -> Any:
    """Of a database without any schema."""
    if database.is_of_one_machine:
        Path(database.url.database or "").parent.mkdir(parents=True)
    with database._engine.begin() as opened:
        yield opened
    database.close()


def test_they_are_numbered_without_a_gap() -> None:
    assert [f"{number:03}" for number in range(1, len(REVISIONS) + 1)] == REVISIONS


@pytest.mark.parametrize("number", range(1, len(REVISIONS)))
def test_what_the_version_before_writes_fits_the_next_schema(number: int, connection: Connection) -> None:
    migrate(connection, REVISIONS[number - 1])
    before = tables(connection)
    migrate(connection, REVISIONS[number])
    for table in before:
        given = {column.name: _value(column) for column in table.columns}
        connection.execute(insert(table), given)
        assert connection.execute(select(table)).mappings().one() == given


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_server_writes_into_the_schema_of_the_next_version(ahead: int, database: Database) -> None:
    with database.writing() as connection:
        _pretend(connection, ahead)
    other = Database(database.url.render_as_string(hide_password=False))
    with other.writing() as connection:
        insert_answers(connection, [row()])
    with other.reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM answers")) == 1
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == _revision(ahead)


def test_a_schema_that_is_newer_still_is_left_alone(database: Database) -> None:
    with database.writing() as connection:
        _pretend(connection, 2)
    other = Database(database.url.render_as_string(hide_password=False))
    with pytest.raises(DatabaseAway), other.writing():
        pass


def tables(connection: Connection) -> list[Table]:
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def _value(column: Any) -> Any:
    return _VALUES[column.type.python_type]


def _revision(ahead: int) -> str:
    return f"{len(REVISIONS) + ahead:03}"


def _pretend(connection: Connection, ahead: int) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :number"), {"number": _revision(ahead)})
