"""Small labelled data sets made of the sample photos, in the layouts that data sets are published in."""

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from evaluation.samples import SAMPLES
from models.label_spaces import imagenet_1k

_SPACE = imagenet_1k()
WNIDS: Mapping[str, str] = {
    name: _SPACE.wnids[found]
    for name, sample in SAMPLES.items()
    if (found := _SPACE.find(sample.labels[0])) is not None
}
"""The true class of every sample photo."""


def jpeg(name: str, side: int = 160) -> bytes:
    """A sample photo, its longer side `side` pixels."""
    with Image.open(SAMPLES[name].path) as image:
        small = image.convert("RGB")
        small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def class_folders(folder: Path, copies: int = 1) -> Path:
    """`<wnid>/<name>-<copy>.jpg`."""
    for name, wnid in WNIDS.items():
        data = jpeg(name)
        (folder / wnid).mkdir(parents=True, exist_ok=True)
        for copy in range(copies):
            (folder / wnid / f"{name}-{copy}.jpg").write_bytes(data)
    return folder
