import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from safetensors.numpy import load_file

from evaluation import tune
from evaluation.looks import CANDIDATES, MIN_CROPS, Looks, places
from models.heads import Tuning, describe_head
from models.photo import Photo
from tests.evaluation.photos import WNIDS
from tests.training.conftest import painted, write_split

PHOTOS, CLASSES, TRUE = 200, 5, 2


def sure_of(class_index: int, confidence: float = 0.9) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    row = np.full(CLASSES, (1 - confidence) / (CLASSES - 1))
    row[class_index] = confidence
    return row


# The places of the margins, in tenths.
TENTHS = {tenths: int(places(Tuning(margin_small=tenths / 10, margin_large=tenths / 10), *np.ones((2, 1)))[0, 0])
          for tenths in range(-5, 6)}  # fmt: skip
LEAST = {least: int(places(Tuning(min_crop=least), np.ones(1), np.full(1, 10.0))[0, 0]) for least in MIN_CROPS if least}


def looks_with(right: set[int], share: float = 0.1, score: float = 0.5, plain: int = 0, side: float = 100) -> Looks:
    """First boxes alone, right where the margin, in tenths, or the least size is one of these; wrong elsewhere."""
    rows = np.full((PHOTOS, CANDIDATES, 11 + len(MIN_CROPS)), -1)
    rows[:, 0] = 1
    rows[:, 0, [TENTHS[tenths] for tenths in right]] = 0
    rows[:, 0, list(LEAST.values())] = 0
    scores, shares, sides = np.zeros((3, PHOTOS, CANDIDATES))
    scores[:, 0], shares[:], sides[:] = score, share, side
    return Looks(
        "made", np.full(PHOTOS, TRUE), np.tile(sure_of(plain, 0.5), (PHOTOS, 1)),
        np.array([sure_of(TRUE), sure_of(1)]), np.full(2, share), rows, scores, shares, sides,
    )  # fmt: skip


def test_the_margin_is_that_of_the_right_crops() -> None:
    small, large = looks_with({-1}, share=0.01), looks_with({1}, share=0.99, plain=TRUE)
    found = tune.tune({"small": [small], "large": [large]}, Tuning())
    assert (found.margin_small, found.margin_large) == (-0.1, 0.1)


def test_a_closer_look_is_taken_where_it_helps() -> None:
    """Half of the photos need it close, half not."""
    near, far = looks_with({-2}, share=0.0), looks_with({-1}, share=0.0)
    for looks in (near, far):
        looks.crops[1] = sure_of(1, 0.4)
    found = tune.tune({"near": [near], "far": [far]}, Tuning())
    assert (found.margin_small, found.closer_look) == (-0.1, 0.1)
    assert tune.worth({"near": [near], "far": [far]}, found).points == 100


def test_the_least_size_is_the_largest_that_loses_nothing() -> None:
    """Where the photo has few pixels a crop of 48 of them is right, one of 56 is not."""
    sharp, small = looks_with({0, 1, -1}), looks_with(set(), side=10)
    small.rows[:, 0, LEAST[56.0]] = 1
    found = tune.tune({"sharp": [sharp], "small": [small]}, Tuning())
    assert found.min_crop == 48
    assert tune.worth({"sharp": [sharp], "small": [small]}, found).points == 100


def test_boxes_below_the_threshold_are_those_that_do_not_help() -> None:
    """The highest threshold that loses nothing."""
    weak, strong = looks_with(set(), score=0.12, plain=TRUE), looks_with(set(range(-5, 6)), score=0.22)
    found = tune.tune({"weak": [weak], "strong": [strong]}, Tuning())
    assert found.min_score == 0.2
    assert tune.worth({"weak": [weak], "strong": [strong]}, found).points == 100


def test_every_kind_counts_alike() -> None:
    good, bad = looks_with(set(range(-5, 6))), looks_with(set())
    tuning = Tuning(min_score=0)
    assert tune.worth({"good": [good] * 3, "bad": [bad]}, tuning).points == pytest.approx(50)
    assert tune.worth({"good": [good], "bad": [bad]}, tuning) == pytest.approx(
        tune.worth({"good": [good] * 3, "bad": [bad]}, tuning)
    )


def test_what_is_lost_where_most_is_lost_counts_by_half() -> None:
    """Plain would be right, and the crop is believed: 100 points lost on one of two kinds."""
    good, misled = looks_with(set(range(-5, 6))), looks_with(set(), plain=TRUE, share=0.01)
    assert tune.worth({"good": [good], "misled": [misled]}, Tuning(min_score=0)).points == pytest.approx(50 - 50)


def test_what_is_lost_on_ordinary_photos_counts_whole_too() -> None:
    good, misled = looks_with(set(range(-5, 6))), looks_with(set(), plain=TRUE, share=0.01)
    found = tune.worth({"good": [good], tune.ORDINARY: [misled]}, Tuning(min_score=0))
    assert found.ordinary == -100
    assert found.points == pytest.approx(50 - 50 - 100)


def test_what_is_told_about_a_head() -> None:
    shown = tune.table({"good": [looks_with(set(range(-5, 6)))]}, {"head": Tuning(min_score=0)})
    assert [column.header for column in shown.columns] == ["", "made", "worst", "mean", "forwards"]
    rows = list(zip(*(column.cells for column in shown.columns), strict=True))
    assert rows[0] == ("head: plain", "0.0", "", "", "")
    assert rows[-1] == ("head: combined", "100.0", "+0.0", "+0.0", "2.00")


def test_a_head_is_tuned(
    tmp_path: Path,
    random_head: Path,
    samples: Mapping[str, Photo],
    monkeypatch: pytest.MonkeyPatch,
    cache_dir: Path,
) -> None:
    monkeypatch.setenv("FIGUREGROUND_CACHE_DIR", str(cache_dir))
    fewer = {"_AREA_WEIGHTS": (2.0,), "_SCORE_WEIGHTS": (2.0,), "_MARGINS_SMALL": (0.0, 0.1), "_MARGINS_LARGE": (0.0,)}
    for name, values in fewer.items():
        monkeypatch.setattr(tune, name, values)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("coffee", "chelsea"):
        samples[name].image.save(photos / f"{name}.png")
    rows = "".join(f"{name}.png,{WNIDS[name]}\n" for name in ("coffee", "chelsea"))
    (photos / "labels.csv").write_text("file,wnid\n" + rows)
    write_split(tmp_path / "train.parquet", [painted((8, 8, 40, 40))] * 3, [[8, 8, 39, 39]] * 3)
    head = tmp_path / "head.safetensors"
    shutil.copy(random_head, head)
    weights = load_file(head)
    data, others, kept = f"tiny-imagenet:{tmp_path}", str(tmp_path / "train.parquet"), tmp_path / "looks"
    tune.main(head, photos, data, others, looks=kept)
    tuned = describe_head(head)
    assert tuned.tuning.score_offset != 0
    assert tuned == replace(describe_head(random_head), tuning=tuned.tuning)
    assert all((tensor == weights[key]).all() for key, tensor in load_file(head).items())
    assert len(list(kept.glob("*.npz"))) == 1 + sum(map(len, tune.KINDS.values())) + len(tune.SMALL_SIDES)

    def collect(*_: object, **__: object) -> NoReturn:
        raise AssertionError("all looks are there")

    monkeypatch.setattr(tune, "collect", collect)
    tune.main(head, photos, data, others, looks=kept)
    assert describe_head(head) == tuned
    monkeypatch.undo()
    monkeypatch.setenv("FIGUREGROUND_CACHE_DIR", str(cache_dir))
    before = head.read_bytes()
    tune.main(head, photos, check=True, canvases=2)
    assert head.read_bytes() == before
