"""True labels: by themselves on both databases, and over HTTP."""

import asyncio
import json
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from loadtests.postgresql import PostgreSQL
from models.comparison import ARMS
from models.label_spaces import LabelSpace, imagenet_1k
from service import endpoints
from service import feedback as feedbacks
from service.database import Database, DatabaseAway
from service.drift import Windows
from service.experiment import Asked, experiment
from service.feedback import Class, Learnt, Said, learn
from service.journal import Journal, prune
from service.problems import Problem, Problems
from service.rows import FURTHER_ASKED, FURTHER_RIGHT, GIVEN, HOUR, RIGHT, UNLABELLED, PackedRow, Word, insert_answers
from service.running import family
from tests.service.conftest import Server, StartServer
from tests.service.journals import WNIDS, answers, emptied, needs_postgresql, row
from tests.waiting import eventually

LABELS = imagenet_1k().labels


def space(_: str, name: str) -> LabelSpace | None:
    return imagenet_1k() if name == "imagenet-1k" else None


def tell(journal: Journal, *said: tuple[str, str | int | None], waiting: float = 1) -> Sequence[Learnt | Problem]:
    """With so many rows of this machine's workers still to be written."""
    words = [Said(request_id=request_id, label=label) for request_id, label in said]
    return asyncio.run(learn(journal, words, space, lambda: waiting))


def outcome(result: Learnt | Problem) -> str | int | None:
    if isinstance(result, Problem):
        return result.status
    return None if result.label is None else result.label.wnid


def history(database: Database) -> list[str]:
    with database.reading() as connection:
        return list(connection.scalars(select(Word.wnid).order_by(Word.number)))


@pytest.fixture
def journal(database: Database) -> Iterator[Journal]:
    opened = Journal(database, 1000, 0, lambda *_: None)
    yield opened
    opened.close()


@pytest.mark.parametrize("label", [WNIDS[3], 3, "3", LABELS[3], LABELS[3].upper()])
def test_a_label_is_a_wnid_an_index_or_a_text(journal: Journal, label: str | int) -> None:
    journal.put(PackedRow.of(row("a")))
    (learnt,) = tell(journal, ("a", label))
    assert isinstance(learnt, Learnt)
    assert learnt.label == Class(3, WNIDS[3], LABELS[3])


def test_the_last_word_wins_and_history_is_kept(journal: Journal) -> None:
    journal.put(PackedRow.of(row("a")))
    results = [tell(journal, ("a", label))[0] for label in (1, 1, 0, 0, 2)]
    assert [isinstance(result, Learnt) and result.new for result in results] == [True, False, True, False, True]
    assert history(journal.database) == [WNIDS[1], WNIDS[0], WNIDS[2]]
    assert answers(journal.database)[0]["truth_wnid"] == WNIDS[2]
    told = experiment(journal.database, Asked(), Windows(24, 168))["backbones"]["b"]
    assert (told["answers"], told["labelled"], told["arms"]["plain"]["correct"]) == (1, 1, 0)


def test_a_word_is_taken_back(journal: Journal) -> None:
    journal.put(PackedRow.of(row("a")))
    results = [tell(journal, ("a", label))[0] for label in (None, 1, None, None)]
    assert [outcome(result) for result in results] == [None, WNIDS[1], None, None]
    assert [isinstance(result, Learnt) and result.new for result in results] == [False, True, True, False]
    assert history(journal.database) == [WNIDS[1], ""]
    assert [(one["truth"], one["truth_wnid"]) for one in answers(journal.database)] == [(UNLABELLED, None)]
    told = experiment(journal.database, Asked(), Windows(24, 168))["backbones"]["b"]
    assert (told["answers"], told["labelled"]) == (1, 0)


def test_an_answer_about_a_given_box_can_be_told_of_and_is_not_counted(journal: Journal) -> None:
    for name, policy in (("a", GIVEN), ("b", "rescored")):
        journal.put(PackedRow.of(row(name, answered_us=HOUR // 2, box_policy=policy)))
    assert [outcome(result) for result in tell(journal, ("a", 0), ("b", 0))] == [WNIDS[0], WNIDS[0]]
    for asked in (Asked(), Asked(since=1, until=HOUR - 1)):
        told = experiment(journal.database, asked, Windows(24, 168))["backbones"]["b"]
        assert (told["answers"], told["labelled"]) == (1, 1)
    prune(journal.database, 2 * HOUR)
    assert answers(journal.database) == []
    assert experiment(journal.database, Asked(), Windows(24, 168))["backbones"] == {}


@pytest.mark.parametrize(
    ("plain", "cropped", "expected"),
    [
        (0, 0, {"plain": True, "cropped": True, "combined": False}),
        (1, 0, {"plain": False, "cropped": True, "combined": False}),
        (0, None, {"plain": True, "cropped": True, "combined": False}),
        (1, None, {"plain": False, "cropped": False, "combined": False}),
    ],
)
def test_who_was_right(journal: Journal, plain: int, cropped: int | None, expected: dict[str, bool]) -> None:
    wnid = None if cropped is None else WNIDS[cropped]
    journal.put(PackedRow.of(row("a", plain_wnid=WNIDS[plain], cropped_wnid=wnid, combined_wnid=WNIDS[5])))
    (learnt,) = tell(journal, ("a", 0))
    assert isinstance(learnt, Learnt)
    assert learnt.correct == expected


@pytest.mark.parametrize(
    ("arms", "cropped", "expected"),
    [
        ({"center": [WNIDS[0], 0.5], "squashed": [WNIDS[1], 0.5]}, 5, {"center": True, "squashed": False}),
        ({"background": None, "squashed": [WNIDS[1], 0.5]}, None, {"background": True, "squashed": False}),
        ({"detector": None, "of a later version": [WNIDS[0], 0.5]}, 5, {}),
        (None, 5, {}),
    ],
)
def test_arms_that_were_asked_for(
    journal: Journal, arms: dict[str, Any] | None, cropped: int | None, expected: dict[str, bool]
) -> None:
    """Without a crop, plain stands for them; an arm that could not be asked counts for nothing."""
    journal.put(PackedRow.of(row("a", cropped_wnid=None if cropped is None else WNIDS[cropped], arms=arms)))
    (learnt,) = tell(journal, ("a", 0))
    assert isinstance(learnt, Learnt)
    assert learnt.correct is not None
    assert {arm: right for arm, right in learnt.correct.items() if arm in ARMS} == expected
    told = experiment(journal.database, Asked(), Windows(24, 168))["backbones"]["b"]["arms"]
    assert {arm: bool(one["correct"]) for arm, one in told.items() if arm in ARMS} == expected


def test_every_arm_has_its_bits() -> None:
    assert set(FURTHER_ASKED) == set(FURTHER_RIGHT) == set(ARMS)
    bits = [*RIGHT.values(), *FURTHER_RIGHT.values(), *FURTHER_ASKED.values()]
    assert sum(bits) == 2 ** len(bits) - 1


def test_one_batch_may_say_all_sorts(journal: Journal) -> None:
    for name in ("a", "b", "c"):
        journal.put(PackedRow.of(row(name)))
    journal.put(PackedRow.of(row("other", label_space="of-another-machine")))
    said: list[tuple[str, str | int]] = [("a", 1), ("x", 1), ("b", "nonsense\0"), ("a", 2), ("c", 3), ("other", 1)]
    said.append(("\0", 1))
    results = tell(journal, *said)
    assert [outcome(result) for result in results] == [WNIDS[1], 404, 422, WNIDS[2], WNIDS[3], 422, 404]
    assert {one["request_id"]: one["truth_wnid"] for one in answers(journal.database)} == {
        "a": WNIDS[2],
        "b": None,
        "c": WNIDS[3],
        "other": None,
    }


def test_it_is_about_the_latest_answer_under_an_id(journal: Journal) -> None:
    with journal.database.writing() as connection:
        insert_answers(connection, [row("a", 1), row("a", 3), row("a", 2)])
    tell(journal, ("a", 1))
    assert [one["truth_wnid"] for one in answers(journal.database)] == [None, None, WNIDS[1]]


def test_it_waits_for_a_row_that_another_worker_still_writes(journal: Journal) -> None:
    def write() -> None:
        with journal.database.writing() as connection:
            insert_answers(connection, [row("late")])

    journal.put(PackedRow.of(row("early")))
    eventually(lambda: answers(journal.database))
    timer = threading.Timer(0.4, write)
    timer.start()
    assert outcome(tell(journal, ("late", 1))[0]) == WNIDS[1]
    timer.join()


def test_an_unknown_id_is_known_at_once_where_no_row_waits(sqlite_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In SQLite, which has no workers elsewhere; were one waited for, this would never end."""
    monkeypatch.setattr(feedbacks, "_WAIT_SECONDS", math.inf)
    told: list[int] = []
    journal = Journal(Database(f"sqlite:///{sqlite_file}"), 10, 0, lambda *_: None, told.append)
    journal.put(PackedRow.of(row("a")))
    eventually(lambda: told == [1, 0])
    assert [outcome(one) for one in tell(journal, ("x", 1), ("a", 1), waiting=0)] == [404, WNIDS[1]]
    journal.close()


def test_two_at_once_are_both_counted(url: str) -> None:
    databases = [Database(url) for _ in range(4)]
    with databases[0].writing() as connection:
        insert_answers(connection, [row(str(number), number) for number in range(40)])
    opened = [Journal(database, 10, 0, lambda *_: None) for database in databases]

    def say(number: int) -> None:
        said: list[tuple[str, str | int]] = [(str(one), (number + one) % 2) for one in range(40)]
        tell(opened[number % 4], *said)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(say, range(8)))
    found = Counter(one["truth_wnid"] for one in answers(databases[0]))
    told = experiment(databases[0], Asked(), Windows(24, 168))["backbones"]["b"]
    assert (told["answers"], told["labelled"]) == (40, 40)
    assert told["arms"]["plain"]["correct"] == found[WNIDS[0]]
    for one in opened:
        one.close()


@needs_postgresql
def test_a_stopped_database_loses_no_row_and_no_feedback(postgresql_server: PostgreSQL) -> None:
    """Rows come in all the time while PostgreSQL is stopped in the middle and started again."""
    told: Counter[str] = Counter()
    journal = Journal(Database(emptied(postgresql_server)), 10_000, 0, lambda result, rows: told.update({result: rows}))
    kept, refused = [], 0
    for number in range(60):
        if number == 20:
            postgresql_server.stop()
        if number == 40:
            postgresql_server.start()
            eventually(lambda: not journal.away)
        journal.put(PackedRow.of(row(str(number))))
        try:
            if outcome(tell(journal, (str(max(0, number - 5)), number))[0]) == WNIDS[number]:
                kept.append((str(max(0, number - 5)), WNIDS[number]))
        except DatabaseAway:
            refused += 1
    eventually(lambda: told["committed"] == 60)
    journal.close()
    with journal.database.reading() as connection:
        found = {(one, wnid) for one, wnid in connection.execute(select(Word.request_id, Word.wnid))}
    assert told["lost"] == 0
    assert refused >= 20
    assert len(kept) >= 30
    assert set(kept) <= found
    journal.database.close()


def predict(client: httpx.Client, photo: Path) -> str:
    response = client.post("/predict", files={"image": photo.read_bytes()})
    return str(response.json()["request_id"])


def test_over_http(client: httpx.Client, photo: Path) -> None:
    request_id = predict(client, photo)
    response = client.post("/feedback", json={"request_id": request_id, "label": "Egyptian cat"})
    assert response.status_code == 200
    told = response.json()
    assert told["request_id"] == request_id
    assert told["label"] == {"index": 285, "wnid": "n02124075", "label": "Egyptian cat"}
    assert set(told["correct"]) == {"plain", "cropped", "combined"}
    assert client.post("/feedback", json={"request_id": request_id, "label": 285}).json() == told
    taken_back = client.post("/feedback", json={"request_id": request_id, "label": None}).json()
    assert taken_back == {"request_id": request_id, "label": None, "correct": None}
    counted = [line for line in client.get("/metrics").text.splitlines() if "figureground_feedback_total{" in line]
    assert any('arm="cropped"' in line for line in counted)


JSON = {"content-type": "application/json"}
GOOD = {"request_id": "x", "label": 1}


@pytest.mark.parametrize(
    ("path", "request_", "status", "told"),
    [
        ("/feedback", {"json": GOOD}, 404, "'x'"),
        ("/feedback", {"json": {"request_id": "x"}}, 422, "label"),
        ("/feedback", {"json": {**GOOD, "more": 1}}, 422, "more"),
        ("/feedback", {"json": {**GOOD, "label": True}}, 422, "label"),
        ("/feedback", {"json": {**GOOD, "label": 1.0}}, 422, "label"),
        ("/feedback", {"json": {**GOOD, "request_id": ""}}, 422, "request_id"),
        ("/feedback", {"json": [1]}, 422, "object"),
        ("/feedback", {"content": b"{", "headers": JSON}, 400, "JSON"),
        ("/feedback", {"content": b" " * 70_000, "headers": JSON}, 413, "bytes"),
        ("/feedback", {"data": {"label": "1"}}, 415, "application/json"),
        ("/feedback/batch", {"json": GOOD}, 415, "application/x-ndjson"),
        ("/experiment?detector=nothing", {}, 405, "method"),
    ],
)
def test_errors_are_problems(client: httpx.Client, path: str, request_: dict[str, Any], status: int, told: str) -> None:
    response = client.post(path, **request_)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert told in response.json()["detail"]


def test_a_batch_over_http(client: httpx.Client, photo: Path) -> None:
    request_id = predict(client, photo)
    lines = [{"request_id": request_id, "label": 1}, {"request_id": "x", "label": 1}, {"label": 1}]
    body = "\n".join([*(json.dumps(line) for line in lines), "{", ""])
    response = client.post("/feedback/batch", content=body, headers={"content-type": "application/x-ndjson"})
    results = response.json()["results"]
    assert response.status_code == 200
    assert results[0]["label"]["index"] == 1
    assert [result["error"]["status"] for result in results[1:]] == [404, 422, 400]


def test_without_a_journal_there_is_nothing_to_tell() -> None:
    routes = [Route("/feedback", endpoints.feedback, methods=["POST"]), Route("/experiment", endpoints.experiment)]
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(endpoints.ERRORS, endpoints.problem))
    app.state.journal = app.state.served = None
    client = TestClient(Problems(app))
    for response in (client.post("/feedback", json=GOOD), client.get("/experiment")):
        assert response.status_code == 404
        assert "FIGUREGROUND_JOURNAL_URL" in response.json()["detail"]


def test_feedback_outlives_the_server(start_server: StartServer, photo: Path, tmp_path: Path) -> None:
    """kill -9 of two workers and their parent in the middle of a load."""
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    said: list[str] = []
    stop = threading.Event()

    def work(server: Server) -> None:
        while not stop.is_set():
            try:
                with httpx.Client(base_url=server.url, timeout=30) as client:
                    request_id = predict(client, photo)
                # A new connection, so that the other worker may take it.
                word = {"request_id": request_id, "label": 7}
                if httpx.post(f"{server.url}/feedback", json=word, timeout=30).status_code == 200:
                    said.append(request_id)
            except httpx.TransportError:
                return

    with pytest.raises(AssertionError), start_server(workers=2, journal_url=url) as server:  # noqa: PT012
        threads = [threading.Thread(target=work, args=[server]) for _ in range(3)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(said) >= 10, 60)
        for pid in family(server.process.pid):
            # A process for photos ends by itself once its worker has.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.process.wait()
        stop.set()
        for thread in threads:
            thread.join()
    time.sleep(0.1)
    found = {one["request_id"] for one in answers(Database(url)) if one["truth_wnid"] == WNIDS[7]}
    assert set(said) <= found
