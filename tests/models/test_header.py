import io

import pytest
from PIL import Image

from models.header import declared_pixels


def encoded(file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "teal").save(buffer, file_format, **options)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x010E] = "x" * 5000


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG"),
        encoded("JPEG", progressive=True, exif=EXIF),
        encoded("PNG"),
        encoded("GIF"),
        encoded("BMP"),
        encoded("WEBP"),
        encoded("WEBP", lossless=True),
        encoded("WEBP", exif=EXIF),
    ],
    ids=["JPEG", "progressive JPEG", "PNG", "GIF", "BMP", "WebP", "lossless WebP", "extended WebP"],
)
def test_the_header_tells_the_pixels_and_half_of_it_nothing(data: bytes) -> None:
    assert declared_pixels(data) == 60_000
    for length in range(24):
        assert declared_pixels(data[:length]) in (None, 60_000)


@pytest.mark.parametrize(
    "data", [b"", b"junk", encoded("TIFF"), b"\xff\xd8" + b"\xff\xe0\0\2" * 100, b"\xff\xd8" + bytes(99)], ids=str
)
def test_other_headers_tell_nothing(data: bytes) -> None:
    assert declared_pixels(data) is None
