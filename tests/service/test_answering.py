import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.comparison import Options
from models.photo import Photo, UnreadablePhoto
from models.pipeline import BoxOutsidePhoto, Pipeline
from models.served import Served
from models.trial import Trial
from service import answering
from service.answering import Answering, Question
from service.scheduler import Turn
from tests.models.mutations import encoded

NOW = Turn(time.perf_counter(), cores=1)


def half_a_second_ago() -> Turn:
    return Turn(time.perf_counter() - 0.5, cores=1)


@pytest.fixture
def make(served: Served) -> Any:
    return lambda with_rows: Answering(Pipeline(served), 2_000_000, Trial(2_000_000, 10), with_rows)


@pytest.fixture(scope="session")
def data(photo: Path) -> bytes:
    return photo.read_bytes()


@pytest.mark.parametrize("with_rows", [False, True])
def test_an_answer_has_its_summary_and_its_row(make: Any, data: bytes, with_rows: bool) -> None:
    answered = make(with_rows)([(Question(data, Options(), "abc"), half_a_second_ago())])[0]
    answer, (summary, row) = orjson.loads(answered.body), answered.recorded()
    assert answer["request_id"] == "abc"
    assert 500 <= answer["timings_ms"]["queue"] < 1000
    assert summary.seconds["queue"] == pytest.approx(answer["timings_ms"]["queue"] / 1000, abs=1e-6)
    assert summary.backbone == answer["models"]["backbone"]["name"]
    assert summary.box_score == (answer["box"] and answer["box"]["score"])
    if with_rows:
        assert row.request_id == "abc"
        assert row.unpacked()["plain_wnid"] == answer["plain"]["top_k"][0]["wnid"]
        assert row.unpacked()["answered_us"] == summary.ended_ns // 1000
    else:
        assert row is None


def test_a_picture_is_a_png(make: Any, data: bytes) -> None:
    assert make(False)([(Question(data, Options(), "abc", png=True), NOW)])[0].body.startswith(b"\x89PNG")


def test_what_makes_no_row_is_answered_all_the_same(
    make: Any, data: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answering, "row_of", lambda *_: 1 / 0)
    answered = make(True)([(Question(data, Options(), "abc"), NOW)])[0]
    assert answered.recorded().row is None
    assert orjson.loads(answered.body)["plain"]
    assert "makes no row" in caplog.text


def test_no_photo_is_an_error(make: Any, data: bytes) -> None:
    (found,) = make(True)([(Question(data[:1000], Options(), "abc"), NOW)])
    assert isinstance(found, UnreadablePhoto)


def without_times(body: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(body)
    del answer["timings_ms"]
    return answer


def test_several_are_answered_as_each_alone_is(make: Any, samples: Mapping[str, Photo]) -> None:
    """Each with its own options, and bad ones among them."""
    answering = make(True)
    boxes = [None, (10.0, 10.0, 100.0, 100.0), None, (0.0, 0.0, 9999.0, 9999.0)]
    photos = [encoded(photo.image, "JPEG") for photo in list(samples.values())[: len(boxes)]]
    options = [Options(box=box, arms=("center",) if number else ()) for number, box in enumerate(boxes)]
    questions = [
        Question(photo, chosen, str(number)) for number, (photo, chosen) in enumerate(zip(photos, options, strict=True))
    ]
    questions.append(Question(photos[0][:1000], Options(), "bad"))
    alone = [answering([(question, NOW)])[0] for question in questions]
    assert [type(found) for found in alone[3:]] == [BoxOutsidePhoto, UnreadablePhoto]
    for company in (questions, questions[:3], questions[1:3]):
        for question, found in zip(company, answering([(question, NOW) for question in company]), strict=True):
            expected = alone[questions.index(question)]
            if isinstance(expected, Exception):
                assert (type(found), str(found)) == (type(expected), str(expected))
            else:
                assert without_times(found.body) == without_times(expected.body)
                assert found.recorded().row.request_id == question.request_id


def test_what_several_have_in_common_is_counted_once(make: Any, data: bytes, samples: Mapping[str, Photo]) -> None:
    other = encoded(samples["coffee"].image, "JPEG")
    found = make(False)(
        [(Question(photo, Options(min_score=0), "abc"), half_a_second_ago()) for photo in (data, other)]
    )
    first, second = (answered.recorded().summary for answered in found)
    assert first.batches["detect"] == (2,)
    assert first.batches["classify"][0] == 4
    assert second.batches == {}
    assert first.seconds["detect"] == second.seconds["detect"]
    for seconds in (first.seconds, second.seconds):
        assert 0.5 <= seconds["queue"] < 1
        assert seconds["total"] >= seconds["queue"] + sum(seconds[stage] for stage in ("detect", "crop", "classify"))
