"""What a head must beat: boxes that nobody trained, against the hand-drawn ones.

python -m training.baselines --data tiny-imagenet:FOLDER

The whole photo; the centred square whose size is best on training photos; the classifier's own class-activation map
(Zhou et al. 2016, arXiv 1512.04150): where its first class comes from, cut at the share of its maximum that is best on
training photos, and the box around the largest piece that is left.
"""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy import ndimage
from torch import Tensor

from evaluation.statistics import proportion
from models.normalise import Normalise
from training.measure import Detect, Pixels, localise, overlaps
from training.photos import BoxedPhotos, read_photos

_SQUARES = (0.5, 0.6, 0.7, 0.8, 0.9)
_CUTS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
_TRAINING_PHOTOS = 1000

Floats = NDArray[np.float32]
Maps = Callable[[Pixels], Floats]


def centred(side: float, pixels: Pixels) -> tuple[Floats, Floats]:
    """The square (unit xyxy) of this side for each of N photos: scores (N, 1) and boxes (N, 1, 4); 1 is the photo."""
    low, high = (1 - side) / 2, (1 + side) / 2
    return np.ones((len(pixels), 1), np.float32), np.tile(
        np.array([low, low, high, high], np.float32), (len(pixels), 1, 1)
    )


def activated(maps: Maps, cut: float, pixels: Pixels) -> tuple[Floats, Floats]:
    """The box around the largest connected piece of each photo's map that is at least `cut` of its maximum."""
    boxes = np.stack([_around_largest(one >= cut * one.max()) for one in maps(pixels)])
    return np.ones((len(boxes), 1), np.float32), boxes[:, None]


def _around_largest(mask: NDArray[np.bool_]) -> Floats:
    pieces, count = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, pieces, range(1, count + 1))
    down, across = ndimage.find_objects(pieces)[int(np.argmax(sizes))]
    height, width = mask.shape
    corners = (across.start / width, down.start / height, across.stop / width, down.stop / height)
    return np.array(corners, np.float32)


def activation_maps(backbone: Any, pixels: Pixels, side: int = 64) -> Floats:
    """Of the first class: uint8 (N, S, S, 3) -> (N, side, side), 0 where nothing speaks for it.

    Raises `ValueError` for a backbone whose answer is not a linear layer over a mean of its features.
    """
    module = backbone.module
    weight = getattr(module.get_classifier(), "weight", None)
    normalised = Normalise(backbone.preprocessing)(torch.from_numpy(pixels))
    with torch.inference_mode():
        features: Tensor = module.forward_features(normalised)
        if weight is None or features.ndim != 4 or features.shape[1] != weight.shape[1]:
            raise ValueError(f"{backbone.name} has no class-activation map")
        classes = module.forward_head(features).argmax(1)
        maps = torch.einsum("nchw,nc->nhw", features, weight[classes]).clamp(min=0)[:, None]
        larger = torch.nn.functional.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
    found: Floats = larger[:, 0].numpy()
    return found


def main(
    data: Annotated[str, typer.Option(help="FORMAT:PATH, as for `figureground train`.")],
    backbone: Annotated[str, typer.Option(help="Whose class-activation maps.")] = "tf_efficientnet_lite0.in1k",
    photos: Annotated[int, typer.Option(help="The first so many of the shuffled validation photos; 0 is all.")] = 0,
) -> None:
    """CorLoc at IoU 0.5, with its interval, and mean IoU of boxes that nobody trained."""
    from service import loading
    from service.settings import Settings

    chosen = loading.catalog(Settings()).backbone(backbone)
    size = chosen.preprocessing.input_size
    training, validation = read_photos(data, "train"), read_photos(data, "val")
    order = np.random.default_rng(0).permutation
    learned = order(training.labelled())[:_TRAINING_PHOTOS]
    seen = order(validation.labelled())[: photos or None]
    square = _best(training, learned, size, {side: partial(centred, side) for side in _SQUARES})
    maps = partial(activation_maps, chosen)
    known = _remembered(maps)
    cut = _best(training, learned, size, {share: partial(activated, known, share) for share in _CUTS})
    told = Console(stderr=True)
    tried: dict[str, Detect] = {
        "the whole photo": partial(centred, 1.0),
        f"the centred square of {square:g} of the side": partial(centred, square),
        f"class-activation map, cut at {cut:g}": partial(activated, maps, cut),
    }
    for name, detect in tried.items():
        batches = track(np.array_split(seen, max(1, len(seen) // 256)), description=name, console=told, transient=True)
        ious = np.concatenate([overlaps(detect, validation, batch, size).ious[:, 0] for batch in batches])
        hits = proportion(int((ious >= 0.5).sum()), len(seen))
        typer.echo(
            f"{name}: CorLoc {hits.accuracy:.3f} [{hits.low:.3f}, {hits.high:.3f}], mean IoU {ious.mean():.3f}, "
            f"{len(seen)} photos"
        )


def _remembered(maps: Maps) -> Maps:
    """The same for the same photos, which are looked at once for all cuts."""
    known: dict[bytes, Floats] = {}

    def found(pixels: Pixels) -> Floats:
        key = sha256(pixels.tobytes()).digest()
        if key not in known:
            known[key] = maps(pixels)
        return known[key]

    return found


def _best(photos: BoxedPhotos, indices: NDArray[np.int64], size: int, choices: dict[float, Detect]) -> float:
    """The choice with the highest CorLoc."""
    corlocs = {value: localise(detect, photos, indices, size).corloc for value, detect in choices.items()}
    return max(corlocs, key=lambda value: corlocs[value])


if __name__ == "__main__":
    typer.run(main)
