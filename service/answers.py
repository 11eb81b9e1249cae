"""What was found as the public contract's JSON and as a picture, and the models that can be asked for."""

import io
from collections.abc import Iterable
from typing import Any, TypeAlias

import orjson

from models.backbones import Backbone
from models.comparison import Box, Comparison, Prediction
from models.detectors import Detector
from models.engines import Engine
from models.label_spaces import LABEL_SPACES, LabelSpace, label_space
from models.served import Served
from service.drawing import draw
from service.outcomes import Outcome

Described: TypeAlias = dict[str, list[dict[str, Any]]]


def as_json(outcome: Outcome, served: Served, request_id: str) -> bytes:
    return orjson.dumps({"request_id": request_id, **as_answer(outcome, served)})


def as_answer(outcome: Outcome, served: Served) -> dict[str, Any]:
    """All of the contract's fields but `request_id`, for orjson to serialise."""
    comparison, options = outcome.comparison, outcome.options
    space, top_k = comparison.label_space, options.top_k
    boxes = [_box(box) for box in comparison.boxes[: options.max_boxes]]
    width, height = comparison.size
    return {
        "image": {"width": width, "height": height, "format": comparison.format},
        "box": boxes[0] if boxes else None,
        "boxes": boxes,
        "crop": None if comparison.crop is None else {"xyxy": comparison.crop},
        "plain": _prediction(comparison.plain, space, top_k),
        "cropped": _prediction(comparison.cropped, space, top_k),
        "combined": _prediction(comparison.combined, space, top_k),
        "arms": {arm: _prediction(found, space, top_k) for arm, found in comparison.arms.items()},
        "agreement": comparison.agreement,
        "no_crop_reason": comparison.no_crop_reason,
        "models": _provenance(comparison, served),
        "timings_ms": {stage: round(value * 1000, 3) for stage, value in outcome.seconds.items()},
    }


def as_png(outcome: Outcome) -> bytes:
    file = io.BytesIO()
    # A photo gains little from zlib's best effort, which takes ten times as long.
    draw(outcome.photo, outcome.comparison).save(file, "PNG", compress_level=1)
    return file.getvalue()


def describe(
    backbones: Iterable[tuple[Backbone, Engine | None]], detectors: Iterable[tuple[Detector, Engine | None]]
) -> Described:
    """What GET /models answers: what can be chosen, the defaults first; a model without engine is not loaded.

    Raises `models.backbones.ModelError`.
    """
    backbones = list(backbones)
    spaces = label_spaces(model for model, _ in backbones)
    return {
        "backbones": [_describe(*loaded, number == 0) for number, loaded in enumerate(backbones)],
        "detectors": [_describe(*loaded, number == 0) for number, loaded in enumerate(detectors)],
        "label_spaces": [{"name": space.name, "classes": len(space)} for space in spaces.values()],
    }


def describe_served(served: Served) -> Described:
    awaited = served.awaited.values()
    backbones = [(loaded.model, loaded.engine) for loaded in served.backbones.values()]
    detectors = [(loaded.model, loaded.engine) for loaded in served.detectors.values()]
    return describe(
        [*backbones, *((model, None) for model in awaited if isinstance(model, Backbone))],
        [*detectors, *((model, None) for model in awaited if not isinstance(model, Backbone))],
    )


def _describe(model: Backbone | Detector, engine: Engine | None, default: bool) -> dict[str, Any]:
    """A detector's label space is that of its own class of a box, where it has one."""
    space = model.label_space
    size = model.preprocessing.input_size if isinstance(model, Backbone) else model.input_size
    return {
        "name": model.name,
        "default": default,
        "loaded": engine is not None,
        "architecture": model.architecture,
        "input_size": size,
        "label_space": None if space is None else space.name,
        "classes": None if space is None else len(space),
        "parameters": model.parameters,
        "sha256": model.sha256,
        "source": model.source,
        "engine": None if engine is None else engine.name,
        "device": None if engine is None else engine.device,
    }


def label_spaces(backbones: Iterable[Backbone]) -> dict[str, LabelSpace]:
    """By name: the backbones' own, the default's first, and the known ones that are subsets of one of them."""
    own = [model.label_space for model in backbones]
    known = [label_space(name) for name in LABEL_SPACES]
    subsets = [space for space in known if any(space.is_subset_of(whole) for whole in own)]
    return {space.name: space for space in [*own, *subsets]}


def _provenance(comparison: Comparison, served: Served) -> dict[str, Any]:
    backbone = served.classifier(comparison.backbone).model
    detector = served.detector(comparison.detector).model
    return {
        "backbone": {
            "name": backbone.name,
            "sha256": backbone.sha256,
            "input_size": backbone.preprocessing.input_size,
        },
        "detector": {"name": detector.name, "sha256": detector.sha256},
        "label_space": comparison.label_space.name,
    }


def _box(box: Box) -> dict[str, Any]:
    return {"xyxy": box.xyxy, "score": box.score, "area_fraction": box.area_fraction}


def _prediction(prediction: Prediction | None, space: LabelSpace, top_k: int) -> dict[str, Any] | None:
    if prediction is None:
        return None
    wnids, labels = space.wnids, space.labels
    return {
        "top_k": [
            {"index": index, "wnid": wnids[index], "label": labels[index], "probability": probability}
            for index, probability in prediction.ranked(top_k)
        ]
    }
