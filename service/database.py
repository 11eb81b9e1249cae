"""The journal's database, SQLite or PostgreSQL: its connections, and its schema, brought up to date by Alembic."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

# How long a connection waits for a lock, and for a server that does not answer.
_LOCK_SECONDS = 2
_ANSWER_SECONDS = 10
# Any number that no other program takes in the same PostgreSQL database.
_MIGRATION_LOCK = 0x66696775


class DatabaseAway(Exception):
    """It is missing, locked, full or too slow, and may be back in a moment; `reason` is for the log alone."""

    def __init__(self, reason: str) -> None:
        super().__init__("The journal's database is away; try again in a moment.")
        self.reason = reason


class Database:
    """Safe from several threads and processes; nothing is opened before it is needed, and all of it may come back."""

    def __init__(self, url: str) -> None:
        """Raises `ValueError` for an URL of no database that is known."""
        self.url = parse_url(url)
        self._engine = _engine(self.url)
        # What is read in one transaction is of one moment.
        snapshot = {} if self._is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self._engine.execution_options(reading=True, **snapshot)
        self._lock = threading.Lock()
        self._up_to_date = False

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, durable once the block has ended. Raises `DatabaseAway`, and what refuses a row itself."""
        with self._errors():
            self._bring_up_to_date()
            with self._engine.begin() as connection:
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One snapshot. Raises `DatabaseAway`."""
        with self._errors():
            self._bring_up_to_date()
            with self._reader.connect() as connection:
                yield connection

    def close(self) -> None:
        self._engine.dispose()

    @property
    def _is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (DataError, IntegrityError):
            raise
        except (SQLAlchemyError, OSError) as error:
            # The file may be gone or another one, so that its schema is looked at again.
            self._up_to_date = False
            raise DatabaseAway(_first_line(error)) from error

    def _bring_up_to_date(self) -> None:
        if self._up_to_date:
            return
        with self._lock:
            if self._up_to_date:
                return
            if self._is_sqlite and self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            with self._engine.begin() as connection:
                # Several workers start at once: the first migrates, the others then find it done.
                if not self._is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                migrate(connection)
            self._up_to_date = True


def migrate(connection: Connection) -> None:
    """To the newest schema, in the transaction that is open. Raises `DatabaseAway` for a schema that is newer still."""
    # Imported here: the settings need this module, and `--help` should take no second.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    newest = ScriptDirectory.from_config(config).get_current_head()
    if MigrationContext.configure(connection).get_current_revision() != newest:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise DatabaseAway(str(error)) from error


def parse_url(url: str) -> URL:
    """With an absolute path for SQLite and psycopg 3 for PostgreSQL. Raises `ValueError`."""
    try:
        parsed = make_url(url)
    except SQLAlchemyError as error:
        raise ValueError(_first_line(error)) from None
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(database=str(Path(parsed.database or "").absolute()))
    if kind == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise ValueError("needs sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        # A connection a transaction costs a fraction of a millisecond, and finds a file that was replaced.
        engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": _LOCK_SECONDS})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    milliseconds = f"-c statement_timeout={_ANSWER_SECONDS * 1000} -c lock_timeout={_LOCK_SECONDS * 1000}"
    patience = {"connect_timeout": _LOCK_SECONDS, "tcp_user_timeout": _ANSWER_SECONDS * 1000, "options": milliseconds}
    return create_engine(url, pool_pre_ping=True, connect_args=patience)


def _set_up_sqlite(connection: Any, _: object) -> None:
    # Transactions are begun by us: the module's own would begin at the first write, too late to read beforehand.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
