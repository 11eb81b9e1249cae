"""How many pixels a file says it has, told in constant time from its first bytes and without a decoder."""

import struct

_MAX_SEGMENTS = 64
# Start of frame of every coding; of the numbers between them three mean something else.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def declared_pixels(data: bytes) -> int | None:
    """Width times height; None where the header does not say, or is no JPEG's, PNG's, WebP's, GIF's or BMP's."""
    try:
        size = _size(data)
    except (IndexError, struct.error):  # It ends too early: that is for its decoder to say.
        return None
    return None if size is None else size[0] * size[1]


def webp_canvas(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) of a WebP file, whose canvas Pillow allocates when it opens it; else None."""
    head = bytes(data[:30])
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\xff\xd8"):
        return _jpeg_frame(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack_from(">II", data, 16)
    if data.startswith(b"GIF8"):
        return struct.unpack_from("<HH", data, 6)
    if data.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(width), abs(height)
    return webp_canvas(data)


def _jpeg_frame(data: bytes) -> tuple[int, int] | None:
    place = 2
    for _ in range(_MAX_SEGMENTS):
        if data[place] != 0xFF:
            return None
        if data[place + 1] in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
