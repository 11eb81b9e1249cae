"""Rows, and databases to put them in, for the tests of the journal, of feedback and of the experiment."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text

from loadtests.postgresql import PostgreSQL, find_binaries, postgresql
from models.label_spaces import imagenet_1k
from service.database import Database, parse_url
from service.rows import UNLABELLED, Answer, Row

WNIDS = imagenet_1k().wnids
STAGES = ("decode", "queue", "detect", "crop", "classify", "total")
needs_postgresql = pytest.mark.skipif(find_binaries() is None, reason="PostgreSQL is not installed: make system")


def row(request_id: str = "a", answered_us: int | None = None, **changed: Any) -> Row:
    """Of an answer whose arms all say the first class."""
    first = {f"{arm}_wnid": WNIDS[0] for arm in ("plain", "cropped", "combined")}
    return {
        "request_id": request_id,
        "answered_us": time.time_ns() // 1000 if answered_us is None else answered_us,
        "backbone": "b",
        "backbone_sha256": None,
        "detector": "d",
        "detector_sha256": None,
        "label_space": "imagenet-1k",
        "box_policy": "rescored",
        "outcome": "agree",
        **first,
        **{f"{arm}_probability": 0.5 for arm in ("plain", "cropped", "combined")},
        "arms": None,
        **{f"box_{name}": 0.5 for name in ("x1", "y1", "x2", "y2", "score", "area")},
        "width": 640,
        "height": 480,
        "photo_sha256": "0" * 64,
        **{f"{stage}_ms": 1.0 for stage in STAGES},
        "truth": UNLABELLED,
        "truth_wnid": None,
        **changed,
    }


def answers(database: Database) -> list[dict[str, Any]]:
    with database.reading() as connection:
        found = connection.execute(select(Answer.__table__).order_by(Answer.answered_us)).mappings()
        return [dict(one) for one in found]


def emptied(server: PostgreSQL) -> str:
    """The URL of this server's database with nothing in it: a database a test would be seconds of a disk's work."""
    admin = create_engine(parse_url(server.url))
    of_tests_before = "client_port > 0 AND pid <> pg_backend_pid()"
    with admin.begin() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {of_tests_before}"))
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    admin.dispose()
    return server.url


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgresql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database that is empty."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'new' / 'journal.db'}"
        return
    yield emptied(request.getfixturevalue("postgresql_server"))


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()
