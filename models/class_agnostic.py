"""torchvision's detectors as torch modules that take uint8 batches and give scores and boxes without labels.

Resizing is done before, and non-maximum suppression over all labels after: what stays is a graph of fixed shapes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from models.normalise import Normalise
from models.preprocessing import Preprocessing


class OneStage(nn.Module):
    """SSD, RetinaNet and FCOS: every anchor by its likeliest label."""

    def __init__(self, detector: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.normalise = Normalise(preprocessing)
        self.detector = detector
        self.side = preprocessing.input_size
        images = torch.zeros(1, 3, self.side, self.side)
        with torch.inference_mode():
            (anchors,) = detector.anchor_generator(ImageList(images, [(self.side, self.side)]), self._features(images))
        self.register_buffer("anchors", anchors.clone(), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S, S, 3) uint8 -> scores (N, K) in 0..1 and unit xyxy boxes (N, K, 4)."""
        raw = self.detector.head(self._features(self.normalise(pixels)))
        scores, sides = self._scores(raw), raw["bbox_regression"]
        # Not len(), which would fix the batch's size in an exported graph.
        count = sides.shape[0]
        anchors = self.get_buffer("anchors").expand(count, -1, -1).flatten(0, 1)
        coder = self.detector.box_coder
        decode = coder.decode if isinstance(self.detector, FCOS) else coder.decode_single
        boxes = decode(sides.flatten(0, 1), anchors).reshape(count, -1, 4)
        return scores, (boxes / self.side).clamp(0, 1)

    def _features(self, images: Tensor) -> list[Tensor]:
        return list(self.detector.backbone(images).values())

    def _scores(self, raw: dict[str, Tensor]) -> Tensor:
        """As each of them defines a score, (N, anchors)."""
        logits = raw["cls_logits"]
        if isinstance(self.detector, SSD):
            return logits.softmax(2)[..., 1:].amax(2)  # the first label is the background
        scores = logits.amax(2).sigmoid()
        return (scores * raw["bbox_ctrness"].squeeze(2).sigmoid()).sqrt() if "bbox_ctrness" in raw else scores


class TwoStage(nn.Module):
    """Faster, Mask and Keypoint R-CNN: their boxes alone, padded with empty ones to a fixed number."""

    def __init__(self, detector: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.normalise = Normalise(preprocessing)
        self.detector = detector
        self.side = preprocessing.input_size
        # What finds masks and keypoints in the boxes is not asked.
        detector.roi_heads.mask_roi_pool = detector.roi_heads.keypoint_roi_pool = None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `OneStage.forward`."""
        images = self.normalise(pixels)
        shapes = [(self.side, self.side)] * len(images)
        features = self.detector.backbone(images)
        proposals, _ = self.detector.rpn(ImageList(images, shapes), features)
        found, _ = self.detector.roi_heads(features, proposals, shapes)
        kept = self.detector.roi_heads.detections_per_img
        scores, boxes = images.new_zeros(len(images), kept), images.new_zeros(len(images), kept, 4)
        for row, one in enumerate(found):
            scores[row, : len(one["scores"])] = one["scores"]
            boxes[row, : len(one["boxes"])] = one["boxes"] / self.side
        return scores, boxes.clamp(0, 1)
