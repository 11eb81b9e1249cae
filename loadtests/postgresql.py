"""A PostgreSQL of one's own for tests and measurements: in a temporary folder, on a free port, gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.running import free_port


@dataclass(frozen=True)
class PostgreSQL:
    binaries: Path
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://figureground@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Cuts the connections that are open, and takes back what they have not committed; immediate is for good."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        # PostgreSQL refuses to run as root.
        user = "postgres" if os.geteuid() == 0 else None
        command = [str(self.binaries / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, cwd=self.folder)


def find_binaries() -> Path | None:
    """The folder of initdb and pg_ctl, the newest of Debian's, or None."""
    found = shutil.which("pg_ctl")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return Path(found).parent if found else next(reversed(debian), None)


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A running server, empty. Raises `FileNotFoundError` where PostgreSQL is not installed."""
    binaries = find_binaries()
    if binaries is None:
        raise FileNotFoundError("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="figureground-") as folder:
        server = PostgreSQL(binaries, Path(folder), free_port())
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        server._run("initdb", "-A", "trust", "-U", "figureground")
        server.start()
        try:
            yield server
        finally:
            # What it holds in memory is not worth the seconds that writing it would take.
            server.stop("immediate")


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """URLs of an empty SQLite and, where it is installed, an empty PostgreSQL, by name; says so where it is not."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="figureground-"))
        urls = {"SQLite": f"sqlite:///{folder}/journal.db"}
        try:
            urls["PostgreSQL"] = stack.enter_context(postgresql()).url
        except FileNotFoundError as error:
            print(error)
        yield urls
