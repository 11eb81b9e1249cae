"""A load generator: closed loops of so many clients, and open loops at a given rate, over HTTP/1.1 with keep-alive.

Requests are bytes made beforehand and answers are parsed by httptools, so that the client costs a few hundredths of
a millisecond a request; `Load.client_share` tells how much of one core it took.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httptools
import numpy as np
import uvloop

_OK = 200
_TIMEOUT = 120.0
_BOUNDARY = "3f1c9b62d8"


@dataclass(frozen=True)
class Sample:
    """One request: when it was due and how long it took, in seconds; `status` is 0 where the connection broke."""

    due: float
    seconds: float
    status: int
    retry_after: bool
    body: bytes


@dataclass
class Load:
    """What came of `seconds` of load."""

    seconds: float
    samples: list[Sample] = field(default_factory=list)
    client_share: float = 0.0

    @property
    def statuses(self) -> Counter[int]:
        return Counter(sample.status for sample in self.samples)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.statuses[_OK] / self.seconds

    def percentile(self, percent: float) -> float:
        """Milliseconds within which that share of the good answers came."""
        good = [sample.seconds for sample in self.samples if sample.status == _OK]
        return 1000 * float(np.percentile(good, percent)) if good else float("nan")


def multipart(path: str, photo: bytes, name: str) -> bytes:
    """A request with one file in the field `name`."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="photo.jpg"\r\n'
    body = b"".join((head.encode(), b"Content-Type: image/jpeg\r\n\r\n", photo, f"\r\n--{_BOUNDARY}--\r\n".encode()))
    return raw(path, body, f"multipart/form-data; boundary={_BOUNDARY}")


def raw(path: str, body: bytes, content_type: str = "image/jpeg") -> bytes:
    """A request whose body is the photo itself."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.open = False
        self.answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport, self.open = transport, True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.open = False
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, _value: bytes) -> None:
        self.retry_after |= name.lower() == b"retry-after"

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.open &= self.parser.should_keep_alive()
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(None)

    async def ask(self, request: bytes) -> int:
        """The answer's status; 0 where none came."""
        self.parser = httptools.HttpResponseParser(self)
        self.retry_after, self.body = False, b""
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self.answered
        except (ConnectionError, TimeoutError, httptools.HttpParserError):
            self.close()
            return 0
        return int(self.parser.get_status_code())

    def close(self) -> None:
        self.open = False
        self.transport.close()


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


async def exchange(
    connection: Connection | None, port: int, request: bytes, due: float
) -> tuple[Sample, Connection | None]:
    """Asks on the connection, or on a new one; with it comes the connection for the next request, if it stays open."""
    try:
        if connection is None or not connection.open:
            connection = await connect(port)
        status = await connection.ask(request)
    except ConnectionError:
        return Sample(due, time.perf_counter() - due, 0, False, b""), None
    sample = Sample(due, time.perf_counter() - due, status, connection.retry_after, connection.body)
    return sample, connection if connection.open else None


async def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """`clients` that each ask again as soon as they are answered; answers within the time count."""
    load, numbers = Load(seconds), count()
    begun, before = time.perf_counter(), time.process_time()
    end = begun + seconds

    async def client() -> None:
        connection: Connection | None = None
        while (now := time.perf_counter()) < end:
            request = requests[next(numbers) % len(requests)]
            sample, connection = await exchange(connection, port, request, now)
            if time.perf_counter() <= end:
                load.samples.append(sample)
            if sample.status == 0:
                await asyncio.sleep(0.01)
        if connection is not None:
            connection.close()

    everyone = [asyncio.ensure_future(client()) for _ in range(clients)]
    await asyncio.wait(everyone, timeout=seconds)
    load.client_share = (time.process_time() - before) / seconds
    # What is still under way would be worked off at the cost of whoever comes next.
    await asyncio.gather(*everyone)
    return load


async def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> Load:
    """Requests at random moments, `rate` a second in the mean, whether or not the earlier ones were answered.

    A request's time counts from the moment it was due. All answers count.
    """
    load, pool = Load(seconds), list[Connection]()
    moments = random.Random(seed)
    before, due = time.process_time(), time.perf_counter()
    end, number, asked = due + seconds, 0, set[asyncio.Task[None]]()

    async def ask(request: bytes, due: float) -> None:
        sample, connection = await exchange(pool.pop() if pool else None, port, request, due)
        load.samples.append(sample)
        if connection is not None:
            pool.append(connection)

    while (due := due + moments.expovariate(rate)) < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(ask(requests[number % len(requests)], due))
        asked.add(task)
        task.add_done_callback(asked.discard)
        number += 1
    load.client_share = (time.process_time() - before) / seconds
    await asyncio.gather(*asked)
    for connection in pool:
        connection.close()
    return load


def run_closed(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    return uvloop.run(closed_loop(port, requests, clients, seconds))


def run_open(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    return uvloop.run(open_loop(port, requests, rate, seconds))
