import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from evaluation.samples import SAMPLES
from models.served import Served
from tests.conftest import LITE0
from tests.service.journals import database, postgresql_server, url

__all__ = ["database", "postgresql_server", "url"]

_START_SECONDS = 120
_STOP_SECONDS = 60
LITE1 = "tf_efficientnet_lite1.in1k"


@dataclass(frozen=True)
class Server:
    """A running service; `output` is the file that it logs to."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path

    def stop(self) -> int:
        """Asks it to stop, and gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        pytest.fail(f"the server did not start: {self.output.read_text()}")


StartServer = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def environment(random_head: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """For a command that can choose the detector fcos_random besides the bundled ones."""
    manifest = tmp_path_factory.mktemp("manifest") / "models.toml"
    manifest.write_text(f'[detectors.fcos_random]\narchitecture = "fcos_{LITE0}"\ncheckpoint = "{random_head}"\n')
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FIGUREGROUND_")}
    return {
        **clean,
        "FIGUREGROUND_MODELS": str(manifest),
        "FIGUREGROUND_CACHE_DIR": str(cache_dir),
        "FIGUREGROUND_BACKBONES": LITE0,
        "FIGUREGROUND_DETECTORS": "fcos_random",
        "FIGUREGROUND_JOURNAL_URL": "",
        "BENTOML_DO_NOT_TRACK": "True",
    }


@pytest.fixture(scope="session")
def start_server(
    environment: Mapping[str, str],
    served: Served,  # noqa: ARG001 exports the graphs that the server will look for
    tmp_path_factory: pytest.TempPathFactory,
) -> StartServer:
    """A server on a free port, with `settings` such as max_queue=1; it must end with exit code 0."""

    @contextmanager
    def start(*arguments: str, **settings: object) -> Iterator[Server]:
        port = _free_port()
        output = tmp_path_factory.mktemp("server") / "output"
        settings = {"journal_url": f"sqlite:///{output.parent / 'journal.db'}", **settings}
        chosen = {f"FIGUREGROUND_{name.upper()}": str(value) for name, value in settings.items()}
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve", "--port", str(port), *arguments],
                env={**environment, **chosen},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        server = Server(f"http://127.0.0.1:{port}", process, output)
        try:
            server.wait_until_ready()
            yield server
            assert server.stop() == 0, output.read_text()
        finally:
            if process.poll() is None:
                process.kill()

    return start


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Iterator[Server]:
    """With two backbones, and small limits that are cheap to exceed."""
    with start_server(
        "--backbone", LITE0, "--backbone", LITE1, max_bytes=2_000_000, max_pixels=2_000_000, max_batch=4
    ) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as connected:
        yield connected


@pytest.fixture(scope="session")
def photo() -> Path:
    return SAMPLES["chelsea"].path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
