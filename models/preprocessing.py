"""How a backbone wants its pixels: the one truth that views, engines and answers share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "hamming", "box"]
CropMode = Literal["center", "squash"]


@dataclass(frozen=True)
class Preprocessing:
    """A backbone's evaluation transform, in timm's terms.

    `input_size` is the side of the square input in pixels; `mean` and `std` are of channels scaled to 0..1.
    """

    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float
    interpolation: Interpolation
    crop_mode: CropMode = "center"

    @property
    def scale_size(self) -> int:
        """The side that the photo's shorter side is resized to before the centre crop, in pixels."""
        return math.floor(self.input_size / self.crop_pct)

    @property
    def signature(self) -> str:
        """What an exported graph depends on."""
        return f"{self.input_size}|{self.mean}|{self.std}"

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> "Preprocessing":
        """From timm's `pretrained_cfg`. Raises ValueError for what the views cannot do."""
        channels, height, width = config["input_size"]
        if channels != 3 or height != width:
            raise ValueError(f"only square RGB inputs are served, this backbone wants {config['input_size']}")
        return cls(
            input_size=height,
            mean=_triple(config["mean"], "mean"),
            std=_triple(config["std"], "std"),
            crop_pct=float(config.get("crop_pct") or 0.875),
            interpolation=_one_of(config.get("interpolation") or "bicubic", Interpolation, "interpolation"),
            crop_mode=_one_of(config.get("crop_mode") or "center", CropMode, "crop_mode"),
        )

    def overridden(self, changes: Mapping[str, Any]) -> "Preprocessing":
        """With an operator's own values for some fields. Raises ValueError for a wrong key or value."""
        unknown = sorted(set(changes) - {"input_size", "mean", "std", "crop_pct", "interpolation"})
        if unknown:
            raise ValueError(f"unknown preprocessing key {unknown[0]!r}")
        std = _triple(changes.get("std", self.std), "std")
        if min(std) <= 0:
            raise ValueError(f"std must be above 0, got {std}")
        crop_pct = float(changes.get("crop_pct", self.crop_pct))
        if not 0 < crop_pct < math.inf:
            raise ValueError(f"crop_pct must be above 0, got {crop_pct}")
        return replace(
            self,
            input_size=_side(changes.get("input_size", self.input_size)),
            mean=_triple(changes.get("mean", self.mean), "mean"),
            std=std,
            crop_pct=crop_pct,
            interpolation=_one_of(changes.get("interpolation", self.interpolation), Interpolation, "interpolation"),
        )


def _side(value: Any) -> int:
    """From one number, or from timm's (3, S, S)."""
    side = value
    if isinstance(value, list | tuple) and len(value) == 3 and value[0] == 3 and value[1] == value[2]:
        side = value[1]
    if not isinstance(side, int) or side < 1:
        raise ValueError(f"input_size must be a square's side in pixels or [3, side, side], got {value!r}")
    return side


def _triple(values: Any, name: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be three numbers, got {values!r}") from None
    return red, green, blue


def _one_of(value: Any, choices: Any, name: str) -> Any:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
    return value
