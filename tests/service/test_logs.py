import json
import logging
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from service import logs
from service.problems import Problems


async def _hello(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())}")


async def _fails(_: Request) -> Response:
    raise RuntimeError("no one foresaw it")


class Lines(logging.Handler):
    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(params=[logs.TextFormatter, logs.JsonFormatter])
def lines(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    handler = Lines(request.param())
    logger = logging.getLogger("figureground")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def client() -> TestClient:
    routes = [Route("/hello", _hello, methods=["POST"]), Route("/fails", _fails)]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(logs.AccessLog), Middleware(Problems)]))


def test_a_line_a_request_with_its_id_and_no_secret(client: TestClient, lines: list[str]) -> None:
    headers = {"X-Request-ID": "my-id", "X-API-Key": "my-key", "Authorization": "Bearer my-key"}
    client.post("/hello?token=my-query", content=b"my-photo", headers=headers)
    (line,) = lines
    for told in ("POST", "/hello", "200", "my-id"):
        assert told in line
    for secret in ("my-key", "my-query", "my-photo"):
        assert secret not in line


def test_a_path_makes_no_line_of_its_own(client: TestClient, lines: list[str]) -> None:
    client.get("/%0aINFO%20figureground:%20forged" + "x" * 1000)
    (line,) = lines
    assert "%0aINFO" in line
    assert len(line.splitlines()) == 1
    assert len(line) < 500


def test_a_fault_is_logged_with_the_requests_id(client: TestClient, lines: list[str]) -> None:
    client.get("/fails", headers={"X-Request-ID": "my-id"})
    fault = next(line for line in lines if "no one foresaw it" in line)
    assert "my-id" in fault
    assert "Traceback" in fault


def test_json_lines_are_objects() -> None:
    record = logging.makeLogRecord({"name": "a", "msg": "two\nlines %s", "args": ("x",), "levelname": "INFO"})
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "two\nlines x"


def test_configure_gives_every_handler_the_format() -> None:
    root, handler = logging.getLogger(), logging.StreamHandler()
    root.addHandler(handler)
    try:
        logs.configure("json")
        assert isinstance(handler.formatter, logs.JsonFormatter)
        logs.configure("text")
        assert isinstance(handler.formatter, logs.TextFormatter)
    finally:
        root.removeHandler(handler)
