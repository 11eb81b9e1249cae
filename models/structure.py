"""How much work a file asks of its decoder, told from its structure before a decoder sees it.

A limit on bytes and pixels does not bound a decoder's work: 44 kB of JPEG scans over 4 million pixels take 11 s, a
TIFF of 20 MiB that lists its strips takes 30 s and 800 MB, and a thread cannot be stopped. The walks below follow
Pillow's plugins step by step, as far as these go before they decode, and the limits lie far above what cameras and
editors write.
"""

import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice

from PIL.JpegImagePlugin import MARKER

MAX_SEGMENTS = 1024
"""JPEG segments before the first scan; a file of 20 MiB has room for 320 full ones."""
MAX_EXIF_SEGMENTS = 64
"""Pillow joins a JPEG's EXIF segments one by one, copying all before."""
MAX_SCANS = 64
"""Each scan of a progressive JPEG is a pass over all pixels; encoders make about 10."""
COMMON_SCANS = 16
"""More of them make a JPEG rare."""
MAX_CHUNKS = 32_768
"""PNG chunks; libpng writes 8 KiB each."""
MAX_BLOCKS = 16_384
"""GIF blocks before the first frame."""
MAX_TAGS = 4096
"""Entries of a TIFF or EXIF directory."""
MAX_NUMBERS = 65_536
"""Numbers in one entry of it: each becomes a Python object, and each strip's offset three."""
MAX_BOXES = 1000
"""Boxes of an AVIF at one level."""
MAX_ITEM_BYTES = 64 * 1024
"""What may describe an AVIF's items: libavif looks through all for each; 60,000 of them take 10 s."""
MAX_SEQUENCE_BYTES = 256 * 1024
"""What may describe the frames of an AVIF."""
MAX_RUN_LENGTH_PIXELS = 4_000_000
"""Pillow decodes a BMP's run lengths in Python; its bytes count as well."""

# Padding and junk that a JPEG may have between its segments, in bytes.
_MAX_JUNK = 65_536
# A start of scan as libjpeg accepts it: the length follows from the number of components.
_SCAN_BEGINS = b"\xff\xda\x00"
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_START_OF_SCAN = 0xFFDA
# TIFF types that stay bytes: BYTE, ASCII, SBYTE, UNDEFINED.
_BYTES = (1, 2, 6, 7)
_RUN_LENGTHS = (1, 2)


def excess(data: bytes) -> str | None:
    """What a file of a served format has too much of, such as "more than 64 scans"; None if it is fit to decode."""
    for place, magic, walk in _WALKS:
        if data.startswith(magic, place):
            try:
                return walk(data)
            except (IndexError, OverflowError, struct.error):  # It ends here: that is for its plugin to say.
                return None
    return None


def is_rare(data: bytes) -> bool:
    """Whether its decoder is one that few photos need: TIFF, AVIF, and JPEG of many scans.

    Their headers can say one thing and their content another (an AVIF of 1.8 kB that calls itself 16 px wide is
    decoded at 12,000), and their work goes beyond what `excess` can count.
    """
    if data.startswith((b"II", b"MM")) or data.startswith(b"ftyp", 4):
        return True
    return data.startswith(b"\xff\xd8\xff") and _counted_scans(data, COMMON_SCANS) > COMMON_SCANS


def exif_excess(exif: bytes) -> str | None:
    """As `excess`, for the EXIF block of a file of any format."""
    return excess(exif.removeprefix(b"Exif\0\0"))


def _jpeg(data: bytes) -> str | None:
    place, segments, exif = 2, 0, 0
    for _ in range(_MAX_JUNK + MAX_SEGMENTS):
        marker = data[place] << 8 | data[place + 1]
        if marker < 0xFF00 or marker in (0xFF00, 0xFFFF):
            place += 2 if marker == 0xFF00 else 1
            continue
        if marker not in MARKER:
            return None
        place += 2
        if MARKER[marker][2] is not None:
            segments += 1
            exif += data[place + 2 : place + 8] == b"Exif\0\0"
            place += max(2, data[place] << 8 | data[place + 1])
        if segments > MAX_SEGMENTS or exif > MAX_EXIF_SEGMENTS:
            return f"more than {MAX_SEGMENTS if segments > MAX_SEGMENTS else MAX_EXIF_SEGMENTS} segments"
        if marker == _START_OF_SCAN:
            return _scans(data)
    return f"more than {_MAX_JUNK} bytes between its segments"


def _scans(data: bytes) -> str | None:
    return f"more than {MAX_SCANS} scans" if _counted_scans(data, MAX_SCANS) > MAX_SCANS else None


def _counted_scans(data: bytes, limit: int) -> int:
    """No fewer than there are, and more than `limit` only where there are: in coded pixels no such bytes can stand."""
    # Ten times as fast, and enough for nearly every photo.
    if (most := data.count(_SCAN_BEGINS)) <= limit:
        return most
    return sum(1 for _ in islice(_SCAN.finditer(data), limit + 1))


def _png(data: bytes) -> str | None:
    place = 8
    for _ in range(MAX_CHUNKS):
        if place >= len(data):
            return None
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return f"more than {MAX_CHUNKS} chunks"


def _gif(data: bytes) -> str | None:
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    in_block = False
    for _ in range(MAX_BLOCKS):
        byte = data[place]
        if in_block:
            place += 1 + byte
            in_block = byte > 0
        elif byte in b",;":
            return None
        else:
            in_block = byte == 0x21
            place += 2 if in_block else 1
    return f"more than {MAX_BLOCKS} blocks before its first frame"


def _tiff(data: bytes) -> str | None:
    order = "<" if data[:1] == b"I" else ">"
    big = data[2] == 43
    (place,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    length = struct.Struct(order + ("Q" if big else "H"))
    entry = struct.Struct(order + ("HHQ8x" if big else "HHL4x"))
    (tags,) = length.unpack_from(data, place)
    if tags > MAX_TAGS:
        return f"more than {MAX_TAGS} tags"
    for number in range(tags):
        _, kind, count = entry.unpack_from(data, place + length.size + number * entry.size)
        if count > MAX_NUMBERS and kind not in _BYTES:
            return f"a tag of more than {MAX_NUMBERS} numbers"
    return None


def _bmp(data: bytes) -> str | None:
    size, width, height = struct.unpack_from("<Iii", data, 14)
    if size < 40 or struct.unpack_from("<I", data, 30)[0] not in _RUN_LENGTHS:
        return None
    much = abs(width * height) + len(data) > MAX_RUN_LENGTH_PIXELS
    return f"more than {MAX_RUN_LENGTH_PIXELS} pixels in run lengths" if much else None


class _TooManyBoxes(Exception):
    pass


def _avif(data: bytes) -> str | None:
    try:
        return _described(data)
    except _TooManyBoxes:
        return f"more than {MAX_BOXES} boxes"


def _described(data: bytes) -> str | None:
    items = 0
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"moov" and end - start > MAX_SEQUENCE_BYTES:
            return f"more than {MAX_SEQUENCE_BYTES} bytes of frames' descriptions"
        if kind == b"meta":
            items += sum(_item_bytes(data, *box) for box in _boxes(data, start + 4, end))
    if items > MAX_ITEM_BYTES:
        return f"more than {MAX_ITEM_BYTES} bytes of items' descriptions"
    return None


def _item_bytes(data: bytes, kind: bytes, start: int, end: int) -> int:
    """All of a box but what is data: colour profiles among the properties, EXIF in `idat`."""
    if kind == b"iprp":
        return sum(_item_bytes(data, *box) for box in _boxes(data, start, end))
    return 0 if kind in (b"idat", b"ipco") else end - start


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the boxes between two places. Raises `_TooManyBoxes`."""
    for number in range(MAX_BOXES + 1):
        if start + 8 > end:
            return
        if number == MAX_BOXES:
            raise _TooManyBoxes
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, start + 8), 16
        stop = end if size == 0 else min(end, start + max(size, head))
        yield kind, start + head, stop
        start = stop


_WALKS: tuple[tuple[int, bytes, Callable[[bytes], str | None]], ...] = (
    (0, b"\xff\xd8\xff", _jpeg),
    (0, b"\x89PNG\r\n\x1a\n", _png),
    (0, b"GIF8", _gif),
    (0, b"II", _tiff),
    (0, b"MM", _tiff),
    (0, b"BM", _bmp),
    (4, b"ftyp", _avif),
)
