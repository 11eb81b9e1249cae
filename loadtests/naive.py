"""The models put together as the libraries' docs show them: PIL, timm's transform, torch modules in eager mode."""

from io import BytesIO
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torchvision.transforms import functional as transforms

from models.boxes import area, crop_box
from models.catalog import Catalog
from models.fusion import FusionRule, fuse

_CANDIDATES = 3
_TOP_K = 5


class Naive:
    """One photo at a time: the box, the plain, the cropped and the fused prediction."""

    def __init__(self, backbone: str, detector: str) -> None:
        chosen, found = Catalog().backbone(backbone), Catalog().detector(detector)
        self.classifier = chosen.module
        self.detector = found.graph().build()
        self.view_size = found.input_size
        self.tuning = found.tuning
        self.labels = chosen.label_space.labels
        self.transform = create_transform(**resolve_model_data_config(self.classifier), is_training=False)
        self.rule = FusionRule(self.tuning.area_weight, self.tuning.score_weight)

    def answer(self, data: bytes) -> dict[str, Any]:
        return self.answer_image(Image.open(BytesIO(data)))

    def answer_image(self, image: Image.Image) -> dict[str, Any]:
        """Looks at further crops only where the first one's answer is not certain, as our pipeline does."""
        image = image.convert("RGB")
        boxes, scores = self._detect(image)
        scale = np.array([*image.size, *image.size], np.float32)
        corners = boxes[:_CANDIDATES].numpy() * scale
        crops = crop_box(corners, self.tuning.margins_of(corners, *image.size), *image.size)
        seen, weights = [self._classify(image)], [0.0]
        for index, crop in enumerate(crops):
            if index == 1 and seen[1].max() > self.tuning.certain:
                break
            left, top, right, bottom = crop.tolist()
            probabilities = self._classify(image.crop((left, top, right, bottom)))
            seen.append(probabilities)
            weights.append(self.rule.crop_weight(probabilities, float(scores[index]), float(scores[0])))
        if len(seen) == 1:
            return {"box": None, "plain": self._top(seen[0]), "cropped": None, "combined": self._top(seen[0])}
        weights[0] = self.rule.plain_weight(seen[0], float(area(corners[0])) / (image.width * image.height))
        chosen = int(np.argmax(weights[1:]))
        return {
            "box": {"xyxy": corners[chosen].tolist(), "score": float(scores[chosen])},
            "plain": self._top(seen[0]),
            "cropped": self._top(seen[1 + chosen]),
            "combined": self._top(fuse(seen, weights)),
        }

    def _detect(self, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        bicubic = transforms.InterpolationMode.BICUBIC
        pixels = transforms.pil_to_tensor(transforms.resize(image, [self.view_size] * 2, bicubic))
        with torch.inference_mode():
            scores, boxes = self.detector(pixels.permute(1, 2, 0)[None])
        kept = torchvision.ops.nms(boxes[0], scores[0], 0.6)
        calibrated = torch.from_numpy(self.tuning.calibrated(scores[0].numpy()))
        kept = kept[calibrated[kept] >= self.tuning.min_score]
        return boxes[0][kept], calibrated[kept]

    def _classify(self, image: Image.Image) -> NDArray[np.float32]:
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = self.classifier(self.transform(image)[None]).softmax(1)[0].numpy()
            return probabilities

    def _top(self, probabilities: NDArray[np.float32]) -> dict[str, Any]:
        best = np.argsort(-probabilities)[:_TOP_K].tolist()
        top_k = [
            {"index": index, "label": self.labels[index], "probability": float(probabilities[index])} for index in best
        ]
        return {"top_k": top_k}
