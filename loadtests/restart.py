"""A rolling restart under load: two servers, one of them stopped (SIGTERM) and started anew, in turns.

python -m loadtests.restart --times 20

The clients do what a load balancer does: whoever is told 503, or finds a port closed, turns to the other server. A
request that was sent and got no answer is lost; none may be.
"""

import asyncio
import json
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.progress import Progress, TaskID

from loadtests.client import Connection, connect, exchange
from loadtests.photos import photos_of
from loadtests.servers import Server, figureground
from service.running import ended_in_order

_RESULT = Path(__file__).parent / "results" / "restart.json"
_BETWEEN_SECONDS = 1.0


@dataclass
class Replica:
    """One place of the fleet; the server in it changes."""

    folder: Path
    open: ExitStack = field(default_factory=ExitStack)
    server: Server | None = None
    ready: bool = False

    def start(self) -> None:
        self.server = self.open.enter_context(figureground(self.folder))
        self.ready = True

    def stop(self) -> int:
        assert self.server is not None
        code = self.server.stop()
        self.ready = False
        self.open.close()
        return code


@dataclass
class Fleet:
    replicas: list[Replica]
    requests: list[bytes]
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    silent: int = 0
    running: bool = True
    _numbers: "count[int]" = field(default_factory=count)

    async def client(self) -> None:
        """Asks until the end, on connections that it keeps."""
        kept: dict[int, Connection | None] = {}
        while self.running:
            number = next(self._numbers)
            ready = [replica for replica in self.replicas if replica.ready]
            replica = ready[number % len(ready)] if ready else self.replicas[number % len(self.replicas)]
            assert replica.server is not None
            await self._ask(replica, replica.server.port, self.requests[number % len(self.requests)], kept)
        for connection in kept.values():
            if connection is not None:
                connection.close()

    async def _ask(self, replica: Replica, port: int, request: bytes, kept: dict[int, Connection | None]) -> None:
        connection = kept.get(port)
        if connection is None or not connection.open:
            try:
                connection = await connect(port)
            except ConnectionError:
                replica.ready = False
                await asyncio.sleep(0.01)
                return
        sample, kept[port] = await exchange(connection, port, request, time.perf_counter())
        self.statuses[sample.status] += 1
        if sample.status in (429, 503):
            self.silent += not sample.retry_after
            replica.ready = False

    async def restart(self, times: int, progress: Progress, task: TaskID) -> None:
        for number in range(times):
            await asyncio.sleep(_BETWEEN_SECONDS)
            replica = self.replicas[number % len(self.replicas)]
            self.codes[await asyncio.to_thread(replica.stop)] += 1
            await asyncio.to_thread(replica.start)
            progress.advance(task)
        self.running = False


async def rolling(times: int, clients: int, progress: Progress) -> Fleet:
    async with AsyncExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2)]
        replicas = [Replica(Path(folder)) for folder in folders]
        for replica in replicas:
            stack.enter_context(replica.open)
            replica.start()
        assert replicas[0].server is not None
        fleet = Fleet(replicas, [replicas[0].server.encode(photo) for photo in photos_of("500x375")])
        task = progress.add_task("restarting", total=times)
        await asyncio.gather(fleet.restart(times, progress, task), *(fleet.client() for _ in range(clients)))
        return fleet


def main(
    times: Annotated[int, typer.Option(help="Stops.", min=1)] = 20,
    clients: Annotated[int, typer.Option(help="At once.", min=1)] = 4,
) -> None:
    """Requests that were lost in a rolling restart; the last line is the verdict."""
    # Around all of it: servers are stopped in threads, where no handler of signals can be put back.
    with ended_in_order(), Progress(console=Console(stderr=True)) as progress:
        fleet = uvloop.run(rolling(times, clients, progress))
    lost = sum(number for status, number in fleet.statuses.items() if status not in (200, 429, 503))
    found = {"times": times, "statuses": fleet.statuses, "exit_codes": fleet.codes, "lost": lost}
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps(found))
    told = (
        f"{times} stops under load, answers {dict(fleet.statuses)}, exit codes {dict(fleet.codes)}, {lost} lost, "
        f"{fleet.silent} shed without Retry-After"
    )
    if lost or fleet.silent or set(fleet.codes) != {0}:
        raise SystemExit(f"FAILED: {told}")
    print(f"PASSED: {told}")


if __name__ == "__main__":
    typer.run(main)
