"""Raw bytes to a server, and what comes back."""

import json
import socket
import time
from collections.abc import Iterable
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """The first answer; `status` is 0 where none came. `closed` is whether the server ended the connection."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool
    rest: bytes = b""

    @property
    def problem(self) -> Any:
        return json.loads(self.body)


def exchange(port: int, pieces: Iterable[bytes], seconds: float = 10.0, pause: float = 0.0) -> Reply:
    """Sends the pieces, each `pause` seconds after the one before, and reads until the server closes or falls silent.

    A server that closes early is no error: what it said before is read.
    """
    with socket.create_connection(("127.0.0.1", port), seconds) as connected:
        received = b""
        try:
            for piece in pieces:
                connected.sendall(piece)
                time.sleep(pause)
        except (ConnectionError, TimeoutError):
            pass
        closed = False
        deadline = time.monotonic() + seconds
        try:
            while not (done := _complete(received)) or time.monotonic() < deadline:
                connected.settimeout(0.2 if done else max(0.01, deadline - time.monotonic()))
                chunk = connected.recv(65536)
                if not chunk:
                    closed = True
                    break
                received += chunk
        except TimeoutError:
            pass
        except ConnectionError:
            closed = True
    return _parsed(received, closed)


def _complete(received: bytes) -> bool:
    head, found, rest = received.partition(b"\r\n\r\n")
    if not found:
        return False
    lines = head.lower().split(b"\r\n")
    lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
    return len(rest) >= lengths[0] if lengths else b"\r\n0\r\n\r\n" in received or b" 204 " in lines[0]


def _parsed(received: bytes, closed: bool) -> Reply:
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if not lines[0].startswith(b"HTTP/1.1 "):
        return Reply(0, {}, b"", closed, received)
    pairs = (line.decode("latin-1").partition(": ") for line in lines[1:])
    headers = {name.lower(): value for name, _, value in pairs}
    length = int(headers.get("content-length", len(rest)))
    return Reply(int(lines[0].split()[1]), headers, rest[:length], closed, rest[length:])
