"""Photos on backgrounds that are not theirs: what a classifier makes of an object in clutter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from models.comparison import Corners

Background: TypeAlias = Literal["tiles", "colour", "photo"]
Edge: TypeAlias = Literal["hard", "feathered"]
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
EDGES: tuple[Edge, ...] = get_args(Edge)
Swap: TypeAlias = Literal["same class", "another class", "removed"]
SWAPS: tuple[Swap, ...] = get_args(Swap)

_TILES_ACROSS = 8
_FEATHER_SHARE = 0.12


@dataclass(frozen=True)
class Pasted:
    """A canvas and where the photo lies in it, xyxy in its pixels, half open."""

    image: Image.Image
    rectangle: tuple[int, int, int, int]


def paste(
    photo: Image.Image,
    other: Image.Image,
    scale: float,
    random: np.random.Generator,
    background: Background = "tiles",
    edge: Edge = "hard",
    side: int = 640,
) -> Pasted:
    """The whole photo, its longer side `scale` times the canvas's, at a random place of a square canvas.

    The canvas has `side` pixels a side: the other photo's shuffled tiles, its mean colour, or the whole of it, cut to a
    square.
    """
    canvas = _canvas(other, background, side, random)
    longer = max(photo.size)
    width, height = (max(1, round(length / longer * scale * side)) for length in photo.size)
    left, top = int(random.integers(0, side - width + 1)), int(random.integers(0, side - height + 1))
    pasted = photo.resize((width, height), Image.Resampling.BICUBIC)
    mask = feathered_edge(width, height, _FEATHER_SHARE * min(width, height)) if edge == "feathered" else None
    canvas.paste(pasted, (left, top), mask)
    return Pasted(canvas, (left, top, left + width, top + height))


def shuffled_tiles(image: Image.Image, across: int, random: np.random.Generator) -> Image.Image:
    """The image cut into across x across tiles, shuffled: its colours and textures, but no object."""
    width, height = image.size
    tile_width, tile_height = width // across, height // across
    canvas = image.copy()
    for place, source in enumerate(random.permutation(across * across)):
        x, y = int(source % across) * tile_width, int(source // across) * tile_height
        tile = image.crop((x, y, x + tile_width, y + tile_height))
        canvas.paste(tile, ((place % across) * tile_width, (place // across) * tile_height))
    return canvas


def feathered_edge(width: int, height: int, radius: float) -> Image.Image:
    """A mask, L mode, that fades a paste out over about `radius` pixels at its rim."""
    # Some of it is shown, however small it is.
    inset = min(max(1, int(np.ceil(radius))), (min(width, height) - 1) // 2)
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (inset, inset, max(inset + 1, width - inset), max(inset + 1, height - inset)))
    return mask.filter(ImageFilter.GaussianBlur(radius * 0.6))


def on_background(photo: Image.Image, boxes: Sequence[Corners], background: Image.Image) -> Image.Image:
    """The photo's boxes, where they are, on a background that is cut and resized to its size.

    After the Backgrounds Challenge (Xiao et al. 2020, arXiv:2006.09994), which has masks where boxes are used here.
    """
    canvas = ImageOps.fit(background, photo.size, Image.Resampling.BICUBIC)
    for box in boxes:
        corners = _whole_pixels(box, photo)
        canvas.paste(photo.crop(corners), corners)
    return canvas


def without_object(photo: Image.Image, boxes: Sequence[Corners]) -> Image.Image:
    """Every box filled with tiles of the largest strip beside it, as the challenge's Only-BG-T; black without one."""
    filled = photo.copy()
    for box in boxes:
        left, top, right, bottom = _whole_pixels(box, photo)
        width, height = photo.size
        strips = [(0, 0, left, height), (right, 0, width, height), (0, 0, width, top), (0, bottom, width, height)]
        strip = max(strips, key=lambda one: (one[2] - one[0]) * (one[3] - one[1]))
        filled.paste(_tiled(photo.crop(strip), right - left, bottom - top), (left, top))
    return filled


def _tiled(tile: Image.Image, width: int, height: int) -> Image.Image:
    canvas = Image.new("RGB", (width, height))
    if tile.width and tile.height:
        for x in range(0, width, tile.width):
            for y in range(0, height, tile.height):
                canvas.paste(tile, (x, y))
    return canvas


def _whole_pixels(box: Corners, photo: Image.Image) -> tuple[int, int, int, int]:
    """The box's outermost whole pixels, inside the photo, one at least."""
    left, top = (min(max(int(np.floor(value)), 0), side - 1) for value, side in zip(box[:2], photo.size, strict=True))
    right, bottom = (min(int(np.ceil(value)), side) for value, side in zip(box[2:], photo.size, strict=True))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _canvas(other: Image.Image, background: Background, side: int, random: np.random.Generator) -> Image.Image:
    if background == "colour":
        return other.resize((1, 1), Image.Resampling.BOX).resize((side, side))
    if background == "photo":
        return ImageOps.fit(other, (side, side), Image.Resampling.BICUBIC)
    return shuffled_tiles(other.resize((side, side), Image.Resampling.BICUBIC), _TILES_ACROSS, random)
