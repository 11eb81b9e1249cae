"""Which pixels each arm sees: one resize from the once-decoded photo a view, uint8 (S, S, 3) RGB out."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.boxes import Floats, area
from models.photo import Photo
from models.preprocessing import Preprocessing

Pixels = NDArray[np.uint8]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def plain(photo: Photo, preprocessing: Preprocessing) -> Pixels:
    """The whole photo through the backbone's own evaluation transform, resize and centre crop in one step.

    torchvision's Resize and CenterCrop, which timm uses, round the resized sides and the corner to whole
    pixels, and pad with black where a `crop_pct` above 1 leaves the resized photo smaller than the crop.
    """
    size = preprocessing.input_size
    width, height = _scaled_sides(photo, preprocessing)
    across, down = min(width, size), min(height, size)
    left, top = round((width - across) / 2), round((height - down) / 2)
    x, y = photo.width / width, photo.height / height
    window = (left * x, top * y, (left + across) * x, (top + down) * y)
    view = _resized(photo, (across, down), preprocessing, window)
    if (across, down) == (size, size):
        return np.asarray(view)
    padded = Image.new("RGB", (size, size))
    padded.paste(view, ((size - across) // 2, (size - down) // 2))
    return np.asarray(padded)


def cropped(photo: Photo, crop: Floats, preprocessing: Preprocessing) -> Pixels:
    """The crop (4,), xyxy pixels inside the photo, straight to the input size: no second centre crop."""
    x1, y1, x2, y2 = (float(value) for value in crop)
    size = (preprocessing.input_size, preprocessing.input_size)
    return np.asarray(_resized(photo, size, preprocessing, (x1, y1, x2, y2)))


def squashed(photo: Photo, preprocessing: Preprocessing) -> Pixels:
    """The whole photo straight to the input size, whatever its aspect ratio."""
    return squashed_to(photo, preprocessing.input_size, preprocessing.interpolation)


def squashed_to(photo: Photo, size: int, interpolation: str = "bicubic") -> Pixels:
    return np.asarray(photo.image.resize((size, size), _RESAMPLING[interpolation]))


def fitted_into(
    photo: Photo, size: int, mean: tuple[float, float, float], interpolation: str = "bilinear"
) -> tuple[Pixels, Floats]:
    """The whole photo, its aspect ratio kept, in the upper left of a square; the rest has the colour `mean`, in 0..1.

    Also the width and height in the photo's pixels, (2,) float32, that the square's sides stand for.
    """
    scale = size / max(photo.size)
    width, height = (max(1, round(side * scale)) for side in photo.size)
    square = Image.new("RGB", (size, size), tuple(round(255 * value) for value in mean))
    square.paste(photo.image.resize((width, height), _RESAMPLING[interpolation]))
    extent = np.array([photo.width * size / width, photo.height * size / height], np.float32)
    return np.asarray(square), extent


def background(photo: Photo, box: Floats, preprocessing: Preprocessing) -> Pixels:
    """The plain view of the photo with its box (4,), xyxy pixels, filled with the photo's mean colour.

    It is filled before the resize, which would carry the object's colours over the box's edge.
    """
    corners = (*np.floor(box[:2]), *np.ceil(box[2:]))
    left, top, right, bottom = (int(corner) for corner in corners)
    filled = photo.image.copy()
    red, green, blue = (int(value) for value in mean_colour(photo))
    filled.paste((red, green, blue), (left, top, right, bottom))
    return plain(Photo(filled, photo.format), preprocessing)


def center_crop(photo: Photo, box: Floats) -> Floats:
    """(4,): a crop about the photo's centre with the area of the box, square as far as the photo allows."""
    wanted = float(area(box))
    width = min(max(math.sqrt(wanted), 1.0), float(photo.width))
    height = min(max(wanted / width, 1.0), float(photo.height))
    width = min(max(wanted / height, 1.0), float(photo.width))
    left, top = (photo.width - width) / 2, (photo.height - height) / 2
    return np.array([left, top, left + width, top + height])


def mean_colour(photo: Photo) -> Pixels:
    """(3,) uint8."""
    return np.asarray(photo.image.resize((1, 1), Image.Resampling.BOX)).reshape(3)


def _scaled_sides(photo: Photo, preprocessing: Preprocessing) -> tuple[int, int]:
    """(width, height) of the whole photo after the evaluation transform's resize, before its centre crop."""
    scale = preprocessing.scale_size
    if preprocessing.crop_mode == "squash":
        return scale, scale
    if photo.width <= photo.height:
        return scale, int(scale * photo.height / photo.width)
    return int(scale * photo.width / photo.height), scale


def _resized(
    photo: Photo,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    window: tuple[float, float, float, float],
) -> Image.Image:
    x1, y1, x2, y2 = window
    # Rounding may have moved a side a little out of the photo.
    box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(photo.width)), min(y2, float(photo.height)))
    return photo.image.resize(size, _RESAMPLING[preprocessing.interpolation], box=box)
