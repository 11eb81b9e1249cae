from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from service import doors
from service.doors import ApiKeys, Intake, Rates
from service.problems import Problems
from service.settings import Settings

KEYS = "first-key, second-key"
BEARER = {"Authorization": "Bearer second-key"}
Client = Callable[..., TestClient]


async def _read(request: Request) -> Response:
    return JSONResponse({"size": len(await request.body()), "key": getattr(request.state, "api_key", None)})


async def _page(_: Request) -> Response:
    return HTMLResponse("<p>hello</p>" * 1000)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    def make(**chosen: Any) -> TestClient:
        for name, value in chosen.items():
            monkeypatch.setenv(f"FIGUREGROUND_{name.upper()}", str(value))
        settings = Settings()
        routes = [Route("/read", _read, methods=["POST"]), Route("/page", _page)]
        routes += [Route(path, _page) for path in ("/livez", "/readyz", "/metrics")]
        app = Starlette(routes=routes)
        app.user_middleware = [*doors.outer(settings), Middleware(Problems), *doors.inner(settings, routes)]
        return TestClient(app)

    return make


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer first-key"}, 200),
        ({"Authorization": "bearer  second-key "}, 200),
        ({"X-API-Key": "first-key"}, 200),
        ({"X-API-Key": "wrong", "Authorization": "Bearer first-key"}, 200),
        ({"Authorization": "Basic first-key"}, 401),
        ({"Authorization": "first-key"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer first-key, second-key"}, 401),
        ({"X-API-Key": "first-ke"}, 401),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": b"\xff\xfe"}, 401),
    ],
)
def test_a_request_needs_one_of_the_keys(client: Client, headers: dict[str, Any], status: int) -> None:
    response = client(api_keys=KEYS).post("/read", headers=headers)
    assert response.status_code == status
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/problem+json"
        assert "first-key" not in response.text


@pytest.mark.parametrize(
    ("path", "status"), [("/livez", 200), ("/readyz", 200), ("/metrics", 401), ("/page", 401), ("/nowhere", 401)]
)
def test_what_is_open_without_a_key(client: Client, path: str, status: int) -> None:
    assert client(api_keys=KEYS).get(path).status_code == status


def test_metrics_are_open_by_setting(client: Client) -> None:
    assert client(api_keys=KEYS, open_metrics="true").get("/metrics").status_code == 200


def test_without_keys_all_are_let_in(client: Client) -> None:
    assert client().post("/read").json() == {"size": 0, "key": None}


def test_keys_do_not_show_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIGUREGROUND_API_KEYS", KEYS)
    assert len(Settings().api_keys) == 2
    assert "first-key" not in repr(Settings())


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        lengths.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert ApiKeys(["a", "b" * 100, "c"]).find([(b"x-api-key", b"a")]) == 0
    assert lengths == [(32, 32)] * 3


def test_a_key_that_asks_too_often_is_told_when_to_come_back(client: Client) -> None:
    asking = client(api_keys=KEYS, rate_per_minute=2)
    statuses = [asking.post("/read", headers=BEARER).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    response = asking.post("/read", headers=BEARER)
    assert 1 <= int(response.headers["Retry-After"]) <= 30
    assert asking.post("/read", headers={"X-API-Key": "first-key"}).status_code == 200


def test_a_bucket_fills_again() -> None:
    rates = Rates(1, 60)
    assert [rates.wait(0, 100.0) > 0 for _ in range(61)] == [False] * 60 + [True]
    assert rates.wait(0, 100.5) == pytest.approx(0.5)
    assert rates.wait(0, 101.0) == 0
    assert [rates.wait(0, 1e6) > 0 for _ in range(61)] == [False] * 60 + [True]


@pytest.mark.parametrize("chunked", [False, True])
def test_bytes_in_flight_are_bounded_and_given_back(client: Client, chunked: bool) -> None:
    asking = client(max_bytes_in_flight=1000)

    def body(size: int) -> Any:
        return iter([bytes(100)] * (size // 100)) if chunked else bytes(size)

    for _ in range(3):
        assert asking.post("/read", content=body(900)).json()["size"] == 900
        refused = asking.post("/read", content=body(1100))
        assert refused.status_code == 429
        assert (refused.headers["Retry-After"], refused.headers["content-type"]) == ("1", "application/problem+json")


def test_bytes_in_flight_are_those_of_all_requests() -> None:
    async def main() -> None:
        async def app(_: Any, receive: Any, __: Any) -> None:
            await receive()
            await release.wait()

        release = anyio.Event()
        intake = Intake(app, 1000)
        scope = {"type": "http", "headers": [(b"content-length", b"400")]}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x", "more_body": True}

        refused = []

        async def ask() -> None:
            try:
                await intake(scope, receive, None)  # type: ignore[arg-type]
            except Exception as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
            await anyio.sleep(0.05)
            assert (intake.held, len(refused)) == (800, 1)
            release.set()
        assert intake.held == 0

    anyio.run(main)


@pytest.mark.parametrize(("path", "allowed"), [("/read", "OPTIONS, POST"), ("/page", "GET, HEAD, OPTIONS")])
def test_options_tells_the_methods(client: Client, path: str, allowed: str) -> None:
    response = client(api_keys=KEYS).options(path)
    assert (response.status_code, response.headers["Allow"], response.content) == (204, allowed, b"")
    assert response.headers["X-Request-ID"]


def test_methods_that_a_path_has_not(client: Client) -> None:
    asking = client()
    for method, path in [("GET", "/read"), ("DELETE", "/page"), ("PATCH", "/read"), ("TRACE", "/page")]:
        response = asking.request(method, path)
        assert (response.status_code, response.json()["status"]) == (405, 405)
        assert response.headers["Allow"]
    assert asking.options("/nowhere").status_code == 404


PREFLIGHT = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}


@pytest.mark.parametrize(
    ("origins", "told"),
    [("", None), ("https://b.example", None), ("https://a.example,https://b.example", "https://a.example"), ("*", "*")],
)
def test_cors_is_off_until_it_is_set(client: Client, origins: str, told: str | None) -> None:
    asking = client(cors_origins=origins, api_keys=KEYS)
    preflight = asking.options("/read", headers=PREFLIGHT)
    refused = asking.post("/read", headers={"Origin": "https://a.example"})
    assert (preflight.status_code, refused.status_code) == (204, 401)
    for response in (preflight, refused):
        assert response.headers.get("Access-Control-Allow-Origin") == told
        assert "Access-Control-Allow-Credentials" not in response.headers
    if told:
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        assert "X-API-Key" in preflight.headers["Access-Control-Allow-Headers"]
        assert "X-Request-ID" in refused.headers["Access-Control-Expose-Headers"]


def test_every_answer_tells_browsers_to_be_careful(client: Client) -> None:
    asking = client()
    for path in ("/page", "/nowhere"):
        response = asking.get(path)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    # No script or style that stands in the page itself runs, nothing comes from elsewhere, no text becomes HTML.
    policy = asking.get("/page").headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
    assert "require-trusted-types-for 'script'" in policy
    assert not [part for part in policy if "unsafe" in part or "http" in part]


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("gzip, br", "gzip"),
        ("*", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("br, gzip; q=0.5", "gzip"),
        ("", None),
    ],
)
def test_accept_encoding(client: Client, accept: str, encoding: str | None) -> None:
    response = client().get("/page", headers={"Accept-Encoding": accept})
    assert response.headers.get("Content-Encoding") == encoding
    assert "Accept-Encoding" in response.headers["Vary"]
    assert len(response.text) == 12_000
