import io
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from models.photo import (
    SERVED_FORMATS,
    PhotoError,
    TooManyPixels,
    UnreadablePhoto,
    UnservedFormat,
    read_photo,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
LOSSY = {"JPEG", "WEBP", "AVIF"}


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def quarters(size: tuple[int, int] = (32, 16)) -> Image.Image:
    """Four flat quarters: red, green / blue, white."""
    width, height = size
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, WHITE
    return Image.fromarray(pixels)


def quarters_of(image: Image.Image) -> list[tuple[int, ...]]:
    """The colour in the middle of each quarter."""
    array = np.asarray(image)
    height, width = array.shape[:2]
    return [
        tuple(int(value) for value in array[row, column])
        for row in (height // 4, 3 * height // 4)
        for column in (width // 4, 3 * width // 4)
    ]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def animated(file_format: str) -> bytes:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if file_format == "WEBP" else {}
    return encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)


VALID = {name: encode(quarters(), name) for name in SERVED_FORMATS}


@pytest.mark.parametrize("file_format", SERVED_FORMATS)
@pytest.mark.parametrize("wrap", [bytes, memoryview])
def test_every_served_format(file_format: str, wrap: type[bytes] | type[memoryview]) -> None:
    photo = read_photo(wrap(VALID[file_format]))
    assert (photo.image.mode, photo.format) == ("RGB", file_format)
    assert (photo.width, photo.height) == photo.size == (32, 16)
    tolerance = 12 if file_format in LOSSY else 0
    np.testing.assert_allclose(quarters_of(photo.image), [RED, GREEN, BLUE, WHITE], atol=tolerance)


MODES = [
    ("JPEG", "L", (100,), (100, 100, 100)),
    ("JPEG", "CMYK", (0, 255, 255, 0), RED),
    ("JPEG", "YCbCr", (76, 85, 255), (254, 0, 0)),
    ("PNG", "1", (255,), WHITE),
    ("PNG", "L", (100,), (100, 100, 100)),
    ("PNG", "LA", (100, 51), (224, 224, 224)),
    ("PNG", "RGBA", (255, 0, 0, 51), (255, 204, 204)),
    ("PNG", "RGBA", (255, 0, 0, 0), WHITE),
    ("PNG", "I;16", (257 * 100,), (100, 100, 100)),
    ("WEBP", "RGBA", (255, 0, 0, 51), (255, 204, 204)),
    ("GIF", "L", (100,), (100, 100, 100)),
    ("TIFF", "1", (255,), WHITE),
    ("TIFF", "L", (100,), (100, 100, 100)),
    ("TIFF", "LA", (100, 51), (224, 224, 224)),
    ("TIFF", "RGBA", (255, 0, 0, 51), (255, 204, 204)),
    ("TIFF", "CMYK", (0, 255, 255, 0), RED),
    ("TIFF", "YCbCr", (76, 85, 255), (254, 0, 0)),
    ("TIFF", "LAB", (255, 128, 128), WHITE),
    ("TIFF", "LAB", (0, 128, 128), (0, 0, 0)),
    ("TIFF", "I;16", (257 * 100,), (100, 100, 100)),
    ("TIFF", "I;16B", (257 * 100,), (100, 100, 100)),
    ("TIFF", "I", (257 * 100,), (100, 100, 100)),
    ("TIFF", "I", (-5,), (0, 0, 0)),
    ("TIFF", "F", (0.5,), (128, 128, 128)),
    ("TIFF", "F", (200.0,), (200, 200, 200)),
    ("TIFF", "F", (1e30,), WHITE),
    ("TIFF", "F", (float("nan"),), (0, 0, 0)),
    ("TIFF", "F", (float("inf"),), WHITE),
    ("BMP", "1", (255,), WHITE),
    # Pillow reads no alpha from such a BMP.
    ("BMP", "RGBA", (255, 0, 0, 51), RED),
    ("AVIF", "RGBA", (255, 0, 0, 51), (255, 204, 204)),
    ("AVIF", "L", (100,), (100, 100, 100)),
]


@pytest.mark.parametrize(("file_format", "mode", "colour", "expected"), MODES)
def test_modes(file_format: str, mode: str, colour: tuple[float, ...], expected: tuple[int, ...]) -> None:
    if file_format not in SERVED_FORMATS:
        pytest.skip(f"this Pillow has no {file_format}")
    image = Image.new(mode, (16, 16), colour if len(colour) > 1 else colour[0])
    photo = read_photo(encode(image, file_format))
    assert photo.image.mode == "RGB"
    tolerance = 6 if file_format in LOSSY else 1
    np.testing.assert_allclose(quarters_of(photo.image), [expected] * 4, atol=tolerance)


def palette_image() -> Image.Image:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *GREEN, *BLUE])
    image.paste(1, (2, 0, 4, 2))
    image.paste(2, (0, 2, 4, 4))
    return image


@pytest.mark.parametrize(
    ("file_format", "transparency", "expected"),
    [
        ("PNG", None, [RED, GREEN, BLUE, BLUE]),
        ("PNG", 0, [WHITE, GREEN, BLUE, BLUE]),
        ("PNG", bytes([255, 0, 51]), [RED, WHITE, (204, 204, 255), (204, 204, 255)]),
        ("GIF", None, [RED, GREEN, BLUE, BLUE]),
        ("GIF", 1, [RED, WHITE, BLUE, BLUE]),
        ("TIFF", None, [RED, GREEN, BLUE, BLUE]),
        ("BMP", None, [RED, GREEN, BLUE, BLUE]),
    ],
)
def test_palettes(file_format: str, transparency: int | bytes | None, expected: list[tuple[int, ...]]) -> None:
    options = {} if transparency is None else {"transparency": transparency}
    photo = read_photo(encode(palette_image(), file_format, **options))
    assert quarters_of(photo.image) == expected


def test_transparent_colours_of_png() -> None:
    blue = read_photo(encode(quarters(), "PNG", transparency=BLUE))
    assert quarters_of(blue.image) == [RED, GREEN, WHITE, WHITE]
    grey = png(2, 1, 8, 0, b"\0\x64\x32", png_chunk(b"tRNS", b"\0\x64"))
    assert np.asarray(read_photo(grey).image)[0, :, 0].tolist() == [255, 50]
    deep = png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 25700, 257), png_chunk(b"tRNS", b"\x64\x64"))
    assert np.asarray(read_photo(deep).image)[0, :, 0].tolist() == [255, 1]


def test_16_bit_grey_is_scaled_over_its_whole_range() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    for data in (encode(Image.fromarray(ramp), "PNG"), encode(Image.fromarray(ramp), "TIFF")):
        grey = np.asarray(read_photo(data).image)[..., 0]
        np.testing.assert_array_equal(grey, np.arange(256).reshape(16, 16))


def test_float_grey_in_0_to_1_is_scaled() -> None:
    ramp = np.array([[0.0, 0.25, 0.5, 1.0, np.nan, -1.0]], np.float32)
    photo = read_photo(encode(Image.fromarray(ramp), "TIFF"))
    assert np.asarray(photo.image)[0, :, 0].tolist() == [0, 64, 128, 255, 0, 0]


TURNED_FROM_UPRIGHT = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(file_format: str, orientation: int) -> None:
    if file_format not in SERVED_FORMATS:
        pytest.skip(f"this Pillow has no {file_format}")
    turn = TURNED_FROM_UPRIGHT[orientation]
    stored = quarters() if turn is None else quarters().transpose(turn)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo = read_photo(encode(stored, file_format, exif=exif))
    assert photo.size == (32, 16)
    np.testing.assert_allclose(quarters_of(photo.image), [RED, GREEN, BLUE, WHITE], atol=12)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0junk that is no TIFF header",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",
    ],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_is_ignored(file_format: str, exif: bytes) -> None:
    assert read_photo(encode(quarters(), file_format, exif=exif)).size == (32, 16)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_animations(file_format: str) -> None:
    photo = read_photo(animated(file_format))
    assert quarters_of(photo.image) == [RED] * 4


def test_mpo_is_a_jpeg() -> None:
    other = Image.new("RGB", (32, 16), GREEN)
    photo = read_photo(encode(quarters(), "MPO", save_all=True, append_images=[other]))
    assert photo.format == "JPEG"
    np.testing.assert_allclose(quarters_of(photo.image)[0], RED, atol=12)


def test_plain_rgb_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plain photo was copied")

    for name in ("copy", "convert", "transpose"):
        monkeypatch.setattr(Image.Image, name, refuse)
    assert read_photo(VALID["JPEG"]).size == (32, 16)


@pytest.mark.parametrize("file_format", SERVED_FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
def test_one_pixel(file_format: str, size: tuple[int, int]) -> None:
    photo = read_photo(encode(Image.new("RGB", size, WHITE), file_format), max_pixels=7)
    assert photo.size == size


JUNK = [b"", b"\0", b"junk", b"\xff\xd8\xff", b"BM", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"<!--" * 1000]
JUNK += [b"\0\0\0\x20ftypavif", b"\0\0\0\x20ftypisom", b"<html><svg></svg></html>", bytes(4096)]
JUNK += [bytes(range(256)) * 16, "kein Foto".encode("utf-16")]


@pytest.mark.parametrize("data", JUNK)
def test_junk_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadablePhoto) as caught:
        read_photo(data)
    message = str(caught.value)
    assert "send" in message
    assert "0x" not in message
    assert message.endswith(".")


@pytest.mark.parametrize("file_format", SERVED_FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_is_unreadable(file_format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), file_format)
    with pytest.raises(UnreadablePhoto):
        read_photo(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"8BPS\0\x01" + bytes(20), "PSD"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf  <svg/>", "SVG"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (encode(quarters(), "ICO"), "ICO"),
        (encode(quarters(), "PPM"), "Netpbm"),
        (encode(quarters(), "JPEG2000"), "JPEG 2000"),
        (bytes(128) + b"DICM", "DICOM"),
    ],
)
def test_other_formats_are_not_served(data: bytes, name: str) -> None:
    with pytest.raises(UnservedFormat, match=f"^{name} is not served; send the photo as JPEG, PNG, WEBP"):
        read_photo(data)


def gif_with_frame(width: int, height: int) -> bytes:
    """A canvas of one pixel whose first frame is larger and is to be disposed of."""
    return (
        b"GIF89a\x01\0\x01\0\x80\0\0"
        + bytes(6)
        + b"!\xf9\x04\x08\0\0\0\0"
        + b","
        + struct.pack("<4HB", 0, 0, width, height, 0)
        + b"\x02\x02\x44\x01\0;"
    )


def webp_with_canvas(width: int, height: int) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + canvas


def tiff_with_tile(side: int) -> bytes:
    entries = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1)]
    entries += [(322, side), (323, side), (324, 8), (325, 8)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize(
    "data",
    [
        png(100_000, 100_000, 8, 2, b""),
        gif_with_frame(60_000, 60_000),
        gif_with_frame(9_000, 9_000),
        webp_with_canvas(60_000, 60_000),
        webp_with_canvas(9_000, 9_000),
        tiff_with_tile(20_000),
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 90_000, 90_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x11\0\x02\x11\0\x03\x11\0\xff\xda\0\x02",
    ],
    ids=["png", "gif", "gif-9k", "webp", "webp-9k", "tiff-tile", "bmp", "jpeg"],
)
def test_lying_headers_are_refused_before_decoding(data: bytes) -> None:
    with pytest.raises(TooManyPixels, match="at most 50000000 pixels"):
        read_photo(data)


@pytest.mark.parametrize("file_format", SERVED_FORMATS)
def test_the_limit_is_inclusive(file_format: str) -> None:
    assert read_photo(VALID[file_format], max_pixels=32 * 16).size == (32, 16)
    with pytest.raises(TooManyPixels, match="at most 511 pixels"):
        read_photo(VALID[file_format], max_pixels=32 * 16 - 1)


def test_pillow_refuses_nothing_that_the_limit_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_photo(VALID["PNG"], max_pixels=512).size == (32, 16)
    assert Image.MAX_IMAGE_PIXELS == 512


def test_a_text_bomb_in_a_png_is_unreadable() -> None:
    bomb = PngImagePlugin.PngInfo()
    bomb.add_text("comment", "x" * 10_000_000, zip=True)
    with pytest.raises(PhotoError):
        read_photo(encode(quarters(), "PNG", pnginfo=bomb))


SEEDS = [
    *VALID.values(),
    *(animated(name) for name in ("GIF", "WEBP", "TIFF", "PNG")),
    encode(quarters(), "TIFF", compression="tiff_lzw"),
    encode(quarters().convert("RGBA"), "PNG"),
    encode(palette_image(), "PNG", transparency=bytes([255, 0, 51])),
    encode(quarters(), "MPO", save_all=True, append_images=[quarters()]),
]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    flips=st.lists(st.tuples(st.integers(0, sys.maxsize), st.integers(0, 7)), max_size=8),
    cut=st.one_of(st.none(), st.integers(0, sys.maxsize)),
)
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_give_a_photo_or_a_photo_error(
    seed: bytes, flips: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(seed)
    # Most of what can go wrong is in the headers, so half of the flips go there.
    for number, (position, bit) in enumerate(flips):
        data[position % (len(data) if number % 2 else min(64, len(data)))] ^= 1 << bit
    mutated = bytes(data if cut is None else data[: cut % len(data)])
    try:
        photo = read_photo(mutated, max_pixels=1_000_000)
    except PhotoError:
        return
    assert photo.image.mode == "RGB"
    assert photo.format in SERVED_FORMATS
    assert photo.width * photo.height <= 1_000_000
