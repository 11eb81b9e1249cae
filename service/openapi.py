"""The OpenAPI document: BentoML's, with all three forms of a body, the options in the query, and our errors."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_ERROR = {
    "description": "An error (RFC 9457)",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_FILE = {"type": "string", "format": "binary"}


@cache
def document(service: Any) -> bytes:
    """Valid OpenAPI 3.1 as JSON, for a `bentoml.Service`."""
    spec = orjson.loads(orjson.dumps(service.openapi_spec.asdict(), option=orjson.OPT_NON_STR_KEYS))
    for path in spec["paths"].values():
        for method, operation in path.items():
            operation["responses"] = {"200": operation["responses"]["200"], "default": _ERROR}
            if method == "post":
                _tell_options(operation)
    predict = spec["paths"]["/predict"]["post"]
    predict["requestBody"]["content"] |= {
        "image/*": {"schema": _FILE},
        "application/octet-stream": {"schema": _FILE},
        "application/json": {"schema": _as_base64(_form(predict))},
    }
    predict["responses"]["200"]["content"]["image/png"] = {"schema": _FILE}
    info = {"title": service.name, "version": spec["info"]["version"], "description": service.inner.__doc__}
    return orjson.dumps({**spec, "openapi": "3.1.0", "info": info, "components": {"schemas": {"Problem": _PROBLEM}}})


def _form(operation: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    return schema


def _tell_options(operation: dict[str, Any]) -> None:
    form = _form(operation)
    for field in form["properties"].values():
        if field.get("default", ...) is None:
            del field["default"]
    operation["parameters"] = [
        {"name": name, "in": "query", "style": "form", "explode": False, "schema": field}
        for name, field in form["properties"].items()
        if name not in form["required"]
    ]


def _as_base64(form: dict[str, Any]) -> dict[str, Any]:
    image = {"type": "string", "contentEncoding": "base64"}
    return {**form, "properties": {**form["properties"], "image": image}}
