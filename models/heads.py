"""A trained head on disk: one safetensors file, fp16, with everything it needs to be used in its metadata."""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.boxes import Floats, area, longer_side

if TYPE_CHECKING:
    from torch import Tensor

    from models.fcos import FcosHead

Measure = TypeVar("Measure", float, NDArray[np.floating])

BUNDLED = Path(__file__).parent / "heads"
# Tensors of the backbone, by its own names, that were trained together with the head.
_TUNED = "backbone."
# Of a head's own scores: those below, and those as near to 1, are calibrated alike.
_LEAST_SCORE = 1e-6
# Of a share: above what float32 rounds away.
_ROUNDING = 1e-6
# Of a probability's logit: those beyond it, on either side, give the same probability.
_MOST_LOGIT = 80.0


class HeadError(ValueError):
    """A head's file cannot be used; the message is one line for the operator."""


@dataclass(frozen=True)
class HeadConfig:
    """All numbers that shape a head.

    `view_size` is the side in pixels of the square that a photo is squashed to, `canvas_size` the side that this
    square is enlarged to before the backbone sees it: heads trained on 64 px photos must see photos of that
    sharpness when they are used. `channels` are the feature channels at strides 8, 16 and 32.
    """

    channels: tuple[int, int, int]
    view_size: int = 64
    canvas_size: int = 128
    width: int = 96
    depth: int = 2

    def __post_init__(self) -> None:
        if self.canvas_size % 32:
            raise ValueError(f"canvas_size must be a multiple of 32, got {self.canvas_size}")


@dataclass(frozen=True)
class Tuning:
    """Numbers tuned with a head on photos that are never reported (`evaluation/tune.py`).

    `min_score`: boxes below are no detection. The margin, a share of the box's longer side added on every side, goes
    from `margin_small` for the smallest box evenly to `margin_large` for one that is the whole photo. It is wider where
    less than `min_crop` pixels of the photo would be left, which say little however much they are enlarged.
    `covers_image`: a crop with at least this share of the photo's area is no crop. `certain`: where the first crop's
    top probability is above this, no further crop is looked at. `closer_look`: one of the further crops is that of the
    first box with the margin less by this; 0 does without. `area_weight` and `score_weight` are the fused answer's
    (`models/fusion.py`). `score_slope` and `score_offset` make a probability of what the head says about a box.
    """

    min_score: float = 0.15
    margin_small: float = 0.0
    margin_large: float = 0.0
    min_crop: float = 0.0
    covers_image: float = 0.95
    certain: float = 0.5
    area_weight: float = 2.0
    score_weight: float = 2.0
    closer_look: float = 0.0
    score_slope: float = 1.0
    score_offset: float = 0.0

    def margin(self, area_fraction: Measure, side: Measure, closer: float = 0.0) -> Measure:
        """Of a box that covers `area_fraction` of its photo, 0..1, and whose longer side has so many pixels of it.

        Numbers or arrays of one shape. `closer` is taken off, as far as `min_crop` allows it.
        """
        tuned = self.margin_small + (self.margin_large - self.margin_small) * area_fraction - closer
        margin: Measure = np.maximum(tuned, least_margin(self.min_crop, side))
        return margin

    def margins_of(self, boxes: Floats, width: float, height: float, closer: float = 0.0) -> Floats:
        """Of boxes (N, 4), xyxy pixels, in a photo of this size -> (N,); `closer` as for `margin`."""
        shares = area(boxes).astype(np.float64) / (width * height)
        return self.margin(shares, longer_side(boxes).astype(np.float64), closer)

    def calibrated(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """A head's own scores (N,), 0..1 -> the probabilities that their boxes have an IoU of at least 0.5 (N,).

        Platt scaling (Platt 1999) of the score's logit.
        """
        bounded = np.clip(scores.astype(np.float64), _LEAST_SCORE, 1 - _LEAST_SCORE)
        logits = self.score_slope * np.log(bounded / (1 - bounded)) + self.score_offset
        return np.asarray(1 / (1 + np.exp(-logits.clip(-_MOST_LOGIT, _MOST_LOGIT))), np.float32)

    def uncalibrated(self, probability: float) -> float:
        """A head's own score below which none is calibrated to that probability, a little less for rounding's sake.

        0 where there is none.
        """
        bounded = min(probability * (1 - _ROUNDING), 1 - _ROUNDING)
        if bounded <= 1 / (1 + math.exp(_MOST_LOGIT)) or self.score_slope <= 0:
            return 0.0
        logit = (math.log(bounded / (1 - bounded)) - self.score_offset) / self.score_slope
        own = (1 - _ROUNDING) / (1 + math.exp(min(-logit, _MOST_LOGIT)))
        return own if own > _LEAST_SCORE else 0.0


def least_margin(min_crop: float, side: Measure) -> Measure:
    """The margin with which a box whose longer side has so many pixels becomes `min_crop` pixels wide."""
    margin: Measure = (min_crop / np.maximum(side, 1) - 1) / 2
    return margin


@dataclass(frozen=True)
class HeadFile:
    """What the metadata says: the backbone that the head was trained on, its shape, tuning and provenance."""

    backbone: str
    backbone_sha256: str
    config: HeadConfig
    tuning: Tuning = field(default_factory=Tuning)
    training: Mapping[str, Any] = field(default_factory=dict)


def save_head(path: Path, head: "FcosHead", description: HeadFile, tuned: Mapping[str, "Tensor"] | None = None) -> None:
    """`tuned` are those of the backbone's tensors that were trained together with the head."""
    state = head.state_dict() | {_TUNED + key: tensor for key, tensor in (tuned or {}).items()}
    tensors = {key: _halved(tensor) for key, tensor in state.items() if tensor.is_floating_point()}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, tensors, description)


def _halved(tensor: "Tensor") -> NDArray[Any]:
    import torch

    whole = tensor.detach().cpu()
    half = whole.to(torch.float16)
    # The variance of large activations may be beyond half precision.
    kept: NDArray[Any] = (half if half.isfinite().all() else whole).contiguous().numpy()
    return kept


def _write(path: Path, tensors: dict[str, NDArray[Any]], description: HeadFile) -> None:
    from safetensors.numpy import save_file

    fresh = path.with_suffix(".fresh")
    save_file(tensors, fresh, {"figureground": json.dumps(asdict(description))})
    # safetensors lets only its owner read what it writes; a service runs as somebody else.
    fresh.chmod(0o644)
    fresh.replace(path)


def describe_head(path: Path) -> HeadFile:
    """The metadata alone, without torch. Raises `HeadError`."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
    try:
        raw = json.loads(metadata["figureground"])
        config = dict(raw["config"])
        config["channels"] = tuple(config["channels"])
        return HeadFile(
            backbone=raw["backbone"],
            backbone_sha256=raw["backbone_sha256"],
            config=HeadConfig(**config),
            tuning=Tuning(**raw["tuning"]),
            training=raw["training"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise HeadError(f"{path.name} is no head that `figureground train` wrote: {_reason(error)}") from error


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise HeadError(f"no head file {str(path)!r}") from None
    except (OSError, SafetensorError) as error:
        raise HeadError(f"{path.name} is no head that `figureground train` wrote: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return f"no {error.args[0]!r} in its metadata" if isinstance(error, KeyError) else str(error).splitlines()[0]


def retune(path: Path, tuning: Tuning) -> None:
    """Gives the head in the file other tuned numbers; its weights stay as they are. Raises `HeadError`."""
    from safetensors.numpy import load_file

    description = replace(describe_head(path), tuning=tuning)
    _write(path, load_file(path), description)


def head_parameters(path: Path) -> int:
    """How many numbers the head adds to its backbone's, without torch. Raises `HeadError`."""
    with _opened(path) as file:
        keys = [key for key in file.keys() if not key.startswith(_TUNED)]  # noqa: SIM118
        learned = [key for key in keys if not key.endswith(("running_mean", "running_var"))]
        return sum(math.prod(file.get_slice(key).get_shape()) for key in learned)


def load_head(path: Path) -> "FcosHead":
    """The head's module with its weights, in evaluation mode. Raises `HeadError`."""
    from safetensors.torch import load_file

    from models.fcos import FcosHead

    head = FcosHead(describe_head(path).config)
    state = {key: tensor.float() for key, tensor in load_file(path).items() if not key.startswith(_TUNED)}
    try:
        missing, unexpected = head.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise HeadError(f"{path.name} does not fit its own description: {reason}") from error
    wrong = [key for key in missing if not key.endswith("num_batches_tracked")] + list(unexpected)
    if wrong:
        raise HeadError(f"{path.name} does not fit its own description: {wrong[0]}")
    return head.eval()


def with_tuned_stages(classifier: Any, path: Path) -> Any:
    """The classifier; a copy of it with the head's own last stages where they were trained too. Raises `HeadError`."""
    from safetensors.torch import load_file

    describe_head(path)
    state = {key.removeprefix(_TUNED): tensor for key, tensor in load_file(path).items() if key.startswith(_TUNED)}
    if not state:
        return classifier
    copied = copy.deepcopy(classifier)
    try:
        unexpected = list(copied.load_state_dict(state, strict=False).unexpected_keys)
    except RuntimeError as error:
        unexpected = [str(error).strip().splitlines()[-1].strip()]
    if unexpected:
        raise HeadError(f"{path.name} does not fit its backbone: {unexpected[0]}")
    return copied
