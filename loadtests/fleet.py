"""The servers that the benchmark compares, started once: they wait, stopped in their tracks, for whoever measures them.

python -m loadtests.fleet --models ours

It says when all are ready, and stops them when it is told to stop. `python -m loadtests.bench` finds them, as often as
it is run meanwhile; where there is no fleet it starts one of its own.
"""

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from loadtests.client import raw
from loadtests.contenders import CORES, OURS, RAW, RIVALS, Rival, Served
from loadtests.photos import photos_of
from loadtests.rivals.models import BACKBONE, DETECTOR
from loadtests.servers import Encode, Server, as_form, figureground, running
from service.running import ended_in_order, free_port

_FLEET = Path(__file__).parent / "results" / "fleet.json"
# Other ways to run it, which are measured where they are asked for by name.
_WAYS: dict[str, dict[str, object]] = {
    "figureground, threads": {"photo_processes": False},
    "figureground, 2 workers": {"workers": 2},
    "figureground, a worker a core": {"photo_processes": False, "workers": CORES},
}
_WARM_UP_SECONDS = 2


@contextmanager
def started(names: Sequence[str], kind: str, folder: Path) -> Iterator[list[Served]]:
    """All servers whose name is wanted, or all but those of `_WAYS` and `RAW` for none; each has answered, and rests.

    They start at the same time. `kind` is the rivals' models, torch or ours.
    """
    with ExitStack() as stack:
        servers = []
        if not names or {OURS, RAW} & set(names):
            servers.append(_ours(stack, OURS, folder / "ours"))
        ways = {name: settings for name, settings in _WAYS.items() if name in names}
        servers += [_ours(stack, name, folder / name, **settings) for name, settings in ways.items()]
        servers += [_start(stack, rival, kind, folder) for rival in RIVALS if not names or rival.name in names]
        photo = photos_of("500x375")[0]
        for served in servers:
            served.server.wait_until_it_answers(photo)
        for served in servers:
            served.pause()
        for served in servers:
            # Every worker of it shall have seen a photo.
            served.resume()
            served.closed([photo], 4 * CORES, _WARM_UP_SECONDS)
            served.pause()
        yield _wanted(servers, names)


@contextmanager
def found_or_started(names: Sequence[str], kind: str, folder: Path) -> Iterator[list[Served]]:
    """Those of the fleet that rests, where there is one, else others; as `started`."""
    fleet = _found(kind)
    if fleet is None:
        with started(names, kind, folder) as servers:
            yield servers
    else:
        yield _wanted(fleet, names)


def _found(kind: str) -> list[Served] | None:
    fleet: dict[str, Any] = json.loads(_FLEET.read_text()) if _FLEET.exists() else {"pid": 0, "kind": kind}
    if not psutil.pid_exists(fleet["pid"]):
        return None
    if fleet["kind"] != kind:
        raise SystemExit(f"the fleet that rests has the models {fleet['kind']}, not {kind}")
    encodings: dict[str, Encode] = {rival.name: rival.encode for rival in RIVALS}
    return [
        Served(
            one["name"],
            Server(one["port"], psutil.Process(one["pid"]), Path(one["log"]), encodings.get(one["name"], as_form)),
        )
        for one in fleet["servers"]
        if one["name"] != RAW
    ]


def _wanted(servers: Sequence[Served], names: Sequence[str]) -> list[Served]:
    """Of those that run, and of ours under its other name, which is only there where it is asked for."""
    asked_raw = [
        Served(RAW, replace(one.server, encode=partial(raw, "/predict"))) for one in servers if one.name == OURS
    ]
    return [one for one in [*servers, *asked_raw] if one.name in names or not (names or one.name == RAW)]


def _ours(stack: ExitStack, name: str, folder: Path, **settings: object) -> Served:
    folder.mkdir()
    server = figureground(folder, "--backbone", BACKBONE, "--detector", DETECTOR, **settings)
    return Served(name, stack.enter_context(server))


def _start(stack: ExitStack, rival: Rival, kind: str, folder: Path) -> Served:
    if not rival.python.exists():
        raise SystemExit(f"{rival.name} is not installed: make rivals")
    port = free_port()
    environment = {
        "RIVAL_MODELS": kind,
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder / f"bentoml-{port}"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    log = folder / f"{rival.name}.log"
    return Served(rival.name, stack.enter_context(running(rival.command(port), port, log, rival.encode, environment)))


def main(
    models: Annotated[str, typer.Option(help="The rivals' models, torch or ours.")] = "torch",
    only: Annotated[list[str] | None, typer.Option(help="A server, such as figureground, mosec.")] = None,
) -> None:
    """Starts the servers, and stops them when it is stopped itself."""
    begun = time.monotonic()
    with (
        ended_in_order(),
        tempfile.TemporaryDirectory() as folder,
        started(only or [], models, Path(folder)) as servers,
    ):
        described: list[dict[str, Any]] = [
            {"name": one.name, "port": one.server.port, "pid": one.server.process.pid, "log": str(one.server.log)}
            for one in servers
        ]
        _FLEET.parent.mkdir(exist_ok=True)
        _FLEET.write_text(json.dumps({"pid": os.getpid(), "kind": models, "servers": described}))
        memory = sum(one.server.memory() for one in servers) / 2**30
        print(f"{len(servers)} servers rest after {time.monotonic() - begun:.0f} s, {memory:.1f} GiB", flush=True)
        try:
            while True:
                signal.pause()
        finally:
            _FLEET.unlink()


if __name__ == "__main__":
    typer.run(main)
