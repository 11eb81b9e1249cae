"""A service of one's own: a process on a free port of this machine, waited for, and stopped by its own pid."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

# The first start exports the models for ONNX Runtime.
_START_SECONDS = 600
_STOP_SECONDS = 60


class NotReady(RuntimeError):
    """The service did not start; the message is one line."""


@dataclass(frozen=True)
class RunningService:
    """`url` has no slash at its end."""

    url: str
    process: subprocess.Popen[bytes]

    def wait_until_ready(self, seconds: float = _START_SECONDS) -> None:
        """Until /readyz says 200. Raises `NotReady` when the process ends or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise NotReady(f"the service ended with exit code {self.process.returncode} before it was ready")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise NotReady(f"the service was not ready after {seconds:.0f} s")

    def stop(self) -> int:
        """Ask it to stop, and wait: its exit code, -9 where it had to be killed."""
        self.process.terminate()
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end this program as Ctrl+C does, so that it stops what it has started.

    The system sends the second to whoever has stopped children when the shell ends. Only where nobody handles them yet.
    """

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    in_main = threading.current_thread() is threading.main_thread()
    free = [one for one in (signal.SIGTERM, signal.SIGHUP) if in_main and signal.getsignal(one) is signal.SIG_DFL]
    for number in free:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def stopped_at_the_end(process: subprocess.Popen[bytes], stop: Callable[[], object]) -> Iterator[None]:
    """The process is, unless it has ended: also where this program is told to end."""
    with ended_in_order():
        try:
            yield
        finally:
            if process.poll() is None:
                stop()


@contextmanager
def running_service(
    *arguments: str, environment: Mapping[str, str] = os.environ, output: Path | None = None
) -> Iterator[RunningService]:
    """`figureground serve ARGUMENTS`, not ready yet, and stopped at the end; it logs to a file, or where we do."""
    port = free_port()
    command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1", "--port", str(port), *arguments]
    with ExitStack() as opened:
        log = opened.enter_context(output.open("wb")) if output else None
        process = subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log and subprocess.STDOUT)
    service = RunningService(f"http://127.0.0.1:{port}", process)
    with stopped_at_the_end(process, service.stop):
        yield service


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def family(pid: int) -> list[int]:
    """The process, its children and theirs; the children of one that has just ended are not told."""
    children = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += (thread / "children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]
