"""The OpenAPI document against the running service: requests made from it, and answers held against it."""

import base64
import io
from collections import Counter
from typing import Any, TypeAlias

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from evaluation.samples import SAMPLES
from models.photo import SERVED_FORMATS
from tests.service.conftest import Server

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
# How many requests are made from each operation.
OPERATIONS = {
    "POST /predict": 60,
    "POST /predict/batch": 25,
    "POST /feedback": 8,
    "POST /feedback/batch": 15,
    "GET /experiment": 15,
    "GET /answers": 15,
    "GET /models": 1,
    "GET /labels": 5,
    "GET /samples": 1,
    **{f"GET /samples/{name}": 1 for name in SAMPLES},
    "GET /metrics": 1,
    "GET /livez": 1,
    "GET /readyz": 1,
    "GET /docs.json": 1,
    "GET /": 1,
}
Case: TypeAlias = schemathesis.Case[Any]
JSON_LINES = '{"request_id": "a", "label": 1}\n{"request_id": "b"}\n[]\nx'


def encoded(file_format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), "orange").save(file, file_format)
    return file.getvalue()


photos = st.one_of(st.sampled_from([encoded(name) for name in SERVED_FORMATS]), st.binary(max_size=64))


@pytest.fixture(scope="module")
def schema(server: Server) -> schemathesis.BaseSchema:
    schemathesis.openapi.format("binary", photos)
    schemathesis.openapi.format("byte", photos.map(lambda data: base64.b64encode(data).decode()))
    schemathesis.openapi.media_type("image/*", photos)
    schemathesis.openapi.media_type("application/octet-stream", photos)
    schemathesis.openapi.media_type("application/x-ndjson", st.sampled_from([JSON_LINES, "", "\n"]).map(str.encode))
    return schemathesis.openapi.from_url(f"{server.url}/docs.json")


def test_the_document_is_valid_openapi(client: httpx.Client) -> None:
    validate(client.get("/docs.json").json())


def test_every_operation_is_tried(schema: schemathesis.BaseSchema) -> None:
    listed = {f"{method.upper()} {path}" for path in schema for method in schema[path]}
    assert listed == set(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_answers_fit_the_document(schema: schemathesis.BaseSchema, label: str) -> None:
    method, path = label.split()
    operation, statuses = schema[path][method], Counter[int]()

    @given(case=operation.as_strategy())
    @settings(
        max_examples=OPERATIONS[label],
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Case) -> None:
        response = case.call(timeout=60)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    ask()
    print(label, dict(statuses))
    # No request made from the document knows the id of an earlier answer; few batches have no option twice.
    assert statuses[200] or label in ("POST /feedback", "POST /predict/batch")
