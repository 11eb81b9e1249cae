"""A Prometheus of one's own for tests and pictures: it scrapes one service, with the rules of deploy/prometheus."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml  # type: ignore[import-untyped]

from service.running import free_port

RULES = Path(__file__).parents[1] / "deploy" / "prometheus"
_START_SECONDS = 30


@dataclass(frozen=True)
class Prometheus:
    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's series: `{"metric": labels, "value": [time, text]}`. Raises `ValueError`."""
        return self._ask("query", query=expression)

    def value(self, expression: str) -> float:
        """Of a query with one series; 0 of none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else 0.0

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Series over a time in seconds since 1970: `{"metric": labels, "values": [[time, text], ...]}`."""
        return self._ask("query_range", query=expression, start=start, end=end, step=step)

    def _ask(self, path: str, **asked: str | float) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.url}/api/v1/{path}", data=asked, timeout=30).json()
        if answer["status"] != "success":
            raise ValueError(f"{answer['error']}: {asked['query']}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def is_installed() -> bool:
    return shutil.which("prometheus") is not None


@contextmanager
def prometheus(target: str, seconds: float = 2) -> Iterator[Prometheus]:
    """Asks `target` (host:port) every so many seconds. Raises `FileNotFoundError` where Prometheus is not installed."""
    if not is_installed():
        raise FileNotFoundError("Prometheus is not installed: make system")
    with tempfile.TemporaryDirectory(prefix="figureground-") as folder:
        config = _config(Path(folder), target, seconds)
        port = free_port()
        flags = [
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/-/ready", process, Path(folder, "log"))
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(_START_SECONDS)


def _config(folder: Path, target: str, seconds: float) -> Path:
    """The one that is deployed, with another target, and in a hurry."""
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    every = f"{round(seconds * 1000)}ms"
    config["global"].update(scrape_interval=every, scrape_timeout=every, evaluation_interval=every)
    config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
    (scrape,) = config["scrape_configs"]
    scrape["static_configs"] = [{"targets": [target]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        try:
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"Prometheus did not start: {log.read_text()}")
