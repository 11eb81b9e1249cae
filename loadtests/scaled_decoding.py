"""Whether JPEG's scaled decoding (`PIL.Image.draft`) would pay, and what it would change.

python -m loadtests.scaled_decoding FOLDER

Every photo of the folder is enlarged to about 12 megapixels and compared twice by the service's pipeline: decoded
whole, and decoded at the smallest of libjpeg's scales at which no view has to be enlarged that would not be anyway
(the plain view needs `input_size` pixels on the shorter side; a crop as many on its own).
"""

import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from loadtests.rivals.models import OurModels
from models.comparison import Arm, Comparison, Options, Prediction
from models.photo import Photo, read_photo

_RESULT = Path(__file__).parent / "results" / "scaled_decoding.json"
_PIXELS = 12_000_000
_ARMS: tuple[Arm, ...] = ("background", "center", "squashed")
_LEAST_SIDE = 2 * 260


@dataclass(frozen=True)
class Pair:
    """One photo both ways; seconds of decoding and of all."""

    whole: Comparison
    scaled: Comparison
    seconds: tuple[float, float, float, float]


def enlarged(data: bytes) -> bytes:
    image = read_photo(data).image
    factor = (_PIXELS / (image.width * image.height)) ** 0.5
    buffer = io.BytesIO()
    size = round(image.width * factor), round(image.height * factor)
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def scaled(data: bytes) -> Photo:
    """Both sides at least twice the largest view."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (_LEAST_SIDE, _LEAST_SIDE))
    image.load()
    return Photo(image.convert("RGB"), "JPEG")


def pair(models: OurModels, data: bytes) -> Pair:
    options = Options(arms=_ARMS)
    start = time.perf_counter()
    photo = read_photo(data)
    decoded = time.perf_counter()
    whole = models.pipeline.compare(photo, options)
    between = time.perf_counter()
    small = scaled(data)
    small_decoded = time.perf_counter()
    other = models.pipeline.compare(small, options)
    end = time.perf_counter()
    return Pair(whole, other, (decoded - start, between - start, small_decoded - between, end - between))


def changes(found: Pair) -> dict[str, float]:
    """By arm, the largest change of a probability; arms that only one of the two has count as 1."""
    largest = {}
    for name in ("plain", "cropped", "combined", *_ARMS):
        one, other = (_arm(comparison, name) for comparison in (found.whole, found.scaled))
        if (one is None) != (other is None):
            largest[name] = 1.0
        elif one is not None and other is not None:
            largest[name] = float(np.abs(one.probabilities - other.probabilities).max())
    return largest


def _arm(comparison: Comparison, name: str) -> Prediction | None:
    known = {"plain": comparison.plain, "cropped": comparison.cropped, "combined": comparison.combined}
    return {**known, **{str(arm): found for arm, found in comparison.arms.items()}}.get(name)


def main(
    folder: Annotated[Path, typer.Argument(help="JPEG photos.", exists=True)],
    limit: Annotated[int, typer.Option(help="How many.", min=1)] = 50,
) -> None:
    """Time saved, and the largest change of an answer."""
    models = OurModels()
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))[:limit]
    pairs = [pair(models, enlarged(path.read_bytes())) for path in track(paths, console=Console(stderr=True))]
    decode, total, small_decode, small_total = np.median([found.seconds for found in pairs], axis=0)
    arms = [changes(found) for found in pairs]
    firsts = sum(found.whole.combined.first != found.scaled.combined.first for found in pairs)
    for name in ("plain", "cropped", "combined", *_ARMS):
        of_arm = [found[name] for found in arms if name in found]
        print(f"{name:10s} largest change of a probability {max(of_arm):.3f}, median {np.median(of_arm):.4f}")
    result = {
        "decode_ms": [1000 * decode, 1000 * small_decode],
        "total_ms": [1000 * total, 1000 * small_total],
        "largest_change": max(max(found.values()) for found in arms),
        "other_first_label": firsts,
        "photos": len(pairs),
    }
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps(result, indent=1))
    print(
        f"12 megapixels, {len(pairs)} photos: decoding {1000 * decode:.0f} -> {1000 * small_decode:.0f} ms, all "
        f"{1000 * total:.0f} -> {1000 * small_total:.0f} ms ({total / small_total:.2f} times as fast); largest change "
        f"of a probability {result['largest_change']:.3f}; the combined first label changes on {firsts}"
    )


if __name__ == "__main__":
    typer.run(main)
