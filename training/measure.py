"""How good boxes are: against the hand-drawn ones.

python -m training.measure HEAD.safetensors --data tiny-imagenet:FOLDER
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from models.boxes import area, iou, merge_overlapping
from models.detectors import FcosDetector
from models.engines import make_engine, resolve_device
from models.heads import describe_head
from training.photos import BoxedPhotos, read_photos

Pixels = NDArray[np.uint8]
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


def localise(detect: Detect, photos: BoxedPhotos, indices: NDArray[np.int64], view_size: int) -> Localisation:
    """Measure a detector on the photos with these indices; each must have a box."""
    first, best_of_three, areas = [], [], []
    for batch in _batches(indices):
        drawn = [photos.photo(int(index)) for index in batch]
        scores, boxes = detect(np.stack([squashed(image, view_size) for image, _ in drawn]))
        for row, (_, truth) in enumerate(drawn):
            kept, _ = merge_overlapping(boxes[row], scores[row], limit=3)
            overlaps = iou(kept, truth).max(1)
            first.append(overlaps[0])
            best_of_three.append(overlaps.max())
            areas.append(area(truth).max())
    found, of_three = np.array(first), np.array(best_of_three)
    return Localisation(
        photos=len(found),
        corloc=float((found >= 0.5).mean()),
        corloc_of_three=float((of_three >= 0.5).mean()),
        mean_iou=float(found.mean()),
        corloc_by_area=_by_area(found, np.array(areas)),
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
) -> None:
    """CorLoc at IoU 0.5 and mean IoU of a head on validation photos, as it is served."""
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
    order = np.random.default_rng(0).permutation(validation.labelled())
    found = localise(detect, validation, order[: photos or None], file.config.view_size)
    typer.echo(
        f"{found.photos} photos: CorLoc {found.corloc:.3f}, best of the first three boxes "
        f"{found.corloc_of_three:.3f}, mean IoU {found.mean_iou:.3f}"
    )
    for share, corloc in found.corloc_by_area.items():
        typer.echo(f"  object's share of the area {share}: CorLoc {corloc:.3f}")


if __name__ == "__main__":
    typer.run(main)
