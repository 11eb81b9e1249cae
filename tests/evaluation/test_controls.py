import numpy as np
import pytest
from PIL import Image

from evaluation import controls
from evaluation.cases import Condition
from evaluation.stress import Shown
from models.boxes import area
from models.comparison import Corners
from models.photo import Photo


def shown(width: int, height: int, *boxes: Corners) -> Shown:
    return Shown("a.jpg", "n1", Photo(Image.new("RGB", (width, height)), "PNG"), Condition(), None, boxes)


@pytest.mark.parametrize("box", [(0, 0, 100, 50), (10, 10, 20, 12), (0, 0, 1, 1), (30, 0, 31, 50)])
def test_a_random_window_has_the_boxs_area_inside_the_photo(box: tuple[int, ...]) -> None:
    photo = shown(100, 50).photo
    places = set()
    for seed in range(20):
        window = controls.random_window(photo, np.array(box, float), np.random.default_rng(seed))
        assert float(area(window)) == pytest.approx(float(area(np.array(box, float))))
        assert (window >= -1e-9).all()
        assert (window <= np.array([100, 50, 100, 50]) + 1e-9).all()
        places.add(tuple(np.round(window, 3)))
    assert len(places) == (1 if box == (0, 0, 100, 50) else 20)


@pytest.mark.parametrize(("size", "count"), [((100, 100), 1 + 3 * 9), ((200, 100), 3 + 3 * 9), ((1, 1), 28)])
def test_zooms_are_squares_inside_the_photo(size: tuple[int, int], count: int) -> None:
    windows = np.array(controls.zoom_windows(*size))
    assert len(windows) == count
    sides = windows[:, 2:] - windows[:, :2]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1])
    assert {round(float(side) / min(size), 6) for side in sides[:, 0]} == set(controls.ZOOMS)
    assert windows.min() >= 0
    assert (windows[:, 2:].max(0) <= size).all()


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ((), None),
        (((0, 0, 10, 10), (0, 0, 30, 30)), (0, 0, 30, 30)),
        (((-5, -5, 500, 20),), (0, 0, 100, 20)),
        (((200, 200, 300, 300),), None),
    ],
)
def test_the_largest_box_inside_the_photo(boxes: tuple[Corners, ...], expected: Corners | None) -> None:
    found = controls.largest_box(shown(100, 50, *boxes))
    assert (None if found is None else tuple(found)) == expected


def test_the_best_zoom_peeks_at_the_label() -> None:
    answers = [np.array([0.9, 0.1], np.float32), np.array([0.4, 0.6], np.float32)]
    assert controls.best_zoom(answers, 1) is answers[1]
    assert controls.best_zoom(answers, 0) is answers[0]
