"""The journal's database is stopped and started under load, and then the service is killed: what is lost?

python -m loadtests.outage
"""

import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from evaluation.samples import SAMPLES
from loadtests.crowd import crowd
from loadtests.postgresql import postgresql
from service.database import Database
from service.rows import Answer, Word
from service.running import RunningService, family, running_service

_RESULT = Path(__file__).parent / "results" / "outage.json"
_BACK_SECONDS = 60


@dataclass
class Load:
    """What clients were answered that ask and then tell the label, each as soon as the last answer came."""

    service: RunningService
    predictions: Counter[int] = field(default_factory=Counter)
    feedback: Counter[int] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)

    def work(self, number: int, stop: threading.Event) -> None:
        photo = list(SAMPLES.values())[number % 2].path.read_bytes()
        with httpx.Client(base_url=self.service.url, timeout=60) as client:
            while not stop.is_set():
                try:
                    self._ask(client, photo)
                except httpx.TransportError:
                    self.predictions[0] += 1
                    time.sleep(0.1)

    def _ask(self, client: httpx.Client, photo: bytes) -> None:
        response = client.post("/predict", files={"image": photo})
        self.predictions[response.status_code] += 1
        if response.status_code != httpx.codes.OK:
            return
        request_id = response.json()["request_id"]
        self.answered.add(request_id)
        status = client.post("/feedback", json={"request_id": request_id, "label": 0}).status_code
        self.feedback[status] += 1
        if status == httpx.codes.OK:
            self.told.add(request_id)


def kept(url: str, load: Load) -> dict[str, int]:
    """What of it the database has."""
    database = Database(url)
    with database.reading() as connection:
        rows = set(connection.scalars(select(Answer.request_id)))
        words = set(connection.scalars(select(Word.request_id)))
    database.close()
    return {
        "answers with 200": len(load.answered),
        "other answers": sum(count for status, count in load.predictions.items() if status not in (0, 200)),
        "cut off": load.predictions[0],
        "answers without a row": len(load.answered - rows),
        "feedback with 200": len(load.told),
        "feedback with 503": load.feedback[503],
        "other feedback": sum(count for status, count in load.feedback.items() if status not in (200, 503)),
        "feedback with 200 that is lost": len(load.told - words),
    }


def main(
    clients: Annotated[int, typer.Option(help="At once.", min=1)] = 4,
    seconds: Annotated[float, typer.Option(help="Before, during and after the outage.", min=1)] = 6,
    workers: Annotated[int, typer.Option(help="Server processes.", min=1)] = 2,
) -> None:
    """No prediction fails, no row is lost, no feedback that got a 200 is lost; the last line is the verdict."""
    with tempfile.TemporaryDirectory() as folder, postgresql() as database:
        chosen = {"FIGUREGROUND_JOURNAL_URL": database.url, "FIGUREGROUND_WORKERS": str(workers)}
        with running_service(environment={**os.environ, **chosen}, output=Path(folder, "log")) as service:
            service.wait_until_ready()
            outage, killed = Load(service), Load(service)
            with crowd(clients, outage.work):
                time.sleep(seconds)
                database.stop()
                time.sleep(seconds)
                database.start()
                time.sleep(seconds)
            _wait_until_written(service)
            stopped = kept(database.url, outage)
            with crowd(clients, killed.work):
                time.sleep(seconds)
                for pid in family(service.process.pid):
                    os.kill(pid, signal.SIGKILL)
                service.process.wait()
        result = {"database stopped and started": stopped, "service killed": kept(database.url, killed)}
    table = Table("", *result)
    for name in stopped:
        table.add_row(name, *(str(column[name]) for column in result.values()))
    Console().print(table)
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps(result, indent=1))
    faults = [stopped[name] for name in ("other answers", "cut off", "answers without a row", "other feedback")]
    faults += [column["feedback with 200 that is lost"] for column in result.values()]
    if any(faults):
        raise SystemExit("FAILED: something is lost")
    print("PASSED: no prediction failed, no row and no feedback with a 200 is lost")


def _wait_until_written(service: RunningService) -> None:
    give_up = time.monotonic() + _BACK_SECONDS
    while time.monotonic() < give_up:
        metrics = httpx.get(f"{service.url}/metrics").text
        if "figureground_journal_waiting_rows 0.0" in metrics:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    typer.run(main)
