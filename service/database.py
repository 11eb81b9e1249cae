"""The journal's database: its connections, and its schema, brought up to date by Alembic.

SQLite and PostgreSQL are told how long to wait and what a snapshot is; any other database that SQLAlchemy has a driver
for is taken as it comes.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DataError, DisconnectionError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

# How long a connection waits for a lock, and for a server that does not answer.
_LOCK_SECONDS = 2
_ANSWER_SECONDS = 10
_LIBPQ: Mapping[str, Any] = {
    "connect_timeout": _LOCK_SECONDS,
    "tcp_user_timeout": _ANSWER_SECONDS * 1000,
    "options": f"-c statement_timeout={_ANSWER_SECONDS * 1000} -c lock_timeout={_LOCK_SECONDS * 1000}",
}
_MYSQL: Mapping[str, Any] = {
    "connect_timeout": _LOCK_SECONDS,
    "read_timeout": _ANSWER_SECONDS,
    "write_timeout": _ANSWER_SECONDS,
}
# Arguments of a driver's connect; a driver that is not here has its own patience.
_PATIENCE = {"psycopg": _LIBPQ, "psycopg2": _LIBPQ, "pymysql": _MYSQL, "mysqldb": _MYSQL}
# What takes a lock that no other program takes, and what gives it back where the end of the transaction does not: MySQL
# ends one at every change of the schema. SQLite's transactions are one at a time.
_MIGRATION_LOCKS: Mapping[str, tuple[str, str | None]] = {
    "postgresql": ("SELECT pg_advisory_xact_lock(1718187885)", None),
    **dict.fromkeys(
        ("mysql", "mariadb"), ("SELECT GET_LOCK('figureground', 10)", "SELECT RELEASE_LOCK('figureground')")
    ),
}
_MIGRATING = threading.Lock()


class DatabaseAway(Exception):
    """It is missing, locked, full or too slow, and may be back in a moment; `reason` is for the log alone."""

    def __init__(self, reason: str) -> None:
        super().__init__("The journal's database is away; try again in a moment.")
        self.reason = reason


class Database:
    """Safe from several threads and processes; nothing is opened before it is needed, and all of it may come back."""

    def __init__(self, url: str) -> None:
        """Raises `ValueError` for an URL that no installed driver opens."""
        self.url = parse_url(url)
        self._kind = self.url.get_backend_name()
        self._engine = _engine(self.url)
        # What is read in one transaction is of one moment; SQLite and MySQL do so anyway.
        snapshot = {"isolation_level": "REPEATABLE READ"} if self._kind == "postgresql" else {}
        self._reader = self._engine.execution_options(reading=True, **snapshot)
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

    @property
    def is_of_one_machine(self) -> bool:
        """Whether only this service writes into it: for several there are the databases with a server."""
        return self._kind == "sqlite"

    def close(self) -> None:
        self._engine.dispose()

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
        # Alembic is for one thread at a time.
        with _MIGRATING:
            if self._up_to_date:
                return
            if self._kind == "sqlite" and self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            # Several workers start at once: the first migrates, the others then find it done.
            lock, unlock = _MIGRATION_LOCKS.get(self._kind, (None, None))
            with self._engine.begin() as connection:
                if lock is not None:
                    connection.execute(text(lock))
                migrate(connection)
                if unlock is not None:
                    connection.execute(text(unlock))
            self._up_to_date = True


def migrate(connection: Connection, to: str = "head") -> None:
    """To the newest schema, in the transaction that is open. Raises `DatabaseAway` for one that is too new.

    A schema that is one migration ahead is left as it is and written to: it is that of the next version, to which the
    machines are being upgraded one after the other.
    """
    # Imported here: the settings need this module, and `--help` should take no second.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    newest = ScriptDirectory.from_config(config).get_current_head() or ""
    found = MigrationContext.configure(connection).get_current_revision()
    if found not in (newest, f"{int(newest) + 1:03}"):
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, to)
        except CommandError as error:
            raise DatabaseAway(str(error)) from error


def parse_url(url: str) -> URL:
    """With an absolute path for SQLite, and psycopg 3 for PostgreSQL unless it names a driver. Raises `ValueError`."""
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        dialect = parsed.get_dialect()
        dialect.import_dbapi()
    except SQLAlchemyError as error:
        raise ValueError(_first_line(error)) from None
    except ImportError as error:
        raise ValueError(f"needs a driver that is not installed: {error}") from None
    if dialect.is_async:
        raise ValueError(f"{parsed.drivername} is an asynchronous driver; name another one")
    if parsed.get_backend_name() != "sqlite":
        return parsed
    if parsed.database in (None, "", ":memory:"):
        raise ValueError("needs a file, sqlite:///FILE: every process would have a memory of its own")
    return parsed.set(database=str(Path(parsed.database or "").absolute()))


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, Path(url.database or ""))
    return create_engine(url, pool_pre_ping=True, connect_args={**_PATIENCE.get(url.get_driver_name(), {})})


def _sqlite_engine(url: URL, path: Path) -> Engine:
    # Some connections stay open: whoever closes the last one moves the whole log into the file, which costs more than a
    # commit does.
    engine = create_engine(url, pool_size=2, max_overflow=-1, connect_args={"timeout": _LOCK_SECONDS})

    def set_up(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["file"] = _identity(path)
        # Transactions are begun by us: the module's own would begin at the first write, too late to read beforehand.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    def check(_: Any, record: ConnectionPoolEntry, __: Any) -> None:
        """What is written into a file that was deleted or replaced is lost, so that the new one is opened."""
        if record.info["file"] != _identity(path):
            raise DisconnectionError

    event.listen(engine, "connect", set_up)
    event.listen(engine, "checkout", check)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
