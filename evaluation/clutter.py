"""Photos on backgrounds that are not theirs: what a classifier makes of an object in clutter."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageFilter

Background: TypeAlias = Literal["tiles", "colour"]
Edge: TypeAlias = Literal["hard", "feathered"]
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
EDGES: tuple[Edge, ...] = get_args(Edge)

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

    The canvas has `side` pixels a side: the other photo's shuffled tiles, or the other photo's mean colour.
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
    inset = max(1, int(np.ceil(radius)))
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (inset, inset, max(inset + 1, width - inset), max(inset + 1, height - inset)))
    return mask.filter(ImageFilter.GaussianBlur(radius * 0.6))


def _canvas(other: Image.Image, background: Background, side: int, random: np.random.Generator) -> Image.Image:
    if background == "colour":
        return other.resize((1, 1), Image.Resampling.BOX).resize((side, side))
    return shuffled_tiles(other.resize((side, side), Image.Resampling.BICUBIC), _TILES_ACROSS, random)
