"""Photo files as nobody should send them: real files of every served format, broken in every way we know of."""

import base64
import functools
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from models.photo import SERVED_FORMATS

# An AVIF of 12,000 x 12,000 black pixels whose header says 16 x 16: libavif believes the pixels, and scales them.
LYING_AVIF = zlib.decompress(
    base64.b85decode(
        "c-muNU{FXasVqn=%S>Yc0uY^>nP!-qnV9D5Xy^zOdYzkElE?r7iWw<6MNl?FL1uCZ0~+8f$SlbPvlxL`E;A=T8N_h`@fjhajKT~I"
        "Y_dSMMrLMS8eFXukdw*;<t3IG7&_<Y<b&<X$}A`<0Mg!>1<Cn9S|qc$AQft#01OvoR%C(%m^nB&fD}(+nW1x|Jy?x!a(+%xUUE(a"
        "&}3c)wg#Y(cxFK^%uhgvu`n_<vjAPCnwyeXBE-POZT~&*{_ff(EGAM8M%_FD{GXCq-v9sqG5rApL)`gOn#ZTu++P2^J1>3NKNGF{"
        "Yu+w;DVWP=z1DPTsscZ&)Mph#)1s$m8#*Vg<`wqsoYelOZ2sQ(?1KJAgT<XU)Ms6&Ws3_cwY#u&M%CNc2eyYY&m7ykVk<B6)*H+2"
        "X?cts^SfiVP8W9#Sv5~b{`bQD_WMfu%4dr<8~1PtY&>(iLc&(RO(JE}zRdKAAKdTipOj3n*rvgs?=Twvqv1aq{xoy{fuU|bO@qG-"
        "0BDOfHU"
    )
)

Random: TypeAlias = np.random.Generator
Mutation: TypeAlias = Callable[[bytes, Random], bytes]

# Where most formats keep sizes, in bytes from the file's start.
_HEAD = 96
_TELLING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@functools.cache
def seeds() -> Mapping[str, bytes]:
    """Files of every served format and of its main variants, by a name each."""
    random = np.random.default_rng(7)
    noise = Image.fromarray(random.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    smooth = noise.resize((56, 40), Image.Resampling.BICUBIC, (10, 10, 20, 20))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "x" * 200
    known = {"exif": exif, "icc_profile": random.bytes(3000)}
    found = {name: encoded(smooth, name) for name in SERVED_FORMATS}
    found |= {f"{name} with EXIF and ICC": encoded(smooth, name, **known) for name in ("JPEG", "PNG", "WEBP", "TIFF")}
    frames = {"save_all": True, "append_images": [noise, smooth] * 3}
    found |= {f"{name} of frames": encoded(smooth, name, **frames) for name in ("GIF", "WEBP", "TIFF", "PNG", "MPO")}
    found |= {
        f"TIFF {kind}": encoded(smooth, "TIFF", compression=kind)
        for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    }
    found["progressive JPEG"] = encoded(smooth, "JPEG", progressive=True)
    found["CMYK JPEG"] = encoded(smooth.convert("CMYK"), "JPEG")
    found["palette PNG"] = encoded(smooth.quantize(16), "PNG", transparency=3)
    found["16-bit PNG"] = encoded(Image.fromarray(random.integers(0, 65536, (9, 9), dtype=np.uint16)), "PNG")
    found["lossless WEBP"] = encoded(smooth.convert("RGBA"), "WEBP", lossless=True)
    found["palette BMP"] = encoded(smooth.quantize(16), "BMP")
    return found


def _place(data: bytes, random: Random, size: int = 1) -> int:
    """Half of the time among the headers."""
    limit = min(len(data), _HEAD) if random.random() < 0.5 else len(data)
    return int(random.integers(0, max(1, limit - size + 1)))


def truncated(data: bytes, random: Random) -> bytes:
    return data[: _place(data, random)]


def flipped(data: bytes, random: Random) -> bytes:
    broken = bytearray(data)
    for _ in range(int(random.integers(1, 12))):
        broken[_place(data, random)] ^= 1 << int(random.integers(0, 8))
    return bytes(broken)


def overwritten(data: bytes, random: Random) -> bytes:
    """A number somewhere becomes one at the edge of what its width can hold."""
    value = int(random.choice(_TELLING))
    layout = str(random.choice(["<H", ">H", "<I", ">I"]))
    packed = struct.pack(layout, value & (0xFFFF if layout[1] == "H" else 0xFFFFFFFF))
    place = _place(data, random, len(packed))
    return data[:place] + packed + data[place + len(packed) :]


def spliced(data: bytes, random: Random) -> bytes:
    """The head of one file, the tail of another."""
    others = list(seeds().values())
    other = others[int(random.integers(0, len(others)))]
    return data[: _place(data, random)] + other[_place(other, random) :]


def repeated(data: bytes, random: Random) -> bytes:
    start, length = _place(data, random), int(random.integers(1, 200))
    return data[:start] + data[start : start + length] * int(random.integers(2, 400)) + data[start:]


def inserted(data: bytes, random: Random) -> bytes:
    place = _place(data, random)
    return data[:place] + random.bytes(int(random.integers(1, 4000))) + data[place:]


def removed(data: bytes, random: Random) -> bytes:
    place = _place(data, random)
    return data[:place] + data[place + int(random.integers(1, 300)) :]


def nested(data: bytes, random: Random) -> bytes:
    """A whole file within another: in an EXIF segment, a PNG chunk, a GIF comment, or merely behind."""
    within = int(random.integers(0, 4))
    if within == 0 and data.startswith(b"\xff\xd8"):
        inner = data[:60_000]
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(inner) + 8) + b"Exif\0\0" + inner + data[2:]
    if within == 1 and data.startswith(b"\x89PNG"):
        kind = bytes(random.choice([b"iCCP", b"eXIf", b"iTXt", b"zTXt", b"fdAT"]))
        return (
            data[:33]
            + struct.pack(">I", len(data))
            + kind
            + data
            + struct.pack(">I", zlib.crc32(kind + data))
            + data[33:]
        )
    if within == 2 and data.startswith(b"GIF8"):
        return data[:-1] + b"!\xfe" + b"".join(bytes([len(part)]) + part for part in _parts(data)) + b"\0;"
    return data + data


def _parts(data: bytes) -> list[bytes]:
    return [data[start : start + 255] for start in range(0, len(data), 255)]


MUTATIONS: tuple[Mutation, ...] = (
    truncated,
    flipped,
    overwritten,
    spliced,
    repeated,
    inserted,
    removed,
    nested,
)


def mutant(number: int) -> bytes:
    """The input of this number; always the same one. Up to three mutations of one seed."""
    random = np.random.default_rng(number)
    files = list(seeds().values())
    data = files[number % len(files)]
    for _ in range(int(random.integers(1, 4))):
        mutate = MUTATIONS[int(random.integers(0, len(MUTATIONS)))]
        data = mutate(data, random) or b"\0"
    return data
