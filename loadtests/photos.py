"""The photos that the load tests post: the samples, as JPEG."""

from functools import cache
from io import BytesIO

from PIL import Image

from evaluation.samples import SAMPLES
from models.photo import read_photo

# Width and height; the 12 megapixel photos are the samples enlarged.
SIZES = {"small": (160, 120), "500x375": (500, 375), "12MP": (4000, 3000)}


@cache
def photos_of(size: str) -> tuple[bytes, ...]:
    encoded = []
    for sample in SAMPLES.values():
        buffer = BytesIO()
        image = read_photo(sample.path.read_bytes()).image.resize(SIZES[size], Image.Resampling.BICUBIC)
        image.save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return tuple(encoded)
