from collections.abc import Mapping
from pathlib import Path

import pytest

from evaluation.arms import ARMS, _result, mcnemar, measure
from evaluation.cases import Condition, read_folder
from evaluation.samples import SAMPLES
from evaluation.statistics import Proportion, proportion
from models.label_spaces import imagenet_1k
from models.photo import Photo
from models.pipeline import Pipeline
from models.served import Served

LITE0 = "tf_efficientnet_lite0.in1k"


@pytest.fixture
def folder(tmp_path: Path, samples: Mapping[str, Photo]) -> Path:
    """The sample photos with their labels, one of them wrong."""
    rows = ["file,wnid"]
    for name in ("coffee", "flower", "china"):
        samples[name].image.save(tmp_path / f"{name}.png")
        label = "daisy" if name == "china" else SAMPLES[name].labels[0]
        index = imagenet_1k().find(label)
        assert index is not None
        rows.append(f"{name}.png,{imagenet_1k().wnids[index]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.mark.parametrize(
    ("rescued", "broken", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 2**5),
        (0, 6, 2 / 2**6),
        (3, 3, 1.0),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),
        (59, 121, 4.4343e-6),
    ],
)
def test_mcnemar(rescued: int, broken: int, p_value: float) -> None:
    """By hand from the binomial coefficients; the last is the example in statsmodels' documentation."""
    pairs = [(False, True)] * rescued + [(True, False)] * broken + [(True, True)] * 7 + [(False, False)] * 3
    found = mcnemar(pairs)
    assert found[:2] == (rescued, broken)
    assert found[2] == pytest.approx(p_value, rel=1e-3)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Wilson's interval by hand: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.959964.
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),
        (81, 263, 0.255290, 0.366216),
    ],
)
def test_accuracy(correct: int, total: int, low: float, high: float) -> None:
    found = proportion(correct, total)
    assert (found.correct, found.accuracy) == (correct, correct / total)
    assert found.low == pytest.approx(low, abs=1e-5)
    assert found.high == pytest.approx(high, abs=1e-5)


def test_result_counts_rescued_and_broken_against_plain() -> None:
    rows = [
        {"plain": True, "cropped": True, "combined": True},
        {"plain": True, "cropped": False, "combined": True},
        {"plain": False, "cropped": True, "combined": True},
        {"plain": False, "cropped": True, "combined": False},
    ]
    found = _result(Condition(0.5), "b", rows, [False, False, False, True])
    assert (found.condition, found.scale, found.backbone, found.photos) == ("tiles 0.5 hard", 0.5, "b", 4)
    assert {arm: accuracy.correct for arm, accuracy in found.arms.items()} == {"plain": 2, "cropped": 3, "combined": 3}
    assert (found.rescued, found.broken, found.p_value) == (2, 1, 1.0)
    assert (found.combined_rescued, found.combined_broken) == (1, 0)
    assert found.no_crop_rate == 0.25
    assert isinstance(found.arms["plain"], Proportion)


def test_photos_as_they_are(folder: Path, served: Served) -> None:
    found = measure(Pipeline(served), read_folder(folder), Condition(), LITE0, seed=0, canvases=3)
    assert found.photos == 3
    assert list(found.arms) == [arm for arm in ARMS if arm != "rectangle"]
    assert found.arms["plain"].correct == 2


def test_photos_in_clutter(folder: Path, served: Served) -> None:
    """What the photo's own rectangle shows is known again, whatever is around it."""
    condition = Condition(0.5, "colour")
    found = measure(Pipeline(served), read_folder(folder), condition, LITE0, seed=0, canvases=2)
    assert found.photos == 6
    assert list(found.arms) == list(ARMS)
    assert found.arms["rectangle"].correct == 4
