from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from evaluation.cases import Condition
from evaluation.classes import Classes, resolve
from evaluation.data import open_data
from evaluation.judge import ARMS, DEFAULT_ARMS, Judge, Row
from evaluation.stress import Shown, Stage, conditions
from models import views
from models.boxes import area, crop_box, longer_side
from models.comparison import Options
from models.detectors import Detection, LoadedFcos
from models.label_spaces import LabelSpace, imagenet_1k
from models.photo import Photo
from models.pipeline import Pipeline
from models.served import Served
from tests.evaluation.photos import WNIDS, class_folders

CLASSES = Classes(tuple(WNIDS.values()), LabelSpace("data set", tuple(WNIDS.values()), tuple(WNIDS)))


def shown(samples: Mapping[str, Photo], name: str) -> Shown:
    photo = samples[name]
    box = (photo.width * 0.1, photo.height * 0.2, photo.width * 0.8, photo.height * 0.9)
    return Shown(name, WNIDS[name], photo, Condition(), None, (box,))


def by_arm(rows: list[Row], space: str = "imagenet-1k") -> dict[str, Row]:
    return {str(row["arm"]): row for row in rows if row["label_space"] == space}


@pytest.fixture(scope="module")
def judged(served: Served, samples: Mapping[str, Photo]) -> list[Row]:
    return Judge(served, CLASSES, ARMS).rows([shown(samples, "coffee")])


def test_a_row_an_arm_and_label_space(judged: list[Row]) -> None:
    # There is no rectangle where nothing was pasted.
    expected = sorted(arm for arm in ARMS if arm != "rectangle")
    for space in ("imagenet-1k", "data set"):
        assert sorted(by_arm(judged, space)) == expected
    assert set(DEFAULT_ARMS) == set(ARMS) - {"oracle_zoom"}


def test_answers_are_the_services(served: Served, samples: Mapping[str, Photo], judged: list[Row]) -> None:
    options = Options(arms=("detector", "background", "center", "squashed"))
    comparison = Pipeline(served).compare(samples["coffee"], options)
    rows = by_arm(judged)
    answers = {"plain": comparison.plain, "cropped": comparison.cropped, "combined": comparison.combined}
    answers |= {str(arm): found for arm, found in comparison.arms.items()}
    for arm, answer in answers.items():
        assert answer is not None
        assert rows[arm]["index"] == answer.first
        assert rows[arm]["probability"] == pytest.approx(answer.confidence)
    assert comparison.box is not None
    assert tuple(rows["plain"][name] for name in ("x1", "y1", "x2", "y2")) == comparison.box.xyxy
    assert rows["plain"]["score"] == comparison.box.score
    assert rows["plain"]["has_crop"] is True


def test_scores_follow_from_the_probabilities(served: Served, samples: Mapping[str, Photo], judged: list[Row]) -> None:
    """The plain view's, by hand: softmax over all classes, and over the data set's alone."""
    classifier = served.classifier(None)
    pixels = views.plain(samples["coffee"], classifier.model.preprocessing)
    logits = classifier.logits(pixels[None])[0].astype(np.float64)
    for space in (imagenet_1k(), CLASSES.mask):
        assert space is not None
        chosen = logits[[imagenet_1k().wnids.index(wnid) for wnid in space.wnids]]
        expected = np.exp(chosen) / np.exp(chosen).sum()
        label = space.wnids.index(WNIDS["coffee"])
        row = by_arm(judged, space.name)["plain"]
        assert row["label_index"] == label
        assert row["index"] == expected.argmax()
        assert row["correct"] is bool(expected.argmax() == label)
        assert row["probability_true"] == pytest.approx(expected[label], rel=1e-4)
        truth = np.eye(len(expected))[label]
        assert row["brier"] == pytest.approx(((expected - truth) ** 2).sum(), abs=1e-5)


def test_the_oracle_looks_at_the_hand_drawn_box(
    served: Served, samples: Mapping[str, Photo], judged: list[Row]
) -> None:
    one, classifier = shown(samples, "coffee"), served.classifier(None)
    box = np.array(one.boxes[0])
    share = float(area(box)) / (one.photo.width * one.photo.height)
    margin = served.detector(None).model.tuning.margin(share, float(longer_side(box)))
    window = crop_box(box, margin, *one.photo.size)
    logits = classifier.logits(views.cropped(one.photo, window, classifier.model.preprocessing)[None])[0]
    assert by_arm(judged)["oracle_box"]["index"] == logits.argmax()
    zoom = by_arm(judged)["oracle_zoom"]
    # Its zooms contain the whole photo's middle square: a ceiling can only be higher.
    assert float(str(zoom["probability_true"])) >= float(str(by_arm(judged)["center"]["probability_true"])) * 0.5
    assert 0 < float(str(zoom["iou"])) <= 1


def test_without_a_detection_plain_counts_and_hand_drawn_boxes_stay(
    served: Served, samples: Mapping[str, Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Detection(np.empty((0, 4), np.float32), np.empty(0, np.float32))
    monkeypatch.setattr(LoadedFcos, "detect", lambda _, photos, _least: [nothing for _ in photos])
    unboxed = Shown("china", WNIDS["china"], samples["china"], Condition())
    rows = Judge(served, CLASSES, DEFAULT_ARMS).rows([shown(samples, "coffee"), unboxed])
    for path, arms in (("coffee", {"oracle_box"}), ("china", set())):
        found = by_arm([row for row in rows if row["path"] == path])
        assert {row["no_crop_reason"] for row in found.values()} == {"no_detection"}
        assert {row["has_crop"] for row in found.values()} == {False}
        assert {row["score"] for row in found.values()} == {None}
        for arm in ("cropped", "combined", "detector", "center", "random", "background"):
            assert found[arm]["probability"] == found["plain"]["probability"]
        assert {arm for arm in found if arm.startswith("oracle")} == arms


def test_batches_answer_as_single_photos_do(served: Served, tmp_path: Path) -> None:
    data = open_data(str(class_folders(tmp_path)))
    classes = resolve(data, [imagenet_1k()])
    stage = Stage(data, classes.wnids, conditions(("zoom-out",))[::7], 0)
    photos = [one for index in (0, 1) for one in stage.show(index, data.read(index))]
    judge = Judge(served, classes, ("plain", "cropped", "combined", "random", "rectangle"))

    def key(row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in ("path", "condition", "label_space", "arm"))

    together = {key(row): row for row in judge.rows(photos)}
    single = {key(row): row for one in photos for row in judge.rows([one])}
    assert together.keys() == single.keys()
    assert any(row["arm"] == "rectangle" for row in single.values())
    for name, row in single.items():
        assert together[name]["probability_true"] == pytest.approx(row["probability_true"], abs=1e-4)
        assert together[name]["x1"] == pytest.approx(row["x1"], abs=1e-2)
