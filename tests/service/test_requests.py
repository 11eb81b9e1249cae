import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from service.problems import Problems
from service.requests import Limits, read_batch_request, read_photo_request, wants_png, while_connected

LIMITS = Limits(photo_bytes=100_000, photos=2)


@pytest.fixture
def client() -> TestClient:
    """Tells of a request what was read from it."""

    async def photo(request: Request) -> Response:
        upload = await read_photo_request(request, LIMITS)
        return JSONResponse({"size": len(upload.photos[0] or b""), "top_k": upload.options.top_k})

    async def batch(request: Request) -> Response:
        upload = await read_batch_request(request, LIMITS)
        return JSONResponse([None if photo is None else len(photo) for photo in upload.photos])

    routes = [Route("/photo", photo, methods=["POST"]), Route("/batch", batch, methods=["POST"])]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(Problems)]))


def multipart(*parts: tuple[str, bytes]) -> dict[str, Any]:
    body = b"".join(
        b'--x\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), data)
        for name, data in parts
    )
    return {"content": body + b"--x--\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}


@pytest.mark.parametrize(
    "value", ["7", '"7"', " 7 "], ids=["as a browser sends it", "as BentoML's client sends it", "with spaces"]
)
def test_a_field_is_read_as_a_browser_and_as_bentoml_send_it(client: TestClient, value: str) -> None:
    form = multipart(("image", b"\0\r\n--\r\n"), ("top_k", value.encode()), ("margin", b"null"))
    assert client.post("/photo", **form).json() == {"size": 7, "top_k": 7}


def test_a_photo_may_have_just_the_limit(client: TestClient) -> None:
    for size, status in [(100_000, 200), (100_001, 413)]:
        raw = client.post("/photo", content=bytes(size), headers={"content-type": "image/png"})
        form = client.post("/photo", **multipart(("image", bytes(size))))
        assert (raw.status_code, form.status_code) == (status, status)


def test_a_body_without_a_length_is_cut_off(client: TestClient) -> None:
    sent = 0

    def chunks() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 50_000
            yield bytes(50_000)

    response = client.post("/photo", content=chunks(), headers={"content-type": "image/png"})
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([("image", b"x"), *[(f"a{number}", b"") for number in range(17)]], 422),
        ([("image", b"x"), ("backbone", b"n" * 5000)], 422),
        ([("image", b"x"), ("b" * 9000, b"")], 400),
        ([("image", b"x"), ("\xff\0", b"")], 422),
        ([("", b"x")], 422),
    ],
    ids=["many fields", "a long field", "a long header", "an odd name", "no name"],
)
def test_what_a_form_may_hold_is_bounded(client: TestClient, parts: list[tuple[str, bytes]], status: int) -> None:
    response = client.post("/photo", **multipart(*parts))
    assert response.status_code == status
    assert len(response.content) < 1000


def test_a_batch_keeps_the_places_of_photos_that_are_too_large(client: TestClient) -> None:
    form = multipart(("images", bytes(100_001)), ("images", b"xy"))
    assert client.post("/batch", **form).json() == [None, 2]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("", False), ("*/*", False), ("image/png", True), ("text/html,image/png;q=0.1", True), ("image/*", False)],
)
def test_wants_png(accept: str, expected: bool) -> None:
    assert wants_png(accept) is expected


@pytest.mark.parametrize("leaves", [True, False])
def test_work_is_dropped_when_the_client_leaves(leaves: bool) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def work() -> str:
            await asyncio.sleep(0.3)
            ended.set()
            return "done"

        left = asyncio.get_running_loop().create_future()
        request = Request({"type": "http", "state": {"client_left": left}})
        if leaves:
            asyncio.get_running_loop().call_later(0.1, left.set_result, None)
            with pytest.raises(ClientDisconnect):
                await while_connected(request, asyncio.ensure_future(work()))
            await asyncio.sleep(0.3)
            assert not ended.is_set()
        else:
            assert await while_connected(request, asyncio.ensure_future(work())) == "done"
            left.set_result(None)  # The client leaves with its answer.

    asyncio.run(main())
