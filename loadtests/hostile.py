"""What good requests feel while bad ones are sent, what those are answered, and how much the service grows.

python -m loadtests.hostile

Attacked and unattacked turns follow each other, so that whatever else the machine does hits both alike. The bad ones
are those of the tests: HTTP attacks, broken photos of every format, and files that would keep a decoder busy.
"""

import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import psutil
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from evaluation.samples import SAMPLES
from service.running import RunningService, running_service
from tests.models.mutations import mutant
from tests.models.test_structure import BOMBS
from tests.service.attacks import ATTACKS, post
from tests.service.sockets import exchange

_RESULT = Path(__file__).parent / "results" / "hostile.json"
_MUTANTS = 500
_WARM_UP = 10


def bad_requests() -> list[bytes]:
    """In no order. The largest take longer to send than to refuse."""
    photos = [*(data for data, _ in BOMBS.values()), *map(mutant, range(_MUTANTS))]
    found = [*(data for data, _ in ATTACKS.values()), *(post(data, content_type="image/*") for data in photos)]
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]


def latencies(url: str, requests: int) -> list[float]:
    """Seconds of each good request, one after the other."""
    photo, seconds = SAMPLES["coffee"].path.read_bytes(), []
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(requests):
            start = time.perf_counter()
            client.post("/predict", content=photo, headers={"Content-Type": "image/png"}).raise_for_status()
            seconds.append(time.perf_counter() - start)
    return seconds


@contextmanager
def attacked(port: int, bad: Sequence[bytes], attackers: int, answers: "Counter[int]") -> Iterator[None]:
    """Each of `attackers` sends all of them over and over; `answers` counts statuses, 0 where none came."""
    stopped = threading.Event()

    def attack(first: int) -> None:
        place = first
        while not stopped.is_set():
            answers[exchange(port, [bad[place % len(bad)]], seconds=10).status] += 1
            place += attackers

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(attackers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def resident(service: RunningService) -> int:
    """Bytes of all its processes."""
    main = psutil.Process(service.process.pid)
    return sum(process.memory_info().rss for process in [main, *main.children(recursive=True)])


def main(
    turns: Annotated[int, typer.Option(help="Of each kind.", min=1)] = 3,
    requests: Annotated[int, typer.Option(help="Good requests a turn.", min=2)] = 100,
    attackers: Annotated[int, typer.Option(help="Connections that send bad requests at once.", min=1)] = 8,
) -> None:
    """Latency of good requests with and without bad ones beside them; the last line is the ratio of the p99."""
    bad, answers = bad_requests(), Counter[int]()
    seconds: dict[str, list[float]] = {"alone": [], "attacked": []}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "FIGUREGROUND_JOURNAL_URL": ""}
        with running_service(environment=environment, output=Path(folder) / "output") as service:
            service.wait_until_ready()
            latencies(service.url, _WARM_UP)
            before = resident(service)
            for _ in track(range(turns), "turns", transient=True):
                seconds["alone"] += latencies(service.url, requests)
                with attacked(int(service.url.rpartition(":")[2]), bad, attackers, answers):
                    seconds["attacked"] += latencies(service.url, requests)
            growth = (resident(service) - before) / 2**20
    _tell(seconds, answers, growth)


def _tell(seconds: Mapping[str, Sequence[float]], answers: Mapping[int, int], growth: float) -> None:
    table = Table("good requests", "number", "p50, ms", "p99, ms")
    centiles = {name: [1000 * float(np.percentile(found, q)) for q in (50, 99)] for name, found in seconds.items()}
    for name, found in seconds.items():
        table.add_row(name, str(len(found)), *(f"{value:.1f}" for value in centiles[name]))
    ratio = centiles["attacked"][1] / centiles["alone"][1]
    console = Console()
    console.print(table)
    told = ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(answers.items()))
    rate = sum(answers.values()) / sum(seconds["attacked"])
    console.print(f"{sum(answers.values())} bad requests, {rate:.0f} a second, were answered {told}")
    console.print(f"the service grew by {growth:.0f} MB")
    console.print(f"p99 attacked / alone: {ratio:.2f}")
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps({"ms": centiles, "answers": answers, "growth_mb": growth, "ratio": ratio}, indent=1))


if __name__ == "__main__":
    typer.run(main)
