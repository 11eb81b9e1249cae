"""A hostile world around the running service: no answer is a 500, and the next good request is answered as before."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.models.mutations import mutant
from tests.models.test_structure import BOMBS
from tests.service.attacks import ATTACKS, GOOD
from tests.service.conftest import Server, StartServer
from tests.service.sockets import Reply, exchange

# Bytes that the server's processes may have more after all attacks of this module.
MAX_GROWTH = 200 * 2**20
MUTANTS = 150


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def memory(server: Server) -> int:
    """Bytes resident in the server's processes."""
    main = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in [main, *main.children(recursive=True)])


@pytest.fixture(scope="module")
def before(server: Server) -> int:
    assert exchange(port_of(server), [GOOD]).status == 200
    return memory(server)


def check_alive(server: Server) -> None:
    assert server.process.poll() is None
    reply = exchange(port_of(server), [GOOD], seconds=60)
    assert reply.status == 200
    assert b'"plain"' in reply.body


@pytest.mark.parametrize(("sent", "statuses"), ATTACKS.values(), ids=ATTACKS)
def test_attacks(server: Server, before: int, sent: bytes, statuses: set[int]) -> None:
    reply = exchange(port_of(server), [sent], seconds=30)
    assert reply.status in statuses, reply
    check_no_secret(reply)
    assert not reply.rest, "a request was smuggled"
    check_alive(server)
    assert memory(server) - before < MAX_GROWTH


def check_no_secret(reply: Reply) -> None:
    if reply.status >= 400:
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.problem["status"] == reply.status
        assert len(reply.body) < 2000
    for secret in (b"Traceback", b"/models/", b".py", b"site-packages", b"root:"):
        assert secret not in reply.body


def test_bombs_and_broken_photos(server: Server, before: int) -> None:
    bombs = [data for data, _ in BOMBS.values() if len(data) < 2_000_000]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for data in [*bombs, *map(mutant, range(MUTANTS))]:
            status = client.post("/predict", content=data, headers={"Content-Type": "image/*"}).status_code
            assert status in (200, 400, 413, 415)
    check_alive(server)
    growth = memory(server) - before
    print(f"memory grew by {growth / 2**20:.0f} MB")
    assert growth < MAX_GROWTH


def test_good_requests_are_answered_while_bad_ones_are_sent(server: Server, photo: Path) -> None:
    """How fast, `loadtests/hostile.py` tells."""
    stopped = threading.Event()
    attacks = [data for name, (data, _) in ATTACKS.items() if len(data) < 100_000 and not name.startswith("HTTP")]
    sent = []

    def attack() -> None:
        random = np.random.default_rng(0)
        while not stopped.is_set():
            sent.append(exchange(port_of(server), [attacks[int(random.integers(0, len(attacks)))]], seconds=5))

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while len(sent) < 25:
                answer = client.post("/predict", content=photo.read_bytes(), headers={"Content-Type": "image/png"})
                assert answer.status_code == 200
    finally:
        stopped.set()
        attacker.join()


KEY = "0123456789-abcdef"


@pytest.fixture(scope="module")
def guarded(start_server: StartServer) -> Iterator[Server]:
    """A server with all doors closed that there are."""
    settings = {"api_keys": f"another,{KEY}", "rate_per_minute": 50, "cors_origins": "https://a.example"}
    with start_server(access_log="true", log_format="json", head_seconds=2, **settings) as running:
        yield running


def test_a_guarded_server(guarded: Server, photo: Path) -> None:
    """One server for all of it: a start takes long."""
    data, image = photo.read_bytes(), {"Content-Type": "image/png"}
    with httpx.Client(base_url=guarded.url, timeout=60) as client:
        refused = client.post("/predict", content=data, headers=image)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert [client.get(path).status_code for path in ("/livez", "/readyz", "/metrics", "/")] == [200, 200, 401, 200]
        # The page can be read, so that it can ask for a key; what it shows cannot.
        assert {client.get(path).status_code for path in ("/page/app.js", "/models")} == {200, 401}
        assert {client.get(path).status_code for path in ("/labels", "/samples", "/answers", "/experiment")} == {401}
        keyed = {"Authorization": f"Bearer {KEY}", "Origin": "https://a.example", "X-Request-ID": "seen"}
        answered = client.post("/predict?top_k=2", content=data, headers={**image, **keyed})
        assert answered.status_code == 200
        assert answered.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert client.options("/predict").headers["Allow"] == "OPTIONS, POST"
        statuses = [client.get("/models", headers={"X-API-Key": KEY}).status_code for _ in range(60)]
        assert set(statuses) == {200, 429}
    slow = exchange(port_of(guarded), [b"GET /livez HTTP/1.1\r\n", b"A: b\r\n"] * 1, seconds=20)
    assert (slow.status, slow.closed) == (408, True)
    log = guarded.output.read_text()
    assert '"path":"/predict","status":200' in log
    assert '"request_id":"seen"' in log
    assert KEY not in log
    assert "top_k" not in log
