import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from service.running import family
from tests.service.conftest import Server, StartServer


@contextmanager
def hang_ups(handler: signal.Handlers) -> Iterator[None]:
    """What a program that is started inside does with them at first."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def tell_all(server: Server, told: signal.Signals) -> None:
    """As a terminal does."""
    for pid in family(server.process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, told)


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_says_ends_it_in_order(told: signal.Signals, start_server: StartServer, photo: Path) -> None:
    """Ctrl+C, and that it is closed."""
    data = photo.read_bytes()
    with hang_ups(signal.SIG_DFL), start_server(threads=2) as server, ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(server.keep_asking, data, 1) for _ in range(4)]
        time.sleep(1)
        tell_all(server, told)
        statuses = {status for one in asking for status in one.result()}
        assert {200} <= statuses <= {200, 503}
        assert server.process.wait(30) == 0
    assert "Traceback" not in server.output.read_text()


def test_under_nohup_a_terminal_that_closes_is_nothing_to_it(start_server: StartServer, photo: Path) -> None:
    with hang_ups(signal.SIG_IGN), start_server() as server:
        before = family(server.process.pid)
        tell_all(server, signal.SIGHUP)
        time.sleep(1)
        response = httpx.post(f"{server.url}/predict", files={"image": photo.read_bytes()}, timeout=60)
        assert response.status_code == 200
        assert family(server.process.pid) == before
