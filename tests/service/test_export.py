"""The journal as a file."""

import csv
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from service.database import Database
from service.experiment import Asked
from service.export import export
from service.rows import insert_answers
from tests.service.journals import WNIDS, row

SECOND = 1_000_000


@pytest.fixture
def filled(database: Database) -> Database:
    with database.writing() as connection:
        rows = [row(str(one), one * SECOND + 1, detector=f"d{one % 2}") for one in range(5)]
        insert_answers(connection, [*rows, row("told", 9 * SECOND, truth_wnid=WNIDS[1], arms={"center": ["n", 0.5]})])
    return database


def test_parquet(filled: Database, tmp_path: Path) -> None:
    assert export(filled, tmp_path / "a.parquet", Asked()) == 6
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [one["request_id"] for one in table] == ["0", "1", "2", "3", "4", "told"]
    assert table[1]["answered"] == datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC)
    assert (table[5]["truth_wnid"], table[5]["arms"]) == (WNIDS[1], '{"center":["n",0.5]}')
    assert (table[0]["truth_wnid"], table[0]["plain_probability"], table[0]["width"]) == (None, 0.5, 640)


def test_csv(filled: Database, tmp_path: Path) -> None:
    assert export(filled, tmp_path / "a.csv", Asked(SECOND, 5 * SECOND, "d0")) == 2
    with (tmp_path / "a.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [one["request_id"] for one in table] == ["2", "4"]
    assert table[0]["answered"] == "1970-01-01T00:00:02.000001+00:00"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.csv"] or (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_an_empty_journal_is_an_empty_table(database: Database, tmp_path: Path, name: str) -> None:
    assert export(database, tmp_path / name, Asked()) == 0
    assert (tmp_path / name).stat().st_size > 0


def test_other_suffixes_are_refused(filled: Database, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parquet"):
        export(filled, tmp_path / "a.xlsx", Asked())
