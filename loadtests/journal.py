"""How many answers a second the journal writes, and how many bytes a row takes, with SQLite and with PostgreSQL.

python -m loadtests.journal
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from loadtests.experiment import rows
from loadtests.postgresql import databases
from service.database import Database
from service.rows import Row, insert_answers

_RESULT = Path(__file__).parent / "results" / "journal.json"


def write(url: str, groups: list[list[Row]]) -> None:
    """As one worker's journal does: a transaction a group."""
    database = Database(url)
    for group in groups:
        with database.writing() as connection:
            insert_answers(connection, group)
    database.close()


def rate(url: str, groups: list[list[Row]], writers: int) -> float:
    """Rows a second by so many workers at once."""
    start = time.perf_counter()
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(lambda number: write(url, groups[number::writers]), range(writers)))
    return sum(map(len, groups)) / (time.perf_counter() - start)


def bytes_a_row(url: str, number: int) -> float:
    """With indexes and sums."""
    database = Database(url)
    tables = "answers", "words", "tallies", "spreads"
    sizes = " + ".join(f"pg_total_relation_size('{table}')" for table in tables)
    with database.reading() as connection:
        if database.is_of_one_machine:
            size = connection.scalar(text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"))
        else:
            size = connection.scalar(text(f"SELECT {sizes}"))
    database.close()
    return float(size or 0) / number


def main(
    number: Annotated[int, typer.Option("--rows", help="Answers to write, each time.")] = 20_000,
    group: Annotated[
        int, typer.Option(help="Answers in one transaction: what came while the last one was written.")
    ] = 100,
) -> None:
    """The database and its clients share this machine's cores."""
    console, table = Console(), Table("database", "writers", "rows/s", "bytes/row")
    result = []
    with databases() as urls:
        for name, url in urls.items():
            found = list(rows(2 * number))
            groups = [found[start : start + group] for start in range(0, len(found), group)]
            half = len(groups) // 2
            # SQLite has one writer at a time.
            for writers, part in ((1, groups[:half]), (1 if name == "SQLite" else 16, groups[half:])):
                told = rate(url, part, writers)
                result.append({"database": name, "writers": writers, "rows_per_second": told})
                table.add_row(name, str(writers), f"{told:.0f}", "")
            table.add_row(name, "", "", f"{bytes_a_row(url, 2 * number):.0f}")
    console.print(table)
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
