"""The project's own detector: a class-agnostic, anchor-free head on a timm classifier.

FCOS (Tian et al. 2019, arXiv 1904.01355) without classes and without centre-ness: every point of three feature
levels predicts one score (trained to be the IoU of its box, as in the quality focal loss of Li et al. 2020, arXiv
2006.04388) and its distances to the four sides of a box. Boxes are in unit coordinates: 0 to 1 from the photo's
left to its right edge and from its top to its bottom edge, whatever its aspect ratio.
"""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.heads import HeadConfig

STRIDES = (8, 16, 32)


class UnfitBackbone(ValueError):
    """The backbone cannot carry a detector; the message says why."""


def for_size(classifier: nn.Module, size: int) -> nn.Module:
    """The classifier, or a copy of it where it must be told that its inputs are `size` pixels (Swin and others)."""
    known: Any = classifier
    if not hasattr(known, "set_input_size"):
        return classifier
    fitted: Any = copy.deepcopy(known)
    fitted.set_input_size(img_size=size)
    return cast(nn.Module, fitted)


class Taps(nn.Module):
    """A frozen timm classifier as a feature extractor: levels of stride 8, 16 and 32.

    The coarsest level is what the classifier pools for its answer. Levels are found by their reduction, never by
    their index.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.indices, self.channels = _levels(classifier)
        self.channels_last_output = getattr(classifier, "output_fmt", "NCHW") == "NHWC"

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(N, 3, S, S) normalised pixels -> three (N, C, S/stride, S/stride) maps."""
        classifier: Any = self.classifier
        last, levels = classifier.forward_intermediates(pixels, indices=self.indices, output_fmt="NCHW")
        return [*levels, last.permute(0, 3, 1, 2) if self.channels_last_output else last]


def _levels(classifier: nn.Module) -> tuple[list[int], list[int]]:
    known: Any = classifier
    info: list[dict[str, Any]] = list(getattr(known, "feature_info", None) or [])
    by_stride = {level["reduction"]: (index, level["num_chs"]) for index, level in enumerate(info)}
    missing = [stride for stride in STRIDES if stride not in by_stride]
    if missing or info[-1]["reduction"] != STRIDES[-1] or not hasattr(known, "forward_intermediates"):
        strides = sorted(by_stride)
        raise UnfitBackbone(f"a detector needs a backbone with strides 8, 16 and 32; this one has {strides}")
    inner = [by_stride[stride] for stride in STRIDES[:-1]]
    return [index for index, _ in inner], [*(channels for _, channels in inner), known.num_features]


class Tower(nn.Module):
    """Depthwise-separable convolutions shared by the levels, each level with normalisations of its own."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
                nn.Conv2d(width, width, 1, bias=False),
            )
            for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in STRIDES) for _ in range(depth))

    def forward(self, features: Tensor, level: int) -> Tensor:
        for convolution, norms in zip(self.convolutions, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            features = functional.relu(norms[level](convolution(features)))
        return features


class FcosHead(nn.Module):
    """Feature levels -> a score and a box for every point."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in config.channels)
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in config.channels)
        self.score_tower = Tower(width, config.depth)
        self.box_tower = Tower(width, config.depth)
        self.score = nn.Conv2d(width, 1, 3, padding=1)
        self.sides = nn.Conv2d(width, 4, 3, padding=1)
        self.side_scales = nn.Parameter(torch.ones(len(STRIDES)))
        self.side_biases = nn.Parameter(torch.full((len(STRIDES),), 0.7))
        nn.init.constant_(self.score.bias, -3.0)  # type: ignore[arg-type]
        nn.init.normal_(self.sides.weight, std=0.01)
        self.register_buffer("points", _points(config.canvas_size), persistent=False)
        self.canvas_size = config.canvas_size

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Three (N, C, H, W) maps -> score logits (N, P) and boxes (N, P, 4), unit xyxy, not clipped.

        Of a canvas of any side; training may show several.
        """
        canvas_size = levels[0].shape[-1] * STRIDES[0]
        pyramid = self._pyramid(levels)
        scores, sides = [], []
        for level, features in enumerate(pyramid):
            scores.append(self.score(self.score_tower(features, level)).flatten(1))
            raw = self.sides(self.box_tower(features, level)).flatten(2).transpose(1, 2)
            distances = torch.exp((self.side_scales[level] * raw + self.side_biases[level]).clamp(-6, 6))
            sides.append(distances * (STRIDES[level] / canvas_size))
        distances = torch.cat(sides, 1)
        points = self.points_at(canvas_size)
        return torch.cat(scores, 1), torch.cat((points - distances[..., :2], points + distances[..., 2:]), 2)

    def points_at(self, canvas_size: int) -> Tensor:
        """(P, 2) unit coordinates of what is answered for a canvas of this side, in the order of the answer."""
        points = self.get_buffer("points")
        return points if canvas_size == self.canvas_size else _points(canvas_size).to(points.device)

    def _pyramid(self, levels: Sequence[Tensor]) -> list[Tensor]:
        pyramid = [lateral(norm(level)) for norm, lateral, level in zip(self.norms, self.laterals, levels, strict=True)]
        # What the whole photo shows helps to tell which of its things is meant.
        pyramid[-1] = pyramid[-1] + pyramid[-1].mean((2, 3), keepdim=True)
        for finer in range(len(pyramid) - 2, -1, -1):
            pyramid[finer] = pyramid[finer] + functional.interpolate(pyramid[finer + 1], scale_factor=2.0)
        return pyramid


def _points(canvas_size: int) -> Tensor:
    """Centres of all levels' cells, (P, 2) in unit coordinates, in the order of the head's output."""
    grids = []
    for stride in STRIDES:
        centres = (torch.arange(canvas_size // stride) + 0.5) * stride / canvas_size
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        grids.append(torch.stack((columns.flatten(), rows.flatten()), 1))
    return torch.cat(grids)


class Body(nn.Module):
    """What is frozen: a squashed photo's uint8 pixels -> the feature levels that a head is trained on."""

    def __init__(self, classifier: nn.Module, normalise: nn.Module, canvas_size: int) -> None:
        super().__init__()
        self.normalise = normalise
        _levels(classifier)  # before a copy of it is told its new size
        self.taps = Taps(for_size(classifier, canvas_size))
        self.canvas_size = canvas_size
        self._try_out()

    @property
    def channels(self) -> tuple[int, int, int]:
        fine, middle, coarse = self.taps.channels
        return fine, middle, coarse

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(N, S, S, 3) uint8 -> three (N, C, canvas_size/stride, canvas_size/stride) maps."""
        size = (self.canvas_size, self.canvas_size)
        canvas = functional.interpolate(self.normalise(pixels), size, mode="bilinear", align_corners=False)
        return tuple(self.taps(canvas))

    def _try_out(self) -> None:
        """What a backbone says about its strides is not always what it does, or does at another size than its own."""
        size = self.canvas_size
        try:
            # Its weights may be on a GPU already, for another model on the same backbone.
            canvas = next(self.taps.parameters()).new_zeros(1, 3, size, size)
            with torch.no_grad():
                levels = self.taps(canvas)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise UnfitBackbone(f"the backbone cannot see photos of {size} pixels: {reason}") from error
        found = [tuple(level.shape[1:]) for level in levels]
        wanted = [(count, size // stride, size // stride) for count, stride in zip(self.channels, STRIDES, strict=True)]
        if found != wanted:
            raise UnfitBackbone(f"the backbone's feature maps are {found}, its strides promise {wanted}")


class Fcos(nn.Module):
    """The whole detector: a squashed photo's uint8 pixels -> scores and unit boxes of all points."""

    def __init__(self, body: Body, head: FcosHead) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, view_size, view_size, 3) uint8 -> scores (N, P) in 0..1, boxes (N, P, 4) clipped to 0..1."""
        logits, boxes = self.head(self.body(pixels))
        return logits.sigmoid(), boxes.clamp(0, 1)


class RegionClassifier(nn.Module):
    """The paper's own system: the backbone's last features pooled over a box, through its classification head.

    The mean over the box weighs border cells by the share of them that the box covers, so that it is exact for
    any box and needs no sampling points.
    """

    def __init__(self, classifier: nn.Module, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.classifier = classifier
        self.channels_last = getattr(classifier, "output_fmt", "NCHW") == "NHWC"

    def forward(self, pixels: Tensor, boxes: Tensor) -> Tensor:
        """(N, S, S, 3) uint8 pixels and (N, 4) unit xyxy boxes -> (N, classes) logits."""
        classifier: Any = self.classifier
        features = classifier.forward_features(self.normalise(pixels))
        if self.channels_last:
            features = features.permute(0, 3, 1, 2)
        columns = _coverage(boxes[:, 0], boxes[:, 2], features.shape[3])
        rows = _coverage(boxes[:, 1], boxes[:, 3], features.shape[2])
        pooled = (features * rows[:, None, :, None] * columns[:, None, None, :]).sum((2, 3), keepdim=True)
        logits: Tensor = classifier.forward_head(pooled.permute(0, 2, 3, 1) if self.channels_last else pooled)
        return logits


def _coverage(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """How much of each cell the interval covers, (N, cells), normalised to a sum of 1."""
    starts = torch.arange(cells, device=low.device, dtype=low.dtype)[None]
    covered = torch.minimum(high[:, None] * cells, starts + 1) - torch.maximum(low[:, None] * cells, starts)
    covered = covered.clamp(min=0)
    return covered / covered.sum(1, keepdim=True).clamp(min=1e-6)
