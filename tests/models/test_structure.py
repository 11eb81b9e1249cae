"""Small files that keep a decoder busy for long; each row was seconds to minutes of work, or hundreds of MB, before."""

import io
import struct
import time
import zlib
from typing import Any

import pytest
from PIL import ExifTags, Image

from models import structure
from models.photo import SERVED_FORMATS, UnreadablePhoto, read_photo


def encoded(file_format: str, size: tuple[int, int] = (16, 16), mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, file_format, **options)
    return file.getvalue()


def jpeg_with(segments: bytes) -> bytes:
    jpeg = encoded("JPEG")
    return jpeg[:2] + segments + jpeg[2:]


def jpeg_with_scans(count: int) -> bytes:
    jpeg = encoded("JPEG", (1000, 1000), "L", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + scan * (count - jpeg.count(b"\xff\xda")) + jpeg[-2:]


def png_with_chunks(count: int) -> bytes:
    png = encoded("PNG")
    chunk = bytes(4) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    return png[:33] + chunk * count + png[33:]


def gif_with(extensions: bytes) -> bytes:
    gif = encoded("GIF")
    frame = gif.index(b",\0\0\0\0")
    return gif[:frame] + extensions + gif[frame:]


def tiff_directory(entries: list[tuple[int, int, int, int]], order: str = "<", count: int | None = None) -> bytes:
    start = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    rows = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    return start + struct.pack(f"{order}H", len(entries) if count is None else count) + rows + bytes(4)


def tiff_with_strips(count: int, order: str = "<") -> bytes:
    fields = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    entries = [(tag, 4, 1, value) for tag, value in fields.items()]
    entries += [(273, 4, count, 200), (279, 4, count, 200 + 4 * count)]
    directory = tiff_directory(sorted(entries), order)
    numbers = struct.pack(f"{order}I", 8) * count + struct.pack(f"{order}I", 16) * count
    return directory + bytes(200 - len(directory)) + numbers


def bmp_in_run_lengths(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 4, 2, 0, 0, 0, 16, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 64) + header + bytes(64) + b"\x08\x11\0\0" * 8 + b"\0\1"


def avif(*boxes: tuple[bytes, bytes]) -> bytes:
    ftyp = (b"ftyp", b"avif" + bytes(4) + b"avifmif1miaf")
    return b"".join(struct.pack(">I", 8 + len(body)) + kind + body for kind, body in (ftyp, *boxes))


def avif_with_items(count: int) -> bytes:
    items = struct.pack(">II", 0x01000000, count) + b"".join(
        struct.pack(">I4sIIH4sB", 23, b"infe", 0x03000000, number, 0, b"av01", 0) for number in range(count)
    )
    return avif((b"meta", bytes(4) + struct.pack(">I4s", 8 + len(items), b"iinf") + items))


def gif_of_frames(count: int) -> bytes:
    gif = encoded("GIF")
    frame = gif.index(b",\0\0\0\0")
    return gif[:frame] + gif[frame:-1] * count + b";"


def webp_of_frames(count: int) -> bytes:
    pixels, size = encoded("WEBP")[12:], (15).to_bytes(3, "little") * 2
    frame = b"ANMF" + struct.pack("<I", 16 + len(pixels)) + bytes(6) + size + bytes([100, 0, 0, 0]) + pixels
    head = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + size
    body = head + b"ANIM" + struct.pack("<I", 6) + bytes(6) + frame * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


EXIF = b"\xff\xe1\x00\x12Exif\0\0" + b"x" * 10
COMMENT = b"\xff\xfe\x00\x03x"
BOMBS: dict[str, tuple[bytes, str]] = {
    "JPEG EXIF segments": (jpeg_with(EXIF * 65), "64 segments"),
    "JPEG segments": (jpeg_with(COMMENT * 1025), "1024 segments"),
    "JPEG fill bytes": (jpeg_with(b"\xff" * 2_000_000), "65536 bytes"),
    "JPEG junk": (jpeg_with(COMMENT + bytes(2_000_000)), "65536 bytes"),
    "JPEG escaped bytes": (jpeg_with(b"\xff\x00" * 1_000_000), "65536 bytes"),
    "JPEG restart markers": (jpeg_with(b"\xff\xd0" * 1_000_000), "65536 bytes"),
    "JPEG scans": (jpeg_with_scans(65), "64 scans"),
    "PNG chunks": (png_with_chunks(32_769), "32768 chunks"),
    "GIF comments": (gif_with(b"!\xfe\x01a\0" * 10_000), "16384 blocks"),
    "GIF long comment": (gif_with(b"!\xfe" + b"\x01a" * 20_000 + b"\0"), "16384 blocks"),
    "GIF junk": (gif_with(b"x" * 20_000), "16384 blocks"),
    "TIFF strips": (tiff_with_strips(65_537), "65536 numbers"),
    "TIFF strips, big endian": (tiff_with_strips(65_537, ">"), "65536 numbers"),
    "TIFF tags": (tiff_directory([(256, 4, 1, 16)] * 5000), "4096 tags"),
    "BigTIFF tags": (b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * 8, "4096 tags"),
    "BMP run lengths": (bmp_in_run_lengths(2000, 2001), "4000000 pixels"),
    "AVIF items": (avif_with_items(3000), "65536 bytes of items"),
    "AVIF frames": (avif((b"moov", bytes(300_000))), "262144 bytes of frames"),
    "AVIF boxes": (avif(*[(b"free", b"")] * 1000), "1000 boxes"),
    "AVIF boxes of boxes": (avif((b"meta", bytes(4) + struct.pack(">I4s", 8, b"free") * 1001)), "1000 boxes"),
}
"""Each with what it is refused for."""


@pytest.mark.parametrize(("data", "told"), BOMBS.values(), ids=BOMBS)
def test_bombs_of_structure_are_refused_at_once(data: bytes, told: str) -> None:
    start = time.perf_counter()
    with pytest.raises(UnreadablePhoto, match=f"The file has .*{told}.* send"):
        read_photo(data)
    assert time.perf_counter() - start < 0.5


FIT = {
    "JPEG segments": jpeg_with(EXIF * 64 + COMMENT * 900),
    "JPEG scans": jpeg_with_scans(64),
    "PNG chunks": png_with_chunks(32_000),
    "GIF comments": gif_with(b"!\xfe\x01a\0" * 5000),
    "TIFF strips": tiff_with_strips(20_000),
    "BMP run lengths": bmp_in_run_lengths(8, 8),
    "GIF of 5000 frames": gif_of_frames(5000),
    "WEBP of 5000 frames": webp_of_frames(5000),
}
if "AVIF" in SERVED_FORMATS:
    long_exif = Image.Exif()
    long_exif[ExifTags.Base.Make] = "x" * 60_000
    FIT["AVIF with EXIF and a profile"] = encoded("AVIF", exif=long_exif, icc_profile=bytes(200_000))


@pytest.mark.parametrize("data", FIT.values(), ids=FIT)
def test_what_stays_within_the_limits_is_decoded(data: bytes) -> None:
    assert read_photo(data).width > 0


def test_a_walk_ends_where_the_file_ends() -> None:
    for data, told in BOMBS.values():
        for cut in range(40):
            assert told in (structure.excess(data[:cut]) or told)


def test_an_offset_beyond_all_files_is_for_pillow_to_refuse() -> None:
    with pytest.raises(UnreadablePhoto):
        read_photo(b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(40))


def test_orientation_in_an_endless_exif_block_is_passed_over() -> None:
    exif = b"Exif\0\0" + tiff_directory([(0x0112, 3, 100_000, 200)]) + bytes(200_000)
    png = encoded("PNG", (2, 1), exif=exif)
    assert read_photo(png).size == (2, 1)
    assert structure.exif_excess(exif) == "a tag of more than 65536 numbers"
