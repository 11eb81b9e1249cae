"""Servers as processes of their own: started, waited for, stopped in their tracks while others are measured, ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.client import multipart, run_closed
from service.running import free_port, running_service, stopped_at_the_end

ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 600
_STOP_SECONDS = 60

Encode = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Server:
    """A running server; `encode` makes the HTTP request of a photo, as this server wants it."""

    port: int
    process: subprocess.Popen[bytes] | psutil.Process
    log: Path
    encode: Encode

    def wait_until_it_answers(self, photo: bytes) -> None:
        """Raises `SystemExit` with the end of the server's log where it never answers with 200."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if run_closed(self.port, [self.encode(photo)], 1, 0.3).statuses[200]:
                return
            time.sleep(0.2)
        raise SystemExit(f"the server did not start:\n{self.log.read_text()[-2000:]}")

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def pause(self) -> None:
        for process in self.family():
            process.suspend()

    def resume(self) -> None:
        for process in self.family():
            process.resume()

    def memory(self) -> int:
        """Bytes in memory of all its processes, what they share counted once."""
        return sum(process.memory_full_info().pss for process in self.family())

    def cpu_seconds(self) -> float:
        """Processor time of all its processes, user and system."""
        times = (process.cpu_times() for process in self.family())
        return float(sum(one.user + one.system for one in times))

    def stop(self) -> int:
        """Asks it to stop, and gives its exit code."""
        family = self.family()
        self.resume()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        for process in family:
            if process.is_running():
                process.kill()
        return code


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, encode: Encode, environment: Mapping[str, str]
) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
        )
    server = Server(port, process, log, encode)
    with stopped_at_the_end(process, server.stop):
        yield server


def figureground(folder: Path, *arguments: str, **settings: object) -> AbstractContextManager[Server]:
    """`figureground serve`, ready, with its own journal in `folder`, and settings such as max_queue=8."""
    return serving(folder, arguments, _variables(settings))


@contextmanager
def serving(folder: Path, arguments: Sequence[str], variables: Mapping[str, str]) -> Iterator[Server]:
    """The same with any variables of the environment."""
    environment = {**os.environ, "FIGUREGROUND_JOURNAL_URL": f"sqlite:///{folder / 'journal.db'}", **variables}
    log = folder / "figureground.log"
    with running_service(*arguments, environment=environment, output=log) as service:
        service.wait_until_ready()
        server = Server(int(service.url.rpartition(":")[2]), service.process, log, as_form)
        try:
            yield server
        finally:
            # A process at a standstill hears no signal to stop.
            if service.process.poll() is None:
                server.resume()


def changed_figureground(folder: Path, service: str, **settings: object) -> AbstractContextManager[Server]:
    """`bentoml serve` of a module that changes the service, such as `loadtests.rivals.empty_figureground:Figureground`.

    It may not answer yet. `folder` is made, and holds its journal.
    """
    folder.mkdir()
    port = free_port()
    environment = {
        "FIGUREGROUND_JOURNAL_URL": f"sqlite:///{folder / 'journal.db'}",
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(ROOT),
        **_variables(settings),
    }
    command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port)]
    return running(command, port, folder / "figureground.log", as_form, environment)


def _variables(settings: Mapping[str, object]) -> dict[str, str]:
    return {f"FIGUREGROUND_{name.upper()}": str(value) for name, value in settings.items()}


def as_form(photo: bytes) -> bytes:
    return multipart("/predict", photo, "image")
