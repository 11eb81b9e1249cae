"""What the rival servers serve: the same models, once in torch as the libraries' docs show them, once by our pipeline.

`RIVAL_MODELS` chooses: torch, or ours.
"""

import os
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image

from loadtests.naive import Naive
from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS, Catalog
from models.comparison import Options
from models.photo import Photo
from models.pipeline import Pipeline
from models.served import Loading, load
from service.answers import as_answer
from service.outcomes import Outcome, outcome_of
from service.settings import Settings

BACKBONE, DETECTOR = DEFAULT_BACKBONES[0], DEFAULT_DETECTORS[0]


class Models(Protocol):
    def answer(self, data: bytes) -> dict[str, Any]:
        """What is said of a photo's bytes."""

    def answer_image(self, image: Image.Image) -> dict[str, Any]:
        """What is said of a photo that a framework has decoded."""


class TorchModels:
    """One thread a process; the servers have a process a core, the faster way (`loadtests.pipeline`)."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.naive = Naive(BACKBONE, DETECTOR)

    def answer(self, data: bytes) -> dict[str, Any]:
        return self.naive.answer(data)

    def answer_image(self, image: Image.Image) -> dict[str, Any]:
        return self.naive.answer_image(image)


class OurModels:
    """The pipeline that Figureground serves, as one function."""

    def __init__(self) -> None:
        settings = Settings()
        served = load(Catalog(), [BACKBONE], [DETECTOR], Loading(settings.cache_dir, device="cpu"))
        self.pipeline, self.options = Pipeline(served), Options()
        self.outcome_of = partial(
            outcome_of, options=self.options, pipeline=self.pipeline, max_pixels=settings.max_pixels
        )

    def answer(self, data: bytes) -> dict[str, Any]:
        return as_answer(self.outcome_of(data), self.pipeline.served)

    def answer_image(self, image: Image.Image) -> dict[str, Any]:
        photo = Photo(image.convert("RGB"), image.format or "JPEG")
        comparison = self.pipeline.compare(photo, self.options)
        outcome = Outcome(photo, comparison, self.options, comparison.stages)
        return as_answer(outcome, self.pipeline.served)


def load_models() -> Models:
    return OurModels() if os.environ.get("RIVAL_MODELS") == "ours" else TorchModels()
