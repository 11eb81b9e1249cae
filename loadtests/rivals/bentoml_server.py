"""BentoML as its docs have it: a batchable API with PIL images, adaptive batching, a worker a core.

bentoml serve loadtests.rivals.bentoml_server:Idiomatic
"""

import os
from typing import Any

import bentoml
from PIL.Image import Image

from loadtests.rivals.models import load_models


@bentoml.service(workers=len(os.sched_getaffinity(0)), traffic={"timeout": 60})
class Idiomatic:
    def __init__(self) -> None:
        self.models = load_models()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000)
    def predict(self, images: list[Image]) -> list[dict[str, Any]]:
        return [self.models.answer_image(image) for image in images]
