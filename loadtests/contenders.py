"""Who is compared: our server, the bare pipeline in process, and the rival servers of `loadtests/rivals`."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from loadtests.client import Load, Sample, multipart, raw, run_closed, run_open
from loadtests.photos import photos_of
from loadtests.rivals.models import OurModels
from loadtests.servers import Encode, Server, as_form

CORES = len(os.sched_getaffinity(0))
ENVIRONMENTS = Path(__file__).resolve().parents[1] / ".rivals"
OURS, BARE = "figureground", "bare"
# The same server, asked as mosec and Ray Serve are.
RAW = f"{OURS}, raw bytes"
_WARM_UP_SECONDS = 2


class Contender(Protocol):
    @property
    def name(self) -> str: ...

    def closed(self, photos: Sequence[bytes], clients: int, seconds: float) -> Load: ...

    def open(self, photos: Sequence[bytes], rate: float, seconds: float) -> Load: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@dataclass(frozen=True)
class Served:
    """A server behind a socket."""

    name: str
    server: Server

    def closed(self, photos: Sequence[bytes], clients: int, seconds: float) -> Load:
        return run_closed(self.server.port, [self.server.encode(photo) for photo in photos], clients, seconds)

    def open(self, photos: Sequence[bytes], rate: float, seconds: float) -> Load:
        return run_open(self.server.port, [self.server.encode(photo) for photo in photos], rate, seconds)

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()


@dataclass(frozen=True)
class Bare:
    """The pipeline without a server: as many callers as cores, or as clients where those are fewer."""

    name: str
    call: Callable[[bytes], object]

    def closed(self, photos: Sequence[bytes], clients: int, seconds: float) -> Load:
        load = Load(seconds)
        end = time.perf_counter() + seconds

        def caller(first: int) -> None:
            number = first
            while (start := time.perf_counter()) < end:
                self.call(photos[number % len(photos)])
                if (now := time.perf_counter()) <= end:
                    load.samples.append(Sample(start, now - start, 200, False, b""))
                number += callers

        callers = min(clients, CORES)
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return load

    def open(self, photos: Sequence[bytes], rate: float, seconds: float) -> Load:
        raise NotImplementedError

    def pause(self) -> None:
        """It rests while it is not called."""

    def resume(self) -> None:
        """It is always there."""


@dataclass(frozen=True)
class Rival:
    """A server file of `loadtests/rivals`; `environment` is the folder that `make rivals` put its packages into."""

    name: str
    environment: str
    arguments: Sequence[str]
    encode: Encode

    @property
    def python(self) -> Path:
        own = ENVIRONMENTS / self.environment / "bin" / "python"
        return own if self.environment else Path(sys.executable)

    def command(self, port: int) -> list[str]:
        return [str(self.python), "-m", *(argument.format(port=port, cores=CORES) for argument in self.arguments)]


_UVICORN = ("uvicorn", "--port", "{port}", "--workers", "{cores}", "--log-level", "warning")
_BENTOML = ("bentoml", "serve", "--port", "{port}")
RIVALS = (
    Rival("FastAPI", "fastapi", (*_UVICORN, "loadtests.rivals.fastapi_server:app"), as_form),
    Rival(
        "BentoML",
        "",
        (*_BENTOML, "loadtests.rivals.bentoml_server:Idiomatic"),
        lambda photo: multipart("/predict", photo, "images"),
    ),
    Rival(
        "LitServe",
        "litserve",
        ("loadtests.rivals.litserve_server", "{port}"),
        lambda photo: multipart("/predict", photo, "request"),
    ),
    Rival("Ray Serve", "ray", ("loadtests.rivals.ray_server", "{port}"), partial(raw, "/predict")),
    Rival("mosec", "mosec", ("loadtests.rivals.mosec_server", "--port", "{port}"), partial(raw, "/inference")),
)


@contextmanager
def bare() -> Iterator[list[Bare]]:
    """The pipeline in this process, and in a process a core."""
    with ProcessPoolExecutor(CORES, get_context("spawn"), _load) as pool:
        found = [
            Bare(f"{BARE}, threads", OurModels().answer),
            Bare(f"{BARE}, processes", lambda photo: pool.submit(_answer, photo).result()),
        ]
        for one in found:
            one.closed(photos_of("500x375"), CORES, _WARM_UP_SECONDS)
        yield found


_of_this_process: list[OurModels] = []


def _load() -> None:
    _of_this_process.append(OurModels())


def _answer(photo: bytes) -> object:
    return _of_this_process[0].answer(photo)
