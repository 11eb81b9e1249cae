"""The service on a GPU: what a forward takes there, how many photos a second the service does, and what holds it up.

python -m loadtests.gpu forwards
python -m loadtests.gpu serve --way 1x16 --way 4x4

The second starts one server for each way to share the cores out, WORKERSxTHREADS, and asks them in turn: how many cores
do all its processes keep busy, how much processor time does a photo take, what part of the time does the GPU compute?
With `--device cpu` it does the same for the service on a CPU.
"""

import json
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from loadtests.client import run_closed
from loadtests.contenders import CORES
from loadtests.photos import photos_of
from loadtests.rivals.models import BACKBONE, DETECTOR
from loadtests.servers import Server, changed_figureground
from models.batching import repeated
from models.catalog import Catalog
from models.engines import GPU_SIZES, Engine, Graph, TorchEngine, make_engine
from service.settings import Settings

_RESULTS = Path(__file__).parent / "results"
_SERVICE = "service.app:Figureground"
_WARM_UP_SECONDS = 1.5
_COLUMN = 11

app = typer.Typer(no_args_is_help=True, add_completion=False)


@dataclass(frozen=True)
class Forward:
    """Milliseconds from arrays to arrays, the median; `change` is the largest of an output from the CPU's."""

    model: str
    rows: int
    eager: float
    recorded: float
    change: float


@dataclass(frozen=True)
class Turn:
    """A load on a server: `cores` and `gpu` are how many were busy in the mean, `cpu` milliseconds a photo."""

    way: str
    clients: int
    rate: float
    p50: float
    p99: float
    failed: int
    cores: float
    cpu: float
    gpu: float
    client: float


def compared(graph: Graph, device: str, cache: Path, repeat: int) -> Iterator[Forward]:
    """One for each batch size."""
    reference = make_engine(graph, "auto", "cpu", cache)
    eager = TorchEngine(graph.build(), device, GPU_SIZES)
    served = make_engine(graph, "torch", device, cache)
    examples = graph.examples()
    for size in GPU_SIZES:
        batch = repeated(examples, size)
        slow, fast = (_median(engine, batch, repeat) for engine in (eager, served))
        pairs = zip(served.run(*batch), reference.run(*batch), strict=True)
        change = max(float(np.abs(found - expected).max()) for found, expected in pairs)
        yield Forward(graph.kind.split("|")[0], size, slow, fast, change)


def _median(engine: Engine, batch: tuple[Any, ...], repeat: int) -> float:
    engine.run(*batch)
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        engine.run(*batch)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


@contextmanager
def gpu_watched() -> Iterator[list[float]]:
    """The shares of the time in which the GPU computed, a sample every 50 ms; none where there is no NVML."""
    samples, stop = list[float](), threading.Event()
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:
        yield samples
        return

    def watch() -> None:
        while not stop.wait(0.05):
            samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield samples
    finally:
        stop.set()
        watching.join()


def measured(way: str, server: Server, clients: int, seconds: float) -> Turn:
    requests = [server.encode(photo) for photo in photos_of("500x375")]
    run_closed(server.port, requests, clients, _WARM_UP_SECONDS)
    before = server.cpu_seconds()
    with gpu_watched() as busy:
        load = run_closed(server.port, requests, clients, seconds)
    cpu, good = server.cpu_seconds() - before, load.statuses[200]
    return Turn(
        way=way,
        clients=clients,
        rate=load.rate,
        p50=load.percentile(50),
        p99=load.percentile(99),
        failed=len(load.samples) - good,
        cores=cpu / seconds,
        cpu=1000 * cpu / max(1, good),
        gpu=float(np.mean(busy)) if busy else float("nan"),
        client=load.client_share,
    )


@contextmanager
def served(ways: Sequence[str], device: str) -> Iterator[dict[str, Server]]:
    """Started at the same time; each has answered."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {}
        for way in ways:
            workers, threads = way.split("x")
            settings = {"workers": workers, "threads": threads, "device": device, "max_queue": 256}
            started = changed_figureground(folder / way, _SERVICE, backbones=BACKBONE, detectors=DETECTOR, **settings)
            servers[way] = stack.enter_context(started)
        for server in servers.values():
            server.wait_until_it_answers(photos_of("500x375")[0])
        yield servers


def _told(rows: Iterable[Forward | Turn], result: str) -> list[dict[str, Any]]:
    """A line each as soon as it is known; all are written down."""
    told = list[dict[str, Any]]()
    for row in rows:
        told.append(asdict(row))
        if len(told) == 1:
            print(*(f"{name:>{_COLUMN}}" for name in told[0]), sep="")
        texts = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in told[-1].values())
        print(*(f"{text:>{_COLUMN}}" for text in texts), sep="", flush=True)
        _RESULTS.mkdir(exist_ok=True)
        (_RESULTS / result).write_text(json.dumps(told, indent=1))
    return told


@app.command()
def forwards(
    device: Annotated[str, typer.Option(help="cuda, cuda:1...; cpu to try this out.")] = "cuda",
    repeat: Annotated[int, typer.Option(help="Forwards of each; the median is told.", min=1)] = 30,
) -> None:
    """Milliseconds of a forward, eager and recorded, and how far its answers are from the CPU's."""
    cache, catalog = Settings().cache_dir, Catalog()
    graphs = [catalog.backbone(BACKBONE).graph(), catalog.detector(DETECTOR).graph()]
    _told((one for graph in graphs for one in compared(graph, device, cache, repeat)), "forwards-gpu.json")


@app.command()
def serve(
    way: Annotated[list[str] | None, typer.Option(help="WORKERSxTHREADS; may be repeated.")] = None,
    clients: Annotated[list[int] | None, typer.Option(help="Of a closed loop; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="Of one load.")] = 4,
    device: Annotated[str, typer.Option(help="cuda, cuda:1..., cpu.")] = "cuda",
) -> None:
    """Photos a second and what is busy meanwhile; the last line is the best."""
    with served(way or [f"1x{CORES}", f"{max(1, CORES // 4)}x4"], device) as servers:
        turns = (
            measured(name, server, number, seconds)
            for number in clients or (1, 4, 16, 64)
            for name, server in servers.items()
        )
        best = max(_told(turns, f"serve-{device.partition(':')[0]}.json"), key=lambda turn: float(turn["rate"]))
    gpu = "" if np.isnan(best["gpu"]) else f", the GPU {best['gpu']:.0%} of the time"
    print(
        f"{best['rate']:.0f} photos/s at {best['clients']} clients with {best['way']}: "
        f"{best['cores']:.1f} of {CORES} cores busy{gpu}"
    )


if __name__ == "__main__":
    app()
