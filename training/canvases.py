"""What a head is trained on: photos as they are, zoomed out onto clutter, and mosaics of four.

Canvas number i is made from (seed, i) alone, so that training resumes anywhere with the very same canvases.
"""

from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import Dataset

from evaluation.clutter import feathered_edge, shuffled_tiles
from models.boxes import area
from training.photos import BoxedPhotos

# Of a photo with more objects the largest are kept.
MAX_BOXES = 16
_KINDS = ("whole", "zoom_out", "mosaic")
_KIND_SHARES = (0.55, 0.3, 0.15)
_SMALLEST_ZOOM = 0.22

Boxes = NDArray[np.float32]
Canvas = tuple[Image.Image, Boxes]


class Canvases(Dataset[tuple[Tensor, Tensor]]):
    """Items are uint8 pixels (size, size, 3) and unit xyxy boxes (MAX_BOXES, 4), unused rows all zero."""

    def __init__(self, photos: BoxedPhotos, size: int, seed: int, count: int) -> None:
        self.photos = photos
        self.size = size
        self.seed = seed
        self.count = count
        self.usable = photos.labelled()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((self.seed, index))
        kind = random.choice(_KINDS, p=_KIND_SHARES)
        image, boxes = getattr(self, f"_{kind}")(random)
        image, boxes = _augmented(image, boxes, random)
        padded = np.zeros((MAX_BOXES, 4), np.float32)
        boxes = _largest(boxes.clip(0, 1))
        padded[: len(boxes)] = boxes
        return torch.from_numpy(np.array(image)), torch.from_numpy(padded)

    def _photo(self, random: np.random.Generator) -> Canvas:
        return self.photos.photo(int(random.choice(self.usable)), self.size)

    def _whole(self, random: np.random.Generator) -> Canvas:
        image, boxes = self._photo(random)
        left, top, right, bottom = 0.0, 0.0, 1.0, 1.0
        if random.random() < 0.35:
            # A window that still holds all objects.
            (x1, y1), (x2, y2) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
            left, top = random.uniform(0, min(x1, 0.4) + 1e-6), random.uniform(0, min(y1, 0.4) + 1e-6)
            right, bottom = random.uniform(max(x2, 0.6) - 1e-6, 1), random.uniform(max(y2, 0.6) - 1e-6, 1)
        width, height = image.size
        window = (left * width, top * height, right * width, bottom * height)
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=window)
        offset = _floats(left, top, left, top)
        extent = _floats(right - left, bottom - top, right - left, bottom - top)
        return image, (boxes - offset) / extent

    def _zoom_out(self, random: np.random.Generator) -> Canvas:
        image, boxes = self._photo(random)
        scale = np.exp(random.uniform(np.log(_SMALLEST_ZOOM), 0))
        aspect = np.exp(random.uniform(-0.3, 0.3))
        width = int(np.clip(round(self.size * scale * aspect), 6, self.size))
        height = int(np.clip(round(self.size * scale / aspect), 6, self.size))
        left = int(random.integers(0, self.size - width + 1))
        top = int(random.integers(0, self.size - height + 1))
        canvas = self._background(random)
        pasted = image.resize((width, height), Image.Resampling.BICUBIC)
        if random.random() < 0.25:
            pasted = _with_mean_of(pasted, canvas)
        canvas.paste(pasted, (left, top), _edge(width, height, random))
        extent = _floats(width, height, width, height) / self.size
        offset = _floats(left, top, left, top) / np.float32(self.size)
        return canvas, (boxes * extent + offset).astype(np.float32)

    def _mosaic(self, random: np.random.Generator) -> Canvas:
        canvas = Image.new("RGB", (self.size, self.size))
        across, down = (round(self.size * random.uniform(0.35, 0.65)) for _ in range(2))
        boxes = []
        for left, right in ((0, across), (across, self.size)):
            for top, bottom in ((0, down), (down, self.size)):
                image, own = self._photo(random)
                size = (right - left, bottom - top)
                canvas.paste(image.resize(size, Image.Resampling.BICUBIC), (left, top))
                boxes.append((own * _floats(*size, *size) + _floats(left, top, left, top)) / self.size)
        return canvas, np.concatenate(boxes).astype(np.float32)

    def _background(self, random: np.random.Generator) -> Image.Image:
        if random.random() < 0.35:
            colour = tuple(int(value) for value in random.integers(0, 256, 3))
            return Image.new("RGB", (self.size, self.size), colour)
        image, _ = self._photo(random)
        return shuffled_tiles(image.resize((self.size, self.size)), int(random.choice((4, 8))), random)


def _edge(width: int, height: int, random: np.random.Generator) -> Image.Image | None:
    """A mask that blends the paste in, for half of them; else a hard edge."""
    if random.random() < 0.5:
        return None
    return feathered_edge(width, height, max(1.0, random.uniform(0.02, 0.12) * min(width, height)))


def _floats(*values: float) -> Boxes:
    return np.array(values, np.float32)


def _largest(boxes: Boxes) -> Boxes:
    return boxes[np.argsort(-area(boxes), kind="stable")[:MAX_BOXES]] if len(boxes) > MAX_BOXES else boxes


def _with_mean_of(image: Image.Image, other: Image.Image) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    shift = np.asarray(other, np.float32).mean((0, 1)) - pixels.mean((0, 1))
    return Image.fromarray((pixels + shift).clip(0, 255).astype(np.uint8))


def _augmented(image: Image.Image, boxes: Boxes, random: np.random.Generator) -> Canvas:
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = np.stack((1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]), 1)
    if random.random() < 0.5:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(random.uniform(0.7, 1.3))
    if random.random() < 0.5:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=int(random.integers(40, 96)))
        image = Image.open(buffer).convert("RGB")
    return image, boxes
