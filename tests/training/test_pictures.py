from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from tests.training.conftest import encoded
from training.photos import BoxedPhotos
from training.pictures import draw_boxes, draw_progress

GREEN, ORANGE = (np.array(to_rgb(colour)) * 255 for colour in ("#2f855a", "#d9730d"))


def coloured(path: Path, colour: NDArray[np.float64]) -> int:
    """How many pixels have the colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(2) < 12).sum())


def test_both_boxes_are_drawn_on_every_photo(tmp_path: Path) -> None:
    photos = BoxedPhotos.of(
        [encoded(Image.new("RGB", (64, 48), (20, 20, 20)))].__getitem__, [[(4, 4, 30, 30), (40, 10, 60, 40)]]
    )

    def detect(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        count = len(pixels)
        boxes = np.array([[[0.2, 0.2, 0.6, 0.9], [0.0, 0.0, 0.1, 0.1]]] * count, np.float32)
        return np.array([[0.8, 0.1]] * count, np.float32), boxes

    counts = []
    for number in (1, 8):
        path = tmp_path / f"{number}.png"
        draw_boxes(detect, photos, np.zeros(number, np.int64), 32, path)
        counts.append([coloured(path, GREEN), coloured(path, ORANGE)])
    assert (np.array(counts[0]) > 50).all()
    assert (np.array(counts[1]) > 4 * np.array(counts[0])).all()


def test_curves_of_one_note_and_of_many(tmp_path: Path) -> None:
    rows = [
        {"step": step, "loss": 3 / step, "corloc": 0.5, "corloc_of_three": 0.7, "mean_iou": 0.4, "photos": 9}
        for step in (1, 2, 3)
    ]
    for number in (1, 3):
        draw_progress(rows[:number], tmp_path / "progress.png")
        assert coloured(tmp_path / "progress.png", ORANGE) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["progress.png"]
