from pathlib import Path
from typing import Any

import orjson
import pytest

from models.comparison import Options
from models.photo import UnreadablePhoto
from models.pipeline import Pipeline
from models.served import Served
from models.trial import Trial
from service import answering
from service.answering import Answering, Question
from service.scheduler import Turn

NOW = Turn(waited=0, cores=1)


@pytest.fixture
def make(served: Served) -> Any:
    return lambda with_rows: Answering(Pipeline(served), 2_000_000, Trial(2_000_000, 10), with_rows)


@pytest.fixture(scope="session")
def data(photo: Path) -> bytes:
    return photo.read_bytes()


@pytest.mark.parametrize("with_rows", [False, True])
def test_an_answer_has_its_summary_and_its_row(make: Any, data: bytes, with_rows: bool) -> None:
    answered = make(with_rows)(Question(data, Options(), "abc"), Turn(0.5, 1))
    answer, (summary, row) = orjson.loads(answered.body), answered.recorded()
    assert answer["request_id"] == "abc"
    assert answer["timings_ms"]["queue"] == 500
    assert summary.seconds["queue"] == 0.5
    assert summary.backbone == answer["models"]["backbone"]["name"]
    assert summary.box_score == (answer["box"] and answer["box"]["score"])
    if with_rows:
        assert row.request_id == "abc"
        assert row.unpacked()["plain_wnid"] == answer["plain"]["top_k"][0]["wnid"]
        assert row.unpacked()["answered_us"] == summary.ended_ns // 1000
    else:
        assert row is None


def test_a_picture_is_a_png(make: Any, data: bytes) -> None:
    assert make(False)(Question(data, Options(), "abc", png=True), NOW).body.startswith(b"\x89PNG")


def test_what_makes_no_row_is_answered_all_the_same(
    make: Any, data: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answering, "row_of", lambda *_: 1 / 0)
    answered = make(True)(Question(data, Options(), "abc"), NOW)
    assert answered.recorded().row is None
    assert orjson.loads(answered.body)["plain"]
    assert "makes no row" in caplog.text


def test_no_photo_is_an_error(make: Any, data: bytes) -> None:
    with pytest.raises(UnreadablePhoto):
        make(True)(Question(data[:1000], Options(), "abc"), NOW)
