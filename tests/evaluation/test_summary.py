import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import summary
from evaluation.results import UnreadableResults, read_runs
from evaluation.statistics import ALPHA
from tests.evaluation import tables

YES, NO = [True], [False]


def summarised(folder: Path, rows: list[dict[str, Any]], **details: Any) -> dict[str, Any]:
    return summary.write(tables.write(folder, rows, **details))


def test_the_contract_by_hand(tmp_path: Path) -> None:
    right = {"plain": YES * 6 + NO * 4, "cropped": YES * 5 + NO * 1 + YES * 3 + NO * 1}
    found = summarised(tmp_path, tables.rows(right))
    (run,) = found["runs"]
    assert (run["backbone"], run["detector"], run["label_space"]) == ("lite0", "fcos_lite0", "imagenet-1k")
    assert (run["photos"], run["rescued"], run["broken"]) == (10, 3, 1)
    assert run["p_value"] == pytest.approx(2 * (1 + 4) / 16)
    assert run["no_detection_rate"] == 0
    assert run["arms"]["plain"] == pytest.approx(
        {"correct": 6, "accuracy": 0.6, "low": 0.312674, "high": 0.831820}, abs=1e-6
    )
    assert set(run["arms"]) == {"plain", "cropped"}
    assert json.loads((tmp_path / "summary.json").read_text("utf-8")) == found


def test_without_a_crop_plain_counts(tmp_path: Path) -> None:
    """The row of an arm that has no crop may be missing altogether: the deployed answer is plain's."""
    right = {"plain": [True, False, True, False], "cropped": [True, True, False, False]}
    rows = [
        row for row in tables.rows(right) if row["arm"] == "plain" or not row["path"].endswith(("/2.jpg", "/3.jpg"))
    ]
    for row in rows:
        if row["path"].endswith(("/2.jpg", "/3.jpg")):
            row |= {"has_crop": False, "no_crop_reason": "no_detection", "score": None, "area_fraction": None}
    (run,) = summarised(tmp_path, rows)["runs"]
    assert run["arms"]["cropped"]["correct"] == 3
    assert run["arms"]["cropped"]["accuracy"] == 0.75
    assert (run["rescued"], run["broken"], run["no_detection_rate"]) == (1, 0, 0.5)
    assert (run["with_crop"]["photos"], run["without_crop"]["photos"]) == (2, 2)
    assert run["without_crop"]["rescued"] == run["without_crop"]["broken"] == 0


def test_an_oracle_counts_where_it_could_look(tmp_path: Path) -> None:
    rows = tables.rows({"plain": YES * 4, "cropped": YES * 4, "oracle_box": [True, False, True, True]})
    rows = [row for row in rows if row["arm"] != "oracle_box" or not row["path"].endswith("/3.jpg")]
    (run,) = summarised(tmp_path, rows)["runs"]
    assert run["arms"]["oracle_box"]["correct"] == 2
    assert run["arms"]["oracle_box"]["accuracy"] == pytest.approx(2 / 3)
    assert {"arm": "oracle_box", "against": "cropped"}.items() <= run["contrasts"][-1].items()
    assert run["contrasts"][-1]["photos"] == 3


def test_holm_runs_over_backbones(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for backbone, rescued in (("one", 8), ("two", 6), ("three", 0)):
        right = {"plain": NO * 20, "cropped": YES * rescued + NO * (20 - rescued)}
        rows += tables.rows(right, backbone=backbone)
    rows += tables.rows({"plain": NO * 20, "cropped": YES * 8 + NO * 12}, backbone="one", condition="tiles 0.5 hard")
    found = {(run["backbone"], run["condition"]): run for run in summarised(tmp_path, rows)["runs"]}
    raw = [2 / 2**8, 2 / 2**6, 1.0]
    assert [found[name, "as it is"]["p_value"] for name in ("one", "two", "three")] == pytest.approx(raw)
    adjusted = [3 * raw[0], 2 * raw[1], 1.0]
    assert [found[name, "as it is"]["p_value_holm"] for name in ("one", "two", "three")] == pytest.approx(adjusted)
    assert found["one", "tiles 0.5 hard"]["p_value_holm"] == pytest.approx(raw[0])


PHOTOS = 400
SHARES = [
    ("helps", {"plain": 0.5, "cropped": 0.7}),
    ("second_view", {"plain": 0.5, "cropped": 0.7, "squashed": 0.7}),
    ("hurts", {"plain": 0.7, "cropped": 0.5}),
    ("unclear", {"plain": 0.7, "cropped": 0.71}),
]


@pytest.mark.parametrize(("kind", "shares"), SHARES)
def test_the_verdict_says_what_the_statistics_allow(tmp_path: Path, kind: str, shares: dict[str, float]) -> None:
    found = summarised(tmp_path, tables.rows(tables.random_answers(PHOTOS, shares)))
    assert found["runs"][0]["verdict"]["kind"] == kind
    words = {
        "helps": "helps beyond every control (+",
        "second_view": "beats the whole photo (+",
        "hurts": "hurts (\N{MINUS SIGN}",
        "unclear": "makes no difference that can be told",
    }
    verdict = found["verdict"]
    assert verdict.startswith(
        "On 400 photos as they are, over the label space imagenet-1k, cropping to the detected box "
    )
    assert words[kind] in verdict
    assert verdict.count(".") - verdict.count("0.") >= 1
    if kind == "second_view":
        assert "not squashed, so that the detector's part in it is not shown" in verdict


def test_without_controls_no_help_is_claimed(tmp_path: Path) -> None:
    answers = tables.random_answers(PHOTOS, {"plain": 0.5, "cropped": 0.7}, arms=("plain", "cropped"))
    found = summarised(tmp_path, tables.rows(answers))
    assert found["runs"][0]["verdict"]["kind"] == "uncontrolled"
    assert "squashed, center and random did not run" in found["verdict"]


def test_a_gain_that_three_classes_make_is_not_told(tmp_path: Path) -> None:
    """Two of twelve classes gain all: sure over photos, a matter of luck over classes."""
    wnids = [f"n{photo % 12:08d}" for photo in range(120)]
    gains = [photo % 12 < 2 for photo in range(120)]
    rows = tables.rows(dict.fromkeys(tables.ARMS, NO * 120) | {"cropped": gains}, wnids=wnids)
    (run,) = summarised(tmp_path, rows)["runs"]
    assert run["p_value_holm"] < ALPHA
    assert run["difference"]["paired_bootstrap"][0] > 0
    assert run["difference"]["clustered_bootstrap"][0] == 0
    assert run["verdict"]["kind"] == "unclear"


def test_it_says_where_it_hurts(tmp_path: Path) -> None:
    """Small boxes lose, large ones gain: on the whole nothing is told, and yet it hurts there."""
    rows = tables.rows(dict.fromkeys(tables.ARMS, YES * PHOTOS))
    for row in rows:
        small, photo = row["area_fraction"] <= 0.1, int(row["path"].split("/")[1].removesuffix(".jpg"))
        right = not small if row["arm"] == "cropped" else photo % 10 > 0 or small
        row |= {"correct": right}
    found = summarised(tmp_path, rows)
    assert "it hurts where the box covers 0 to 10 % of the photo (\N{MINUS SIGN}100.0 points)" in found["verdict"]
    strata = {one["name"]: one for one in found["runs"][0]["strata"]["area"]}
    assert sum(one["photos"] for one in strata.values()) == PHOTOS
    lost = strata["where the box covers 0 to 10 % of the photo"]
    assert (lost["broken"], lost["rescued"], lost["difference"]) == (lost["photos"], 0, -1)


def test_stress_runs_are_told_apart_from_photos_as_they_are(tmp_path: Path) -> None:
    rows = tables.rows(tables.random_answers(PHOTOS, {"plain": 0.7, "cropped": 0.7}))
    for scale, share in ((0.5, 0.2), (0.25, 0.6)):
        answers = tables.random_answers(PHOTOS, {"plain": share, "cropped": 0.6})
        rows += tables.rows(answers, condition=f"tiles {scale} hard", scale=scale, background="tiles", edge="hard")
    found = summarised(tmp_path, rows)
    assert "of 2 stress runs it helps beyond every control in 1" in found["verdict"]
    assert "“tiles 0.5 hard”" in found["verdict"]
    assert [run["headline"] for run in found["runs"]] == [True, False, False]
    assert "class" in found["runs"][0]["strata"]
    assert "class" not in found["runs"][1]["strata"]


def test_the_background_gap(tmp_path: Path) -> None:
    """Only photos that were shown before both backgrounds count."""
    rows = tables.rows({"plain": YES * 4, "cropped": YES * 4})
    shown = [("same class", [True, True, True, False], 4), ("another class", [True, False, False], 3)]
    for background, plain, photos in shown:
        right = {"plain": plain, "cropped": YES * photos}
        rows += tables.rows(right, condition=f"background {background}", background=background)
    gaps = {gap["arm"]: gap for gap in summarised(tmp_path, rows)["gaps"]}
    assert (*gaps["plain"]["accuracies"], gaps["plain"]["photos"]) == (1, 1 / 3, 3)
    assert gaps["plain"]["kind"] == "background"
    assert gaps["plain"]["gap"] == pytest.approx(2 / 3)
    assert gaps["cropped"]["gap"] == 0


def test_a_paired_data_set_is_no_stress(tmp_path: Path) -> None:
    rows = tables.rows({"plain": NO * 8, "cropped": NO * 8})
    rows += tables.rows({"plain": YES * 7, "cropped": NO * 7}, condition="paired")
    found = summarised(tmp_path, rows)
    plain, cropped = found["gaps"]
    assert (plain["kind"], plain["conditions"], plain["gap"]) == ("paired", ["paired", "as it is"], 1)
    assert cropped["gap"] == 0
    assert "stress" not in found["verdict"]


def test_iou_where_there_is_one(tmp_path: Path) -> None:
    rows = tables.rows({"plain": YES * 8, "cropped": YES * 8})
    assert "iou" not in summarised(tmp_path, rows)["runs"][0]["strata"]
    for place, row in enumerate(rows):
        row["iou"] = (place % 8) / 8
    strata = summarised(tmp_path, rows)["runs"][0]["strata"]["iou"]
    assert [(one["low"], one["high"], one["photos"]) for one in strata] == [
        (0, 0.25, 3),
        (0.25, 0.5, 2),
        (0.5, 0.75, 2),
        (0.75, 1, 1),
    ]


def test_one_photo(tmp_path: Path) -> None:
    found = summarised(tmp_path, tables.rows({"plain": NO, "cropped": YES}))
    (run,) = found["runs"]
    assert (run["rescued"], run["p_value"], run["difference"]["clustered_bootstrap"]) == (1, 1, None)
    assert found["verdict"].startswith("On 1 photo as it is,")
    assert "no difference that can be told" in found["verdict"]


def test_no_photo(tmp_path: Path) -> None:
    found = summarised(tmp_path, [], broken=[{"path": "a.jpg", "error": "truncated"}])
    assert found["runs"] == []
    assert found["unreadable_photos"] == 1
    assert found["verdict"] == "No photo was measured, so nothing can be said."


def test_the_same_seed_gives_the_same_summary(tmp_path: Path) -> None:
    rows = tables.rows(tables.random_answers(60, {"plain": 0.5, "cropped": 0.6}))
    first = summarised(tmp_path, rows, seed=4)
    order = np.random.default_rng(0).permutation(len(rows))
    assert summarised(tmp_path, [rows[place] for place in order], seed=4)["runs"] == first["runs"]
    assert first["method"]["seed"] == 4


def test_what_is_no_results_table(tmp_path: Path) -> None:
    rows = tables.rows({"plain": YES, "cropped": YES})
    with pytest.raises(UnreadableResults, match="two answers"):
        read_runs(tables.write(tmp_path, rows + rows))
    with pytest.raises(ValueError, match="no arm cropped"):
        summarised(tmp_path, tables.rows({"plain": YES}))
    with pytest.raises(FileNotFoundError):
        summary.write(tmp_path / "nowhere")
