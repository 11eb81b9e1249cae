"""Made-up results tables for the tests: what `figureground evaluate` writes, with chosen answers."""

import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CONTROLS = ("squashed", "center", "random")
ARMS = ("plain", "cropped", "combined", "detector", *CONTROLS)
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("path", "condition", "background", "edge", "label_wnid")]
    + [(name, pa.string()) for name in ("backbone", "detector", "label_space", "arm", "no_crop_reason")]
    + [("label_index", pa.int64()), ("index", pa.int64()), ("correct", pa.bool_()), ("has_crop", pa.bool_())]
    + [(name, pa.float64()) for name in ("scale", "probability", "probability_true", "brier", "score")]
    + [(name, pa.float64()) for name in ("area_fraction", "iou", "x1", "y1", "x2", "y2")]
)


def rows(
    right: Mapping[str, Sequence[bool]], *, wnids: Sequence[str] | None = None, names: Sequence[str] = (), **fixed: Any
) -> list[dict[str, Any]]:
    """One run. `right` has by arm whether each photo is right; `fixed` overrides columns, for all rows alike.

    `wnids` are the photos' classes (else ten in turn), `names` their paths. A photo is 100 x 80 pixels.
    """
    count = len(next(iter(right.values())))
    classes = wnids or [f"n{10 + photo % 10:08d}" for photo in range(count)]
    number = {wnid: place for place, wnid in enumerate(sorted(set(classes)))}
    found = []
    for arm, answers in right.items():
        for photo, correct in enumerate(answers):
            label = number[classes[photo]]
            row = _row(arm, photo, label, bool(correct))
            row |= {"path": names[photo] if names else f"{classes[photo]}/{photo}.jpg", "label_wnid": classes[photo]}
            found.append(row | fixed)
    return found


def _row(arm: str, photo: int, label: int, correct: bool) -> dict[str, Any]:
    probability = 0.05 + 0.9 * ((photo * 37) % 100) / 100
    true = probability if correct else (1 - probability) / 2
    area = 0.02 + 0.96 * ((photo * 53) % 100) / 100
    return {
        "condition": "as it is",
        "scale": 1.0,
        "background": None,
        "edge": None,
        "label_index": label,
        "backbone": "lite0",
        "detector": "fcos_lite0",
        "label_space": "imagenet-1k",
        "arm": arm,
        "index": label if correct else label + 1,
        "probability": probability,
        "probability_true": true,
        "brier": (1 - true) ** 2,
        "correct": correct,
        "has_crop": True,
        "no_crop_reason": None,
        "score": 0.3 + 0.6 * ((photo * 29) % 100) / 100,
        "area_fraction": area,
        "iou": None,
        "x1": 10.0,
        "y1": 8.0,
        "x2": 10 + 90 * area,
        "y2": 72.0,
    }


def random_answers(
    photos: int, shares: Mapping[str, float], seed: int = 0, arms: Sequence[str] = ARMS
) -> dict[str, list[bool]]:
    """By arm; arms that `shares` does not name are as right as plain. One photo's difficulty is shared by its arms."""
    random = np.random.default_rng(seed)
    difficulty = random.random(photos)
    noise = {arm: random.normal(0, 0.1, photos) for arm in arms}
    return {arm: [bool(x) for x in difficulty + noise[arm] < shares.get(arm, shares["plain"])] for arm in arms}


def write(folder: Path, table: Sequence[Mapping[str, Any]], **details: Any) -> Path:
    """`results.parquet` and `run.json` in `folder`."""
    pq.write_table(pa.Table.from_pylist([dict(row) for row in table], _SCHEMA), folder / "results.parquet")
    known = {"command": "figureground evaluate photos --out out", "seed": 0, "versions": {"figureground": "0.1.0"}}
    known |= {"data": {"source": "photos"}, "models": {}, "broken": [], "seconds": 1.0, "photos": 1}
    (folder / "run.json").write_text(json.dumps(known | details), "utf-8")
    return folder


@cache
def jpeg() -> bytes:
    """Grey noise of 100 x 80 pixels."""
    buffer = io.BytesIO()
    Image.effect_noise((100, 80), 60).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()
