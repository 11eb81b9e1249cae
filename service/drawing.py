"""An answer as a picture: the photo with its box and crop, and beside it what each arm says."""

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from models.comparison import Class, Comparison, Corners, Prediction
from models.photo import Photo

_PHOTO_SIDE = 640
_PANEL_WIDTH = 380
_MIN_HEIGHT = 430
_PADDING = 18
_SHOWN = 3

_INK, _FAINT, _PAPER, _TRACK = "#1d2433", "#6b7280", "#ffffff", "#eceff3"
_BOX, _CROP = "#ff3b30", "#ffffff"
_ARM_COLOURS = {"plain": "#3b6fb6", "cropped": "#d9730d", "combined": "#2f855a"}
# Light enough for dark text to be read on and beside the bar.
_BAR_COLOURS = {"plain": "#b4cdef", "cropped": "#f7c99b", "combined": "#a7d9bd"}


@dataclass(frozen=True)
class _Text:
    draw: ImageDraw.ImageDraw

    def put(self, at: tuple[float, float], text: str, size: int, colour: str = _INK) -> None:
        self.draw.text(at, text, fill=colour, font=ImageFont.load_default(size))

    def fitted(self, text: str, size: int, width: float) -> str:
        font = ImageFont.load_default(size)
        if self.draw.textlength(text, font) <= width:
            return text
        while text and self.draw.textlength(text + "…", font) > width:
            text = text[:-1]
        return text + "…"


def draw(photo: Photo, comparison: Comparison) -> Image.Image:
    """RGB, the photo at most 640 px wide and high at the left, the predictions at the right."""
    image, scale = _fitted(photo)
    height = max(image.height, _MIN_HEIGHT)
    sheet = Image.new("RGB", (image.width + _PANEL_WIDTH, height), _PAPER)
    sheet.paste(image, (0, (height - image.height) // 2))
    canvas = ImageDraw.Draw(sheet)
    _draw_boxes(canvas, comparison, scale, (height - image.height) // 2)
    _draw_panel(canvas, comparison, image.width + _PADDING, _PANEL_WIDTH - 2 * _PADDING)
    return sheet


def verdict(comparison: Comparison) -> str:
    """One sentence: does the background decide?"""
    plain = _first_label(comparison, comparison.plain)
    if comparison.no_crop_reason == "no_detection":
        return f"No object was found: {plain} is the whole photo's answer."
    if comparison.no_crop_reason == "covers_image":
        return f"The object fills the photo: {plain}."
    assert comparison.cropped is not None
    if comparison.agreement:
        return f"With and without background: {plain}."
    return f"Cropping changes the answer from {plain} to {_first_label(comparison, comparison.cropped)}."


def _fitted(photo: Photo) -> tuple[Image.Image, float]:
    scale = min(_PHOTO_SIDE / photo.width, _PHOTO_SIDE / photo.height)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.image.resize(size, Image.Resampling.BICUBIC), scale


def _draw_boxes(canvas: ImageDraw.ImageDraw, comparison: Comparison, scale: float, top: int) -> None:
    def outline(corners: Corners, colour: str, width: int) -> None:
        x1, y1, x2, y2 = (value * scale for value in corners)
        canvas.rectangle((x1, y1 + top, max(x1, x2 - 1), max(y1, y2 - 1) + top), outline=colour, width=width)

    if comparison.crop is not None:
        outline(comparison.crop, _INK, 4)
        outline(comparison.crop, _CROP, 2)
    if comparison.box is not None:
        outline(comparison.box.xyxy, _BOX, 4)
        x1, y1, _, _ = (value * scale for value in comparison.box.xyxy)
        score = comparison.box.score
        label = " given " if score is None else f" {score:.2f} "
        font = ImageFont.load_default(15)
        left, upper, right, lower = canvas.textbbox((x1 + 4, y1 + top + 4), label, font)
        canvas.rectangle((left, upper - 2, right, lower + 2), fill=_BOX)
        canvas.text((x1 + 4, y1 + top + 4), label, fill=_PAPER, font=font)


def _draw_panel(canvas: ImageDraw.ImageDraw, comparison: Comparison, left: int, width: int) -> None:
    text = _Text(canvas)
    top = _PADDING
    rows: tuple[tuple[str, Prediction | None], ...] = (
        ("plain", comparison.plain),
        ("cropped", comparison.cropped),
        ("combined", comparison.combined),
    )
    for arm, prediction in rows:
        text.put((left, top), arm, 16, _ARM_COLOURS[arm])
        top += 24
        if prediction is None:
            text.put((left, top), f"no crop: {(comparison.no_crop_reason or '').replace('_', ' ')}", 14, _FAINT)
            top += 24
        else:
            for answer in prediction.top(_SHOWN, comparison.label_space):
                _draw_bar(text, (left, top), width, answer, _BAR_COLOURS[arm])
                top += 25
        top += 8
    for line in _wrapped(text, verdict(comparison), width):
        text.put((left, top), line, 15)
        top += 20
    text.put((left, top + 4), text.fitted(comparison.backbone, 12, width), 12, _FAINT)


def _draw_bar(text: _Text, at: tuple[int, int], width: int, answer: Class, colour: str) -> None:
    left, top = at
    text.draw.rounded_rectangle((left, top, left + width, top + 21), 4, fill=_TRACK)
    filled = round(width * answer.probability)
    if filled >= 2:
        text.draw.rounded_rectangle((left, top, left + filled, top + 21), min(4, filled // 2), fill=colour)
    text.put((left + 8, top + 2), text.fitted(answer.label, 14, width - 70), 14)
    percent = f"{100 * answer.probability:.0f} %"
    space = text.draw.textlength(percent, ImageFont.load_default(14))
    text.put((left + width - space - 8, top + 2), percent, 14)


def _wrapped(text: _Text, sentence: str, width: int) -> list[str]:
    lines = [""]
    for word in sentence.split():
        longer = f"{lines[-1]} {word}".strip()
        if text.fitted(longer, 15, width) == longer or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _first_label(comparison: Comparison, prediction: Prediction) -> str:
    return prediction.top(1, comparison.label_space)[0].label
