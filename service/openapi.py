"""The OpenAPI document: BentoML's for the options' types, and all that it does not know of paths, bodies and errors."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel

from service.experiment import STEPS
from service.page import LabelsAsked, installed_samples, media_type
from service.recent import Wanted
from service.schemas import SCHEMAS, TEXT, Schema, ref
from service.settings import settings

_FILE: Schema = {"type": "string", "format": "binary"}
_BASE64: Schema = {"type": "string", "format": "byte", "contentEncoding": "base64"}
_TIME: Schema = {"type": "string", "format": "date-time"}
STATUSES = {
    400: "The body is no photo, form, JSON or base64 that can be read",
    401: "API keys are set, and the request has none of them",
    404: "There is no such thing",
    405: "The path has not this method",
    408: "The head of the request took too long",
    413: "Too many bytes or pixels",
    415: "A format or a content type that is not served",
    422: "A field is missing, or an option is out of range or not served; the detail lists what is",
    429: "The queue is full, or the API key asks too often",
    431: "The head of the request is too large",
    503: "Not ready, stopping, or the journal is away",
    504: "The deadline passed",
}
_TOLD_WITH = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
# What the doors before every path answer.
_ANYWHERE = (401, 405, 408, 429, 431)
_UPLOAD = (400, 413, 415, 422, 503, 504)
_SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"header": []}]


@cache
def document(service: Any) -> bytes:
    """Valid OpenAPI 3.1 as JSON, for a `bentoml.Service`."""
    spec = orjson.loads(orjson.dumps(service.openapi_spec.asdict(), option=orjson.OPT_NON_STR_KEYS))
    form, batch = (_form(spec["paths"][path]["post"]) for path in ("/predict", "/predict/batch"))
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": service.name, "version": spec["info"]["version"], "description": service.inner.__doc__},
            "servers": [{"url": "."}],
            "paths": {
                "/predict": {"post": _predict(form)},
                "/predict/batch": {"post": _predict_batch(batch)},
                **_JOURNAL,
                **_SYSTEM,
            },
            "components": {
                "schemas": SCHEMAS,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                },
            },
            "security": _SECURITY,
        }
    )


def _predict(form: Schema) -> Schema:
    bodies = {
        "multipart/form-data": form,
        "image/*": _FILE,
        "application/octet-stream": _FILE,
        "application/json": _as_base64(form),
    }
    answers = {"application/json": ref("Answer"), "image/png": _FILE}
    told = "Classifies one photo whole and cropped to its main object."
    return {**_operation("predict", told, answers, _UPLOAD, bodies), "parameters": _parameters(form)}


def _predict_batch(form: Schema) -> Schema:
    told = "Classifies several photos; each has an answer or an error of its own."
    answers = {"application/json": ref("Batch")}
    operation = _operation("predict_batch", told, answers, _UPLOAD, {"multipart/form-data": form})
    return {**operation, "parameters": _parameters(form)}


def _operation(
    name: str,
    told: str,
    answers: Mapping[str, Schema],
    statuses: tuple[int, ...] = (),
    bodies: Mapping[str, Schema] | None = None,
) -> Schema:
    operation: Schema = {
        "operationId": name,
        "description": told,
        "responses": {
            "200": {"description": "As asked", "content": _content(answers), "headers": _headers("X-Request-ID")},
            **{str(status): _problem(status) for status in sorted({*statuses, *_ANYWHERE})},
        },
    }
    if bodies is not None:
        operation["requestBody"] = {"required": True, "content": _content(bodies)}
    return operation


def _problem(status: int) -> Schema:
    names = ("X-Request-ID", *([_TOLD_WITH[status]] if status in _TOLD_WITH else []))
    content = _content({"application/problem+json": ref("Problem")})
    return {"description": STATUSES[status], "content": content, "headers": _headers(*names)}


def _headers(*names: str) -> Schema:
    return {name: {"required": True, "schema": TEXT} for name in names}


def _content(schemas: Mapping[str, Schema]) -> Schema:
    return {media_type: {"schema": schema} for media_type, schema in schemas.items()}


def _form(operation: Mapping[str, Any]) -> Schema:
    """The options and the photo, as BentoML tells them of the fields; a default of null says nothing."""
    schema: Schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields, chosen = schema["properties"], settings()
    for field in fields.values():
        if field.get("default", ...) is None:
            del field["default"]
    fields["backbone"]["enum"], fields["detector"]["enum"] = list(chosen.backbones), list(chosen.detectors)
    if "images" in fields:
        fields["images"] |= {"minItems": 1, "maxItems": chosen.max_batch}
    return schema


def _parameters(form: Schema) -> list[Schema]:
    return [
        {"name": name, "in": "query", "style": "form", "explode": False, "schema": field}
        for name, field in form["properties"].items()
        if name not in form["required"]
    ]


def _as_base64(form: Schema) -> Schema:
    return {**form, "properties": {**form["properties"], "image": _BASE64}}


def _query(name: str, schema: Schema, told: str) -> Schema:
    return {"name": name, "in": "query", "description": told, "schema": schema}


def _fields(query: type[BaseModel]) -> list[Schema]:
    """The query that a model reads; what is left out is not null."""
    fields = query.model_json_schema()["properties"].items()
    plain = {"title", "default", "description", "anyOf"}
    return [
        _query(
            name,
            {**{key: value for key, value in field.items() if key not in plain}, **field.get("anyOf", [{}])[0]},
            field["description"],
        )
        for name, field in fields
    ]


def _get(name: str, told: str, media_type: str, schema: Schema, statuses: tuple[int, ...] = ()) -> Schema:
    return {"get": _operation(name, told, {media_type: schema}, statuses)}


_JSON = "application/json"
_WORDS = (400, 404, 413, 415, 422, 503, 504)
_JOURNAL: Schema = {
    "/feedback": {
        "post": _operation(
            "feedback",
            "The true label of an earlier answer: a wnid, an index or a label's text; null takes it back.",
            {_JSON: ref("Learnt")},
            _WORDS,
            {_JSON: ref("Said")},
        )
    },
    "/feedback/batch": {
        "post": _operation(
            "feedback_batch",
            "One such object a line; each has a result or an error of its own.",
            {_JSON: ref("LearntBatch")},
            _WORDS,
            {"application/x-ndjson": TEXT},
        )
    },
    "/experiment": {
        "get": {
            **_operation("experiment", "The running comparison.", {_JSON: ref("Experiment")}, (404, 422, 503, 504)),
            "parameters": [
                _query("since", _TIME, "answers from then on"),
                _query("until", _TIME, "answers before then"),
                _query("detector", TEXT, "answers with this detector"),
                _query("series", {"enum": list(STEPS)}, "its course too, a point each"),
            ],
        }
    },
    "/answers": {
        "get": {
            **_operation(
                "answers", "The latest answers, without photos.", {_JSON: ref("Answers")}, (404, 422, 503, 504)
            ),
            "parameters": _fields(Wanted),
        }
    },
}
_SYSTEM: Schema = {
    "/models": _get("models", "What can be asked for; the defaults first.", _JSON, ref("Models")),
    "/labels": {
        "get": {
            **_operation("labels", "The classes of a label space, in order.", {_JSON: ref("Labels")}, (422,)),
            "parameters": _fields(LabelsAsked),
        }
    },
    "/samples": _get("samples", "Photos to try, where they are installed.", _JSON, ref("Samples")),
    **{
        f"/samples/{name}": _get(f"sample_{name}", "A photo to try.", media_type(sample), _FILE)
        for name, sample in installed_samples().items()
    },
    "/metrics": _get("metrics", "For Prometheus.", "text/plain", TEXT),
    "/livez": _get("livez", "200 while the process is of use.", "text/plain", TEXT, (503,)),
    "/readyz": _get("readyz", "200 while requests are welcome.", _JSON, ref("Ready"), (503,)),
    "/": _get("page", "A page for people.", "text/html", TEXT),
    "/docs.json": _get("docs", "This document.", _JSON, {"type": "object"}),
}
