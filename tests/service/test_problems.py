import logging

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from models.photo import TooManyPixels, UnreadablePhoto, UnservedFormat
from models.served import UnservedChoice
from models.trial import NoTrial
from service.problems import Problem, Problems, as_problem
from service.scheduler import DeadlinePassed, Draining, QueueFull


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (UnreadablePhoto("broken"), 400, {}),
        (UnservedFormat("PDF"), 415, {}),
        (TooManyPixels("many"), 413, {}),
        (UnservedChoice("none"), 422, {}),
        (QueueFull(7), 429, {"Retry-After": "7"}),
        (Draining("stopping"), 503, {"Retry-After": "5"}),
        (NoTrial(), 503, {"Retry-After": "5"}),
        (DeadlinePassed("late"), 504, {}),
        (TimeoutError(), 504, {}),
        (Problem(418, "tea"), 418, {}),
        (RuntimeError("a secret"), 500, {}),
    ],
)
def test_as_problem(error: Exception, status: int, headers: dict[str, str]) -> None:
    problem = as_problem(error)
    assert (problem.status, problem.headers) == (status, headers)
    assert "secret" not in problem.detail
    assert problem.detail


async def _fails(_: Request) -> Response:
    raise RuntimeError("a secret")


async def _refuses(_: Request) -> Response:
    raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})


async def _is_busy(_: Request) -> Response:
    return PlainTextResponse("a secret", 503)


async def _works(request: Request) -> Response:
    return PlainTextResponse(request.state.request_id)


@pytest.fixture
def client() -> TestClient:
    endpoints = {"/fails": _fails, "/refuses": _refuses, "/busy": _is_busy, "/works": _works}
    routes = [Route(path, endpoint) for path, endpoint in endpoints.items()]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(Problems)]))


@pytest.mark.parametrize(
    ("path", "status", "header"),
    [
        ("/fails", 500, None),
        ("/refuses", 401, "WWW-Authenticate"),
        ("/busy", 503, "Retry-After"),
        ("/none", 404, None),
    ],
)
def test_every_error_response_becomes_a_problem(
    client: TestClient, path: str, status: int, header: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "figureground.problems"):
        response = client.get(path)
    assert response.json()["status"] == response.status_code == status
    assert response.json()["request_id"] == response.headers["X-Request-ID"]
    assert "secret" not in response.text
    assert header is None or response.headers[header]


def test_what_works_is_left_alone(client: TestClient) -> None:
    response = client.get("/works", headers={"X-Request-ID": "mine"})
    assert (response.text, response.headers["X-Request-ID"]) == ("mine", "mine")
