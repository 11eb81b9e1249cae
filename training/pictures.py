"""How a run is going, as two pictures beside its head: its curves, and boxes on validation photos.

`boxes.png` shows photos of the data set: it is as free as they are.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from models.boxes import merge_overlapping
from training.measure import Detect, squashed
from training.photos import BoxedPhotos

PHOTOS = 24
_COLUMNS = 6
_DRAWN, _FOUND = "#2f855a", "#d9730d"


def draw_progress(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The loss, and what the averaged head reaches on the validation photos, over the steps; one row a note."""
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, [row["loss"] for row in rows], color="#3b6fb6", marker=".")
    left.set(title="Loss on the training canvases", xlabel="step", xlim=(0, None), ylim=(0, None))
    for key, label, colour in (
        ("corloc_of_three", "CorLoc, best of three boxes", "#8a5cc2"),
        ("corloc", "CorLoc at IoU 0.5", _FOUND),
        ("mean_iou", "mean IoU", _DRAWN),
    ):
        right.plot(steps, [row[key] for row in rows], label=label, color=colour, marker=".")
    right.set(title=f"{rows[-1]['photos']} validation photos", xlabel="step", xlim=(0, None), ylim=(0, 1))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_boxes(detect: Detect, photos: BoxedPhotos, indices: NDArray[np.int64], view_size: int, path: Path) -> None:
    """Photos with what was drawn by hand, and the first box that was found with its score."""
    drawn = [photos.photo(int(index)) for index in indices]
    scores, boxes = detect(np.stack([squashed(image, view_size) for image, _ in drawn]))
    rows = math.ceil(len(drawn) / _COLUMNS)
    figure = Figure(figsize=(2 * _COLUMNS, 2.2 * rows + 0.4), layout="constrained")
    figure.suptitle("drawn by hand (green), found first (orange)", fontsize=11)
    all_axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in all_axes:
        axes.set_axis_off()
    for axes, (image, truth), own_boxes, own_scores in zip(all_axes, drawn, boxes, scores, strict=False):
        found, found_scores = merge_overlapping(own_boxes, own_scores, limit=1)
        axes.imshow(image)
        for box in truth:
            _outline(axes, box, image.size, _DRAWN, "-")
        _outline(axes, found[0], image.size, _FOUND, "--")
        axes.set_title(f"{found_scores[0]:.2f}", fontsize=9, color=_FOUND)
    _save(figure, path)


def _outline(axes: Any, box: NDArray[np.float32], size: tuple[int, int], colour: str, style: str) -> None:
    """A unit box; pixels' centres are whole numbers in matplotlib."""
    x1, y1, x2, y2 = box * np.tile(size, 2) - 0.5
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=style, linewidth=2))


def _save(figure: Figure, path: Path) -> None:
    fresh = path.with_suffix(".fresh.png")
    figure.savefig(fresh, dpi=90)
    fresh.replace(path)
