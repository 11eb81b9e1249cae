"""A real Prometheus beside a running service: do the counters add up, does every query of the dashboard find data?"""

import json
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from loadtests.crowd import crowd
from loadtests.prometheus import RULES, Prometheus, is_installed, prometheus
from service.database import Database
from service.rows import HOUR, insert_answers
from tests.conftest import LITE0
from tests.service.conftest import Server, StartServer
from tests.service.journals import row
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(not is_installed(), reason="Prometheus is not installed: make system")

DASHBOARD = RULES.parent / "grafana" / "dashboards" / "figureground.json"
_SECONDS = 120


@dataclass
class Load:
    """What clients were answered that ask and then tell the label."""

    server: Server
    photo: bytes
    answered: Counter[int] = field(default_factory=Counter)
    cut_off: int = 0
    told: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def work(self, _: int, stop: threading.Event) -> None:
        """A connection each, so that every worker gets its share."""
        while not stop.is_set():
            try:
                with httpx.Client(base_url=self.server.url, timeout=60) as client:
                    response = client.post("/predict", files={"image": self.photo})
                    with self._counting:
                        self.answered[response.status_code] += 1
                    word = {"request_id": response.json()["request_id"], "label": 285}
                    taken = client.post("/feedback", json=word).status_code == 200
                    with self._counting:
                        self.told += taken
            except httpx.TransportError:
                with self._counting:
                    self.cut_off += 1


@dataclass(frozen=True)
class Watched:
    server: Server
    prometheus: Prometheus
    load: Load


def latest(running: Prometheus, series: str, condition: str = "") -> float:
    """Summed. On a busy machine a scrape may fail, and its series are gone until the next one."""
    return running.value(f"sum(last_over_time({series}[1m]) {condition})")


@pytest.fixture(scope="module")
def watched(start_server: StartServer, photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two workers, one of them killed under load and replaced; yesterday's answers are in the journal."""
    url = f"sqlite:///{tmp_path_factory.mktemp('journal') / 'journal.db'}"
    yesterday = time.time_ns() // 1000 - 40 * HOUR
    with Database(url).writing() as connection:
        insert_answers(connection, [row(str(one), yesterday, backbone=LITE0, box_area=0.9) for one in range(50)])
    with start_server(workers=2, journal_url=url) as server, prometheus(server.url.removeprefix("http://")) as running:
        load = Load(server, photo.read_bytes())
        with crowd(3, load.work):
            eventually(lambda: load.answered[200] >= 10, _SECONDS)
            eventually(lambda: latest(running, 'figureground_requests_total{route="/predict"}') > 0, _SECONDS)
            before = {worker.pid for worker in server.workers()}
            os.kill(min(before), signal.SIGKILL)
            killed = time.time()
            eventually(lambda: len({worker.pid for worker in server.workers()} - before) == 1, _SECONDS)
            seen = load.answered[200]
            assert httpx.post(f"{server.url}/predict", content=b"junk", headers={"content-type": "image/png"}).is_error
            eventually(lambda: latest(running, "figureground_worker_start_time_seconds", f"> {killed}") > 0, _SECONDS)
            eventually(lambda: load.answered[200] >= seen + 10, _SECONDS)
        yield Watched(server, running, load)


def test_the_counters_add_up_over_workers_and_a_dead_one(watched: Watched) -> None:
    """What was sent to the killed worker may have been counted and never arrived."""
    load, running = watched.load, watched.prometheus
    assert set(load.answered) == {200}
    assert load.cut_off <= 3

    def counted(series: str) -> float:
        return latest(running, f"figureground_{series}")

    good = 'requests_total{route="/predict", status="200"}'
    eventually(lambda: counted(good) >= load.answered[200])
    assert load.answered[200] <= counted(good) <= load.answered[200] + load.cut_off
    assert counted('requests_total{route="/predict", status="400"}') == 1
    compared = counted("comparisons_total")
    assert load.answered[200] <= compared <= load.answered[200] + load.cut_off
    assert counted('stage_seconds_count{stage="total"}') == compared
    told = 'feedback_total{arm="plain"}'
    eventually(lambda: counted(told) >= load.told)  # the last words came after the last answers
    assert counted(told) <= load.told + load.cut_off


def queries() -> Iterator[Any]:
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            on_gpu = "gpu" in target["expr"] and not torch.cuda.is_available()
            marks = [pytest.mark.skip(reason="there is no GPU")] if on_gpu else []
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}", marks=marks)


@pytest.mark.parametrize("expression", list(queries()))
def test_every_query_of_the_dashboard_finds_data(watched: Watched, expression: str) -> None:
    def found() -> list[float]:
        values = [float(series["value"][1]) for series in watched.prometheus.query(expression)]
        return [value for value in values if math.isfinite(value)]

    eventually(found)


def test_the_dashboard_asks_the_datasource_that_is_provisioned() -> None:
    import yaml  # type: ignore[import-untyped]

    folder = DASHBOARD.parents[1] / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    panels: list[Mapping[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in panels]
    cells = [(x + i, y + j) for x, y, w, h in places for i in range(w) for j in range(h)]
    assert len(cells) == len(set(cells))
