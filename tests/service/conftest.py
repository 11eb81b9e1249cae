from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from evaluation.samples import SAMPLES
from models.served import Served
from service.running import NotReady, RunningService, running_service
from tests.conftest import LITE0
from tests.service.journals import database, postgresql_server, sqlite_file, url

__all__ = ["database", "postgresql_server", "sqlite_file", "url"]

_START_SECONDS = 120
LITE1 = "tf_efficientnet_lite1.in1k"


@dataclass(frozen=True)
class Server(RunningService):
    """A running service; `output` is the file that it logs to."""

    output: Path

    def workers(self) -> list[psutil.Process]:
        """Those that have not ended."""

        def is_worker(process: psutil.Process) -> bool:
            try:
                return process.status() != psutil.STATUS_ZOMBIE and "_bentoml_impl.worker.service" in process.cmdline()
            except psutil.NoSuchProcess:
                return False

        # Their own processes, which are forks of them, look as they do.
        return [child for child in psutil.Process(self.process.pid).children() if is_worker(child)]

    def keep_asking(self, photo: bytes, kept_connections: int) -> list[int]:
        """The statuses until the port is closed; a connection that breaks is an error."""
        statuses = []
        limits = httpx.Limits(max_keepalive_connections=kept_connections)
        with httpx.Client(base_url=self.url, timeout=60, limits=limits) as client:
            while True:
                try:
                    statuses.append(client.post("/predict", files={"image": photo}).status_code)
                except httpx.ConnectError:
                    return statuses


StartServer = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def start_server(
    environment: Mapping[str, str],
    served: Served,  # noqa: ARG001 exports the graphs that the server will look for
    tmp_path_factory: pytest.TempPathFactory,
) -> StartServer:
    """A server on a free port, with `settings` such as max_queue=1; it must end with exit code 0."""

    @contextmanager
    def start(*arguments: str, **settings: object) -> Iterator[Server]:
        output = tmp_path_factory.mktemp("server") / "output"
        settings = {"journal_url": f"sqlite:///{output.parent / 'journal.db'}", **settings}
        chosen = {f"FIGUREGROUND_{name.upper()}": str(value) for name, value in settings.items()}
        with running_service(*arguments, environment={**environment, **chosen}, output=output) as service:
            try:
                service.wait_until_ready(_START_SECONDS)
            except NotReady as error:
                pytest.fail(f"{error}: {output.read_text()}")
            yield Server(service.url, service.process, output)
            assert service.stop() == 0, output.read_text()

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
