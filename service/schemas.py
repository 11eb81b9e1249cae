"""JSON Schemas of all that the service answers, by the names that the OpenAPI document gives them."""

from typing import Any, TypeAlias

from models.comparison import ARMS
from service.rows import RIGHT

Schema: TypeAlias = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
FLAG: Schema = {"type": "boolean"}
STAGES = ("decode", "queue", "detect", "crop", "classify", "total")


def shape(**properties: Schema) -> Schema:
    """An object that has all of `properties`, and no others."""
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def with_optional(schema: Schema, **properties: Schema) -> Schema:
    """The object that may have `properties` too."""
    return {**schema, "properties": {**schema["properties"], **properties}}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def null_or(schema: Schema) -> Schema:
    return either(schema, {"type": "null"})


def table(values: Schema) -> Schema:
    """An object whose keys are names."""
    return {"type": "object", "additionalProperties": values}


_CORNERS = array({"type": "number", "minimum": 0}, minItems=4, maxItems=4)
_MODEL = shape(
    name=TEXT,
    default=FLAG,
    loaded=FLAG,
    architecture=TEXT,
    input_size={"type": "integer", "minimum": 1},
    # null of a detector whose classes are none that are served
    label_space=null_or(TEXT),
    classes=null_or(COUNT),
    parameters=COUNT,
    sha256=TEXT,
    source=TEXT,
    engine=null_or(TEXT),
    device=null_or(TEXT),
)
_FIRST = shape(wnid=TEXT, label=null_or(TEXT), probability=SHARE)
_PROPORTION = shape(labelled=COUNT, correct=COUNT, accuracy=null_or(SHARE), low=SHARE, high=SHARE)
_DRIFT = shape(psi=null_or({"type": "number"}), p_value=null_or(SHARE), answers=COUNT, reference=COUNT)
_SERIES = array(
    shape(
        start={"type": "string", "format": "date-time"},
        answers=COUNT,
        labelled=COUNT,
        rescued=COUNT,
        broken=COUNT,
        agreement_rate=null_or(SHARE),
        no_detection_rate=null_or(SHARE),
    )
)
_SEQUENTIAL = shape(e_value={"type": "number", "minimum": 0}, p_value=SHARE, low=SHARE, high=SHARE)

SCHEMAS: dict[str, Schema] = {
    "Problem": shape(
        type=TEXT,
        title=TEXT,
        status={"type": "integer", "minimum": 400, "maximum": 599},
        detail=TEXT,
        request_id=TEXT,
    ),
    "Prediction": shape(
        top_k=array(shape(index=COUNT, wnid=TEXT, label=TEXT, probability=SHARE), minItems=1, maxItems=100)
    ),
    "Box": shape(xyxy=_CORNERS, score=null_or(SHARE), area_fraction=SHARE),
    "Answer": shape(
        request_id=TEXT,
        image=shape(width={"type": "integer", "minimum": 1}, height={"type": "integer", "minimum": 1}, format=TEXT),
        box=null_or(ref("Box")),
        boxes=array(ref("Box"), maxItems=20),
        crop=null_or(shape(xyxy=_CORNERS)),
        plain=ref("Prediction"),
        cropped=null_or(ref("Prediction")),
        combined=ref("Prediction"),
        arms={
            "type": "object",
            "properties": {arm: null_or(ref("Prediction")) for arm in ARMS},
            "additionalProperties": False,
        },
        agreement=null_or(FLAG),
        no_crop_reason={"enum": [None, "no_detection", "covers_image"]},
        models=shape(
            backbone=shape(name=TEXT, sha256=TEXT, input_size={"type": "integer", "minimum": 1}),
            detector=shape(name=TEXT, sha256=TEXT),
            label_space=TEXT,
        ),
        timings_ms=shape(**{stage: {"type": "number", "minimum": 0} for stage in STAGES}),
    ),
    "Batch": shape(results=array(either(ref("Answer"), shape(error=ref("Problem"))))),
    "Models": shape(
        backbones=array(_MODEL), detectors=array(_MODEL), label_spaces=array(shape(name=TEXT, classes=COUNT))
    ),
    "Said": shape(
        request_id={"type": "string", "minLength": 1, "maxLength": 200},
        label=null_or(either({"type": "string", "maxLength": 200}, {"type": "integer"})),
    ),
    "Learnt": shape(
        request_id=TEXT,
        label=null_or(shape(index=COUNT, wnid=TEXT, label=TEXT)),
        correct=null_or(with_optional(shape(**dict.fromkeys(RIGHT, FLAG)), **dict.fromkeys(ARMS, FLAG))),
    ),
    "LearntBatch": shape(results=array(either(ref("Learnt"), shape(error=ref("Problem"))))),
    "Experiment": shape(
        backbones=table(
            with_optional(
                shape(
                    answers=COUNT,
                    labelled=COUNT,
                    arms=with_optional(shape(**dict.fromkeys(RIGHT, _PROPORTION)), **dict.fromkeys(ARMS, _PROPORTION)),
                    rescued=COUNT,
                    broken=COUNT,
                    p_value=SHARE,
                    sequential=_SEQUENTIAL,
                    agreement_rate=null_or(SHARE),
                    no_detection_rate=null_or(SHARE),
                    drift=table(_DRIFT),
                ),
                series=_SERIES,
            )
        )
    ),
    "Answers": shape(
        answers=array(
            shape(
                request_id=TEXT,
                answered={"type": "string", "format": "date-time"},
                backbone=TEXT,
                detector=TEXT,
                label_space=TEXT,
                box_policy=TEXT,
                outcome=TEXT,
                plain=_FIRST,
                cropped=null_or(_FIRST),
                combined=_FIRST,
                truth=null_or(shape(wnid=TEXT, label=null_or(TEXT))),
                correct=null_or(shape(**dict.fromkeys(RIGHT, FLAG))),
                total_ms={"type": "number", "minimum": 0},
            ),
            maxItems=500,
        )
    ),
    "Labels": shape(name=TEXT, classes=array(shape(wnid=TEXT, label=TEXT), minItems=1)),
    "Samples": shape(samples=array(shape(name=TEXT, path=TEXT, source=TEXT, thumbnail=TEXT))),
    "Ready": shape(ready=FLAG, degraded=array(TEXT)),
}
