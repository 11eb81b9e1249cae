"""The journal by itself, and behind a running service."""

import hashlib
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, func, insert, select, text

from loadtests.postgresql import PostgreSQL
from models.comparison import Options
from models.pipeline import Pipeline
from models.served import Served
from service import journal as journals
from service.database import Database, parse_url
from service.journal import Journal, prune, row_of
from service.outcomes import outcome_of
from service.rows import DAY, HOUR, Answer, Base, PackedRow, Spread, Tally, Word, insert_answers
from service.settings import Settings
from tests.service.conftest import StartServer
from tests.service.journals import answers, emptied, needs_postgresql, row
from tests.waiting import eventually


class Opened:
    """A journal and what it told of its rows."""

    def __init__(self, database: Database, backlog: int = 1000) -> None:
        self.told: Counter[str] = Counter()
        self.journal = Journal(database, backlog, 0, self._tell)

    def _tell(self, result: str, rows: int) -> None:
        self.told[result] += rows


@pytest.fixture
def opened(database: Database) -> Iterator[Opened]:
    one = Opened(database)
    yield one
    one.journal.close()


def test_migrations_make_the_tables_of_the_code(database: Database) -> None:
    with database.writing() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_workers_may_start_at_once(url: str) -> None:
    databases = [Database(url) for _ in range(6)]
    faults: list[Exception] = []

    def write(number: int, database: Database) -> None:
        try:
            with database.writing() as connection:
                insert_answers(connection, [row(str(number), 5)])
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=one) for one in enumerate(databases)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with databases[0].reading() as connection:
        assert set(connection.scalars(select(Tally.answers))) == {6}
    for database in databases:
        database.close()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("x", "URL"),
        ("sqlite://", "FILE"),
        ("sqlite:///:memory:", "FILE"),
        ("nothing://a/b", "nothing"),
        ("oracle://a/b", "not installed"),
        ("sqlite+aiosqlite:///a.db", "not installed|asynchronous"),
    ],
)
def test_wrong_urls_are_refused(wrong: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_url(wrong)


@pytest.mark.parametrize(("url", "driver"), [("postgresql://a/b", "psycopg"), ("sqlite:///a.db", "pysqlite")])
def test_the_driver_of_a_url(url: str, driver: str) -> None:
    assert parse_url(url).get_driver_name() == driver


def test_the_default_is_a_file_and_empty_is_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("FIGUREGROUND_JOURNAL_URL", raising=False)
    assert Settings().journal_url == f"sqlite:///{tmp_path / 'figureground' / 'journal.db'}"
    monkeypatch.setenv("FIGUREGROUND_JOURNAL_URL", "")
    assert Settings().journal_url == ""
    monkeypatch.setenv("FIGUREGROUND_JOURNAL_URL", "sqlite:///a.db")
    assert Settings().journal_url == f"sqlite:///{Path('a.db').absolute()}"


def test_a_row_tells_all_but_the_pixels(served: Served, photo: Path, database: Database) -> None:
    data = photo.read_bytes()
    outcome = outcome_of(data, Options(arms=("center", "squashed")), Pipeline(served), 2_000_000)
    with database.writing() as connection:
        insert_answers(connection, [row_of(outcome, served, "abc", data)])
    (found,) = answers(database)
    comparison = outcome.comparison
    assert (found["request_id"], found["outcome"]) == ("abc", comparison.outcome)
    assert found["photo_sha256"] == hashlib.sha256(data).hexdigest()
    assert found["backbone_sha256"] == served.classifier(None).model.sha256
    assert found["plain_wnid"] == comparison.label_space.wnids[comparison.plain.first]
    assert found["plain_probability"] == pytest.approx(comparison.plain.confidence)
    assert comparison.box is not None
    assert [found[f"box_{name}"] for name in ("x1", "y1", "x2", "y2")] == pytest.approx(list(comparison.box.xyxy))
    assert set(found["arms"]) == {"center", "squashed"}
    assert abs(found["answered_us"] / 1e6 - time.time()) < 60
    assert all(not isinstance(value, bytes) for value in found.values())


def test_rows_are_committed_in_groups(opened: Opened) -> None:
    for number in range(900):
        opened.journal.put(PackedRow.of(row(str(number), number)))
    eventually(lambda: opened.told["committed"] == 900)
    assert [found["request_id"] for found in answers(opened.journal.database)] == [str(one) for one in range(900)]
    assert opened.told["lost"] == 0


def test_writing_again_writes_once(database: Database) -> None:
    rows = [row("a", 1), row("a", 2), row("b", 1)]
    for again in (False, True):
        with database.writing() as connection:
            insert_answers(connection, rows[: 3 if again else 2], again)
    assert len(answers(database)) == 3
    with database.reading() as connection:
        assert set(connection.scalars(select(Tally.answers))) == {3}


def test_a_refused_row_does_not_take_others_along(opened: Opened) -> None:
    for number in range(5):
        opened.journal.put(PackedRow.of(row(str(number), number, plain_probability=None if number == 2 else 0.5)))
    eventually(lambda: opened.told == {"committed": 4, "lost": 1})


def test_rows_wait_for_a_locked_database(sqlite_file: Path) -> None:
    opened = Opened(Database(f"sqlite:///{sqlite_file}"))
    opened.journal.put(PackedRow.of(row("first")))
    eventually(lambda: opened.told["committed"] == 1)
    with sqlite3.connect(sqlite_file, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        for number in range(100):
            opened.journal.put(PackedRow.of(row(str(number))))
        assert time.monotonic() - start < 0.5
        eventually(lambda: opened.journal.away)
        assert opened.journal.holds({"99", "x"})
        assert not opened.journal.holds({"first"})
        other.execute("ROLLBACK")
    eventually(lambda: opened.told["committed"] == 101)
    assert not opened.journal.away
    opened.journal.close()
    assert opened.told["lost"] == 0


def test_rows_wait_for_a_full_disk(sqlite_file: Path) -> None:
    opened = Opened(Database(f"sqlite:///{sqlite_file}"))
    opened.journal.put(PackedRow.of(row("first")))
    eventually(lambda: opened.told["committed"] == 1)

    def fill(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA max_page_count=1")  # SQLite takes the present size instead.

    engine = opened.journal.database._engine
    event.listen(engine, "checkout", fill)
    for number in range(500):
        opened.journal.put(PackedRow.of(row(str(number), number)))
    eventually(lambda: opened.journal.away)
    event.remove(engine, "checkout", fill)
    engine.dispose()
    eventually(lambda: opened.told == {"committed": 501})
    opened.journal.close()


@needs_postgresql
def test_rows_wait_for_a_slow_database(postgresql_server: PostgreSQL) -> None:
    """Somebody holds the table for longer than the journal waits."""
    url = emptied(postgresql_server)
    opened, other = Opened(Database(url)), Database(url)
    opened.journal.put(PackedRow.of(row("first")))
    eventually(lambda: opened.told["committed"] == 1)
    with other.writing() as connection:
        connection.execute(text("LOCK TABLE answers"))
        start = time.monotonic()
        for number in range(100):
            opened.journal.put(PackedRow.of(row(str(number))))
        assert time.monotonic() - start < 0.5
        eventually(lambda: opened.journal.away)
    eventually(lambda: opened.told == {"committed": 101})
    opened.journal.close()
    other.close()


def test_what_finds_no_room_is_lost_and_the_rest_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.write_text("a file where the folder should be")
    opened = Opened(Database(f"sqlite:///{folder / 'journal.db'}"), backlog=5)
    for number in range(12):
        opened.journal.put(PackedRow.of(row(str(number), number)))
    eventually(lambda: opened.journal.away)
    assert opened.told == {"lost": 7}
    folder.unlink()
    eventually(lambda: opened.told["committed"] == 5)
    opened.journal.close()
    assert [found["request_id"] for found in answers(opened.journal.database)] == list("01234")


@pytest.mark.parametrize(("other", "kept"), [(None, ["b"]), ("c", ["c", "b"])], ids=["deleted", "replaced"])
def test_a_file_that_is_another_one_is_opened_again(other: str | None, kept: list[str], sqlite_file: Path) -> None:
    opened = Opened(Database(f"sqlite:///{sqlite_file}"))
    opened.journal.put(PackedRow.of(row("a")))
    eventually(lambda: opened.told["committed"] == 1)
    if other is not None:
        backup = Database(f"sqlite:///{sqlite_file.with_name('backup.db')}")
        with backup.writing() as connection:
            insert_answers(connection, [row(other)])
        backup.close()
    for file in sqlite_file.parent.glob("journal.db*"):
        file.unlink()
    if other is not None:
        sqlite_file.with_name("backup.db").rename(sqlite_file)
    opened.journal.put(PackedRow.of(row("b")))
    eventually(lambda: opened.told["committed"] == 2)
    opened.journal.close()
    assert [found["request_id"] for found in answers(opened.journal.database)] == kept


def test_a_row_that_somebody_waits_for_is_written_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_PAUSE_SECONDS", 60)
    opened = Opened(database)
    for name in ("a", "b", "c"):
        opened.journal.put(PackedRow.of(row(name)))
        opened.journal.hurry()
        eventually(lambda: not opened.journal.holds({"a", "b", "c"}))
    opened.journal.close()


def test_closing_gives_up_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_CLOSE_SECONDS", 0.1)
    (tmp_path / "file").touch()
    opened = Opened(Database(f"sqlite:///{tmp_path / 'file' / 'journal.db'}"))
    opened.journal.put(PackedRow.of(row()))
    opened.journal.close()
    assert opened.told == {"lost": 1}


def test_an_answer_that_makes_no_row_is_a_lost_one(opened: Opened) -> None:
    opened.journal.put(None)
    assert opened.told == {"lost": 1}


def test_old_hours_are_pruned(database: Database) -> None:
    with database.writing() as connection:
        rows = [row(str(number), number * HOUR // 2) for number in range(10)]
        insert_answers(connection, rows)
        connection.execute(insert(Word), [{**_key(one), "said_us": 1, "wnid": "n"} for one in rows])
    assert prune(database, 2 * HOUR - 1) == 1
    assert prune(database, 2 * HOUR) == 1
    assert [found["request_id"] for found in answers(database)] == list("456789")
    with database.reading() as connection:
        assert connection.scalar(select(func.sum(Tally.answers)).where(Tally.span == HOUR)) == 6
        assert connection.scalar(select(func.sum(Tally.answers)).where(Tally.span == DAY)) == 6
        of_measure = (Spread.span == DAY, Spread.measure == "confidence_shift")
        assert connection.scalar(select(func.sum(Spread.answers)).where(*of_measure)) == 6
        assert connection.scalar(select(func.count()).select_from(Word)) == 6
        assert connection.scalar(select(func.min(Answer.answered_us))) == 2 * HOUR
    assert prune(database, 10**18) == 3
    assert prune(database, 10**18) == 0


def _key(one: dict[str, Any]) -> dict[str, Any]:
    return {"request_id": one["request_id"], "answered_us": one["answered_us"]}


def test_a_locked_database_neither_fails_nor_delays_a_prediction(
    start_server: StartServer, photo: Path, sqlite_file: Path
) -> None:
    with start_server(journal_url=f"sqlite:///{sqlite_file}") as server, httpx.Client(base_url=server.url) as client:

        def seconds() -> float:
            start = time.monotonic()
            assert client.post("/predict", files={"image": photo.read_bytes()}, timeout=60).status_code == 200
            return time.monotonic() - start

        def counted(result: str) -> float:
            prefix = f'figureground_journal_rows_total{{result="{result}"}} '
            lines = client.get("/metrics").text.splitlines()
            return float(next(line.removeprefix(prefix) for line in lines if line.startswith(prefix)))

        usual = max(seconds() for _ in range(5))
        eventually(lambda: counted("committed") == 5)
        with sqlite3.connect(sqlite_file, isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            locked = sorted(seconds() for _ in range(5))[2]
            eventually(lambda: client.get("/readyz").json() == {"ready": True, "degraded": ["journal"]})
            assert client.get("/readyz").status_code == 200
            told = client.post("/feedback", json={"request_id": "x", "label": 1}, timeout=60)
            other.execute("ROLLBACK")
        assert locked < usual + 1
        assert told.status_code == 503
        assert int(told.headers["Retry-After"]) > 0
        eventually(lambda: counted("committed") == 10)
        assert counted("lost") == 0
        assert len(answers(Database(f"sqlite:///{sqlite_file}"))) == 10
        eventually(lambda: client.get("/readyz").json()["degraded"] == [])
