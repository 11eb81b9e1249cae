"""Photos with one hand-drawn box, to learn from."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

FORMATS = ("tiny-imagenet",)


@dataclass(frozen=True)
class BoxedPhotos:
    """Encoded photos and their boxes.

    `boxes` is (N, 4) float32 xyxy in pixels, half open; a row of NaN is a photo whose objects are not labelled (it
    is not a photo without objects).
    """

    encoded: pa.ChunkedArray
    boxes: NDArray[np.float32]
    wnids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def image(self, index: int) -> Image.Image:
        return Image.open(BytesIO(self.encoded[index].as_py())).convert("RGB")

    def labelled(self) -> "NDArray[np.int64]":
        """Indices of the photos that have a box."""
        return np.flatnonzero(~np.isnan(self.boxes[:, 0]))


def read_photos(source: str, split: str) -> BoxedPhotos:
    """`source` is FORMAT:PATH, `split` is `train` or `val`. Raises ValueError for what cannot be read."""
    kind, separator, path = source.partition(":")
    if not separator or kind not in FORMATS:
        raise ValueError(f"data must be FORMAT:PATH with FORMAT one of {', '.join(FORMATS)}, got {source!r}")
    files = sorted(Path(path).glob(f"{split}*.parquet"))
    if not files:
        raise ValueError(f"no {split}*.parquet in {path!r}")
    photos = _tiny_imagenet(pa.concat_tables([pq.read_table(file) for file in files]))
    if not len(photos.labelled()):
        raise ValueError(f"no photo of {split}*.parquet in {path!r} has a box")
    return photos


def _tiny_imagenet(table: pa.Table) -> BoxedPhotos:
    rows = table.column("box_xyxy").to_pylist()
    boxes = np.full((len(rows), 4), np.nan, np.float32)
    for index, row in enumerate(rows):
        # Both ends are inclusive in the files. A box without an inside says nothing about the object.
        if row is not None and row[2] > row[0] and row[3] > row[1]:
            boxes[index] = (row[0], row[1], row[2] + 1, row[3] + 1)
    return BoxedPhotos(table.column("image"), boxes, tuple(table.column("wnid").to_pylist()))
