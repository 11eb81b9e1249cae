"""How good boxes are: against the hand-drawn ones.

python -m training.measure HEAD.safetensors --data tiny-imagenet:FOLDER
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from evaluation.calibration import ece_equal_width, reliability
from models.boxes import area, iou, merge_overlapping
from models.detectors import FcosDetector
from models.devices import resolve_device
from models.engines import make_engine
from models.heads import describe_head
from training.photos import BoxedPhotos, read_photos

Pixels = NDArray[np.uint8]
_BOXES = 3
# uint8 (N, S, S, 3) -> scores (N, P) and unit xyxy boxes (N, P, 4)
Detect = Callable[[Pixels], tuple[NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True)
class Localisation:
    """CorLoc is the share of photos whose first box has an IoU of at least 0.5 with a hand-drawn one, whichever.

    `mean_iou` is of the first box with the hand-drawn one that it fits best, `corloc_by_area` by the share of the photo
    that the largest hand-drawn one covers.
    """

    photos: int
    corloc: float
    corloc_of_three: float
    mean_iou: float
    corloc_by_area: dict[str, float]


@dataclass(frozen=True)
class Overlaps:
    """Of N photos the first boxes' scores and IoU with the hand-drawn one that each fits best, both (N, 3), 0 for none.

    `shares` (N,): the largest hand-drawn box's part of the photo's area.
    """

    scores: NDArray[np.float32]
    ious: NDArray[np.float64]
    shares: NDArray[np.float32]


def localise(detect: Detect, photos: BoxedPhotos, indices: NDArray[np.int64], view_size: int) -> Localisation:
    """Measure a detector on the photos with these indices; each must have a box."""
    return summary(overlaps(detect, photos, indices, view_size))


def overlaps(detect: Detect, photos: BoxedPhotos, indices: NDArray[np.int64], view_size: int) -> Overlaps:
    scores, ious, shares = [], [], []
    for batch in _batches(indices):
        drawn = [photos.photo(int(index)) for index in batch]
        raw, boxes = detect(np.stack([squashed(image, view_size) for image, _ in drawn]))
        for row, (_, truth) in enumerate(drawn):
            kept, kept_scores = merge_overlapping(boxes[row], raw[row], limit=_BOXES)
            padding = (0, _BOXES - len(kept))
            scores.append(np.pad(kept_scores, padding))
            ious.append(np.pad(iou(kept, truth).max(1), padding))
            shares.append(area(truth).max())
    return Overlaps(np.array(scores), np.array(ious), np.array(shares))


def summary(found: Overlaps) -> Localisation:
    first = found.ious[:, 0]
    return Localisation(
        photos=len(first),
        corloc=float((first >= 0.5).mean()),
        corloc_of_three=float((found.ious.max(1) >= 0.5).mean()),
        mean_iou=float(first.mean()),
        corloc_by_area=_by_area(first, found.shares),
    )


def squashed(image: Image.Image, size: int) -> Pixels:
    """As the detector sees a photo: the whole of it, its aspect ratio not kept."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _batches(indices: NDArray[np.int64], size: int = 64) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _by_area(overlaps: NDArray[np.floating], areas: NDArray[np.floating]) -> dict[str, float]:
    edges = (0.0, 0.1, 0.25, 0.5, 0.75, 1.001)
    rows = {}
    for low, high in pairwise(edges):
        here = (areas >= low) & (areas < high)
        if here.any():
            rows[f"{low:g}-{min(high, 1):g}"] = float((overlaps[here] >= 0.5).mean())
    return rows


def main(
    head: Annotated[Path, typer.Argument(help="A head that `figureground train` wrote.")],
    data: Annotated[str, typer.Option(help="FORMAT:PATH, as for `figureground train`.")],
    photos: Annotated[int, typer.Option(help="The first so many of the shuffled validation photos; 0 is all.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw what the scores mean, as PNG.")] = None,
) -> None:
    """CorLoc at IoU 0.5 and mean IoU of a head on validation photos, as it is served."""
    from evaluation.plots import score_reliability
    from service import loading
    from service.settings import Settings

    settings = Settings()
    file = describe_head(head)
    detector = FcosDetector(head.stem, loading.catalog(settings).backbone(file.backbone), head, "manifest")
    engine = make_engine(detector.graph(), "auto", resolve_device("auto"), settings.cache_dir, threads=2)

    def detect(pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scores, boxes = engine.run(pixels)
        return scores, boxes

    validation = read_photos(data, "val")
    order = np.random.default_rng(0).permutation(validation.labelled())[: photos or None]
    looked = overlaps(detect, validation, order, file.config.view_size)
    found = summary(looked)
    typer.echo(
        f"{found.photos} photos: CorLoc {found.corloc:.3f}, best of the first three boxes "
        f"{found.corloc_of_three:.3f}, mean IoU {found.mean_iou:.3f}"
    )
    for share, corloc in found.corloc_by_area.items():
        typer.echo(f"  object's share of the area {share}: CorLoc {corloc:.3f}")
    scores, right = file.tuning.calibrated(looked.scores[:, 0]), looked.ious[:, 0] >= 0.5
    typer.echo(
        f"first box's score against IoU >= 0.5: ECE {ece_equal_width(scores, right):.3f}, before calibration "
        f"{ece_equal_width(looked.scores[:, 0], right):.3f}"
    )
    if plot is not None:
        told = {"the head's own": looked.scores[:, 0], "calibrated": scores}
        bins = {name: [asdict(one) for one in reliability(score, right)] for name, score in told.items()}
        score_reliability(bins, f"{file.backbone}, {found.photos} validation photos", plot)


if __name__ == "__main__":
    typer.run(main)
