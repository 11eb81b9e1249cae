from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.training.conftest import encoded
from training.measure import Detect, Localisation, localise, main, overlaps, squashed
from training.photos import BoxedPhotos, read_photos

Floats = NDArray[np.float32]


Box = tuple[int, int, int, int]


def photos_of(*boxes: Box | list[Box], size: tuple[int, int] = (100, 50)) -> BoxedPhotos:
    """Photos whose grey level is their number, so that a detector can tell them apart."""
    images = [encoded(Image.new("RGB", size, (number,) * 3)) for number in range(len(boxes))]
    return BoxedPhotos.of(images.__getitem__, [one if isinstance(one, list) else [one] for one in boxes])


def answering(*answers: list[tuple[float, float, float, float]]) -> Detect:
    """For photo i the boxes of `answers[i]`, unit xyxy, best first."""

    def detect(pixels: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        assert pixels.shape[1:] == (16, 16, 3)
        rows = [answers[int(image[0, 0, 0])] for image in pixels]
        scores = np.linspace(0.9, 0.1, len(rows[0]), dtype=np.float32)
        return np.stack([scores] * len(rows)), np.array(rows, np.float32)

    return detect


@pytest.mark.parametrize(
    ("answers", "corloc", "of_three", "mean_iou"),
    [
        # The truth is the left half of a photo twice as wide as high.
        ([(0.0, 0, 0.5, 1), (0.5, 0, 1, 1), (0.9, 0, 1, 1)], 1, 1, 1),
        ([(0.0, 0, 1.0, 1), (0.6, 0, 1, 1), (0.9, 0, 1, 1)], 1, 1, 0.5),
        ([(0.0, 0, 0.24, 1), (0.5, 0, 1, 1), (0.9, 0, 1, 1)], 0, 0, 0.48),
        ([(0.5, 0, 1.0, 1), (0.9, 0, 1, 1), (0.0, 0, 0.5, 1)], 0, 1, 0),
        # The fourth box is not looked at.
        ([(0.5, 0, 1, 1), (0.9, 0, 1, 1), (0.8, 0, 0.85, 1), (0.0, 0, 0.5, 1)], 0, 0, 0),
        # Boxes that overlap the first one are averaged with it, not counted apart.
        ([(0.0, 0, 0.6, 1), (0.0, 0, 0.5, 1), (0.9, 0, 1, 1)], 1, 1, 0.5 / (0.9**2 * 0.6 + 0.5**2 * 0.5) * 1.06),
    ],
)
def test_one_photo(
    answers: list[tuple[float, float, float, float]], corloc: float, of_three: float, mean_iou: float
) -> None:
    found = localise(answering(answers), photos_of((0, 0, 50, 50)), np.array([0]), 16)
    assert (found.photos, found.corloc, found.corloc_of_three) == (1, corloc, of_three)
    assert found.mean_iou == pytest.approx(mean_iou, abs=0.01)
    assert found.corloc_by_area == {"0.5-0.75": corloc}


def test_any_of_several_objects_is_right_and_the_largest_tells_the_area() -> None:
    photos = photos_of([(0, 0, 50, 50), (60, 0, 70, 10)], [(0, 0, 50, 50), (60, 0, 70, 10)])
    answers = answering([(0.6, 0.0, 0.7, 0.2)], [(0.6, 0.4, 0.7, 0.6)])
    found = localise(answers, photos, np.arange(2), 16)
    assert (found.corloc, found.corloc_by_area) == (0.5, {"0.5-0.75": 0.5})
    assert found.mean_iou == pytest.approx(0.5)


def test_several_photos_by_area() -> None:
    photos = photos_of((0, 0, 100, 50), (0, 0, 10, 5), (0, 0, 50, 20), (50, 30, 100, 50), (0, 0, 9, 9))
    answers = answering([(0, 0, 1, 1)], [(0, 0, 1, 1)], [(0, 0, 0.5, 0.4)], [(0, 0, 0.5, 0.4)], [(0.5, 0.5, 1, 1)])
    found = localise(answers, photos, np.array([3, 0, 2, 1]), 16)
    by_area = {"0-0.1": 0.0, "0.1-0.25": 0.5, "0.75-1": 1.0}
    assert replace(found, mean_iou=0) == Localisation(4, 0.5, 0.5, 0, by_area)
    assert found.mean_iou == pytest.approx((1 + 0.01 + 1 + 0) / 4, abs=1e-6)


def test_more_photos_than_a_batch() -> None:
    count = 150
    photos = photos_of(*[(0, 0, 50, 50)] * count)
    answers = [[(0.0, 0.0, 0.5, 1.0) if number % 3 else (0.6, 0.0, 1.0, 1.0)] for number in range(count)]
    found = localise(answering(*answers), photos, np.arange(count), 16)
    assert found.photos == count
    assert found.corloc == pytest.approx(2 / 3)


def test_squashed_is_what_the_detector_sees(photos_folder: Path) -> None:
    """The whole photo in a square, in the colours it has."""
    image = read_photos(f"tiny-imagenet:{photos_folder}", "val").photo(0)[0].resize((90, 30))
    found = squashed(image, 32)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)))


def test_scores_and_overlaps_of_the_first_boxes() -> None:
    photos = photos_of((0, 0, 50, 50), (0, 0, 100, 25))
    answers = answering([(0, 0, 0.5, 1), (0.6, 0, 1, 1)], [(0.5, 0, 1, 1), (0, 0, 1, 0.5)])
    found = overlaps(answers, photos, np.array([0, 1]), 16)
    assert found.scores == pytest.approx(np.array([[0.9, 0.1, 0]] * 2))
    assert found.ious == pytest.approx(np.array([[1, 0, 0], [1 / 3, 1, 0]]))
    assert found.shares == pytest.approx([0.5, 0.5])


def test_the_command(
    random_head: Path,
    photos_folder: Path,
    cache_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FIGUREGROUND_CACHE_DIR", str(cache_dir))
    plot = tmp_path / "scores.png"
    main(random_head, f"tiny-imagenet:{photos_folder}", photos=4, plot=plot)
    told = capsys.readouterr().out
    assert told.startswith("4 photos: CorLoc ")
    assert "against IoU >= 0.5: ECE " in told
    with Image.open(plot) as picture:
        assert picture.width > 300
