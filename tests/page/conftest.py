"""A browser, and the real service for it."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from loadtests.browser import CHROMIUM, MISSING, chromium
from models.catalog import DEFAULT_DETECTORS
from tests.conftest import LITE0
from tests.service.conftest import LITE1, Server, StartServer, start_server

__all__ = ["start_server"]

DETECTOR = DEFAULT_DETECTORS[0]
# Chromium says of every error response that a resource failed to load.
RESPONSE_ERROR = re.compile(r"Failed to load resource: .*(status of 4\d\d|ERR_)")

_PATIENCE_MS = 30_000

OpenPage = Callable[..., Page]


# Of the module, not of the session: while Playwright is started, this thread has a running event loop, and tests
# elsewhere that start one of their own fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(MISSING)
    # A condition is awaited until a machine that does other things as well has come to it.
    expect.set_options(timeout=_PATIENCE_MS)
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def server(start_server: StartServer, browser: Browser) -> Iterator[Server]:  # noqa: ARG001 none without a browser
    """With the bundled detector, two backbones, and a queue that is soon full."""
    with start_server(
        *("--backbone", LITE0, "--backbone", LITE1, "--detector", DETECTOR),
        max_bytes=2_000_000,
        threads=1,
        max_queue=2,
    ) as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[OpenPage]:
    """Opens the page, and sees to it that it asks nobody else and logs no error."""
    contexts: list[BrowserContext] = []
    outside: list[str] = []
    errors: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not RESPONSE_ERROR.match(message.text):
            errors.append(message.text)

    def open_(url: str = server.url, width: int = 1280, height: int = 900, path: str = "/", **options: object) -> Page:
        def is_ours(asked: str) -> bool:
            return asked.startswith((f"{url}/", "blob:", "data:"))

        context = browser.new_context(viewport={"width": width, "height": height}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", hear)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: outside.extend(() if is_ours(request.url) else [request.url]))
        page.goto(f"{url}{path}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []
    assert outside == []


class Proxy:
    """A way to the service that can be closed and opened again."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._sockets: list[socket.socket] = []
        self.port = 0
        self.open()

    def open(self) -> None:
        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        self._sockets = [listening]
        threading.Thread(target=self._serve, args=[listening], daemon=True).start()

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                upstream = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [client, upstream]
                for source, target in ((client, upstream), (upstream, client)):
                    threading.Thread(target=_pour, args=[source, target], daemon=True).start()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with closing(Proxy(int(server.url.rpartition(":")[2]))) as opened:
        yield opened
