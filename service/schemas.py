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
    label_space=TEXT,
    classes=COUNT,
    parameters=COUNT,
    sha256=TEXT,
    source=TEXT,
    engine=null_or(TEXT),
    device=null_or(TEXT),
)
_PROPORTION = shape(correct=COUNT, accuracy=null_or(SHARE), low=SHARE, high=SHARE)
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
    "Box": shape(xyxy=_CORNERS, score=SHARE, area_fraction=SHARE),
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
        label=either({"type": "string", "maxLength": 200}, {"type": "integer"}),
    ),
    "Learnt": shape(
        request_id=TEXT,
        label=shape(index=COUNT, wnid=TEXT, label=TEXT),
        correct=shape(**dict.fromkeys(RIGHT, FLAG)),
    ),
    "LearntBatch": shape(results=array(either(ref("Learnt"), shape(error=ref("Problem"))))),
    "Experiment": shape(
        backbones=table(
            shape(
                answers=COUNT,
                labelled=COUNT,
                arms=shape(**dict.fromkeys(RIGHT, _PROPORTION)),
                rescued=COUNT,
                broken=COUNT,
                p_value=SHARE,
                sequential=_SEQUENTIAL,
                agreement_rate=null_or(SHARE),
                no_detection_rate=null_or(SHARE),
            )
        )
    ),
    "Ready": shape(ready=FLAG, degraded=array(TEXT)),
}
