from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

SIDE = 64
GROUND, OBJECT = (70, 40, 110), (60, 230, 90)


def encoded(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def painted(box: tuple[int, int, int, int]) -> bytes:
    """A bright square on dark ground; the box is half open."""
    image = Image.new("RGB", (SIDE, SIDE), GROUND)
    image.paste(OBJECT, box)
    return encoded(image)


def write_split(path: Path, images: list[bytes], boxes: list[list[int] | None]) -> None:
    """As Tiny ImageNet's files are: both ends of a box are inclusive."""
    columns = {
        "image": pa.array(images, pa.binary()),
        "wnid": pa.array(["n01443537"] * len(images)),
        "box_xyxy": pa.array(boxes, pa.list_(pa.int64())),
    }
    pq.write_table(pa.table(columns), path)


@pytest.fixture(scope="session")
def photos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 photos to learn from, in two files, and 6 to validate on: a square in the middle part of each."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    corners = [
        (*(int(value) for value in random.integers(12, 26, 2)), *(int(value) for value in random.integers(38, 52, 2)))
        for _ in range(22)
    ]
    boxes: list[list[int] | None] = [[x1, y1, x2 - 1, y2 - 1] for x1, y1, x2, y2 in corners]
    images = [painted((x1, y1, x2, y2)) for x1, y1, x2, y2 in corners]
    write_split(folder / "train-0.parquet", images[:10], boxes[:10])
    write_split(folder / "train-1.parquet", images[10:16], boxes[10:16])
    write_split(folder / "val.parquet", images[16:], boxes[16:])
    return folder
