from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.comparison import ARMS, Box, Class, Comparison, Options, Prediction
from models.label_spaces import LabelSpace

SPACE = LabelSpace("pets", ("n1", "n2", "n3", "n4"), ("cat", "dog", "fish", "bird"))
CAT, DOG = (Prediction(np.array(values, np.float32)) for values in ([0.5, 0.125, 0.125, 0.25], [0.1, 0.8, 0.05, 0.05]))
BOX = Box((1.0, 2.0, 3.0, 4.0), 0.9, 0.1)
FOUND = Comparison(
    size=(10, 8),
    format="PNG",
    backbone="b",
    detector="d",
    label_space=SPACE,
    boxes=(BOX, replace(BOX, score=0.3)),
    crop=(0.0, 1.0, 4.0, 5.0),
    no_crop_reason=None,
    plain=CAT,
    cropped=DOG,
    combined=DOG,
    arms={},
)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 100])
def test_top(count: int) -> None:
    # Ties come in the order of the label space.
    expected = [
        Class(0, "n1", "cat", 0.5),
        Class(3, "n4", "bird", 0.25),
        Class(1, "n2", "dog", 0.125),
        Class(2, "n3", "fish", 0.125),
    ]
    found = CAT.top(count, SPACE)
    assert found == expected[:count]
    assert all(type(row.index) is int and type(row.probability) is float for row in found)


def test_first_and_confidence() -> None:
    assert (CAT.first, DOG.first) == (0, 1)
    assert DOG.confidence == pytest.approx(0.8)
    assert isinstance(DOG.first, int)


@pytest.mark.parametrize(
    ("changes", "agreement", "outcome"),
    [
        ({}, False, "disagree"),
        ({"cropped": CAT}, True, "agree"),
        ({"plain": DOG}, True, "agree"),
        ({"cropped": None, "no_crop_reason": "covers_image"}, None, "covers_image"),
        ({"cropped": None, "no_crop_reason": "no_detection", "boxes": ()}, None, "no_detection"),
    ],
)
def test_agreement_and_outcome(changes: dict[str, Any], agreement: bool | None, outcome: str) -> None:
    found = replace(FOUND, **changes)
    assert found.agreement is agreement
    assert found.outcome == outcome


def test_the_box_is_the_first_of_the_boxes() -> None:
    assert FOUND.box is BOX
    assert replace(FOUND, boxes=()).box is None


def test_the_defaults_are_those_of_the_contract() -> None:
    options = Options()
    assert (options.box_policy, options.max_boxes, options.top_k, options.arms) == ("rescored", 1, 5, ())
    assert {options.backbone, options.detector, options.margin, options.min_score, options.label_space} == {None}
    assert ARMS == ("detector", "background", "center", "squashed")
