"""uvicorn with our connections, in a thread, before a tiny app."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from service import connections
from service.connections import MAX_HEAD, MAX_HEADERS, Connection
from service.requests import while_connected
from service.settings import Settings
from tests.service.sockets import exchange

HEAD_SECONDS = 1.0


async def _echo(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())} {'trailer' in request.headers}")


async def _in_pieces(_: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"0 "
        await asyncio.sleep(0.01)
        yield b"False"

    return StreamingResponse(pieces())


_dropped = threading.Event()


async def _never(request: Request) -> Response:
    try:
        return await while_connected(request, asyncio.ensure_future(asyncio.sleep(60, Response())))
    except ClientDisconnect:
        _dropped.set()
        raise


async def _large(_: Request) -> Response:
    return PlainTextResponse("x" * 50_000_000)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    patch = pytest.MonkeyPatch()
    chosen = Settings(head_seconds=HEAD_SECONDS, deadline_seconds=0.5, max_connections=20)
    patch.setattr(connections, "settings", lambda: chosen)
    patch.setattr(connections, "_GRACE_SECONDS", 1.0)
    app = Starlette(
        routes=[
            Route("/", _echo, methods=["GET", "POST"]),
            Route("/large", _large),
            Route("/pieces", _in_pieces),
            Route("/never", _never),
        ]
    )
    config = uvicorn.Config(app, http=Connection, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(20)
    patch.undo()


def get(*headers: str, path: str = "/", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


REFUSED: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a control character in a name": (get("A\x01b: c"), 400),
    "a null byte in a value": (get("A: b\x00c"), 400),
    "a null byte in the path": (get(path="/\x00"), 400),
    "a path that is no ASCII": (get(path="/\xe9"), 400),
    "a folded header": (get("A: b", " c"), 400),
    "a space before the colon": (get("A : b"), 400),
    "two lengths": (get("Content-Length: 1", "Content-Length: 2", method="POST") + b"xx", 400),
    "a negative length": (get("Content-Length: -1", method="POST"), 400),
    "a length that overflows": (get("Content-Length: 99999999999999999999999", method="POST"), 400),
    "length and chunks": (get("Content-Length: 3", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n", 400),
    "chunks twice": (get("Transfer-Encoding: chunked, identity", method="POST") + b"0\r\n\r\n", 400),
    "a chunk of no size": (get("Transfer-Encoding: chunked", method="POST") + b"zz\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "CONNECT": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "100,000 headers": (get(*["A: b"] * 100_000), 431),
    "a header without an end": (b"GET / HTTP/1.1\r\nA: " + b"b" * 5_000_000, 431),
    "a long header": (get("A: " + "b" * MAX_HEAD), 431),
    "a long path": (get(path="/" + "a" * MAX_HEAD), 431),
    "a long query": (get(path="/?" + "a" * MAX_HEAD), 431),
    "one header too many": (get(*["A: b"] * MAX_HEADERS), 431),
    "endless trailers": (get("Transfer-Encoding: chunked", method="POST") + b"0\r\nT: " + b"b" * 5_000_000, 431),
    "chunks that are mostly framing": (
        get("Transfer-Encoding: chunked", method="POST") + (b"1;" + b"x" * 1000 + b"\r\na\r\n") * 1000,
        431,
    ),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_request_is_refused_with_a_problem(port: int, sent: bytes, status: int) -> None:
    reply = exchange(port, [sent])
    assert (reply.status, reply.closed) == (status, True)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.problem["request_id"] == reply.headers["x-request-id"]
    assert reply.problem["status"] == status
    assert exchange(port, [get()]).status == 200


ANSWERED: dict[str, bytes] = {
    "a plain request": get(),
    "as many headers as are welcome": get(*["A: b"] * (MAX_HEADERS - 1)),
    "a path just short enough": get(path="/?" + "a" * (MAX_HEAD - 100)),
    "an upgrade that is not taken": get("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "HTTP/2 without warning": get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    "an absolute path": get(path="http://example.org/"),
    "a trailer": get("Transfer-Encoding: chunked", method="POST") + b"2\r\nab\r\n0\r\nTrailer: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", ANSWERED.values(), ids=ANSWERED)
def test_what_is_a_request_is_answered(port: int, sent: bytes) -> None:
    reply = exchange(port, [sent])
    assert reply.status == 200
    assert reply.body.endswith(b"False")


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b"GET / HTTP/1.1\r\n", *[b"A: b\r\n"] * 30], 408),
        ([b"\r\n"] * 30, 0),
        ([], 0),
        ([get("Content-Length: 100", method="POST"), *[b"x"] * 60], 0),
    ],
    ids=["headers that trickle", "empty lines", "silence", "a body that trickles"],
)
def test_who_is_slow_is_cut_off(port: int, pieces: list[bytes], status: int) -> None:
    start = time.monotonic()
    reply = exchange(port, pieces, seconds=20, pause=0.1)
    assert (reply.status, reply.closed) == (status, True)
    assert time.monotonic() - start < 15


def test_who_does_not_read_is_cut_off(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as connected:
        connected.sendall(get(path="/large"))
        time.sleep(3)
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := connected.recv(1_000_000):
                received += len(chunk)
        assert received < 50_000_000


def test_connections_are_bounded(port: int) -> None:
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    time.sleep(0.2)
    refused = exchange(port, [])
    for connected in held:
        connected.close()
    assert (refused.status, refused.closed) == (503, True)
    assert refused.headers["retry-after"]
    time.sleep(0.2)
    assert exchange(port, [get()]).status == 200


def test_whoever_has_left_is_no_longer_worked_for(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as connected:
        connected.sendall(get() + get(path="/never"))
        assert connected.recv(100_000).startswith(b"HTTP/1.1 200 OK")
        assert not _dropped.wait(0.3)
    assert _dropped.wait(20)


def test_an_answer_comes_in_one_piece(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as connected:
        connected.sendall(get())
        head, _, body = connected.recv(100_000).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"0 False"


def test_an_answer_may_have_no_body_and_may_have_many_pieces(port: int) -> None:
    head = exchange(port, [get(method="HEAD")], seconds=1)
    assert (head.status, head.body) == (200, b"")
    pieces = exchange(port, [get(path="/pieces")])
    assert pieces.status == 200
    assert b"0 " in pieces.body
    waited = exchange(port, [get("Content-Length: 3", "Expect: 100-continue", method="POST") + b"abc"], seconds=2)
    assert (waited.status, waited.body[:15]) == (100, b"HTTP/1.1 200 OK")


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    post = get("Content-Length: 3", method="POST") + b"abc"
    reply = exchange(port, [get() + post + get()], seconds=3)
    assert reply.body == b"0 False"
    assert reply.rest.count(b"HTTP/1.1 200 OK") == 2
    assert b"3 False" in reply.rest


def test_install_is_what_uvicorn_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    protocols: dict[str, Any] = {}
    monkeypatch.setattr(connections, "HTTP_PROTOCOLS", protocols)
    connections.install()
    assert protocols == {"auto": "service.connections:Connection"}
