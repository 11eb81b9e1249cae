"""The latest answers, from both databases and over HTTP."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from models.label_spaces import LabelSpace, imagenet_1k
from service.database import Database
from service.recent import Wanted, recent
from service.rows import RIGHT, UNLABELLED, insert_answers
from tests.service.journals import WNIDS, row
from tests.service.test_feedback import predict
from tests.waiting import eventually

PLAIN, CROPPED = RIGHT["plain"], RIGHT["cropped"]
ROWS = [
    row("agrees", 1, truth=PLAIN | CROPPED, truth_wnid=WNIDS[0]),
    row("saved", 2, outcome="disagree", cropped_wnid=WNIDS[1], truth=CROPPED, truth_wnid=WNIDS[1]),
    row("spoilt", 3, outcome="disagree", cropped_wnid=WNIDS[1], truth=PLAIN, truth_wnid=WNIDS[0]),
    row("wrong", 4, outcome="no_detection", cropped_wnid=None, cropped_probability=None, truth=0, truth_wnid=WNIDS[9]),
    row("unknown", 5, backbone="other", label_space="elsewhere", truth=UNLABELLED),
]


def space(_: str, name: str) -> LabelSpace | None:
    return imagenet_1k() if name == "imagenet-1k" else None


@pytest.fixture
def filled(database: Database) -> Database:
    with database.writing() as connection:
        insert_answers(connection, ROWS)
    return database


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, "unknown wrong spoilt saved agrees"),
        ({"limit": 2}, "unknown wrong"),
        ({"which": "agree"}, "unknown agrees"),
        ({"which": "disagree"}, "spoilt saved"),
        ({"which": "no_detection"}, "wrong"),
        ({"which": "covers_image"}, ""),
        ({"which": "labelled"}, "wrong spoilt saved agrees"),
        ({"which": "unlabelled"}, "unknown"),
        ({"which": "rescued"}, "saved"),
        ({"which": "broken"}, "spoilt"),
        ({"which": "labelled", "backbone": "other"}, ""),
        ({"backbone": "other"}, "unknown"),
        ({"backbone": "\0"}, ""),
    ],
)
def test_which_answers(filled: Database, asked: dict[str, Any], found: str) -> None:
    rows = recent(filled, Wanted.model_validate(asked), space)
    assert [one["request_id"] for one in rows] == found.split()


def test_what_is_told(filled: Database) -> None:
    unknown, wrong, _, saved, _ = recent(filled, Wanted(), space)
    label = imagenet_1k().labels[1]
    assert saved["answered"] == "1970-01-01T00:00:00.000002Z"
    assert saved["cropped"] == {"wnid": WNIDS[1], "label": label, "probability": 0.5}
    assert saved["truth"] == {"wnid": WNIDS[1], "label": label}
    assert saved["correct"] == {"plain": False, "cropped": True, "combined": False}
    assert (wrong["cropped"], wrong["correct"]["cropped"]) == (None, False)
    assert (unknown["truth"], unknown["correct"], unknown["plain"]["label"]) == (None, None, None)


def test_over_http(client: httpx.Client, photo: Path) -> None:
    request_id = predict(client, photo)

    def newest() -> dict[str, Any]:
        listed: list[dict[str, Any]] = client.get("/answers", params={"limit": 1}).json()["answers"]
        return listed[0] if listed else {}

    eventually(lambda: newest().get("request_id") == request_id)
    assert newest()["plain"]["label"] in imagenet_1k().labels
    for query in ("limit=0", "limit=501", "which=best", "limit=1&limit=2", "more=1"):
        assert client.get(f"/answers?{query}").status_code == 422
