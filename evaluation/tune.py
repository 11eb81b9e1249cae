"""Tune a head: what its scores mean, how it crops, and how much each view counts in the fused answer.

    python -m evaluation.tune HEAD.safetensors PHOTOS --data tiny-imagenet:FOLDER --others FOLDER/train-*.parquet

PHOTOS and the data sets' training photos are those that are never reported. All views that any setting could ask for
are classified once (`evaluation/looks.py`); the settings are then compared on the same views. With `--check` nothing
is chosen or written: the table shows what the head's own numbers reach, for photos of another kind.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from evaluation.cases import Case, Condition, LabelledFolder, LabelledSample, read_folder, sample
from evaluation.data import open_data
from evaluation.looks import MIN_CROPS, Looks, collect, reached
from models.catalog import Catalog
from models.detectors import FcosDetector, LoadedDetector
from models.heads import Tuning, describe_head, retune
from models.served import Loading, Served, load
from training.measure import overlaps
from training.photos import read_photos

ORDINARY = "ordinary"
KINDS: Mapping[str, tuple[Condition, ...]] = {
    ORDINARY: (Condition(),),
    "hard edge": (Condition(0.7), Condition(0.5), Condition(0.35)),
    "feathered edge": (Condition(0.5, edge="feathered"), Condition(0.35, edge="feathered")),
    "flat": (Condition(0.35, "colour"),),
}
SMALL_SIDES = (64, 96)
"""A further kind: the photos themselves, this many pixels on the shorter side."""
_MARGINS_SMALL = (-0.1, 0.0)
_MARGINS_LARGE = (-0.1, 0.0, 0.1)
_CLOSER_LOOKS = (0.0, 0.1)
_AREA_WEIGHTS = (1.0, 1.5, 2.0, 2.5, 3.0)
_SCORE_WEIGHTS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
# The preferred first: few forwards, a crop wherever there is one, no weak boxes. So are those of `looks.MIN_CROPS`: the
# less a few pixels are enlarged, the less is made of them.
_CERTAIN = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_COVERS_IMAGE = (0.95, 0.9, 0.85, 0.8)
_MIN_SCORES = (0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.02, 0.0)
# So many points are noise on some hundred photos: among such margins and weights the log-loss decides, which is less
# noisy. What only saves work may cost this much.
_NOISE, _PRICE = 0.5, 0.2
_CALIBRATION_PHOTOS = 3000
_OTHERS = 1000
_NAME = "tuned"

Floats = NDArray[np.float64]
Collected = Mapping[str, Sequence[Looks]]


class Worth(NamedTuple):
    """Of a tuning: its fused answer's top-1 in percent, its gain in points over the better of plain and the first
    box's crop where that is least, its gain over plain on ordinary photos, and its log-loss in nats."""

    accuracy: float
    worst: float
    ordinary: float
    log_loss: float

    @property
    def points(self) -> float:
        """A point lost where most is lost takes off half a point, and one lost on ordinary photos a whole one: an
        average would pay for clutter with them."""
        return self.accuracy + min(self.worst, 0.0) / 2 + min(self.ordinary, 0.0)


def worth(collected: Collected, tuning: Tuning) -> Worth:
    """How good the fused answer is; every kind of photos counts alike."""
    kinds = {name: [reached(looks, tuning) for looks in kind] for name, kind in collected.items()}
    means = [np.mean([[one.combined, one.log_loss] for one in kind], axis=0) for kind in kinds.values()]
    accuracy, log_loss = np.mean(means, axis=0)
    worst = min(one.gain for kind in kinds.values() for one in kind)
    ordinary = min((one.combined - one.plain for one in kinds.get(ORDINARY, ())), default=0.0)
    return Worth(float(accuracy), worst, ordinary, float(log_loss))


def tune(collected: Collected, start: Tuning) -> Tuning:
    """Margins and weights first, on all crops; then their least size, how few will do, and which are none."""
    everything = replace(start, certain=1.0, min_score=0.0, covers_image=2.0, min_crop=MIN_CROPS[0])
    tried = {tuning: worth(collected, tuning) for tuning in _margins_and_weights(everything)}
    best = max(one.points for one in tried.values())
    equal = [tuning for tuning, one in tried.items() if one.points >= best - _NOISE]
    chosen = min(equal, key=lambda tuning: tried[tuning].log_loss)
    chosen = _first_good_enough(collected, [replace(chosen, min_crop=value) for value in MIN_CROPS])
    chosen = _first_good_enough(collected, [replace(chosen, certain=value) for value in _CERTAIN])
    chosen = _first_good_enough(collected, [replace(chosen, covers_image=value) for value in _COVERS_IMAGE])
    return _first_good_enough(collected, [replace(chosen, min_score=value) for value in _MIN_SCORES])


def _first_good_enough(collected: Collected, choices: Sequence[Tuning]) -> Tuning:
    """The first, the preferred, that is as good as the best, but for noise."""
    points = [worth(collected, one).points for one in choices]
    return next(one for one, found in zip(choices, points, strict=True) if found >= max(points) - _PRICE)


def _margins_and_weights(start: Tuning) -> Iterator[Tuning]:
    for small, large, closer, area, score in product(
        _MARGINS_SMALL, _MARGINS_LARGE, _CLOSER_LOOKS, _AREA_WEIGHTS, _SCORE_WEIGHTS
    ):
        yield replace(
            start, margin_small=small, margin_large=large, closer_look=closer, area_weight=area, score_weight=score
        )


def table(collected: Collected, tunings: Mapping[str, Tuning]) -> Table:
    """Top-1 in percent; the last columns are combined against the better of plain and the first box's crop."""
    sets = [looks for kind in collected.values() for looks in kind]
    shown = Table("", *(looks.name for looks in sets), "worst", "mean", "forwards")
    for name, tuning in tunings.items():
        found = [reached(looks, tuning) for looks in sets]
        for arm in ("plain", "first_crop", "rescored", "oracle", "no_detection"):
            figures = [f"{getattr(one, arm):.1f}" for one in found]
            shown.add_row(f"{name}: {arm.replace('_', ' ')}", *figures, "", "", "")
        gains = [one.gain for one in found]
        forwards = np.mean([one.forwards for one in found])
        figures = [f"{one.combined:.1f}" for one in found]
        shown.add_row(f"{name}: combined", *figures, f"{min(gains):+.1f}", f"{np.mean(gains):+.1f}", f"{forwards:.2f}")
    return shown


def calibrate(detector: LoadedDetector, data: str) -> tuple[float, float]:
    """Slope and offset that make the scores of training photos' first boxes likeliest (Platt 1999).

    Of the first alone: of two boxes with one score, that which is behind another is right much less often.
    """
    photos = read_photos(data, "train")
    chosen = np.random.default_rng(0).permutation(photos.labelled())[:_CALIBRATION_PHOTOS]
    found = overlaps(lambda pixels: detect(detector, pixels), photos, chosen, detector.model.input_size)
    there = found.scores[:, 0] > 0
    scores = np.clip(found.scores[there, 0].astype(np.float64), 1e-6, 1 - 1e-6)
    hits = found.ious[there, 0] >= 0.5
    logits = np.log(scores / (1 - scores))

    def log_loss(numbers: Floats) -> float:
        return float(np.logaddexp(0, np.where(hits, -1, 1) * (numbers[0] * logits + numbers[1])).mean())

    slope, offset = minimize(log_loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    return float(slope), float(offset)


def detect(detector: LoadedDetector, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    scores, boxes = detector.engine.run(pixels)
    return scores, boxes


def _collected(
    served: Served,
    photos: LabelledFolder,
    others: LabelledSample | None,
    tunings: Sequence[Tuning],
    seed: int,
    canvases: int,
    kept: Path | None,
) -> dict[str, list[Looks]]:
    looking = partial(collect, served.classifier(None), served.detector(None), tunings=tunings)

    def looked(cases: Iterable[Case], total: int, name: str) -> Looks:
        if kept is None:
            return looking(cases, total, name=name)
        file = kept / f"{name}.npz"
        if not file.exists():
            looking(cases, total, name=name).write(file)
        return Looks.read(file)

    def shown(condition: Condition) -> Looks:
        total = len(photos) * (canvases if condition.scale < 1 else 1)
        return looked(photos.cases(condition, seed, canvases), total, condition.name)

    def shrunk(side: int) -> Looks:
        return looked(replace(photos, side=side).cases(Condition()), len(photos), f"{side} px")

    found = {kind: [shown(condition) for condition in conditions] for kind, conditions in KINDS.items()}
    found["small"] = [shrunk(side) for side in SMALL_SIDES]
    if others is not None:
        found["others"] = [looked(others.cases(), len(others), "others")]
    return found


def main(
    head: Annotated[Path, typer.Argument(help="A head that `figureground train` wrote; it gets the numbers.")],
    folder: Annotated[Path, typer.Argument(help="Photos with a labels.csv, not those that are reported.")],
    data: Annotated[str | None, typer.Option(help="FORMAT:PATH of training photos, for the scores' meaning.")] = None,
    others: Annotated[
        str | None,
        typer.Option(help="Further photos of another kind, as `figureground evaluate` takes them; 1,000 of them."),
    ] = None,
    check: Annotated[bool, typer.Option(help="Choose and write nothing; only tell what the head reaches.")] = False,
    canvases: Annotated[int, typer.Option(help="Canvases a photo.", min=1)] = 1,
    limit: Annotated[int | None, typer.Option(help="Only the first so many photos.", min=1)] = None,
    seed: Annotated[int, typer.Option()] = 0,
    looks: Annotated[
        Path | None,
        typer.Option(
            help="A folder where the classified views are kept: the same command takes seconds when it is run "
            "again, and one that was stopped goes on. For one head and one choice of photos; nothing checks that."
        ),
    ] = None,
) -> None:
    """Tune a head's margins, thresholds and weights, and tell what they reach on photos and clutter made of them."""
    from service.settings import Settings

    file = describe_head(head)
    backbone = Catalog().backbone(file.backbone)
    catalog = Catalog(detectors={_NAME: FcosDetector(_NAME, backbone, head, "manifest")})
    served = load(catalog, [backbone.name], [_NAME], Loading(Settings().cache_dir))
    start = file.tuning
    if data is not None and not check:
        slope, offset = calibrate(served.detector(None), data)
        start = replace(start, score_slope=round(slope, 3), score_offset=round(offset, 3))
    considered = [start]
    if not check:
        considered += [replace(one, min_crop=least) for one in _margins_and_weights(start) for least in MIN_CROPS]
    photos = read_folder(folder)
    photos = LabelledFolder(photos.files[:limit], photos.labels[:limit])
    further = None if others is None else sample(open_data(others), _OTHERS, seed)
    collected = _collected(served, photos, further, considered, seed, canvases, looks)
    tunings = {"head": start}
    if not check:
        tunings["tuned"] = tune(collected, start)
        retune(head, tunings["tuned"])
    console = Console(width=200)
    console.print(table(collected, tunings))
    console.print(tunings["head" if check else "tuned"])


if __name__ == "__main__":
    typer.run(main)
