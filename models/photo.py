"""From the bytes a client sends to an upright RGB photo, within limits, or one typed error."""

import io
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, ExifTags, Image, ImageFile, TiffImagePlugin, features

from models.header import webp_canvas
from models.structure import excess, exif_excess

# Pillow imports most of its plugins when the first file asks for one; done here, no two threads race for it.
Image.init()
# Half a photo is no photo: Pillow's default, held on to whatever another library may set.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Photos are decoded next to each other, each in a thread; one that takes all cores would take them from the others.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

SERVED_FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP") + (
    ("AVIF",) if features.check("avif") else ()
)
"""The formats that are read, as Pillow names them; AVIF only where Pillow was built with it."""

_SERVED_TEXT = ", ".join(SERVED_FORMATS[:-1]) + " or " + SERVED_FORMATS[-1]

_UNSERVED_PREFIXES: tuple[tuple[str, int, bytes], ...] = (
    ("PDF", 0, b"%PDF-"),
    ("PostScript", 0, b"%!PS"),
    ("EPS", 0, b"\xc5\xd0\xd3\xc6"),
    ("PSD", 0, b"8BPS"),
    ("ICO", 0, b"\x00\x00\x01\x00"),
    ("CUR", 0, b"\x00\x00\x02\x00"),
    ("ICNS", 0, b"icns"),
    ("JPEG 2000", 0, b"\x00\x00\x00\x0cjP  \r\n\x87\n"),
    ("JPEG 2000", 0, b"\xff\x4f\xff\x51"),
    ("JPEG XL", 0, b"\x00\x00\x00\x0cJXL \r\n\x87\n"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XR", 0, b"II\xbc\x01"),
    ("DDS", 0, b"DDS "),
    ("QOI", 0, b"qoif"),
    ("OpenEXR", 0, b"\x76\x2f\x31\x01"),
    ("Radiance HDR", 0, b"#?RADIANCE"),
    ("Radiance HDR", 0, b"#?RGBE"),
    ("FITS", 0, b"SIMPLE  ="),
    ("XCF", 0, b"gimp xcf"),
    ("DjVu", 0, b"AT&TFORM"),
    ("WMF", 0, b"\xd7\xcd\xc6\x9a"),
    ("raw photo", 0, b"FUJIFILMCCD-RAW"),
    ("DICOM", 128, b"DICM"),
)
_UNSERVED_BRANDS: dict[bytes, str] = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "raw photo",
}
# Rows of a deep photo that are converted at once.
_BAND = 256
_NETPBM = re.compile(rb"P[1-7Ff]\s")
_SVG_STARTS = (b"<svg", b"<?xml", b"<!--", b"<!doctype svg")

_UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_pillow_limit_lock = threading.Lock()


class PhotoError(ValueError):
    """The bytes give no photo. The message is one sentence, written for the client who sent them."""


class UnreadablePhoto(PhotoError):
    """The bytes are empty, no image at all, or an image that is truncated or broken."""


class UnservedFormat(PhotoError):
    """The bytes are an image of a well-known format that is not among `SERVED_FORMATS`."""


class TooManyPixels(PhotoError):
    """The photo, or a buffer that decoding it needs, has more pixels than the limit."""


@dataclass(frozen=True, slots=True)
class Photo:
    """An upright photo. `image` is fully decoded, of mode RGB; `format` is one of `SERVED_FORMATS`."""

    image: Image.Image
    format: str

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size


def read_photo(data: bytes | memoryview, max_pixels: int = 50_000_000) -> Photo:
    """Decodes the first frame of an image file of one of `SERVED_FORMATS`.

    EXIF, TIFF and XMP orientation is applied; an orientation that cannot be read counts as upright. Alpha
    and transparent colours are composited over white, 16-bit grey is scaled to 8 bits, and every other mode
    is converted. `max_pixels` bounds width times height as the file's header tells them, before decoding;
    `models.structure` bounds the work beyond that.
    May be called from several threads at once.

    Raises `UnreadablePhoto`, `UnservedFormat` or `TooManyPixels`, and nothing else, whatever the bytes are.
    """
    if len(data) == 0:
        raise UnreadablePhoto("The photo is empty; send the bytes of an image file.")
    much = excess(bytes(data))
    if much is not None:
        raise UnreadablePhoto(f"The file has {much}, which no photo needs; save the photo anew and send that.")
    _raise_pillow_limit(max_pixels)
    _check_pixels(webp_canvas(data), max_pixels)
    image = _open(data, max_pixels)
    _check_pixels(image.size, max_pixels)
    _check_pixels(_tiff_tile(image), max_pixels)
    try:
        image.load()
        rgb = _to_rgb(image)
        turn = _UPRIGHT.get(_orientation(image))
        upright = rgb if turn is None else rgb.transpose(turn)
    except Exception as error:  # Plugins raise whatever their parsing stumbles over.
        raise UnreadablePhoto(
            "The image is truncated or broken and cannot be decoded; send the complete file."
        ) from error
    return Photo(upright, "JPEG" if image.format == "MPO" else str(image.format))


def _open(data: bytes | memoryview, max_pixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=SERVED_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many(max_pixels) from error
    except Exception as error:
        name = _unserved_format(bytes(data[:1024]))
        if name is None:
            raise UnreadablePhoto(
                f"The bytes cannot be read as an image; send a complete {_SERVED_TEXT} file."
            ) from error
        raise UnservedFormat(f"{name} is not served; send the photo as {_SERVED_TEXT}.") from error


def _unserved_format(head: bytes) -> str | None:
    """Told by magic bytes alone: no other plugin of Pillow's shall ever see what a client sends."""
    for name, offset, magic in _UNSERVED_PREFIXES:
        if head.startswith(magic, offset):
            return name
    if head[4:8] == b"ftyp":
        name = _UNSERVED_BRANDS.get(head[8:12], "")
        return name if name and name not in SERVED_FORMATS else None
    if _NETPBM.match(head):
        return "Netpbm"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return "SVG" if text.startswith(_SVG_STARTS) and b"<svg" in text else None


def _too_many(max_pixels: int) -> TooManyPixels:
    return TooManyPixels(f"The photo has too many pixels; send one of at most {max_pixels} pixels.")


def _check_pixels(size: tuple[int, int] | None, max_pixels: int) -> None:
    if size is not None and size[0] * size[1] > max_pixels:
        raise _too_many(max_pixels)


def _raise_pillow_limit(max_pixels: int) -> None:
    """Lets Pillow open whatever `max_pixels` allows.

    Pillow's own limit belongs to the whole process. It is only ever raised, never switched off: it guards
    what the plugins allocate while they open a file (a GIF's first frame may be larger than its canvas).
    """
    with _pillow_limit_lock:
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = max_pixels


def _tiff_tile(image: Image.Image) -> tuple[int, int] | None:
    """(width, height) of a TIFF's tiles, which are decoded whole and may be larger than the image."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    width = image.tag_v2.get(TiffImagePlugin.TILEWIDTH)
    height = image.tag_v2.get(TiffImagePlugin.TILELENGTH)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _orientation(image: Image.Image) -> int:
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and exif_excess(exif) is not None:
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Broken EXIF is common in good photos.
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Mode RGB, by the shortest way; a plain RGB image is given back as it is."""
    if image.mode == "F":
        return _float_grey_to_rgb(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Grey of 16 bits a pixel; Pillow's own conversion would clip it at 255."""
    shallow = np.empty((image.height, image.width), np.uint8)
    transparent = image.info.get("transparency")
    for rows, grey in _bands(image):
        shallow[rows] = np.rint(np.clip(grey, 0, 65535) / np.float32(257))
        if isinstance(transparent, int):
            shallow[rows][grey == transparent] = 255
    return Image.fromarray(shallow).convert("RGB")


def _float_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Grey in [0, 1] or in [0, 255], which its largest finite value tells."""
    largest = max(float(grey.max(initial=-np.inf, where=np.isfinite(grey))) for _, grey in _bands(image))
    scale = 255.0 if -np.inf < largest <= 1 else 1.0
    shallow = np.empty((image.height, image.width), np.uint8)
    for rows, grey in _bands(image):
        known = np.nan_to_num(np.clip(grey, 0, 255), nan=0.0)
        shallow[rows] = np.rint(np.minimum(known * scale, 255))
    return Image.fromarray(shallow).convert("RGB")


def _bands(image: Image.Image) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Rows of an image and what is in them, a band at a time: an array of all would take its memory several times."""
    for top in range(0, image.height, _BAND):
        bottom = min(top + _BAND, image.height)
        yield slice(top, bottom), np.asarray(image.crop((0, top, image.width, bottom)))
