"""Figureground whose photos take as long as ever, and hardly any of the processor: a few cores act as many.

bentoml serve loadtests.rivals.waiting_figureground:Figureground

Decoding, resizing and the engines do their work the first time that they are asked something, and afterwards wait for
as long as it took then. All Python stays, which is what several threads of one process cannot do at once.
"""

import multiprocessing
import time
from collections.abc import Callable, Hashable
from typing import Any

from PIL import Image

from models import served
from models.engines import Array, Engine
from service import app, outcomes

# Among all processes that are forked from this one.
_alone = multiprocessing.Lock()


def _waiting(function: Callable[..., Any], key: Callable[..., Hashable]) -> Callable[..., Any]:
    """Answers from memory, after the time that the answer took when it was found."""
    known: dict[Hashable, tuple[Any, float]] = {}

    def wait(*asked: Any, **named: Any) -> Any:
        question = key(*asked, **named)
        if question not in known:
            with _alone:
                begun = time.perf_counter()
                answer = function(*asked, **named)
                known[question] = answer, time.perf_counter() - begun
        answer, seconds = known[question]
        time.sleep(seconds)
        return answer

    return wait


class _WaitingEngine:
    """A few of the pixels tell what it is asked."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.device = engine.name, engine.device
        self.run = _waiting(engine.run, _few_pixels)


def _few_pixels(*inputs: Array) -> Hashable:
    pixels, *others = inputs
    return pixels[:, ::29, ::31].tobytes(), *(array.tobytes() for array in others)


def _patch() -> None:
    models: Any = served
    photos: Any = outcomes
    images: Any = Image.Image
    make_engine = models.make_engine
    models.make_engine = lambda *how: _WaitingEngine(make_engine(*how))
    photos.read_photo = _waiting(photos.read_photo, lambda data, _: data)
    resize = _waiting(images.resize, lambda image, *how, **window: (id(image), how, *window.values()))
    # A photo that is read only once keeps its id.
    images.resize = lambda image, *how, **window: resize(image, *how, **window)


_patch()
Figureground = app.Figureground
